"""A server that answers what a test wrote, byte for byte, and one of each kind that people have."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving import NOT_THERE, Scripted, serving

Step = bytes | asyncio.Event
"""Bytes to send, or an event to wait for before going on."""


@dataclass
class Upstream(Scripted):
    """`answers` are played one a request, the last one for all further ones. `seen` holds the bodies asked."""

    answers: Sequence[Sequence[Step]]
    url: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    num_connections: int = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        await super().handle(reader, writer)

    async def answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str, body: dict[str, Any]
    ) -> None:
        self.heads.append(head)
        self.seen.append(body)
        self.asked.set()
        for step in self.answers[min(len(self.seen), len(self.answers)) - 1]:
            if isinstance(step, asyncio.Event):
                if not await self._wait(reader, step):
                    return
            elif step:
                writer.write(step)
                await writer.drain()
            else:
                raise ConnectionError  # an empty step: cut the connection here

    async def _wait(self, reader: asyncio.StreamReader, event: asyncio.Event) -> bool:
        """Whether `event` came before the client left."""
        leaving = asyncio.ensure_future(reader.read(1))
        waiting = asyncio.ensure_future(event.wait())
        await asyncio.wait({leaving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            self.left.set()
            waiting.cancel()
            raise ConnectionError
        leaving.cancel()
        await asyncio.wait({leaving})
        return True


@contextlib.asynccontextmanager
async def upstream(*answers: Sequence[Step]) -> AsyncIterator[Upstream]:
    async with serving(Upstream(answers)) as scripted:
        yield scripted


def whole(body: Any, status: str = "200 OK", **headers: str) -> list[Step]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{more}content-length: {len(data)}\r\n\r\n"
    return [head.encode() + data]


def chat(message: dict[str, Any], finish: str = "stop", **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, **more}
    return {"id": "x", "object": "chat.completion", "model": "m-1", "choices": [choice], "usage": usage}


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({"id": "x", "model": "m-1", "choices": choices, **more}).encode() + b"\n\n"


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
DONE = b"data: [DONE]\n\n"


# ── servers with a model behind them, of the kinds that people have ──

STORY = tuple(
    "Once upon a time there was a kernel that had many agents and few models so each of them had to wait for its turn"
    .replace(" ", "| ").split("|")
)  # fmt: skip
"""What every model here says: a word is a token."""


PROMPT, FIRST = (1, 2), 100
"""The tokens of each prompt, and that of the story's first word."""


def continues_when_told(body: dict[str, Any]) -> bool:
    return bool(body.get("continue_final_message")) and body.get("add_generation_prompt") is False


@dataclass(frozen=True)
class Kind:
    """`owner` is what the server says of its models, `continues` whether it goes on with a trailing assistant turn."""

    owner: str
    continues: Callable[[dict[str, Any]], bool]
    has_tokens: bool = False
    props: dict[str, Any] | None = None


KINDS = {
    "openai": Kind("system", lambda body: False),
    "vllm": Kind("vllm", continues_when_told, has_tokens=True),
    "sglang": Kind("sglang", lambda body: bool(body.get("continue_final_message"))),
    "llama": Kind(
        "llamacpp",
        lambda body: True,
        props={"total_slots": 2, "default_generation_settings": {"n_ctx": 4096}},
    ),
    "ollama": Kind("library", lambda body: False),
}


def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    if writer.is_closing():  # uvloop's says more than that the client is gone
        raise ConnectionError
    writer.write(data)


