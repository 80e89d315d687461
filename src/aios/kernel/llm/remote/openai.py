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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from aios.abi.calls import LLMEmbed, LLMGenerate
from aios.abi.errors import AiosError, BadRequest, UpstreamFault
from aios.abi.messages import Embeddings, Generation

from ...config import CoreSection
from ...syscall import Suspended
from ..base import NotBegun, Request, Said
from .connection import OnData, Response
from .continuing import (
    Continued,
    Tokened,
    is_safe,
    may_continue,
    may_use_tokens,
    rest_as_tokens,
    rest_of,
    stops_of,
)
from .core import RemoteCore
from .openai_answer import Answer
from .openai_embed import embed
from .openai_stream import Events
from .servers import Capabilities
from .slices import Slices
from .upstream import Attempt

CHAT, COMPLETIONS, MODELS = "/chat/completions", "/completions", "/models"
PROBE_SECONDS = 3.0
"""So long a server may take to say what it can do."""
PROBE_EVERY = 10.0

TEXTUAL = ("prefill_text", "tokens")
"""Ways to resume from a `Said`."""


@dataclass(slots=True)
class _Asked:
    """A request under way. Without `events` its answer comes whole; without `slices` it cannot be left."""

    request: Request
    events: Events | None
    attempt: Attempt
    slices: Slices | None = None


