"""One HTTP request and its answer. Knows how bytes come and go, and nothing about what they mean.

Written on plain ASGI: a request object for each call would cost as much as the call itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar, get_args
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec

from aios.abi.calls import MemoryPolicy, WindowPolicy, nearest
from aios.abi.errors import AiosError, BadRequest, Cancelled, Denied, TooLarge

if TYPE_CHECKING:
    from aios.kernel import Kernel, Principal, Syscall

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
WRITE_NOW = "aios.write_now"
"""In the scope, if the server has it: writes a piece of a begun answer without waiting, or says that it cannot now."""
WATCH_AFTER = 0.05
"""Seconds until a waiting exchange begins to listen for its client's leaving. Shorter calls pay nothing for it."""
DISCARD = 8
"""A body beyond its bound is read to its end and thrown away, up to so many times the bound: a client that still
writes would otherwise lose the answer that says why."""

ONCE = (
    b"host",
    b"authorization",
    b"x-api-key",
    b"idempotency-key",
    b"content-length",
    b"x-aios-timeout",
    b"x-aios-window",
    b"x-aios-memory",
)
"""Headers that say one thing: of two, whoever stands between could have meant the other."""

WINDOWS: tuple[WindowPolicy, ...] = get_args(WindowPolicy)
MEMORIES: tuple[MemoryPolicy, ...] = get_args(MemoryPolicy)

Word = TypeVar("Word", bound=str)

FIRST, LAST = -20, 19
"""Of what `nice` can be."""

MAX_VALUES = 200_000
"""Commas in a body. A few megabytes of the smallest values would keep the loop busy with parsing for seconds."""

encode = msgspec.json.Encoder().encode


