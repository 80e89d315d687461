"""What the faults of Anthropic's API mean for the agent that asked. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping

from aios.abi.errors import AiosError, BadRequest, ContextLengthExceeded, UpstreamFault

from .faults import detail_of, message_of
from .faults import error_of as common_error_of

STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status that an error has which comes in mid-stream, where there is none."""

_SPENT = re.compile(r"credit balance is too low|usage limits|spend limit", re.IGNORECASE)
_TOO_LONG = re.compile(r"prompt is too long|exceeds? (the )?context (limit|window)", re.IGNORECASE)
_PLACE = re.compile(r"([a-z_]+(?:\.[\w-]+)*): ")


def error_of(core: str, key_source: str, status: int, body: bytes, headers: Mapping[str, str]) -> AiosError:
    """The error that a server's refusal means for the agent that asked."""
    said = message_of(detail_of(body))
    if status == 402 or (status == 400 and _SPENT.search(said)):
        why = said or "its server wants to be paid first"
        return UpstreamFault(f"core '{core}': {why}", code="upstream_quota")
    if status == 400 and _TOO_LONG.search(said):
        return ContextLengthExceeded(f"core '{core}': {said}", param="messages")
    if status == 400 and (place := _PLACE.match(said)):
        return BadRequest(f"core '{core}': {said}", param=place[1])
    return common_error_of(core, key_source, status, body, headers)
