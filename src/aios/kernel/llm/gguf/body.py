"""What a gguf core's server is asked for an answer, or for the rest of one. Knows no slot, process or connection."""

from __future__ import annotations

from typing import Any

import msgspec

from aios.abi.calls import LLMGenerate
from aios.abi.messages import Message

from .stream import Spoken

OURS = ("cache_salt", "beam_width", "length_penalty", "model", "min_tokens", "window")
"""What the kernel knows of a request, and the server does not."""
FOREIGN = ("n", "n_cmpl", "n_predict", "max_completion_tokens", "id_slot", "stream", "chat_parser")
"""Parameters of the server that are not an agent's to set."""
SEEDS = 2**32 - 1


def can_be_held(args: LLMGenerate) -> bool:
    """Whether the server can go on from the text of a partial answer: a grammar of the agent's own would begin anew."""
    if args.extra and "grammar" in args.extra:
        return False
    last = args.messages[-1]
    return last.role != "assistant" or (isinstance(last.content, str) and not last.tool_calls)


def body_of(args: LLMGenerate, spoken: Spoken) -> dict[str, Any]:
    """The request for an answer, or for what follows on `spoken`."""
    fields = {name: value for name, value in msgspec.structs.asdict(args).items() if value is not None}
    fields = {**(fields.pop("extra", None) or {}), **fields}
    for name in (*FOREIGN, *OURS):
        fields.pop(name, None)
    fields |= {"stream": True, "stream_options": {"include_usage": True}}
    # How many tokens there were comes with each piece; while the prompt is read there is news too, without which the
    # server would not notice that nobody listens any more.
    fields |= {"timings_per_token": True, "return_progress": True}
    # Draws of a resumed answer that repeated those of its beginning would make it repeat itself.
    fields["seed"] = ((args.seed or 0) + spoken.num_streams) % SEEDS
    if spoken.num_streams:
        fields["messages"] = _continued(args.messages, spoken)
        fields |= {"continue_final_message": True, "add_generation_prompt": False}
        if args.max_tokens is not None:
            fields["max_tokens"] = max(1, args.max_tokens - spoken.tokens)
    return fields


def _continued(messages: list[Message], spoken: Spoken) -> list[Message]:
    """The conversation with the partial answer as its last message."""
    last = messages[-1]
    if last.role == "assistant":
        return [*messages[:-1], msgspec.structs.replace(last, content=f"{last.content}{spoken.text}")]
    return [*messages, Message(role="assistant", content=spoken.text, reasoning_content=spoken.reasoning or None)]
