"""Files as bytes: `/aios/v1/files/PATH` for those with a key, `/aios/v1/shared/TOKEN` for those with a link.

Knows HTTP's words for parts and versions, and of what is in a file only what its name promises. What a browser shows of
somebody's file must not act as a page of this kernel: it gets no scripts, no origin, and what could be a page is saved.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from mimetypes import guess_type
from typing import TYPE_CHECKING
from urllib.parse import quote

from aios.abi.errors import BadRequest, Cancelled, OutOfRange

from .exchange import JSON, Exchange, Headers, Watch, call_headers, encode

if TYPE_CHECKING:
    from aios.kernel import Opened

OCTETS = "application/octet-stream"
SHOWN = frozenset({
    "application/json", "application/pdf", "audio/flac", "audio/mpeg", "audio/ogg", "audio/wav", "audio/x-wav",
    "image/avif", "image/gif", "image/jpeg", "image/png", "image/webp", "text/csv", "text/markdown", "text/plain",
    "video/mp4", "video/ogg", "video/webm",
})  # fmt: skip
"""What a browser may show; anything else, HTML and SVG among it, is saved."""
HARMLESS: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-robots-tag", b"noindex, nofollow"),
]
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_ETAG = re.compile(r'"(\d{1,15})(?:-[0-9a-f]{16})?"', re.ASCII)


# ── sending ──


async def put_file(exchange: Exchange, path: str) -> None:
    """`PUT /aios/v1/files/PATH`: the body, of any length, is the file's next version."""
    announced = exchange.header(b"content-length") or ""
    call = await exchange.kernel.transfers.put(
        exchange.principal,
        path,
        _body(exchange),
        size=int(announced) if announced.isdecimal() else 0,
        base=_base(exchange),
        key=exchange.idempotency_key(),
        timeout=exchange.timeout(),
    )
    version = await exchange.outcome(call)
    headers = [*call_headers(call), (b"etag", b'"%d"' % version.version)]
    await exchange.reply(201 if version.version == 1 else 200, encode(version), JSON, headers)


async def _body(exchange: Exchange) -> AsyncIterator[bytes]:
    while True:
        event = await exchange.receive()
        if event["type"] != "http.request":
            exchange.is_gone = True
            raise Cancelled("the client disconnected before its file was whole: nothing was written")
        if event["body"]:
            yield event["body"]
        if not event.get("more_body"):
            return


def _base(exchange: Exchange) -> int | None:
    """The version that is written upon: `If-Match: "3"`, or `If-None-Match: *` where there may be none."""
    match, none_match = exchange.header(b"if-match"), exchange.header(b"if-none-match")
    if none_match is not None:
        if none_match.strip() != "*" or match is not None:
            raise BadRequest("If-None-Match must be *, and alone, where a file is written", param="If-None-Match")
        return 0
    if match is None:
        return None
    found = _ETAG.fullmatch(match.strip())
    if found is None:
        raise BadRequest(f"If-Match must be one ETag, such as \"3\", not '{match[:80]}'", param="If-Match")
    return int(found[1])


# ── fetching ──


async def get_file(exchange: Exchange, path: str) -> None:
    """`GET` or `HEAD /aios/v1/files/PATH`: a version, or one part of it."""
    async with exchange.kernel.transfers.get(exchange.principal, path, _version(exchange)) as opened:
        await _send(exchange, opened)


async def get_shared(exchange: Exchange, token: str) -> None:
    """`GET` or `HEAD /aios/v1/shared/TOKEN`: no key is needed, the link is one."""
    async with exchange.kernel.transfers.follow(token) as opened:
        await _send(exchange, opened)


def _version(exchange: Exchange) -> int | None:
    text = exchange.query.get("version")
    if text is None:
        return None
    if not (text.isdecimal() and text.isascii() and len(text) <= 15 and int(text)):
        raise BadRequest(f"a version is a whole number above 0, not '{text[:40]}'", param="version")
    return int(text)


async def _send(exchange: Exchange, opened: Opened) -> None:
    size, etag = opened.size, _etag(opened)
    headers: Headers = [(b"accept-ranges", b"bytes"), (b"cache-control", b"no-cache"), *HARMLESS]
    if etag is not None:
        headers.append((b"etag", etag.encode()))
    if _is_known(exchange, etag):
        await exchange.begin(304, headers)
        await exchange.end()
        return
    begin, end = _range(exchange, size, etag)
    if (begin, end) != (0, size):
        headers.append((b"content-range", b"bytes %d-%d/%d" % (begin, end - 1, size)))
    kind = _kind(opened.name)
    headers += [
        (b"content-type", kind.encode()),
        (b"content-length", b"%d" % (end - begin)),
        (b"content-disposition", _disposition(opened.name, kind)),
    ]
    await exchange.begin(200 if (begin, end) == (0, size) else 206, headers)
    if exchange.scope["method"] != "HEAD":
        with Watch(exchange, lambda: None):
            async for piece in opened.stream(begin, end - begin):
                if exchange.is_gone:
                    return
                await exchange.write(piece)
    await exchange.end()


def _etag(opened: Opened) -> str | None:
    """None for a file as it is in a mounted folder, where others may change it."""
    return f'"{opened.version}-{opened.hash.hex()[:16]}"' if opened.hash is not None else None


def _is_known(exchange: Exchange, etag: str | None) -> bool:
    """Whether the client has it already."""
    known = exchange.header(b"if-none-match") or ""
    return known.strip() == "*" or etag in [each.strip().removeprefix("W/") for each in known.split(",")]


def _range(exchange: Exchange, size: int, etag: str | None) -> tuple[int, int]:
    """Which bytes are asked for: all, unless one part is. Raises OutOfRange."""
    text, of = exchange.header(b"range"), exchange.header(b"if-range")
    found = _RANGE.fullmatch(text.strip()) if text is not None and (of is None or of.strip() == etag) else None
    if found is None or found[1] == found[2] == "":
        return 0, size
    if found[1] == "":
        begin, end = max(0, size - int(found[2])), size
    else:
        begin, end = int(found[1]), min(size, int(found[2]) + 1 if found[2] else size)
        if found[2] and int(found[2]) < begin:
            return 0, size
    if begin >= end:
        raise OutOfRange(f"the file has {size:,} bytes, and '{text}' asks for none of them", param="Range")
    return begin, end


def _kind(name: str) -> str:
    kind, encoding = guess_type(name, strict=False)
    if kind is None or encoding is not None:
        return OCTETS
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def _disposition(name: str, kind: str) -> bytes:
    way = "inline" if kind.partition(";")[0] in SHOWN else "attachment"
    return f"{way}; filename*=UTF-8''{quote(name, safe='')}".encode()
