"""A core that is somebody else's server: anything that speaks OpenAI's chat completions at a `base_url`.

Knows that wire and nothing of queues, journals or the surface agents speak. What streams through is passed on as it
came, and read on the way: enough to say at the end what was said.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError, TimedOut, UpstreamFault
from aios.abi.messages import Generation

from ..config import CoreSection, check_url
from .base import NotBegun, Request
from .connection import Pool, Unreachable
from .openai_wire import Answer, Events, error_of, parse_whole
from .pace import Pace

WHOLE_FACTOR = 5
"""An answer that comes whole says nothing until it is done: it is given so many times the time between two tokens."""


PASSING = frozenset({"upstream_failed", "upstream_unreachable", "upstream_timeout", "upstream_cut", "upstream_garbage"})
"""Codes of what may go well the next time."""


class OpenAICore:
    """`resume` is "none": an interrupt would throw paid tokens away, so a call runs to its end here."""

    kind = "openai"
    resume = "none"

    def __init__(
        self,
        section: CoreSection,
        *,
        now: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
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
        self._pace = Pace(section.slots, now, rng)
        self._now = now
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
        return active < self._pace.room

    def drop(self, snapshot: Any) -> None:
        """There are no snapshots here."""

    def statistics(self) -> dict[str, Any]:
        return self._counts | self._pace.statistics()

    async def run(self, request: Request, quantum: int | None) -> Generation:
        counts = self._counts
        counts["requests"] += 1
        counts["active"] += 1
        counts["failed"] += 1
        began, active = self._now(), counts["active"]
        events = Events(self.name, request.emit) if request.is_streamed else None
        try:
            answer = await self._ask(request, events)
        except (AiosError, OSError) as error:
            has_spoken = events is not None and events.has_spoken
            raise self._verdict(self._told(error, request), began, active, has_spoken) from None
        finally:
            counts["active"] -= 1
        counts["failed"] -= 1
        self._pace.went_well(active)
        return answer.generation(self.model, self.name, request.args.seed)

    def _told(self, error: AiosError | OSError, request: Request) -> AiosError:
        """What went wrong, for the agent."""
        if isinstance(error, AiosError):
            return error
        if isinstance(error, TimeoutError):
            factor, what = (1, "") if request.is_streamed else (WHOLE_FACTOR, f"{WHOLE_FACTOR} times ")
            limit = f"{self._timeout * factor:g} s ({what}[[core]] timeout)"
            return TimedOut(f"core '{self.name}' said nothing for {limit}", code="upstream_timeout")
        if isinstance(error, Unreachable):
            return UpstreamFault(f"core '{self.name}': {error}; is it running?", code="upstream_unreachable")
        return UpstreamFault(f"core '{self.name}': {error}", code="upstream_unreachable")

    def _verdict(self, error: AiosError, began: float, active: int, has_spoken: bool) -> AiosError | NotBegun:
        """What the fault says about the server, and whether the call may be tried again."""
        is_busy = error.code == "upstream_busy"
        if is_busy:
            after = self._pace.was_refused(began, active, error.retry_after)
        elif error.code in PASSING:
            after = self._pace.went_wrong(error.retry_after)
        else:
            return error
        return error if has_spoken else NotBegun(error, after=after, is_busy=is_busy)

    # ── one request ──

    async def _ask(self, request: Request, events: Events | None) -> Answer:
        assert self._pool is not None
        body = self._body(request)
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
        fields.pop("window", None)  # the kernel has seen to it
        if extra := fields.pop("extra", None):
            fields = {**extra, **fields}
            fields.pop("stream", None)
        fields["model"] = self._asks_for or asked
        if request.is_streamed:
            fields["stream"] = True
            fields["stream_options"] = {"include_usage": True}
        return msgspec.json.encode(fields)
