"""How errors look on each surface. Knows the error tree, and no route.

Everything under /v1 speaks OpenAI's envelope, the rest our own; status and headers are the same on both.
"""

from __future__ import annotations

import math
from typing import Any

from aios.abi.errors import AiosError, Conflict, OutcomeUnknown

from .exchange import Exchange, Headers, encode

FINAL = (Conflict,)
"""Errors that asking again cannot mend, though their status says that it might."""
FINAL_CODES = frozenset({"upstream_refused", OutcomeUnknown.default_code})


def is_openai(path: str) -> bool:
    return path == "/v1" or path.startswith("/v1/")


def openai_error(error: AiosError) -> dict[str, Any]:
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
            "fault": error.fault,
        },
    }


def native_error(error: AiosError) -> dict[str, Any]:
    return {"error": error.to_dict()}


def error_body(path: str, error: AiosError) -> bytes:
    return encode(openai_error(error) if is_openai(path) else native_error(error))


def error_headers(error: AiosError) -> Headers:
    """When to come back, whether to, and the call's name in logs."""
    headers: Headers = []
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
        headers.append((b"retry-after-ms", b"%d" % max(1, round(error.retry_after * 1000))))
    if isinstance(error, FINAL) or error.code in FINAL_CODES:
        headers.append((b"x-should-retry", b"false"))
    if error.call_id:
        headers.append((b"x-aios-call-id", error.call_id.encode("ascii", "replace")))
    return headers


async def refuse(exchange: Exchange, error: AiosError) -> None:
    """Answer with `error`, if the client is still there and nothing was sent yet."""
    if exchange.is_gone or exchange.is_started:
        return
    headers = error_headers(error)
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status == 413:
        headers.append((b"connection", b"close"))
    await exchange.reply(error.status, error_body(exchange.path, error), headers=headers)