class Exchange:
    """`principal` is who asks, once known. `is_started` says that the status line is out."""

    principal: Principal

    def __init__(self, kernel: Kernel, scope: Scope, receive: Receive, send: Send, id: str) -> None:
        self.kernel = kernel
        self.scope = scope
        self.receive = receive
        self.send = send
        self.id = id
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.is_started = False
        self.is_gone = False
        self._query: dict[str, str] | None = None

    # ── the request ──

    def header(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def check_headers(self) -> None:
        """Raise BadRequest when a header that says one thing is there twice."""
        given = self.scope["headers"]
        if len(given) == len(self.headers):
            return
        names = [name for name, _ in given]
        for name in ONCE:
            if names.count(name) > 1:
                title = name.decode().title()
                raise BadRequest(
                    f"the header {title} is there twice; send it once", code="repeated_header", param=title
                )

    def check_path(self) -> None:
        """Raise BadRequest when the path is no UTF-8: the server has a sign in the place of what it cannot read, and
        two files would have one name."""
        if "\ufffd" in self.path:
            try:
                unquote_to_bytes(self.scope["raw_path"]).decode()
            except UnicodeDecodeError:
                raise BadRequest(
                    "the path is not UTF-8: encode it as UTF-8, then in percents", code="bad_path", param="path"
                ) from None

    @property
    def query(self) -> dict[str, str]:
        if self._query is None:
            text = self.scope["query_string"].decode("latin-1")
            self._query = dict(parse_qsl(text, keep_blank_values=True))
        return self._query

    def flag(self, name: str) -> bool:
        """A yes-or-no query parameter. Raises BadRequest for anything else."""
        value = self.query.get(name, "false")
        if value not in ("true", "false"):
            raise BadRequest(f"query parameter '{name}' must be true or false, not '{value[:40]}'", param=name)
        return value == "true"

    def key(self) -> str | None:
        """The API key: `Authorization: Bearer KEY`, or `x-api-key: KEY`."""
        value = self.headers.get(b"authorization")
        if value is None:
            return self.header(b"x-api-key")
        scheme, _, key = value.decode("latin-1").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else None

    def check_admin(self) -> None:
        """Raise Denied for every key but an admin's."""
        if not self.principal.is_admin:
            why = "only an admin key may do this; 'aios up' writes one to $AIOS_HOME/admin.key"
            raise Denied(why, code="admin_only")

    def idempotency_key(self) -> str | None:
        key = self.header(b"idempotency-key")
        if key is not None and not (0 < len(key) <= 255 and all("!" <= character <= "~" for character in key)):
            why = "Idempotency-Key must be 1 to 255 visible ASCII characters without spaces"
            raise BadRequest(why, param="Idempotency-Key")
        return key

    def timeout(self) -> float | None:
        """Seconds that the client gives this call, from `X-AIOS-Timeout`."""
        text = self.header(b"x-aios-timeout")
        if text is None:
            return None
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= 86_400:
            raise BadRequest(f"X-AIOS-Timeout must be seconds above 0, not '{text[:40]}'", param="X-AIOS-Timeout")
        return seconds

    def window(self) -> WindowPolicy | None:
        """What is to become of messages that do not fit, from `X-AIOS-Window`."""
        return self._one_of("X-AIOS-Window", WINDOWS)

    def memory(self) -> MemoryPolicy | None:
        """Whether the exchange is kept and earlier ones recalled, from `X-AIOS-Memory`."""
        return self._one_of("X-AIOS-Memory", MEMORIES)

    def _one_of(self, header: str, words: tuple[Word, ...]) -> Word | None:
        text = self.header(header.lower().encode())
        if text is None:
            return None
        for word in words:
            if text.strip().lower() == word:
                return word
        known = ", ".join(map(str, words))
        raise BadRequest(f"{header} must be one of {known}, not '{text[:40]}'{nearest(text, words)}", param=header)

    def nice(self) -> int:
        """How far behind others the client puts this call, from `X-AIOS-Priority`: as `nice`, low goes first."""
        text = self.header(b"x-aios-priority")
        if text is None:
            return FIRST
        try:
            return min(max(int(text), FIRST), LAST)
        except ValueError:
            why = f"X-AIOS-Priority must be a whole number from {FIRST} to {LAST}, low first, not '{text[:40]}'"
            raise BadRequest(why, param="X-AIOS-Priority") from None

    def session(self) -> str | None:
        """What the client's calls belong together by, from `X-AIOS-Session`: a hint, so a long one is cut."""
        return (self.header(b"x-aios-session") or "")[:200] or None

    async def body(self) -> bytes:
        """The whole body. Raises TooLarge beyond the configured bound, Cancelled when the client leaves."""
        limit = self.kernel.config.server.max_body
        declared = self.headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > DISCARD * limit:
            raise _too_large(limit)
        event = await self.receive()
        if event["type"] == "http.request" and not event.get("more_body") and len(event["body"]) <= limit:
            whole: bytes = event["body"]
        else:
            whole = await self._long_body(event, limit)
        if len(whole) > MAX_VALUES and whole.count(b",") > MAX_VALUES:
            raise TooLarge(f"the body holds more than {MAX_VALUES} values", code="too_many_values")
        return whole

    async def _long_body(self, event: Event, limit: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while event["type"] == "http.request":
            size += len(event["body"])
            if size <= limit:
                parts.append(event["body"])
            else:
                parts.clear()
            if not event.get("more_body") or size > DISCARD * limit:
                break
            event = await self.receive()
        else:
            self.is_gone = True
            raise Cancelled("the client disconnected before its request was whole")
        if size > limit:
            raise _too_large(limit)
        return b"".join(parts)

    # ── the answer ──

    async def reply(self, status: int, body: bytes, kind: bytes = JSON, headers: Headers | None = None) -> None:
        head = [
            (b"content-type", kind),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", self.id.encode()),
        ]
        if headers:
            head += headers
        self.is_started = True
        await self.send({"type": "http.response.start", "status": status, "headers": head})
        await self.send({"type": "http.response.body", "body": body})

    async def reply_json(self, value: Any, status: int = 200) -> None:
        await self.reply(status, encode(value))

    async def start_events(self, headers: Headers | None = None) -> None:
        """Begin an answer of server-sent events."""
        head = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            (b"x-request-id", self.id.encode()),
        ]
        self.is_started = True
        await self.send({"type": "http.response.start", "status": 200, "headers": head + (headers or [])})

    async def begin(self, status: int, headers: Headers) -> None:
        """The head of an answer whose body comes piece by piece."""
        self.is_started = True
        head = [*headers, (b"x-request-id", self.id.encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": head})

    async def write(self, data: bytes) -> None:
        """Send a piece of a begun answer. Waits while the client does not read."""
        await self.send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        await self.send({"type": "http.response.body", "body": data})

    # ── waiting ──

    async def outcome(self, call: Syscall) -> Any:
        """The call's result. A client that leaves meanwhile has cancelled its call, unless that has a key."""
        with Watch(self, lambda: self.kernel.cancel(call)):
            return await self.kernel.wait(call)


def call_headers(call: Syscall) -> Headers:
    """What an answer's head says of its call: its id, and what was left out of its messages, if that is known."""
    headers = [(b"x-aios-call-id", call.id.encode())]
    report = call.context or getattr(call.result, "context", None)
    if report is not None:
        told = f"{report.policy}; dropped_messages={report.dropped_messages}; dropped_tokens={report.dropped_tokens}"
        headers.append((b"x-aios-context", told.encode()))
    return headers


class Watch:
    """While entered, listens for the client's leaving and then calls `on_gone`, once."""

    __slots__ = ("_exchange", "_on_gone", "_task", "_timer")

    def __init__(self, exchange: Exchange, on_gone: Callable[[], None]) -> None:
        self._exchange = exchange
        self._on_gone = on_gone
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._begin)

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._exchange.receive())["type"] != "http.disconnect":
            pass
        self._exchange.is_gone = True
        self._on_gone()


def _too_large(limit: int) -> AiosError:
    return TooLarge(f"the body is larger than {limit} bytes ([server] max_body in aios.toml)", code="body_too_large")