@dataclass
class Server(Scripted):
    """A server of one kind with one model, which tells STORY. `pause` is seconds between two tokens.

    `dies_after` cuts the first stream after so many tokens; `refuses` answers that many requests with 429 first.
    """

    kind: str
    pause: float = 0.001
    story: Sequence[str] = STORY
    dies_after: int | None = None
    refuses: int = 0
    calls_tool_at: int | None = None
    refuses_to_continue: bool = False
    url: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    active: int = 0
    most_active: int = 0
    num_left: int = 0
    num_finished: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def page(self, path: str) -> bytes:
        kind = KINDS[self.kind]
        entry = {"id": "tale", "object": "model", "owned_by": kind.owner}
        if self.kind in ("vllm", "sglang"):
            entry |= {"max_model_len": 2048}
        pages: dict[str, Any] = {"/v1/models": {"object": "list", "data": [entry]}, "/props": kind.props}
        page = pages.get(path)
        return NOT_THERE if page is None else b"".join(s for s in whole(page) if isinstance(s, bytes))

    async def answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str, body: dict[str, Any]
    ) -> None:
        path = head.split(" ")[1]
        self.seen.append(body)
        self.paths.append(path)
        if self.refuses:
            self.refuses -= 1
            writer.writelines(s for s in whole({"error": {"message": "busy"}}, "429 Busy") if isinstance(s, bytes))
            return
        if self.refuses_to_continue and body["messages"][-1]["role"] == "assistant":
            error = {"error": {"message": "no prefill here"}}
            writer.writelines(s for s in whole(error, "400 Bad Request") if isinstance(s, bytes))
            return
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        leaving = asyncio.ensure_future(reader.read(1))
        try:
            await self._tell(leaving, writer, path, body)
            self.num_finished += 1
        except ConnectionError:
            self.num_left += leaving.done()
            raise
        finally:
            self.active -= 1
            self.left.set()
            leaving.cancel()
            await asyncio.wait({leaving})

    async def _tell(
        self, leaving: asyncio.Future[bytes], writer: asyncio.StreamWriter, path: str, body: dict[str, Any]
    ) -> None:
        begin, size = self._begin(path, body)
        told, text, number = 0, "", len(self.seen)
        most = body.get("max_tokens") or len(self.story)
        stops = [body["stop"]] if isinstance(body.get("stop"), str) else body.get("stop") or []
        if not body.get("stream"):
            writer.writelines(s for s in whole(chat({"content": "".join(self.story)})) if isinstance(s, bytes))
            return
        _send(writer, HEAD)
        finish = "stop"
        if path.endswith("/chat/completions"):
            _send(writer, framed(self._event(number, {"role": "assistant", "content": ""})))
        for token in self.story[begin:]:
            if told == self.dies_after:
                self.dies_after = None
                await writer.drain()
                raise ConnectionError
            if told == most:
                finish = "length"
                break
            text += token
            if any(stop in text for stop in stops):
                break
            if self.calls_tool_at == begin + told:
                call = {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": token}}
                _send(writer, framed(self._event(number, {"tool_calls": [call]})))
            else:
                _send(writer, framed(self._piece(number, path, token, body, begin + told, size)))
            told += 1
            await asyncio.wait({leaving}, timeout=self.pause)
            if leaving.done():
                raise ConnectionError
        usage = {"prompt_tokens": size + begin, "completion_tokens": told, "total_tokens": size + begin + told}
        _send(writer, framed(self._event(number, {}, finish)) + framed(self._event(number, None, usage=usage)))
        _send(writer, framed(DONE) + LAST)

    def _begin(self, path: str, body: dict[str, Any]) -> tuple[int, int]:
        """Which token of the story comes next, and how many the prompt has."""
        if path.endswith("/v1/completions"):
            begin = len(body["prompt"]) - len(PROMPT)
            assert body["prompt"] == [*PROMPT, *range(FIRST, FIRST + begin)]
            return begin, len(PROMPT)
        size = sum(len(str(m["content"]).split()) for m in body["messages"] if m["role"] != "assistant")
        last = body["messages"][-1]
        if last["role"] != "assistant" or not KINDS[self.kind].continues(body):
            return 0, size
        said = last["content"]
        for n in range(len(self.story) + 1):
            if "".join(self.story[:n]) == said:
                return n, size
        raise AssertionError(f"not what this server said: {said!r}")

    def _piece(self, number: int, path: str, token: str, body: dict[str, Any], place: int, size: int) -> bytes:
        if not (KINDS[self.kind].has_tokens and body.get("return_token_ids")):
            return self._event(number, {"content": token})
        choice: dict[str, Any] = {"index": 0, "token_ids": [FIRST + place], "finish_reason": None}
        more = {} if place else {"prompt_token_ids": list(PROMPT)}
        head = {"id": f"chat-{number}", "object": "chat.completion.chunk", "created": 1000 + number, "model": "tale"}
        choice |= {"delta": {"content": token}} if path.endswith("/chat/completions") else {"text": token}
        return b"data: " + json.dumps(head | {"choices": [choice], **more}).encode() + b"\n\n"

    def _event(self, number: int, delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> bytes:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
        head = {"id": f"chat-{number}", "object": "chat.completion.chunk", "created": 1000 + number, "model": "tale"}
        return b"data: " + json.dumps(head | {"choices": choices, **more}).encode() + b"\n\n"
