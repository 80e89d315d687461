"""A model in a GGUF file as a core: a llama.cpp server in a process of its own, its slots saved and restored by file.

Knows what the server is asked and what an interrupt means to it; which slot is whose is `seats.py`, the process
`process.py`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import shutil
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError, BadRequest, ModuleFault, TimedOut, UpstreamFault
from aios.abi.messages import Chunk, Generation

from ...config import CoreSection
from ...syscall import Suspended
from ...unbroken import over, unbroken
from ..aside import aside
from ..base import NotBegun, Request, Said, Tell, nobody
from ..local.host import free_bytes
from ..local.host import said as bytes_said
from ..local.shape import ModelError
from ..local.variables import variables_of
from ..remote.connection import Unreachable
from .body import body_of, can_be_held
from .file import GgufInfo, read_info
from .keeper import Keeper
from .process import Process
from .seats import Paused, Seats
from .stream import Spoken, Stream

log = logging.getLogger("aios.llm")

CHAT = "/chat/completions"
LINGER = 0.02
"""Seconds that a suspended answer's stream stays open, so that going on at once costs nothing."""
MAX_SLOTS = 256
"""llama.cpp has no more in one server."""
OWN_WINDOW = 4096
"""Tokens of the window where neither the file nor the configuration bounds it."""
NOT_AGAIN = 2.0
"""Seconds that a call which found the server given up need not ask again: another core may have room by then."""
SOON = 0.5
"""As much, where it found the server being started again."""


