"""Whether a core does what cores do: asked through the kernel like any agent would, by a process made for it.

Knows the SDK only. Costs some hundred tokens; the process is ended afterwards, whatever happens.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from aios.abi.errors import AiosError, ContextLengthExceeded, Denied, ModuleFault, Unauthorized
from aios.abi.messages import Generation
from aios.sdk import AsyncClient

AGENT = "aios-cores-test"
TIMEOUT = 120.0
LOOK_SECONDS = 0.005
FREE_SECONDS = 10.0
"""What an abort may take at most. The answer that is aborted would take longer, or has ended by itself."""
LONG = 96
"""Tokens of the answer that is interrupted: several turns of any usual quantum."""
BYTES_A_TOKEN = 9
"""More than text of letters and blanks has: so many bytes a token of the window are certainly too long for it."""

State = Literal["works", "no", "fails"]
"""`no`: it is not offered, which is no fault."""
EXACT = ("kv_exact", "kv_file")
OWN = ("nano", "local")
"""Kinds that know `min_tokens`."""
GONE = ("upstream_unreachable", "timed_out")
"""Faults after which nothing else is worth its waiting."""


class Verdict(NamedTuple):
    state: State
    detail: str


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried."""

    what: str
    state: State
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Subject:
    """The core, as the kernel tells it; the admin's client and that of the process that asks."""

    core: dict[str, Any]
    admin: AsyncClient
    client: AsyncClient
    pid: int

    @property
    def name(self) -> str:
        return str(self.core["name"])

    async def ask(self, text: str, **more: Any) -> Generation:
        messages = [{"role": "user", "content": text}]
        return await self.client.llm_generate(messages, model=self.name, timeout=TIMEOUT, **more)

    def long(self, tokens: int = LONG) -> dict[str, Any]:
        """Arguments of an answer that does not end by itself too soon, where that can be asked for, and fits."""
        bound = min(tokens, (self.core["context_length"] or 2 * tokens) // 2)
        if self.core["kind"] == "gguf":  # goes on with the same bits where nothing is drawn
            return {"max_tokens": bound, "temperature": 0}
        own = {"min_tokens": min(bound, LONG)} if self.core["kind"] in OWN else {}
        return {"max_tokens": bound, "temperature": 0.8, "seed": 7, **own}


async def prove(admin: AsyncClient, connect: Callable[[str], AsyncClient], name: str) -> AsyncIterator[Check]:
    """Try one thing after the other on the core `name`. `connect` makes a client with another key. Raises NotFound, or
    ModuleFault for a core that is not ready."""
    core = await admin.fetch("GET", f"/aios/v1/cores/{name}")
    if core["state"] != "ready":
        why = f": {core['why']}" if core["why"] else ""
        raise ModuleFault(f"core '{name}' is {core['state']}{why}; only a core that is ready can be tested")
    spawned = await admin.proc_spawn(agent=AGENT)
    client = connect(spawned.key)
    try:
        subject = Subject(core, admin, client, spawned.pid)
        for what in CHECKS if core["kind"] != "embed" else ("embeddings",):
            check = await _tried(what, CHECKS[what], subject)
            yield check
            if check.detail.startswith(GONE):
                return
        yield Check("cost", "works", await _cost(subject), 0.0)
    finally:
        await client.aclose()
        await admin.proc_signal(spawned.pid, "kill")


async def _tried(what: str, check: Callable[[Subject], Awaitable[Verdict]], subject: Subject) -> Check:
    began = time.perf_counter()
    try:
        verdict = await check(subject)
    except (Denied, Unauthorized):
        raise
    except AiosError as error:
        is_refusal = error.fault == "agent" and error.status in (400, 404)
        verdict = Verdict("no" if is_refusal and what in OPTIONAL else "fails", f"{error.code}: {error.message}")
    return Check(what, verdict.state, verdict.detail, time.perf_counter() - began)


async def _cost(subject: Subject) -> str:
    process = await subject.admin.fetch("GET", f"/aios/v1/processes/{subject.pid}")
    spent = f", ${process['cost']:.6f}" if process.get("cost") else ""
    return f"{process['tokens_in']} tokens in, {process['tokens_out']} out{spent}"


# ── what is tried ──


async def _chat(subject: Subject) -> Verdict:
    answer = await subject.ask("Say hello.", max_tokens=16, temperature=0)
    message = answer.message
    if not (message.text() or message.reasoning_content or message.tool_calls):
        return Verdict("fails", f"the answer is empty (finish_reason {answer.finish_reason})")
    return Verdict("works", f"{_quoted(message.text())}, {answer.usage.completion_tokens} tokens")


async def _stream(subject: Subject) -> Verdict:
    began, first, pieces = time.perf_counter(), 0.0, []
    messages = [{"role": "user", "content": "Say hello."}]
    stream = subject.client.stream(messages, model=subject.name, max_tokens=24, temperature=0, timeout=TIMEOUT)
    async for piece in stream:
        first = first or time.perf_counter() - began
        pieces.append(piece.text)
    whole = stream.result.message.text()
    if "".join(pieces) != whole:
        return Verdict("fails", f"the pieces make {_quoted(''.join(pieces))}, and the whole is {_quoted(whole)}")
    return Verdict("works", f"first token after {first * 1000:.0f} ms, {len(pieces)} pieces")


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


async def _tools(subject: Subject) -> Verdict:
    question = "What is the weather in Paris?"
    answer = await subject.ask(question, tools=[WEATHER], tool_choice="required", max_tokens=128, temperature=0)
    calls = answer.message.tool_calls
    if not calls:
        return Verdict("no", f"it was to call a tool, and said {_quoted(answer.message.text())}")
    call = calls[0].function
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        return Verdict("fails", f"arguments that are no JSON: {_quoted(call.arguments)}")
    is_right = call.name == "get_weather" and isinstance(arguments, dict) and set(arguments) == {"city"}
    return Verdict("works" if is_right else "fails", f"{call.name}({_cut(json.dumps(arguments, ensure_ascii=False))})")


COLOURS = ("red", "green", "blue")
ANSWER = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": list(COLOURS)}, "is_warm": {"type": "boolean"}},
    "required": ["colour", "is_warm"],
    "additionalProperties": False,
}


