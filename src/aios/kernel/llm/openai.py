"""A core that is somebody else's server: anything that speaks OpenAI's chat completions at a `base_url`.

Knows that wire and nothing of queues, journals or the surface agents speak. What streams through is passed on as it
came, and read on the way: enough to say at the end what was said.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import msgspec

from aios.abi.calls import LLMGenerate
from aios.abi.errors import TimedOut, UpstreamFault
from aios.abi.messages import Generation

from ..config import CoreSection, check_url
from .base import Request
from .connection import Pool, Unreachable
from .openai_wire import Answer, Events, error_of, parse_whole

WHOLE_FACTOR = 5
"""An answer that comes whole says nothing until it is done: it is given so many times the time between two tokens."""


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
        check_url(section)
        parts = urlsplit(section.base_url or "")
        self._url = parts._replace(path=parts.path.rstrip("/") + "/chat/completions").geturl()
        self._key_env = section.api_key_env
        self._timeout = section.timeout
        self._pool: Pool | None = None
        self._counts = {"requests": 0, "failed": 0, "active": 0}

    # ── the contract of a core ──

    async def open(self) -> None:
        """Nothing is asked of the server yet: it may start after this kernel, and be restarted."""
        headers = {
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "user-agent": "aios",
        }
        if self._key_env is not None and (key := os.environ.get(self._key_env)):
            headers["authorization"] = f"Bearer {key}"
        self._pool = Pool(self._url, headers)

    async def close(self) -> None:
        if self._pool is not None:
            self._pool.close()

    def check(self, args: LLMGenerate) -> None:
        """The server behind knows what it can do; its refusals come back as they are."""

    def can_take(self, snapshot: Any, active: int = 0) -> bool:
        return True

    def drop(self, snapshot: Any) -> None:
        """There are no snapshots here."""

    def statistics(self) -> dict[str, Any]:
        return dict(self._counts)

    async def run(self, request: Request, quantum: int | None) -> Generation:
        counts = self._counts
        counts["requests"] += 1
        counts["active"] += 1
        counts["failed"] += 1
        try:
            answer = await self._ask(request)
            counts["failed"] -= 1
        except TimeoutError:
            factor, what = (1, "") if request.is_streamed else (WHOLE_FACTOR, f"{WHOLE_FACTOR} times ")
            limit = f"{self._timeout * factor:g} s ({what}[[core]] timeout)"
            raise TimedOut(f"core '{self.name}' said nothing for {limit}", code="upstream_timeout") from None
        except Unreachable as error:
            why = f"core '{self.name}': {error}; is it running?"
            raise UpstreamFault(why, code="upstream_unreachable") from None
        except OSError as error:
            raise UpstreamFault(f"core '{self.name}': {error}", code="upstream_unreachable") from None
        finally:
            counts["active"] -= 1
        return answer.generation(self.model, self.name, request.args.seed)

    # ── one request ──

    async def _ask(self, request: Request) -> Answer:
        assert self._pool is not None
        body = self._body(request)
        events = Events(self.name, request.emit) if request.is_streamed else None
        if events is None:
            response = await self._pool.post(body, self._timeout * WHOLE_FACTOR, None)
        else:
            response = await self._pool.post(body, self._timeout, events.feed)
        if response.status != 200:
            raise error_of(self.name, self._key_env, response.status, response.body, response.headers)
        if events is not None and response.is_streamed:
            return events.finish()
        answer = parse_whole(self.name, response.body)
        if events is not None:
            request.emit(answer.as_chunk())
        return answer

    def _body(self, request: Request) -> bytes:
        args = request.args
        asked = args.model if args.model not in (None, self.name) else self.model
        fields = {name: value for name, value in msgspec.structs.asdict(args).items() if value is not None}
        if extra := fields.pop("extra", None):
            fields = {**extra, **fields}
            fields.pop("stream", None)
        fields["model"] = self._asks_for or asked
        if request.is_streamed:
            fields["stream"] = True
            fields["stream_options"] = {"include_usage": True}
        return msgspec.json.encode(fields)
