"""Answers of Anthropic's Messages API, for a scripted server to play."""

from __future__ import annotations

import json
from typing import Any

from upstream import HEAD, LAST, Step, framed

USAGE = {"input_tokens": 7, "output_tokens": 1, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 100}


def sse(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields}, ensure_ascii=False)}\n\n".encode()


def begun(**more: Any) -> bytes:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x-1", "content": [], **more}
    message |= {"stop_reason": None, "stop_sequence": None, "usage": USAGE}
    return sse("message_start", message=message) + sse("ping")


def block(index: int, first: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    pieces = [sse("content_block_delta", index=index, delta=delta) for delta in deltas]
    return b"".join(
        [
            sse("content_block_start", index=index, content_block=first),
            *pieces,
            sse("content_block_stop", index=index),
        ]
    )


def text(index: int, *pieces: str) -> bytes:
    return block(index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": piece} for piece in pieces))


def thinking(index: int, said: str, signature: str) -> bytes:
    deltas = [{"type": "thinking_delta", "thinking": said}, {"type": "signature_delta", "signature": signature}]
    return block(index, {"type": "thinking", "thinking": "", "signature": ""}, *deltas)


def tool(index: int, name: str, *pieces: str, id: str = "toolu_01A") -> bytes:
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block(index, {"type": "tool_use", "id": id, "name": name, "input": {}}, *deltas)


def ended(reason: str = "end_turn", **more: Any) -> bytes:
    delta = {"stop_reason": reason, "stop_sequence": None, **more}
    return sse("message_delta", delta=delta, usage={"output_tokens": 9}) + sse("message_stop")


def streamed(*events: bytes) -> list[Step]:
    """Each piece in a chunk of its own."""
    return [HEAD + b"".join(framed(event) for event in events) + LAST]


def failed(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