async def _schema(subject: Subject) -> Verdict:
    form = {"type": "json_schema", "json_schema": {"name": "colour", "strict": True, "schema": ANSWER}}
    answer = await subject.ask("Name a colour, as JSON.", response_format=form, max_tokens=64, temperature=0)
    text = answer.message.text()
    try:
        found = json.loads(text)
    except ValueError:
        return Verdict("no", f"it was to answer in JSON, and said {_quoted(text)}")
    fits = isinstance(found, dict) and set(found) == {"colour", "is_warm"} and found["colour"] in COLOURS
    return Verdict("works" if fits and isinstance(found["is_warm"], bool) else "no", _cut(text))


async def _abort(subject: Subject) -> Verdict:
    """Leave in the middle: the call is over, and with it the slot is free."""
    messages = [{"role": "user", "content": "Count from one to a hundred, in words."}]
    async with subject.client.stream(messages, model=subject.name, timeout=TIMEOUT, **subject.long(512)) as stream:
        piece = await anext(aiter(stream), None)
        began = time.perf_counter()
    if piece is None:
        return Verdict("fails", "there was nothing to break off: the answer had no piece")
    try:
        async with asyncio.timeout(FREE_SECONDS):
            await _until(subject, lambda states: not states)
    except TimeoutError:
        return Verdict("fails", f"its slot was still taken {FREE_SECONDS:g} s later")
    return Verdict("works", f"slot free after {(time.perf_counter() - began) * 1000:.0f} ms")


async def _resume(subject: Subject) -> Verdict:
    """Stop the process in the middle of an answer, let it go on, and look whether the answer is the same."""
    mode = subject.core["resume"]
    if mode == "none":
        return Verdict("no", "answers there run to their end")
    question = "Tell a story about a boat."
    whole = await subject.ask(question, **subject.long())
    before = (await _process(subject))["num_switches"]
    broken = await _interrupted(subject, question)
    process = await _process(subject)
    if process["num_switches"] == before:
        return Verdict("no", "the answer was over before it could be interrupted")
    if mode in EXACT and broken.message != whole.message:
        told = f"{_quoted(broken.message.text())}, not {_quoted(whole.message.text())}"
        return Verdict("fails", f"interrupted, it said {told}")
    same = "the same answer" if broken.message == whole.message else "went on"
    return Verdict("works", f"{mode}: {same}, {broken.usage.completion_tokens} tokens")


async def _interrupted(subject: Subject, question: str) -> Generation:
    messages = [{"role": "user", "content": question}]
    stream = subject.client.stream(messages, model=subject.name, timeout=TIMEOUT, **subject.long())
    reading = asyncio.ensure_future(_read(stream))
    try:
        await _until(subject, lambda states: "running" in states or reading.done())
        await subject.admin.proc_signal(subject.pid, "stop")
        await _until(subject, lambda states: "running" not in states)
        await subject.admin.proc_signal(subject.pid, "cont")
        return await reading
    finally:
        reading.cancel()


async def _read(stream: Any) -> Generation:
    async for _ in stream:
        pass
    result: Generation = stream.result
    return result


async def _context(subject: Subject) -> Verdict:
    """A prompt that is too long is refused as such, before it costs anything."""
    window = subject.core["context_length"]
    if window is None:
        return Verdict("no", "its length is not known; [[core]] context_length says it")
    try:
        await subject.ask("word " * (window * BYTES_A_TOKEN // 5 + 1), max_tokens=1)
    except ContextLengthExceeded:
        return Verdict("works", f"{window} tokens; more are refused")
    return Verdict("fails", f"a prompt longer than its {window} tokens was answered")


async def _embeddings(subject: Subject) -> Verdict:
    texts: list[str | int | list[int]] = ["a boat", "a ship"]
    answer = await subject.client.llm_embed(texts, model=subject.name, timeout=TIMEOUT)
    sizes = {len(each.embedding) for each in answer.data}
    if len(answer.data) != len(texts) or len(sizes) != 1:
        return Verdict("fails", f"{len(answer.data)} vectors for {len(texts)} texts")
    return Verdict("works", f"{sizes.pop()} numbers a text")


CHECKS: dict[str, Callable[[Subject], Awaitable[Verdict]]] = {
    "chat": _chat,
    "stream": _stream,
    "tools": _tools,
    "schema": _schema,
    "abort": _abort,
    "resume": _resume,
    "context": _context,
    "embeddings": _embeddings,
}
OPTIONAL = ("tools", "schema", "embeddings")
"""What a server may refuse without being broken."""


async def _until(subject: Subject, is_so: Callable[[list[str]], bool]) -> None:
    """Look at the states of the process's open calls until `is_so`."""
    while True:
        if is_so([call["state"] for call in (await _process(subject))["open_calls"]]):
            return
        await asyncio.sleep(LOOK_SECONDS)


async def _process(subject: Subject) -> dict[str, Any]:
    found: dict[str, Any] = await subject.admin.fetch("GET", f"/aios/v1/processes/{subject.pid}")
    return found


def _quoted(text: str) -> str:
    return f'"{_cut(" ".join(text.split()))}"'


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"
