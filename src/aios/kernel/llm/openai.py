"""A core that is somebody else's server: anything that speaks OpenAI's chat completions at a `base_url`.

Knows that wire and nothing of queues, journals or the surface agents speak. What streams through is passed on as it
came, and read on the way: enough to say at the end what was said.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from aios.abi.calls import LLMGenerate
from aios.abi.errors import TimedOut, UpstreamFault
from aios.abi.messages import Generation

from ..config import CoreSection
from .base import Request
from .openai_wire import Answer, Events, error_of, parse_whole

CONNECT_SECONDS = 10.0
WHOLE_FACTOR = 5
"""An answer that comes whole says nothing until it is done: it is given so many times the time between two tokens."""
MAX_WHOLE = 64 << 20
LINGER = 0.1
"""Seconds to wait for the end of a stream that said it is done, so that its connection can be used again."""

_FIELDS = tuple(name for name in LLMGenerate.__struct_fields__ if name not in ("extra", "model"))


class OpenAICore:
    """`resume` is "none": an interrupt would throw paid tokens away, so a call runs to its end here."""

    kind = "openai"
    resume = "none"

    def __init__(self, section: CoreSection) -> None:
        self.name = section.name
        self.model = section.model or section.name
        self.slots = section.slots
        self.context_length = section.context_length
        self._asks_for = section.model
        self._url = URL((section.base_url or "").rstrip("/") + "/chat/completions")
        self._key_env = section.api_key_env
        self._timeout = section.timeout
        self._session: aiohttp.ClientSession | None = None
        self._counts = {"requests": 0, "failed": 0, "active": 0}

    # ── the contract of a core ──

    async def open(self) -> None:
        """Nothing is asked of the server yet: it may start after this kernel, and be restarted."""
        headers = {
            "accept-encoding": "identity",
            "content-type": "application/json",
            "user-agent": "aios",
        }
        if self._key_env is not None and (key := os.environ.get(self._key_env)):
            headers["authorization"] = f"Bearer {key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.slots, keepalive_timeout=30.0),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            auto_decompress=False,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def check(self, args: LLMGenerate) -> None:
        """The server behind knows what it can do; its refusals come back as they are."""

    def can_take(self, snapshot: Any) -> bool:
        return True

    def drop(self, snapshot: Any) -> None:
        """There are no snapshots here."""

    def statistics(self) -> dict[str, Any]:
        return dict(self._counts)

    async def run(self, request: Request, quantum: int | None) -> Generation:
        self._counts["requests"] += 1
        self._counts["active"] += 1
        is_done = False
        try:
            answer = await self._ask(request)
            is_done = True
        except TimeoutError:
            raise TimedOut(
                f"core '{self.name}' said nothing for {self._timeout:g} s ([[core]] timeout)", code="upstream_timeout"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamFault(f"core '{self.name}': {_reason(error)}", code="upstream_unreachable") from None
        finally:
            self._counts["active"] -= 1
            self._counts["failed"] += not is_done
        return answer.generation(self.model, self.name, request.args.seed)

    # ── one request ──

    def _body(self, request: Request) -> bytes:
        args = request.args
        asked = args.model if args.model not in (None, self.name) else self.model
        fields: dict[str, Any] = dict(args.extra or {})
        fields["model"] = self._asks_for or asked
        for name in _FIELDS:
            if (value := getattr(args, name)) is not None:
                fields[name] = value
        fields.pop("stream", None)
        if request.is_streamed:
            fields["stream"] = True
            fields["stream_options"] = {"include_usage": True}
        return msgspec.json.encode(fields)

    async def _ask(self, request: Request) -> Answer:
        body = self._body(request)
        try:
            return await self._post(request, body)
        except aiohttp.ServerDisconnectedError:
            # A pooled connection may have been closed by the server while it was idle, and then nothing was asked.
            return await self._post(request, body)

    async def _post(self, request: Request, body: bytes) -> Answer:
        assert self._session is not None
        limit = self._timeout if request.is_streamed else self._timeout * WHOLE_FACTOR
        async with (
            asyncio.timeout(limit) as deadline,
            self._session.post(self._url, data=body, allow_redirects=False) as response,
        ):
            kind = response.content_type
            if response.status != 200:
                raise error_of(self.name, self._key_env, response.status, await self._read(response), response.headers)
            if request.is_streamed and kind == "text/event-stream":
                return await self._read_events(response, request, deadline)
            answer = parse_whole(self.name, await self._read(response))
            if request.is_streamed:
                request.emit(answer.as_chunk())
            return answer

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        content = response.content
        data = await content.readany()
        if content.at_eof():
            return data
        parts, size = [data], len(data)
        while not content.at_eof():
            parts.append(await content.readany())
            size += len(parts[-1])
            if size > MAX_WHOLE:
                raise UpstreamFault(f"core '{self.name}' answered with more than {MAX_WHOLE} bytes")
        return b"".join(parts)

    async def _read_events(
        self, response: aiohttp.ClientResponse, request: Request, deadline: asyncio.Timeout
    ) -> Answer:
        events = Events(self.name, request.emit)
        content = response.content
        now = asyncio.get_running_loop().time
        # The deadline moves with each token, but setting a timer costs: a tenth of tolerance saves nearly all of them.
        move_at = now() + self._timeout / 10
        while not events.is_done and not content.at_eof():
            events.feed(await content.readany())
            if now() > move_at:
                deadline.reschedule(now() + self._timeout)
                move_at = now() + self._timeout / 10
        events.finish()
        if not content.at_eof():
            await self._linger(content)
        return events.answer

    async def _linger(self, content: aiohttp.StreamReader) -> None:
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(LINGER):
                while not content.at_eof():
                    await content.readany()


def _reason(error: Exception) -> str:
    """What went wrong with the connection, without what was sent on it."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect to {error.host}:{error.port} ({error.os_error.strerror or 'no route'}); is it running?"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "its server cut the answer short"
    return f"its server broke the connection ({type(error).__name__})"
