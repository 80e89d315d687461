"""PDFs for tests, written by hand: whole ones, and such as nobody should have to read."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from io import BytesIO

import pypdf


def of_objects(objects: Sequence[bytes]) -> bytes:
    """A file of those objects, numbered from 1, the first being its catalogue."""
    out = bytearray(b"%PDF-1.7\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    at = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, at)
    return bytes(out)


def stream(data: bytes, more: bytes = b"") -> bytes:
    return b"<< /Length %d %s>>\nstream\n%s\nendstream" % (len(data), more, data)


def drawn(text: str) -> bytes:
    """What a page is told to draw."""
    lines = text.encode("latin-1").split(b"\n")
    escaped = [line.replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)") for line in lines]
    return b"BT /F1 12 Tf 72 720 Td 14 TL " + b" T* ".join(b"(%s) Tj" % line for line in escaped) + b" ET"


def pdf(*pages: str) -> bytes:
    """A document of pages with a text each."""
    return of_pages([stream(zlib.compress(drawn(text)), b"/Filter /FlateDecode ") for text in pages])


def of_pages(contents: Sequence[bytes]) -> bytes:
    """A document of pages whose contents are those objects."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * n) for n in range(len(contents)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(contents)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for n, content in enumerate(contents):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % (5 + 2 * n)
        )
        objects.append(content)
    return of_objects(objects)


def bomb(size: int = 70 << 20, times: int = 1) -> bytes:
    """Some kilobytes that draw `size` bytes of blanks, packed `times` times."""
    data = drawn("x" * 10) + b" " * size
    for _ in range(times):
        data = zlib.compress(data, 9)
    return of_pages([stream(data, b"/Filter [%s] " % (b"/FlateDecode " * times))])


def endless() -> bytes:
    """A tree of pages whose second level is its first."""
    return of_objects([b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 1000000 >>"])


def locked(*pages: str, password: str = "secret") -> bytes:
    """Encrypted with RC4, which takes no package."""
    writer = pypdf.PdfWriter(BytesIO(pdf(*pages)))
    writer.encrypt(password, "owner", algorithm="RC4-128")
    out = BytesIO()
    writer.write(out)
    return out.getvalue()