class OpenAICore(RemoteCore):
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
        super().__init__(section, _headers, now=now, rng=rng)
        self._now = now
        self._can = Capabilities.declared(section)
        self._adopt()
        self._probing: asyncio.Task[None] | None = None
        self._probe_at = 0.0
        self._live: dict[str, _Asked] = {}
        """Left at the edge of a quantum a moment ago, with their streams open."""
        self._counts = {"switches": 0, "continued": 0}

    # ── the contract of a core ──

    async def open(self) -> None:
        """The server may start after this kernel, and be restarted: it is asked what it can do, and not waited for."""
        self._upstream.open()
        self._probe()

    async def close(self) -> None:
        for asked in list(self._live.values()):
            self._let_go(asked)
        if self._probing is not None:
            self._probing.cancel()
        self._upstream.close()

    def check(self, args: LLMGenerate) -> None:
        """What was declared to be missing. Else the server knows what it can do; its refusals come back as they are."""
        section = self._section
        if (args.beam_width or 1) > 1:
            why = f"core '{self.name}' is a server without beam search; leave beam_width out, or ask a local model"
            raise BadRequest(why, param="beam_width")
        if section.tools is False and args.tools and args.tool_choice != "none":
            raise BadRequest(f"core '{self.name}' is declared to know no tools; ask another model", param="tools")
        kind = (args.response_format or {}).get("type")
        if section.json_schema is False and kind == "json_schema":
            why = f"core '{self.name}' is declared to know no json_schema; ask another model"
            raise BadRequest(why, param="response_format")

    def can_continue(self, args: LLMGenerate, said: Said) -> bool:
        return not said.text or (self.resume in TEXTUAL and may_continue(args))

    def statistics(self) -> dict[str, Any]:
        return super().statistics() | self._counts | self._can.told()

    async def run(self, request: Request, quantum: int | None) -> Generation | Suspended:
        self._probe()
        asked = self._live.pop(request.id, None) or self._begun(request, quantum)
        asked.request = request
        before = asked.events.answer.num_tokens if asked.events is not None else 0
        is_left = is_well = False
        try:
            answer = await self._slice(asked, quantum)
            is_left, is_well = answer is None, True
        except (AiosError, OSError) as error:
            raise self._verdict(error, asked) from None
        finally:
            if not is_left:
                self._upstream.end(asked.attempt, is_well=is_well)
        if answer is None:
            return self._suspended(asked, before)
        return answer.generation(self.model, self.name, request.args.seed)

    @property
    def embeds(self) -> bool | None:
        return self._section.embeddings

    def check_embed(self, args: LLMEmbed) -> None:
        """The server knows what it can do."""

    async def embed(self, args: LLMEmbed) -> Embeddings:
        return await embed(self._upstream, args, self._model_for(args.model), self._section.embed_batch)

    # ── one request ──

    def _begun(self, request: Request, quantum: int | None) -> _Asked:
        args, said = request.args, request.said
        if said is not None and not self.can_continue(args, said):
            raise self._cannot_continue(request)
        self._counts["continued"] += said is not None
        is_cut = quantum is not None and self.resume in TEXTUAL and may_continue(args)
        events: Events | None = None
        if said is not None:
            events = Continued(self.name, request.emit, said, stops_of(args), args.max_tokens)
        elif request.is_streamed or is_cut:
            kind = Tokened if is_cut and self._tells_tokens(args) else Events
            events = kind(self.name, request.emit, args.max_tokens)
        asked = _Asked(request, events, self._upstream.begin())
        if events is not None and is_cut:
            asked.slices = self._sliced(asked, events)
        return asked

    def _sliced(self, asked: _Asked, events: Events) -> Slices:
        args = asked.request.args
        stops = stops_of(args)
        return Slices(
            events, lambda hear: self._post(asked, hear), lambda: is_safe(events.answer, stops, args.max_tokens)
        )

    async def _slice(self, asked: _Asked, quantum: int | None) -> Answer | None:
        """The answer, or None when a quantum was used up before its end."""
        events = asked.events
        if asked.slices is not None:
            response = await asked.slices.listen(quantum or sys.maxsize)
            if response is None:
                return None
        else:
            response = await self._post(asked, None if events is None else events.feed)
        return self._read(response, events or Events(self.name, lambda chunk: None))

    async def _post(self, asked: _Asked, on_data: OnData | None) -> Response:
        request = asked.request
        fields = self._fields(request)
        if asked.events is not None:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        path = CHAT
        if request.said is not None and request.said.text:
            path, fields = self._rest(request, request.said, fields)
        elif isinstance(asked.events, Tokened):
            fields["return_token_ids"] = True
        return await self._upstream.post(path, msgspec.json.encode(fields), on_data)

    def _fields(self, request: Request) -> dict[str, Any]:
        args = request.args
        fields = {name: value for name, value in msgspec.structs.asdict(args).items() if value is not None}
        fields.pop("window", None)  # the kernel has seen to it
        if extra := fields.pop("extra", None):
            fields = {**extra, **fields}
            fields.pop("stream", None)
        fields["model"] = self._model_for(args.model)
        if (priority := self._section.priority) is not None:
            fields["priority"] = request.nice if priority == "low_first" else -request.nice
        return fields

    def _rest(self, request: Request, said: Said, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Where to ask for what follows on `said`, and how."""
        if self._tells_tokens(request.args):
            by_tokens = rest_as_tokens(fields, said, self.context_length)
            if by_tokens is not None:
                return COMPLETIONS, by_tokens
        turn = {"role": "assistant", "content": said.text}
        return CHAT, rest_of(fields, said) | self._can.row.continuing | {"messages": [*request.args.messages, turn]}

    def _tells_tokens(self, args: LLMGenerate) -> bool:
        return self.resume == "tokens" and may_use_tokens(args)

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
        self._upstream.end(asked.attempt, is_well=True)
        self._counts["switches"] += 1

    # ── when it goes wrong ──

    def _verdict(self, error: AiosError | OSError, asked: _Asked) -> AiosError | NotBegun:
        """What is to become of the call: tried again, carried on from what was said, or ended."""
        request, events = asked.request, asked.events
        verdict = self._upstream.judge(error, asked.attempt, is_streamed=events is not None)
        if not isinstance(verdict, NotBegun):
            if not isinstance(verdict, BadRequest) or request.said is None:
                return verdict
            self._can.refuse_resume(verdict.message)
            self._adopt()
            return self._cannot_continue(request)
        if verdict.error.code == "upstream_unreachable":
            self._can.is_told = False  # another one may be there when it is back
        verdict.said = request.said
        if events is None or not events.has_spoken:
            return verdict
        verdict.said = (
            said if (said := events.answer.said()) and (not said.text or may_continue(request.args)) else None
        )
        # Who heard what cannot be carried on gets an error; who heard nothing an answer from the beginning.
        return verdict.error if said is None and request.is_streamed else verdict

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
            why = "it said nothing in time" if isinstance(error, TimeoutError) else str(error)
            self._can.found = f"could not be asked: {self._upstream.scrubbed(why)[:200]}"

    async def _ask_capabilities(self) -> None:
        async with asyncio.timeout(PROBE_SECONDS):  # for a connection, and for all that is asked
            await self._learn()

    async def _learn(self) -> None:
        can, upstream = self._can, self._upstream
        response = await upstream.get(MODELS, PROBE_SECONDS)
        if response.status != 200 or not can.learn_models(response.body, self.model):
            can.found = f"its server does not list its models (status {response.status})"
            can.is_told = response.status in (200, 404, 405)  # it is up, and will not learn to
            return
        if (props := can.row.props) is not None:
            response = await upstream.get(props, PROBE_SECONDS, is_beside=True)
            if response.status == 200:
                can.learn_props(response.body)
        can.found, can.is_told = "as its server says", True
        self._adopt()


def _headers(key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}
