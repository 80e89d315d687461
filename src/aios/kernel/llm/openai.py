"""A core that is somebody else's server: anything that speaks OpenAI's chat completions at a `base_url`.

Knows that wire and nothing of queues, journals or the surface agents speak. What streams through is passed on as it
came, and read on the way: enough to say at the end what was said. Where the server can go on with half an answer, a
quantum ends a slice: the stream stays open as long as the call keeps its slot, and is closed when it has to leave.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError, BadRequest, TimedOut, UpstreamFault
from aios.abi.messages import Generation

from ..config import CoreSection, check_url
from ..syscall import Suspended
from .base import NotBegun, Request, Said
from .connection import OnData, Pool, Response, Unreachable
from .continuing import Continued, is_safe, may_continue, rest_of, stops_of
from .openai_wire import Answer, Events, error_of, parse_whole
from .pace import Pace
from .secret import Secret
from .servers import Capabilities
from .slices import Slices

WHOLE_FACTOR = 5
"""An answer that comes whole says nothing until it is done: it is given so many times the time between two tokens."""
PROBE_SECONDS = 3.0
"""So long a server may take to say what it can do."""
PROBE_EVERY = 10.0


PASSING = frozenset({"upstream_failed", "upstream_unreachable", "upstream_timeout", "upstream_cut", "upstream_garbage"})
"""Codes of what may go well the next time."""
TEXTUAL = ("prefill_text", "tokens")
"""Ways to resume from a `Said`."""


@dataclass(slots=True)
class _Asked:
    """A request under way. `began` and `active` are when it was sent, and how many were then."""

    request: Request
    events: Events | None
    began: float
    active: int
    slices: Slices | None = None


class OpenAICore:
    """`resume` is what the server's kind or the configuration says; with "none" an interrupt would throw paid tokens
    away, so a call runs to its end here."""

    kind = "openai"

    def __init__(
        self,
        section: CoreSection,
        *,
        now: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.name = section.name
        self.model = section.model or section.name
        self._section = section
        self._asks_for = section.model
        check_url(section)
        parts = urlsplit(section.base_url or "")
        self._root = parts.path.rstrip("/")
        self._query = f"?{parts.query}" if parts.query else ""
        self._url = parts._replace(path=self._root + "/chat/completions").geturl()
        self._secret = Secret(section)
        self._key = ""
        self._timeout = section.timeout
        self._first = section.first_timeout or section.timeout
        self._pool: Pool | None = None
        self._pace = Pace(section.slots, now, rng)
        self._now = now
        self._can = Capabilities.declared(section)
        self._adopt()
        self._probing: asyncio.Task[None] | None = None
        self._probe_at = 0.0
        self._live: dict[str, _Asked] = {}
        """Left at the edge of a quantum a moment ago, with their streams open."""
        self._counts = {"requests": 0, "failed": 0, "active": 0, "switches": 0, "continued": 0}

    # ── the contract of a core ──

    async def open(self) -> None:
        """The server may start after this kernel, and be restarted: it is asked what it can do, and not waited for."""
        self._pool = Pool(self._url, self._headers())
        self._probe()

    async def close(self) -> None:
        for asked in list(self._live.values()):
            self._let_go(asked)
        if self._probing is not None:
            self._probing.cancel()
        if self._pool is not None:
            self._pool.close()

    def check(self, args: LLMGenerate) -> None:
        """What was declared to be missing. Else the server knows what it can do; its refusals come back as they are."""
        section = self._section
        if section.tools is False and args.tools and args.tool_choice != "none":
            raise BadRequest(f"core '{self.name}' is declared to know no tools; ask another model", param="tools")
        kind = (args.response_format or {}).get("type")
        if section.json_schema is False and kind == "json_schema":
            why = f"core '{self.name}' is declared to know no json_schema; ask another model"
            raise BadRequest(why, param="response_format")

    def can_take(self, snapshot: Any, active: int = 0) -> bool:
        return active < self._pace.room

    def can_continue(self, args: LLMGenerate, said: Said) -> bool:
        return self.resume in TEXTUAL and may_continue(args)

    def drop(self, snapshot: Any) -> None:
        """What was said is no burden."""

    def statistics(self) -> dict[str, Any]:
        return self._counts | self._pace.statistics() | self._can.told()

    async def run(self, request: Request, quantum: int | None) -> Generation | Suspended:
        self._probe()
        asked = self._live.pop(request.id, None) or self._begun(request, quantum)
        asked.request = request
        before = asked.events.answer.num_tokens if asked.events is not None else 0
        is_kept = False
        try:
            answer = await self._slice(asked, request, quantum)
            is_kept = answer is None
        except (AiosError, OSError) as error:
            raise self._verdict(self._told(error, asked), asked) from None
        finally:
            if not is_kept:
                self._counts["active"] -= 1
        if answer is None:
            return self._suspended(asked, before)
        self._counts["failed"] -= 1
        self._pace.went_well(asked.active)
        return answer.generation(self.model, self.name, request.args.seed)

    # ── one request ──

    def _begun(self, request: Request, quantum: int | None) -> _Asked:
        counts = self._counts
        if request.said is not None and not self.can_continue(request.args, request.said):
            raise self._cannot_continue(request)
        counts["requests"] += 1
        counts["active"] += 1
        counts["failed"] += 1
        counts["continued"] += request.said is not None
        is_cut = quantum is not None and self.resume in TEXTUAL and may_continue(request.args)
        events: Events | None = None
        if request.said is not None:
            events = Continued(self.name, request.emit, request.said, stops_of(request.args))
        elif request.is_streamed or is_cut:
            events = Events(self.name, request.emit)
        asked = _Asked(request, events, self._now(), counts["active"])
        if events is not None and is_cut:
            stops, most = stops_of(request.args), request.args.max_tokens
            heard = events
            asked.slices = Slices(events, self._poster(asked), lambda: is_safe(heard.answer, stops, most))
        return asked

    async def _slice(self, asked: _Asked, request: Request, quantum: int | None) -> Answer | None:
        """The answer, or None when a quantum was used up before its end."""
        events = asked.events
        if asked.slices is not None:
            response = await asked.slices.listen(quantum or sys.maxsize)
            if response is None:
                return None
        elif events is not None:
            response = await self._poster(asked)(events.feed)
        else:
            response = await self._poster(asked)(None)
        if response.status != 200:
            detail = (response.status, response.body, response.headers)
            raise error_of(self.name, self._secret.place, *detail)
        if events is None:
            return parse_whole(self.name, response.body)
        return events.finish() if response.is_streamed else events.whole(response.body)

    def _poster(self, asked: _Asked) -> Callable[[OnData | None], Coroutine[None, None, Response]]:
        async def post(on_data: OnData | None) -> Response:
            assert self._pool is not None
            self._use_key()
            body = self._body(asked.request, is_streamed=asked.events is not None)
            if on_data is None:
                return await self._pool.post(body, self._timeout * WHOLE_FACTOR, None)
            return await self._pool.post(body, self._timeout, on_data, first=self._first)

        return post

    def _body(self, request: Request, *, is_streamed: bool) -> bytes:
        args = request.args
        asked = args.model if args.model not in (None, self.name) else self.model
        fields = {name: value for name, value in msgspec.structs.asdict(args).items() if value is not None}
        if extra := fields.pop("extra", None):
            fields = {**extra, **fields}
            fields.pop("stream", None)
        if request.said is not None and request.said.text:
            turn = {"role": "assistant", "content": request.said.text}
            fields = rest_of(fields, request.said) | self._can.row.continuing
            fields["messages"] = [*args.messages, turn]
        fields["model"] = self._asks_for or asked
        if (priority := self._section.priority) is not None:
            fields.setdefault("priority", request.nice if priority == "low_first" else -request.nice)
        if is_streamed:
            fields["stream"] = True
            fields["stream_options"] = {"include_usage": True}
        return msgspec.json.encode(fields)

    def _headers(self) -> dict[str, str]:
        headers = {
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "user-agent": "aios",
        }
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        return headers

    def _use_key(self) -> None:
        """The key as it is now: its file may have been replaced."""
        key = self._secret.text()
        if key != self._key and self._pool is not None:
            self._key = key
            self._pool.set_headers(self._headers())

    # ── interrupts ──

    def _suspended(self, asked: _Asked, before: int) -> Suspended:
        """The call is between two slices. If it does not go on at once the stream is closed: another call has its
        slot, and the server's is to be free."""
        assert asked.events is not None
        said = asked.events.answer.said()
        assert said is not None, "an answer is left only where text can hold it"
        self._live[asked.request.id] = asked
        asyncio.get_running_loop().call_soon(self._let_go, asked)
        return Suspended(said, said.tokens - before)

    def _let_go(self, asked: _Asked) -> None:
        if self._live.get(asked.request.id) is not asked:
            return
        del self._live[asked.request.id]
        assert asked.slices is not None
        asked.slices.let_go()
        self._counts["active"] -= 1
        self._counts["failed"] -= 1
        self._counts["switches"] += 1
        self._pace.went_well(asked.active)

    # ── when it goes wrong ──

    def _told(self, error: AiosError | OSError, asked: _Asked) -> AiosError:
        """What went wrong, for the agent."""
        if isinstance(error, AiosError):
            error.message = self._secret.scrubbed(error.message)
            return error
        if isinstance(error, TimeoutError):
            return TimedOut(f"core '{self.name}' said nothing for {self._limit(asked)}", code="upstream_timeout")
        if isinstance(error, Unreachable):
            return UpstreamFault(f"core '{self.name}': {error}; is it running?", code="upstream_unreachable")
        return UpstreamFault(f"core '{self.name}': {error}", code="upstream_unreachable")

    def _limit(self, asked: _Asked) -> str:
        if asked.events is None:
            return f"{self._timeout * WHOLE_FACTOR:g} s ({WHOLE_FACTOR} times [[core]] timeout)"
        if not asked.events.has_spoken and self._section.first_timeout is not None:
            return f"{self._first:g} s ([[core]] first_timeout)"
        return f"{self._timeout:g} s ([[core]] timeout)"

    def _verdict(self, error: AiosError, asked: _Asked) -> AiosError | NotBegun:
        """What the fault says about the server, and whether the call may be tried again, or carried on elsewhere."""
        request, events = asked.request, asked.events
        is_busy = error.code == "upstream_busy"
        if is_busy:
            after = self._pace.was_refused(asked.began, asked.active, error.retry_after)
        elif error.code in PASSING:
            after = self._pace.went_wrong(error.retry_after)
        elif isinstance(error, BadRequest) and request.said is not None:
            self._can.refuse_resume(error.message)
            self._adopt()
            return self._cannot_continue(request)
        else:
            return error
        if events is None or not events.has_spoken:
            return NotBegun(error, after=after, is_busy=is_busy, said=request.said)
        if (said := events.answer.said()) is not None and may_continue(request.args):
            return NotBegun(error, after=after, is_busy=is_busy, said=said)
        return error if request.is_streamed else NotBegun(error, after=after, is_busy=is_busy)

    def _cannot_continue(self, request: Request) -> NotBegun:
        """The server does not take half an answer. Who heard nothing of it gets one from the beginning."""
        why = f"core '{self.name}': its server does not go on with half an answer ({self._can.found})"
        error = UpstreamFault(why, code="upstream_no_resume")
        return NotBegun(error, after=0.0, is_busy=False, said=request.said if request.is_streamed else None)

    # ── what the server can do ──

    def _adopt(self) -> None:
        """Be what is known by now."""
        self.slots, self.context_length, self.resume = self._can.slots, self._can.context_length, self._can.resume

    def _probe(self) -> None:
        """Ask, beside the calls, unless it was told already or asked a moment ago."""
        if not self._section.probe or self._can.is_told or self._probing is not None or self._now() < self._probe_at:
            return
        self._probe_at = self._now() + PROBE_EVERY
        self._probing = asyncio.get_running_loop().create_task(self._ask_capabilities())
        self._probing.add_done_callback(self._probed)

    def _probed(self, task: asyncio.Task[None]) -> None:
        self._probing = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._can.found = f"could not be asked: {self._secret.scrubbed(str(error))[:200]}"

    async def _ask_capabilities(self) -> None:
        assert self._pool is not None
        can = self._can
        self._use_key()
        response = await self._pool.get(f"{self._root}/models{self._query}", PROBE_SECONDS)
        if response.status != 200 or not can.learn_models(response.body, self.model):
            can.found = f"does not list its models (status {response.status})"
            return
        if (props := can.row.props) is not None:
            response = await self._pool.get(self._root.removesuffix("/v1") + props, PROBE_SECONDS)
            if response.status == 200:
                can.learn_props(response.body)
        can.found, can.is_told = "as its server says", True
        self._adopt()
