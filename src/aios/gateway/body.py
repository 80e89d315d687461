"""JSON bodies: what was sent as what it should be, and one clear sentence for what cannot be read. Knows no route."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from typing import TypeVar

import msgspec

from aios.abi.calls import Args, bad_arguments
from aios.abi.errors import BadRequest

A = TypeVar("A", bound=Args)
T = TypeVar("T")

MAX_LOOK = 20_000
"""Brackets looked at to say where a body is nested too deep: an error may not cost more than an answer."""
MAX_ESCAPES = 1 << 20
"""Bytes looked at for half a surrogate pair, for the same reason."""
DEEP = 500
"""Levels that always were enough; how many are read depends on where the reader stands."""

_FOREIGN = {
    b"\xef\xbb\xbf": "it begins with a byte order mark; leave that out",
    b"\xff\xfe": "it looks like UTF-16; encode it as UTF-8",
    b"\xfe\xff": "it looks like UTF-16; encode it as UTF-8",
    b"\x1f\x8b": "it looks like gzip; send it uncompressed",
}
"""How bodies begin that are something else."""
_NO_LONE_SURROGATE = re.compile(
    rb"(?:[^\\]++|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u(?![dD][89a-fA-F])|\\[^u])*+"
)
_HALF = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*+"|([\[{])|[\]}]', re.DOTALL)
_AT = re.compile(r"^(?:JSON is malformed: )?(.*?) \(byte (\d+)\)$")


def read_args(body: bytes, kind: type[A]) -> A:
    """`body` as a `kind`; an empty one means `{}`. Raises BadRequest that says what is wrong, where, and what to do."""
    try:
        return read_json(body or b"{}", lambda whole: msgspec.json.decode(whole, type=kind))
    except msgspec.ValidationError as error:
        if body:
            raise bad_arguments(error, kind) from None
        raise BadRequest(f"the body is empty; send a JSON object: {error}", code="bad_arguments") from None


def read_json(body: bytes, decode: Callable[[bytes], T]) -> T:
    """`decode(body)`. Raises BadRequest when that is no JSON, msgspec's ValidationError when it is another value."""
    try:
        return decode(body)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not valid JSON: {_why(body, error)}", code="invalid_json") from None
    except RecursionError:
        raise BadRequest(f"the body is nested too deep{_where_deep(body)}", code="invalid_json") from None


def _why(body: bytes, error: Exception) -> str:
    if not body.strip():
        return "it holds only blanks; send a JSON object"
    for start, why in _FOREIGN.items():
        if body.startswith(start):
            return why
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        return f"byte {wrong.start} (0x{body[wrong.start]:02x}) is not UTF-8; encode the body as UTF-8"
    malformed = _AT.match(str(error))
    place = int(malformed[2]) if malformed else len(body)
    lone = _lone_surrogate(body)
    if lone is not None and lone <= place:
        escape = body[lone : lone + 6].decode()
        return f"{escape} at byte {lone} is half a character; write both halves (\\ud83d\\ude00), or the character"
    if malformed is None:
        also = ", or holds half of a \\ud83d\\ude00" if len(body) > MAX_ESCAPES else ""
        return f"it ends at byte {place} in the middle of a value{also}; send the whole of it"
    return f"{malformed[1]} at byte {place}{_shown(body, place)}"


def _lone_surrogate(body: bytes) -> int | None:
    """Where the first escape of half a surrogate pair is without its other half, as far as is looked."""
    matched = _NO_LONE_SURROGATE.match(body, 0, MAX_ESCAPES)
    end = matched.end() if matched else 0
    is_cut = end > MAX_ESCAPES - 12  # a whole pair may stand across the bound
    return end if _HALF.match(body, end) and not is_cut else None


def _shown(body: bytes, place: int) -> str:
    """The byte at `place` and what stands around it, if there is anything to see."""
    near = body[max(0, place - 10) : place + 10].decode("utf-8", "ignore")
    return f", near {near!r}"


def _where_deep(body: bytes) -> str:
    depth = 0
    for token in islice(_BRACKET.finditer(body), MAX_LOOK):
        if token[1]:
            depth += 1
            if depth > DEEP:
                return f": level {depth} begins at byte {token.start()}; send fewer than {DEEP} levels"
        elif token[0] in (b"]", b"}"):
            depth -= 1
    return f"; send fewer than {DEEP} levels"
