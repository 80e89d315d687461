"""Servers that lie, break, hang and never end: one clear error each, while the core and its other calls go on."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import messages_server as messages
import pytest
from bad_server import DRIP, FLOOD, Reply, prove
from messages_server import begun, ended, sse
from upstream import DONE, HEAD, LAST, chat, event, framed, whole

from aios.abi.errors import AiosError, TimedOut, UpstreamFault
from aios.kernel.llm.remote import connection, hearing, openai_stream, pace
from aios.kernel.llm.remote import sse as events

pytestmark = pytest.mark.anyio

Case = tuple[Reply, type[AiosError], str]

HALF = "é".encode()[:1]
CALL = {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x": '}}


def streamed(*events: bytes) -> list[bytes]:
    return [HEAD + framed(b"".join(events)) + LAST]


def usage(**counts: int) -> dict[str, Any]:
    return {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, **counts}


def packed(data: bytes, how: str) -> Reply:
    return whole(data, content_encoding=how)


ANSWER = json.dumps(chat({"content": "hello"})).encode()
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
SILENT = "said nothing for"
UNENDED = "did not end its answer within"

HTTP: dict[str, Case] = {
    "garbage": ([b"\x00\xff\x17 what?\r\n\r\n"], UpstreamFault, "does not speak HTTP"),
    "nothing": (whole(b""), UpstreamFault, "is not a chat completion|is no message"),
    "a hang": ([None], TimedOut, SILENT),
    "a cut": ([b""], UpstreamFault, "closed the connection"),
    "500": (whole({"error": {"message": "boom"}}, "500 Oops"), UpstreamFault, r"\(500\): boom"),
    "an error that gives orders to terminals": (
        whole({"error": {"message": "\x1b[2Jboom\r\nall is well"}}, "500 Oops"),
        UpstreamFault,
        r"\(500\):  \[2Jboom  all is well$",
    ),
    "a wrong key": (whole({"error": {"message": "bad key sk-very-secret"}}, "401 No"), UpstreamFault, r"see \$FAR_KEY"),
    "a length that is too long": (
        [OK + b"content-type: application/json\r\ncontent-length: 99\r\n\r\n{}", b""],
        UpstreamFault,
        "cut the answer short",
    ),
    "a length that is none": ([OK + b"content-length: -5\r\n\r\n{}"], UpstreamFault, "does not speak HTTP"),
    "two lengths": ([OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}"], UpstreamFault, "does not speak HTTP"),
    "a length and chunks": (
        [OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"],
        UpstreamFault,
        "does not speak HTTP",
    ),
    "a chunk of no size": ([CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n"], UpstreamFault, "does not speak HTTP"),
    "a chunk of a negative size": ([CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n"], UpstreamFault, "does not speak HTTP"),
    "a chunk beyond all sizes": ([CHUNKED + b"f" * 17 + b"\r\n{}"], UpstreamFault, "does not speak HTTP"),
    "a chunk longer than its size": ([CHUNKED + b"2\r\n{}{}\r\n0\r\n\r\n"], UpstreamFault, "does not speak HTTP"),
    "a chunk that never comes": ([CHUNKED + b"7fffffff\r\n{}", None], TimedOut, UNENDED),
    "a redirect": (whole(b"", "302 Found", location="http://127.0.0.1:1/x"), UpstreamFault, "redirects to http://127"),
    "a redirect to nowhere": (whole(b"", "307 Temporary Redirect"), UpstreamFault, "redirects to nowhere"),
    "a redirect that drips": (
        [b"HTTP/1.1 308 Permanent\r\nlocation: /\r\ntransfer-encoding: chunked\r\n\r\n", framed(b"."), DRIP],
        TimedOut,
        UNENDED,
    ),
    "no content": ([b"HTTP/1.1 204 No Content\r\n\r\n"], UpstreamFault, r"\(204\)"),
    "another protocol": (
        [b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n\x81\x05hello"],
        UpstreamFault,
        "does not speak HTTP",
    ),
    "a hint and nothing more": ([b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", None], TimedOut, SILENT),
    "endless headers": ([OK, b"x-more: and more of it\r\n", FLOOD], UpstreamFault, "endless headers"),
    "a header without end": ([OK + b"x-more: ", b"more" * 100, FLOOD], UpstreamFault, "endless headers"),
    "endless patience": ([b"HTTP/1.1 100 Continue\r\n\r\n", FLOOD], UpstreamFault, "endless headers"),
    "patience that drips": ([b"HTTP/1.1 100 Continue\r\n\r\n", DRIP], TimedOut, SILENT),
    "a head that drips": ([OK, b"x-more: and more of it\r\n", DRIP], TimedOut, SILENT),
    "a body that drips": ([CHUNKED, framed(b" "), DRIP], TimedOut, UNENDED),
    "a body that never ends": ([CHUNKED, framed(b"x" * 4000), FLOOD], UpstreamFault, "more than 50000 bytes"),
    "trailers that never end": (
        [CHUNKED + framed(ANSWER) + b"0\r\n", b"x-more: and more of it\r\n" * 100, FLOOD],
        UpstreamFault,
        "more than 50000 bytes",
    ),
    "gzip": (packed(gzip.compress(ANSWER), "gzip"), UpstreamFault, r"packs what it says \(gzip\)"),
    "deflate": (packed(zlib.compress(ANSWER), "deflate"), UpstreamFault, r"packs what it says \(deflate\)"),
    "br": (packed(b"\x0b\x02\x80hello\x03", "br"), UpstreamFault, r"packs what it says \(br\)"),
    "gzip around a stream": (
        [HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n"), framed(gzip.compress(b"data: {}\n\n"))],
        UpstreamFault,
        r"packs what it says \(gzip\)",
    ),
    "gzip around an error": (
        whole(gzip.compress(b"{}"), "500 Oops", content_encoding="gzip"),
        UpstreamFault,
        r"\(500\): status 500",
    ),
    "a pause in figures that are no number": (
        [b"HTTP/1.1 500 Oops\r\nretry-after: \xb2\r\ncontent-length: 0\r\n\r\n"],
        UpstreamFault,
        r"\(500\)",
    ),
}
"""What any server may do. Told by status and head alone, whatever is asked."""

HELLO = event({"content": "hel"})
EMPTY = event({"role": "assistant", "content": ""})
OPENAI: dict[str, Case] = {
    "a page": (whole(b"<!doctype html><h1>Hi</h1>"), UpstreamFault, "page for people, not JSON; does .* base_url"),
    "not a chat": (whole({"hello": "world"}), UpstreamFault, "holds no message"),
    "no choices": (whole({"choices": []}), UpstreamFault, "holds no message"),
    "a stream without choices": (streamed(event(None), DONE), UpstreamFault, "holds no choice"),
    "a length that is too short": (
        [OK + b"content-type: application/json\r\ncontent-length: 9\r\n\r\n" + b'{"choices": []}'],
        UpstreamFault,
        "not a chat completion",
    ),
    "a hang in the middle": ([HEAD + framed(HELLO), None], TimedOut, SILENT),
    "comments only": ([HEAD, framed(b": ping\n\n"), DRIP], TimedOut, SILENT),
    "roles and empty pieces only": ([HEAD, framed(EMPTY), DRIP], TimedOut, SILENT),
    "comments after a word": ([HEAD + framed(HELLO), framed(b": ping\n\n"), DRIP], TimedOut, SILENT),
    "empty pieces after a word": ([HEAD + framed(HELLO), framed(event({})), DRIP], TimedOut, SILENT),
    "usage after a word": ([HEAD + framed(HELLO), framed(event(None, usage=usage())), DRIP], TimedOut, SILENT),
    "an event that drips": ([HEAD + framed(b'data: {"x": "'), framed(b"x"), DRIP], TimedOut, SILENT),
    "a bad chunk after a word": ([HEAD + framed(HELLO) + b"zz\r\n"], UpstreamFault, "does not speak HTTP"),
    "a cut stream": ([HEAD + framed(HELLO), b""], UpstreamFault, "cut the answer short"),
    "half an event": (streamed(HELLO, HELLO[:30]), UpstreamFault, "cut the stream short"),
    "half a character": (streamed(HELLO, HELLO.replace(b"hel", HALF)), UpstreamFault, "not a chat completion"),
    "half a pair": (streamed(HELLO, HELLO.replace(b"hel", rb"\ud83e")), UpstreamFault, "not a chat completion"),
    "half a character at the end": ([HEAD + framed(HELLO + b'data: {"x": "' + HALF), b""], UpstreamFault, "cut"),
    "an unfinished tool call": (streamed(event({"tool_calls": [CALL]})), UpstreamFault, "cut the stream short"),
    "a call of nothing": (
        streamed(event({"tool_calls": [{"index": 0, "id": "a", "function": {"arguments": "{}"}}]}), DONE),
        UpstreamFault,
        "calls a tool without a name",
    ),
    "two answers at once": (
        streamed(HELLO, HELLO.replace(b'"index": 0', b'"index": 1'), event({}, "stop"), DONE),
        UpstreamFault,
        "several answers at once",
    ),
    "negative usage": (whole(chat({"content": "x"}) | {"usage": usage(completion_tokens=-3)}), UpstreamFault, "usage"),
    "a negative cache": (
        whole(chat({"content": "x"}) | {"usage": usage() | {"prompt_tokens_details": {"cached_tokens": -9}}}),
        UpstreamFault,
        "usage",
    ),
    "usage that no database holds": (
        whole(chat({"content": "x"}) | {"usage": usage(completion_tokens=1 << 63)}),
        UpstreamFault,
        "usage",
    ),
    "negative usage at the end": (
        streamed(HELLO, event({}, "stop", usage=usage(prompt_tokens=-1)), DONE),
        UpstreamFault,
        "usage",
    ),
    "a date beyond all numbers": (
        streamed(HELLO.replace(b"data: {", b'data: {"created": 1e999, ', 1), event({}, "stop"), DONE),
        UpstreamFault,
        "not a chat completion",
    ),
    "a piece of an unknown kind beyond all numbers": (
        streamed(
            event({"content": "", "odd": 0}).replace(b'"odd": 0', b'"odd": 1e999'), HELLO, event({}, "stop"), DONE
        ),
        UpstreamFault,
        "not a chat completion",
    ),
    "a huge line": ([HEAD, framed(b"data: " + b"x" * 4000), framed(b"x" * 4000), FLOOD], UpstreamFault, "end of event"),
    "a stream that never ends": ([HEAD, framed(HELLO), FLOOD], UpstreamFault, "has no end"),
}

TEXT = {"type": "text", "text": ""}
TOOL = {"type": "tool_use", "id": "t", "name": "find", "input": {}}


def opened(index: int, block: dict[str, Any]) -> bytes:
    return sse("content_block_start", index=index, content_block=block)


def delta(index: int, kind: str, **fields: str) -> bytes:
    return sse("content_block_delta", index=index, delta={"type": kind, **fields})


def said(index: int, text: str) -> bytes:
    return delta(index, "text_delta", text=text)


WHOLE_TOOL = TOOL | {"input": {"q": "x"}}
CLOSED = sse("content_block_stop", index=0)
ANTHROPIC: dict[str, Case] = {
    "a page": (whole(b"<!doctype html><h1>Hi</h1>"), UpstreamFault, "is no message"),
    "a stream without a beginning": (streamed(ended()), UpstreamFault, "has no beginning: message_delta came before"),
    "an end without a beginning": (streamed(sse("message_stop")), UpstreamFault, "has no beginning: message_stop"),
    "text without a beginning": (streamed(messages.text(0, "hel"), ended()), UpstreamFault, "has no beginning"),
    "two beginnings": (streamed(begun(), messages.text(0, "hel"), begun(), ended()), UpstreamFault, "begins twice"),
    "a beginning of nothing": (streamed(sse("message_start"), ended()), UpstreamFault, "begins no message"),
    "a block that begins twice": (
        streamed(begun(), opened(0, TEXT), said(0, "hel"), opened(0, TEXT), said(0, "lo"), ended()),
        UpstreamFault,
        "begins its block 0 twice",
    ),
    "a block of nothing": (streamed(begun(), sse("content_block_start", index=0)), UpstreamFault, "with nothing"),
    "a block that was never begun": (streamed(begun(), said(3, "x"), ended()), UpstreamFault, "was never begun"),
    "text in a call of a tool": (
        streamed(begun(), opened(0, TOOL), said(0, "hel"), ended("tool_use")),
        UpstreamFault,
        "puts text_delta into a block of type tool_use",
    ),
    "arguments in a text": (
        streamed(begun(), opened(0, TEXT), delta(0, "input_json_delta", partial_json="{}"), ended()),
        UpstreamFault,
        "puts input_json_delta into a block of type text",
    ),
    "thought in a text": (
        streamed(begun(), opened(0, TEXT), delta(0, "thinking_delta", thinking="hm"), ended()),
        UpstreamFault,
        "puts thinking_delta into a block of type text",
    ),
    "arguments after the end of a call": (
        streamed(begun(), opened(0, WHOLE_TOOL), CLOSED, delta(0, "input_json_delta", partial_json="{}"), ended()),
        UpstreamFault,
        "has ended",
    ),
    "a call of nothing": (
        streamed(begun(), opened(0, TOOL | {"name": ""}), ended("tool_use")),
        UpstreamFault,
        "calls a tool without a name",
    ),
    "a message of nothing": (streamed(begun(), sse("message_stop")), UpstreamFault, "holds nothing"),
    "a whole message of nothing": (whole({"type": "message", "content": []}), UpstreamFault, "holds nothing"),
    "pings only": ([HEAD, framed(sse("ping")), DRIP], TimedOut, SILENT),
    "a beginning and then pings": ([HEAD + framed(begun()), framed(sse("ping")), DRIP], TimedOut, SILENT),
    "pings after a word": (
        [HEAD + framed(begun() + messages.text(0, "hel")), framed(sse("ping")), DRIP],
        TimedOut,
        SILENT,
    ),
    "empty pieces after a word": (
        [HEAD + framed(begun() + opened(0, TEXT) + said(0, "hel")), framed(said(0, "")), DRIP],
        TimedOut,
        SILENT,
    ),
    "ends that come again and again": (
        [HEAD + framed(begun() + messages.text(0, "hel")), framed(ended().split(b"event: message_stop")[0]), DRIP],
        TimedOut,
        SILENT,
    ),
    "a cut stream": ([HEAD + framed(begun() + messages.text(0, "hel")), b""], UpstreamFault, "cut the answer short"),
    "half an event": (streamed(begun(), said(0, "x")[:30]), UpstreamFault, "cut the stream short"),
    "half a character": (
        streamed(begun(), opened(0, TEXT), said(0, "x").replace(b'"x"', b'"' + HALF + b'"')),
        UpstreamFault,
        "is no event of a message",
    ),
    "negative usage": (
        streamed(begun(), sse("message_delta", usage={"output_tokens": -1}), ended()),
        UpstreamFault,
        "is no event of a message",
    ),
    "a huge line": ([HEAD, framed(b"data: " + b"x" * 4000), framed(b"x" * 4000), FLOOD], UpstreamFault, "end of event"),
    "a stream that never ends": (
        [HEAD + framed(begun() + opened(0, TEXT)), framed(said(0, "x" * 1000)), FLOOD],
        UpstreamFault,
        "has no end",
    ),
}


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", "sk-very-secret")
    monkeypatch.setattr(pace, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(pace, "LONGEST_PAUSE", 0.002)
    monkeypatch.setattr(connection, "MAX_HEAD", 1000)
    monkeypatch.setattr(connection, "MAX_WHOLE", 50_000)
    monkeypatch.setattr(openai_stream, "MAX_EVENT", 20_000)
    monkeypatch.setattr(events, "MAX_EVENT", 20_000)
    monkeypatch.setattr(hearing, "MAX_ANSWER", 50_000)


@pytest.mark.parametrize(("kind", "is_streamed"), [("openai", True), ("openai", False), ("anthropic", True)])
@pytest.mark.parametrize("what", HTTP)
async def test_what_is_no_answer_is_one_clear_error_and_others_go_on(what: str, kind: str, is_streamed: bool) -> None:
    await prove(kind, *HTTP[what], is_streamed=is_streamed)


@pytest.mark.parametrize("what", OPENAI)
async def test_a_bad_answer_is_one_clear_error_and_others_go_on(what: str) -> None:
    await prove("openai", *OPENAI[what])


@pytest.mark.parametrize("what", ANTHROPIC)
async def test_a_bad_message_is_one_clear_error_and_others_go_on(what: str) -> None:
    await prove("anthropic", *ANTHROPIC[what])
