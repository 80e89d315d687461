"""The one error tree, shared by both sides of the call boundary. Knows nothing about HTTP frameworks.

AiosError                      status  fault
├── BadRequest                 400     agent     arguments are wrong: says which and why
│   ├── ContextLengthExceeded  400     agent     prompt and answer do not fit the model's window
│   └── OutOfRange             416     agent     a part of a file is asked for that it does not have
├── Unauthorized               401     agent     no key, or a key that is not known (any more)
├── Denied                     403     agent     the access manager said no
├── NotFound                   404     agent     no such thing among what the caller may see
├── Conflict                   409     agent     against what is there: a key used with another body, …
├── TooLarge                   413     agent     body or content beyond its bound
├── Full                       429     agent     a queue, a quota or a budget is used up; `retry_after` says when
├── Cancelled                  499     agent     the caller, or a signal to its process, ended the call
│   └── CutShort               503     kernel    the kernel stopped or died before the call was done; ask again
├── ModuleFault                500     module    a tool or core of ours broke; the kernel is well
├── UpstreamFault              502     upstream  a server behind a core failed or lied
├── Stopping                   503     kernel    the kernel drains, or its disk is full; nothing was accepted
├── TimedOut                   504     module    the call's own deadline passed
├── KernelFault                500     kernel    a bug of ours
└── OutcomeUnknown             500     kernel    a side effect was under way when the kernel ended; not run again
"""

from __future__ import annotations

from typing import Any, ClassVar


class AiosError(Exception):
    """An answer that is a refusal or a failure.

    `message` is for people: what was wrong, where, what to do. `code` is for programs and stays stable.
    `param` names the argument at fault. `retry_after` is in seconds.
    """

    status: ClassVar[int] = 500
    fault: ClassVar[str] = "kernel"
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        call_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.retry_after = retry_after
        self.call_id = call_id

    def to_dict(self) -> dict[str, Any]:
        """The error body of the native surface: type, code, message, fault, and call_id, param, retry_after if set."""
        body: dict[str, Any] = {
            "type": self.type,
            "code": self.code,
            "message": self.message,
            "fault": self.fault,
        }
        for name in ("call_id", "param", "retry_after"):
            if (value := getattr(self, name)) is not None:
                body[name] = value
        return body


class BadRequest(AiosError):
    status, fault, type, default_code = 400, "agent", "invalid_request_error", "bad_request"


class ContextLengthExceeded(BadRequest):
    default_code = "context_length_exceeded"


class OutOfRange(BadRequest):
    status, default_code = 416, "out_of_range"


class Unauthorized(AiosError):
    status, fault, type, default_code = 401, "agent", "authentication_error", "invalid_api_key"


class Denied(AiosError):
    status, fault, type, default_code = 403, "agent", "permission_error", "denied"


class NotFound(AiosError):
    status, fault, type, default_code = 404, "agent", "not_found_error", "not_found"


class Conflict(AiosError):
    status, fault, type, default_code = 409, "agent", "conflict_error", "conflict"


class TooLarge(AiosError):
    status, fault, type, default_code = 413, "agent", "invalid_request_error", "too_large"


class Full(AiosError):
    status, fault, type, default_code = 429, "agent", "rate_limit_error", "queue_full"


class Cancelled(AiosError):
    status, fault, type, default_code = 499, "agent", "cancelled_error", "cancelled"


class CutShort(Cancelled):
    status, fault, type, default_code = 503, "kernel", "server_error", "cut_short"


class ModuleFault(AiosError):
    status, fault, type, default_code = 500, "module", "module_error", "module_failed"


class UpstreamFault(AiosError):
    status, fault, type, default_code = 502, "upstream", "upstream_error", "upstream_failed"


class Stopping(AiosError):
    status, fault, type, default_code = 503, "kernel", "server_error", "stopping"


class TimedOut(AiosError):
    status, fault, type, default_code = 504, "module", "timeout_error", "timed_out"


class KernelFault(AiosError):
    status, fault, type, default_code = 500, "kernel", "server_error", "internal_error"


class OutcomeUnknown(AiosError):
    status, fault, type, default_code = 500, "kernel", "server_error", "outcome_unknown"


def _tree(root: type[AiosError]) -> list[type[AiosError]]:
    """All kinds below `root` and itself, the general before the special."""
    kinds = [root]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    return kinds


ERRORS: dict[str, type[AiosError]] = {kind.default_code: kind for kind in _tree(AiosError)[1:]}
"""Each error class by its default code."""

_BY_PLACE = {(kind.status, kind.fault): kind for kind in reversed(_tree(AiosError)[1:])}
_BY_TYPE = {(kind.type, kind.fault): kind for kind in reversed(_tree(AiosError)[1:])}


def from_dict(status: int, body: dict[str, Any]) -> AiosError:
    """The error that `body` (of `to_dict`) tells of; a client raises what the kernel raised."""
    kind = ERRORS.get(str(body.get("code")))
    # A code may be somebody else's word.
    if kind is None or body.get("fault", kind.fault) != kind.fault or (status >= 400 and kind.status != status):
        kind = _BY_PLACE.get((status, str(body.get("fault"))))
    if kind is None and status < 400:  # told in a stream that had begun well
        kind = _BY_TYPE.get((str(body.get("type")), str(body.get("fault"))))
    if kind is None:
        kind = next((k for k in _tree(AiosError)[1:] if k.status == status), KernelFault)
    return kind(
        str(body.get("message", "no message")),
        code=body.get("code"),
        param=body.get("param"),
        retry_after=body.get("retry_after"),
        call_id=body.get("call_id"),
    )
