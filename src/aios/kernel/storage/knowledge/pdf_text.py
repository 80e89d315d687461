"""The text of a PDF, its pages parted by form feeds, by pypdf.

Runs in a process of its own (`host.py`), which knows nothing of ours.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import time
from io import BytesIO

import pypdf
from pypdf.errors import DependencyError

SECONDS = 20.0
"""Of the processor: then no further page is begun."""
_LATER = [each.name for each in pkgutil.walk_packages(pypdf.__path__, "pypdf.")]
_LATER += ["stringprep", *(f"encodings.{name}" for name in ("cp932", "cp950", "gb2312", "gb18030", "gbk", "mac_roman"))]
_LATER += [f"encodings.{name}" for name in ("charmap", "cp1252", "latin_1", "utf_16", "utf_16_be", "utf_16_le")]
"""What pypdf, or Python for it, imports only when a file needs it, and could not any more then."""
for _name in _LATER:
    with contextlib.suppress(ImportError):  # of a package that it can do without
        importlib.import_module(_name)


def convert(data: bytes, limit: int) -> tuple[str, str]:
    """The text of its pages, at most `limit` characters, and what of them was not read, or "". Without a text it says
    why there is none."""
    if b"%PDF-" not in data[:1024]:
        return "", "it is no PDF"
    reader = pypdf.PdfReader(BytesIO(data), strict=False)
    if reader.is_encrypted and (locked := _why_locked(reader)):
        return "", locked
    began = time.process_time()
    texts: list[str] = []
    broken, left, why = 0, limit, ""
    total = len(reader.pages)
    for number in range(total):
        if time.process_time() - began > SECONDS or left <= 0:
            why = f"only its first {number:,} of {total:,} pages were read, for want of " + (
                "room" if left <= 0 else "time"
            )
            break
        try:
            text = _clean(reader.pages[number].extract_text())
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001  # pypdf may raise anything, and the other pages may be whole
            broken += 1
            text = ""
        texts.append(text[:left])
        left -= len(text) + 1
    if broken and not why:
        why = f"{broken:,} of its {total:,} pages cannot be read"
    if not any(text.strip() for text in texts):
        return "", why or ("its pages hold no text, as those of a scanned book" if total else "it has no pages")
    return "\f".join(texts), why


def _why_locked(reader: pypdf.PdfReader) -> str:
    """ "" when it can be read: many have an empty password, and ask only that nobody prints them."""
    try:
        return "" if reader.decrypt("") else "it is encrypted, and its password is not known"
    except DependencyError:
        return "it is encrypted with AES, which pypdf reads only with the package 'cryptography'"


def _clean(text: str) -> str:
    """Without form feeds and other characters that are none, in valid Unicode."""
    return text.translate(_SPACES).encode("utf-8", "replace").decode()


_SPACES = {code: " " for code in range(32) if chr(code) not in "\t\n"} | {12: "\n", 13: "\n"}