class GgufCore:
    """`resume` is "kv_file": a suspended answer's KV stays in its slot, or goes to a file when the slot is needed.

    A greedy answer goes on as if nothing had happened; a sampled one goes on validly, not with the same draws, since
    llama.cpp's samplers cannot be saved. An answer that calls a tool is not interrupted once the call has begun.
    """

    kind = "gguf"
    resume = "kv_file"

    def __init__(self, section: CoreSection, home: Path) -> None:
        self._path = Path(section.path or "").expanduser()
        self.name = section.name
        self.model = section.model or self._path.stem or section.name
        self.slots = section.slots
        self.context_length = section.context_length
        self._section = section
        self._folder = home / "slots" / section.name
        self._names = count(1)
        self._seats = Seats(section.slots, section.kv_bytes)
        self._keeper: Keeper | None = None
        self._is_pooled = False
        self.tell: Tell = nobody
        self._counts = {"requests": 0, "failed": 0, "active": 0}

    # ── the contract of a core ──

    async def open(self) -> None:
        """Load the model. Raises ModuleFault: it cannot be, and why."""
        if importlib.util.find_spec("xllamacpp") is None:
            why = "xllamacpp is not installed; pip install 'aios-kernel[gguf]' brings it"
            raise ModuleFault(f"core '{self.name}' cannot be loaded: {why}", code="core_unloadable")
        try:
            info = await aside(f"open {self.name}", lambda: read_info(self._path))
            self._fit(info)
        except ModelError as error:
            raise ModuleFault(f"core '{self.name}' cannot be loaded: {error}", code="core_unloadable") from None
        self._seats = Seats(self.slots, self._section.kv_bytes)
        await self._clear_folder()
        self._folder.mkdir(parents=True, mode=0o700)
        self._keeper = Keeper(self.name, self._order(), self.tell, self._seats.lose)
        await self._keeper.start()

    async def close(self) -> None:
        if self._keeper is not None:
            await self._keeper.stop()
        await self._clear_folder()

    def check(self, args: LLMGenerate) -> None:
        variables_of(args)  # which its template is given by the server
        if (args.beam_width or 1) > 1:
            raise BadRequest(f"core '{self.name}' has no beam search; leave beam_width out", param="beam_width")
        if args.min_tokens:
            raise BadRequest(f"core '{self.name}' knows no min_tokens; leave it out", param="min_tokens")

    def can_take(self, snapshot: Any, active: int = 0) -> bool:
        return True

    def can_continue(self, args: LLMGenerate, said: Said) -> bool:
        return can_be_held(args)

    def drop(self, snapshot: Any) -> None:
        self._seats.drop(snapshot)

    def statistics(self) -> dict[str, Any]:
        restarts = self._keeper.num_restarts if self._keeper is not None else 0
        return self._counts | {"restarts": restarts} | self._seats.statistics()

    async def run(self, request: Request, quantum: int | None) -> Generation | Suspended:
        paused: Paused | None = request.snapshot
        self._counts["active"] += 1
        try:
            return await self._answer(request, paused, quantum)
        except Unreachable:  # the process was dead before it heard of this
            if paused is not None:
                return Suspended(paused, 0, SOON, is_refusal=True)
            raise self._not_begun(request.said) from None
        finally:
            self._counts["active"] -= 1

    async def _answer(self, request: Request, paused: Paused | None, quantum: int | None) -> Generation | Suspended:
        process = await self._serving(is_patient=paused is not None)
        if paused is None:
            self._counts["requests"] += 1
        elif paused.is_dropped:
            raise ModuleFault("this generation was dropped and cannot be resumed")
        elif paused.saving is not None:
            await asyncio.shield(paused.saving)
        try:
            return await self._slice(request, paused, quantum)
        except (AiosError, OSError) as error:
            self._counts["failed"] += 1
            if isinstance(error, Unreachable):
                raise
            raise await self._told(error, process) from None

    def _not_begun(self, said: Said | None = None) -> NotBegun:
        """Another core may take what this one was not even asked. It did not die of it, so while it is started again
        that is worth any number of tries."""
        if self._keeper is not None and self._keeper.given_up is not None:
            fault = ModuleFault(f"core '{self.name}' is down: {self._keeper.given_up}", code="core_down")
            return NotBegun(fault, after=NOT_AGAIN, is_busy=False, said=said)
        fault = ModuleFault(f"core '{self.name}' is being started again", code="core_restarting", retry_after=5)
        return NotBegun(fault, after=SOON, is_busy=True, said=said)

    # ── one slice ──

    async def _slice(self, request: Request, paused: Paused | None, quantum: int | None) -> Generation | Suspended:
        salt, heads = request.args.cache_salt, _heads(request.args)
        seat, victim = self._seats.take(paused, salt, heads)
        stream = None if paused is None else paused.take_stream()
        is_well = False
        try:
            if victim is not None:
                victim.saving = asyncio.ensure_future(self._save(victim, seat))
                await asyncio.shield(victim.saving)
            if stream is None:
                stream = await self._open_stream(request, paused, seat)
            stream.go_on(request.emit, quantum if can_be_held(request.args) else None)
            tokens = await stream.turn()
            is_well = True
        finally:
            if not is_well:
                await self._leave(seat, stream, victim)
        if tokens is not None:
            return Suspended(self._suspend(stream, paused, seat), tokens)
        self._seats.leave(seat)
        return self._finish(request, stream)

    async def _leave(self, seat: int, stream: Stream | None, victim: Paused | None) -> None:
        """Something went wrong, or the call was cancelled, once or more often: the server stops, and only then is the
        slot free."""
        try:
            if stream is not None:
                stream.cut()
                await stream.is_over()
            if victim is not None and victim.saving is not None:
                await over(victim.saving)
        finally:
            self._seats.leave(seat)

    def _suspend(self, stream: Stream, paused: Paused | None, seat: int) -> Paused:
        spoken = stream.spoken()
        if paused is None:
            paused = Paused(spoken, seat)
        paused.spoken, paused.stream = spoken, stream
        self._seats.keep(paused, seat)
        paused.closing = asyncio.get_running_loop().call_later(LINGER, paused.close_stream)
        return paused

    def _finish(self, request: Request, stream: Stream) -> Generation:
        assert self._keeper is not None
        fingerprint = f"xllamacpp-{self._keeper.process.version}"
        answer = stream.generation(self.model, self.name, request.args.seed, fingerprint)
        request.emit(Chunk(finish_reason=answer.finish_reason, usage=answer.usage))
        return answer

    async def _open_stream(self, request: Request, paused: Paused | None, seat: int) -> Stream:
        """Ask the server for the answer, or for the rest of it."""
        is_restored = paused is not None and await self._restore(paused, seat)
        may_share = self._seats.note(seat, request.args.cache_salt, _heads(request.args))
        spoken = _begun(request) if paused is None else paused.spoken
        body = body_of(request.args, spoken)
        body |= {"id_slot": seat, "cache_prompt": is_restored or may_share}
        data, timeout = msgspec.json.encode(body), self._section.timeout
        process = await self._serving(is_patient=paused is not None)
        most = request.args.max_tokens
        return Stream(self.name, lambda on_data: process.post(CHAT, data, timeout, on_data), spoken, most)

    # ── slots and files ──

    async def _save(self, paused: Paused, seat: int) -> None:
        """Put the KV of `paused`, which is in slot `seat`, in a file. Where that fails it is read again as text."""
        if (stream := paused.close_stream()) is not None:
            await stream.is_over()
        file = self._folder / f"{next(self._names)}.kv"
        told = await self._move(seat, "save", file)
        if told is not None:
            self._seats.put(paused, file, int(told.get("n_written") or 0))
        paused.saving = None

    async def _restore(self, paused: Paused, seat: int) -> bool:
        """Whether slot `seat` has the KV of `paused` now."""
        if paused.file is None:
            self._seats.num_reread += paused.saving is None
            return False
        told = await self._move(seat, "restore", paused.file)
        self._seats.unfile(paused)
        self._seats.num_restored += told is not None
        self._seats.num_reread += told is None
        return told is not None

    async def _move(self, seat: int, action: str, file: Path) -> dict[str, Any] | None:
        """What the server says of moving a slot's KV; None when it could not."""
        body = msgspec.json.encode({"filename": file.name})
        try:
            process = await self._serving(is_patient=False)
            response = await process.post(f"/slots/{seat}?action={action}", body, self._section.timeout)
            told = msgspec.json.decode(response.body, type=dict[str, Any])
        except (OSError, AiosError, msgspec.MsgspecError) as error:
            log.warning("core '%s' could not %s a slot: %s", self.name, action, error)
            return None
        if response.status != 200:
            log.warning("core '%s' could not %s a slot: %s", self.name, action, told.get("error"))
            return None
        return told

    # ── the process ──

    def _fit(self, info: GgufInfo) -> None:
        """How long the window is and how many slots there are, within `kv_bytes`. Raises ModelError."""
        section, trained = self._section, info.context_length
        self.slots = min(section.slots, MAX_SLOTS)
        if section.context_length and trained and section.context_length > trained:
            raise ModelError(f"context_length = {section.context_length}, and {self._path} was made for {trained}")
        context = section.context_length or trained or OWN_WINDOW
        if info.kv_bytes:
            tokens = section.kv_bytes // info.kv_bytes
            if not section.context_length:
                context = min(context, max(tokens // self.slots, 16))
            if tokens < context:
                raise ModelError(
                    f"kv_bytes = {section.kv_bytes}, and one sequence of {context} tokens takes "
                    f"{context * info.kv_bytes}; give it at least that, or a shorter context_length"
                )
            self.slots = min(self.slots, tokens // context)
        needed, free = info.size + context * self.slots * (info.kv_bytes or 0), free_bytes()
        if free is not None and needed > free:
            raise ModelError(f"{self._path} takes {bytes_said(needed)} with its KV, and {bytes_said(free)} are free")
        self.context_length = context
        self._is_pooled = info.is_pooled

    def _order(self) -> dict[str, Any]:
        threads = max(1, (os.cpu_count() or 2) - 1)
        order: dict[str, Any] = {"path": str(self._path.resolve()), "slots": self.slots, "context": self.context_length}
        order |= {"folder": f"{self._folder}{os.sep}", "threads": threads}
        if self._section.embeddings:
            order["pooling"] = "own" if self._is_pooled else "mean"
        return order

    async def _serving(self, *, is_patient: bool) -> Process:
        if self._keeper is None:
            raise Unreachable(f"core '{self.name}' is not open")
        return await self._keeper.serving(is_patient=is_patient)

    async def _told(self, error: AiosError | OSError, process: Process) -> AiosError:
        """What went wrong, for the agent. The server is ours, so its faults are this module's."""
        if isinstance(error, UpstreamFault):
            return ModuleFault(error.message, code=error.code, retry_after=error.retry_after)
        if isinstance(error, AiosError):
            return error
        if isinstance(error, TimeoutError):
            limit = f"{self._section.timeout:g} s ([[core]] timeout)"
            return TimedOut(f"core '{self.name}' said nothing for {limit}", code="core_timeout")
        if (end := await process.end()) is None:
            why = f"core '{self.name}': the connection to its process broke while this ran ({error}); ask again"
            return ModuleFault(why, code="connection_broken", retry_after=1)
        return ModuleFault(f"core '{self.name}': {end} while this ran; ask again", code="core_crashed", retry_after=1)

    async def _clear_folder(self) -> None:
        """What lies there belongs to answers of a kernel that is gone; gigabytes of it take their time. Not broken off,
        or it would go on in a folder that is used again."""
        await unbroken(asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True))


def _heads(args: LLMGenerate) -> Sequence[int]:
    """Something for each message, with the tools for the first, equal when they are."""
    first, *others = args.messages
    return [hash(msgspec.json.encode(part)) for part in ((args.tools, first), *others)]


def _begun(request: Request) -> Spoken:
    """What was said of the answer before this core was asked: by another one, or nothing."""
    if (said := request.said) is None:
        return Spoken()
    return Spoken(said.text, tokens=said.tokens, logprobs=list(said.logprobs or ()), num_streams=1)
