"""Half an answer of a remote server: whether it can be gone on with, where it may be cut, how the rest is joined on.

Plain decisions and parsing; knows no I/O and no core. Continuing as text means that the server reads what was said as
the beginning of its own turn. So nothing may be cut that text cannot hold: a tool call, hidden reasoning, a grammar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from aios.abi.calls import LLMGenerate
from aios.abi.messages import Chunk, Usage

from ..base import Emit, Said
from .openai_answer import Answer, parse_whole
from .openai_stream import PLAIN, Events

FORMS = frozenset(
    {"guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "grammar", "json_schema"}
    | {"regex", "ebnf", "structural_tag", "functions", "function_call", "continue_final_message", "echo", "audio"}
    | {"prompt_logprobs", "reasoning", "reasoning_effort", "thinking", "web_search_options"}
)
"""Parameters of servers that hold an answer to a form from its first token on, or that a second request would apply
once more."""


def may_continue(args: LLMGenerate) -> bool:
    """Whether an answer to this can be cut and gone on with at all."""
    return (
        args.messages[-1].role != "assistant"
        and args.tool_choice in (None, "auto", "none")
        and (args.response_format is None or args.response_format.get("type") == "text")
        and (args.beam_width or 1) == 1
        and not (args.extra and FORMS & args.extra.keys())
    )


def stops_of(args: LLMGenerate) -> list[str]:
    given = [args.stop] if isinstance(args.stop, str) else args.stop or ()
    return [stop for stop in given if stop]


def is_safe(answer: Answer, stops: Sequence[str], most: int | None) -> bool:
    """Whether the answer can be cut here. Templates strip white space from the ends of a turn; half a stop string or
    half a character would not be known again; and an answer of `most` tokens is about to end anyhow."""
    if answer.calls or answer.reasoning or answer.refusals or answer.parts is not None or answer.finish is not None:
        return False
    if not answer.texts or (most is not None and answer.num_tokens >= most):
        return False
    last = answer.texts[-1][-1:]
    if not last or last.isspace() or last == "\N{REPLACEMENT CHARACTER}":
        return False
    return not (stops and missing_of("".join(answer.texts), stops))


def missing_of(text: str, stops: Sequence[str]) -> list[str]:
    """What would complete stop strings whose beginning ends `text`."""
    longest = max(map(len, stops), default=0)
    tail = text[-(longest - 1) :] if longest > 1 else ""
    return [
        stop[len(tail) - start :]
        for start in range(len(tail))
        for stop in stops
        if len(stop) > len(tail) - start and stop.startswith(tail[start:])
    ]


def rest_of(fields: dict[str, Any], said: Said) -> dict[str, Any]:
    """The parameters of a request for what is left of an answer. A server that drew from the same seed again would
    draw the same numbers for each piece."""
    fields = dict(fields)
    for name in ("max_tokens", "min_tokens"):
        if name in fields:
            fields[name] = max(int(name == "max_tokens"), fields[name] - said.tokens)
    if fields.get("seed") is not None:
        fields["seed"] = (fields["seed"] + said.tokens) % 2**63
    return fields


def may_use_tokens(args: LLMGenerate) -> bool:
    """Whether the rest can be asked for as tokens: then nothing reads tool calls out of it, or tells log
    probabilities in the form of a chat."""
    return not args.tools and not args.logprobs


def rest_as_tokens(fields: dict[str, Any], said: Said, context: int | None) -> dict[str, Any] | None:
    """The parameters of a plain completion that goes on behind the tokens that were said; None when they are not
    known, or how many may follow."""
    if not said.ids or not said.prompt_ids:
        return None
    prompt = said.prompt_ids + said.ids
    fields = rest_of({name: value for name, value in fields.items() if name not in _OF_CHAT}, said)
    if "max_tokens" not in fields:
        if context is None or context <= len(prompt):
            return None
        fields["max_tokens"] = context - len(prompt)
    return fields | {"prompt": prompt, "return_token_ids": True}


_OF_CHAT = frozenset({"messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "logprobs"})


class Tokened(Events):
    """An answer whose server was asked to tell its tokens: they are kept, and the client does not see them."""

    _is_told = True
    """All tokens so far: where one piece has none, or what is none, the others are of no use."""

    def _one(self, data: bytes) -> bool:
        return False

    def _take(self, event: bytes, payload: bytes) -> None:
        before, known = self._draft.tokens, len(self.answer.ids)
        try:
            whole = msgspec.json.decode(payload)
            is_told = self._change(whole)
        except (msgspec.DecodeError, AttributeError, TypeError, LookupError, UnicodeDecodeError, RecursionError):
            super()._take(event, payload)  # which says what it is
            return
        if is_told:
            payload = msgspec.json.encode(whole)
            super()._take(PLAIN + payload, payload)
            if number := len(self.answer.ids) - known:
                self._draft.tokens = before + number
                self._gets_on = True

    def _change(self, whole: dict[str, Any]) -> bool:
        """Make an event what the client is to see. Says whether anything is left to tell."""
        choices = whole.get("choices") or [{}]
        choice, answer = choices[0], self.answer
        prompt = whole.pop("prompt_token_ids", None) or choice.pop("prompt_token_ids", None)
        if answer.prompt_ids is None and isinstance(prompt, list):
            answer.prompt_ids = prompt
        ids = choice.pop("token_ids", None)
        has_text = bool((choice.get("delta") or {}).get("content") or choice.get("text"))
        if not ids:
            self._is_told &= not has_text
        elif isinstance(ids, list) and all(isinstance(each, int) for each in ids):
            answer.ids += ids
        else:
            self._is_told = False
        if ids or has_text:
            answer.is_level = self._is_told and has_text
        return True


class Continued(Tokened):
    """The rest of an answer, told as if it had never been broken off: one id, one role, one sum of usage."""

    def __init__(self, core: str, emit: Emit, said: Said, stops: Sequence[str], most: int | None = None) -> None:
        super().__init__(core, emit if said.id is not None else _bare(emit), most)
        self.answer = Answer.behind(said)
        self._said = said
        self._missing = missing_of(said.text, stops)
        self._kept = ""

    def _change(self, whole: dict[str, Any]) -> bool:
        """Make an event one of the answer that it goes on with."""
        super()._change(whole)
        said = self._said
        for name, value in (("id", said.id), ("created", said.created), ("model", said.model)):
            if value is not None or name == "id":
                whole[name] = value
        if said.fingerprint is not None or "system_fingerprint" in whole:
            whole["system_fingerprint"] = said.fingerprint
        if usage := whole.get("usage"):
            self._add_up(usage)
        if not whole.get("choices"):
            return True
        choice = whole["choices"][0]
        if "text" in choice:  # of a plain completion
            choice["delta"], whole["object"] = {"content": choice.pop("text")}, "chat.completion.chunk"
        delta = choice["delta"] = choice.get("delta") or {}
        delta.pop("role", None)
        if self._missing:
            self._watch(choice, delta)
        is_end = choice.get("finish_reason") is not None or bool(usage)
        return is_end or any(delta.values()) or bool(choice.get("logprobs"))

    def _add_up(self, usage: dict[str, Any]) -> None:
        """To this server all that was said is prompt; to the listener it is answer. The sum is the server's."""
        moved = min(self._said.tokens, usage.get("prompt_tokens") or 0)
        usage["prompt_tokens"] = (usage.get("prompt_tokens") or 0) - moved
        usage["completion_tokens"] = (usage.get("completion_tokens") or 0) + moved
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
        details = usage.get("prompt_tokens_details")
        if details and details.get("cached_tokens"):
            details["cached_tokens"] = min(details["cached_tokens"], usage["prompt_tokens"])

    def _watch(self, choice: dict[str, Any], delta: dict[str, Any]) -> None:
        """Keep text back while it may complete a stop string that began before the seam."""
        more = delta.pop("content", None) or ""
        self._kept += more
        self._gets_on |= bool(more)
        if any(self._kept.startswith(missing) for missing in self._missing):
            delta.clear()
            choice["finish_reason"], self.is_done, self._missing = "stop", True, []
        elif choice.get("finish_reason") is not None or not any(m.startswith(self._kept) for m in self._missing):
            delta["content"], self._missing = self._kept, []

    def whole(self, data: bytes) -> Answer:
        """The rest in one piece, from a server that does not stream."""
        rest = parse_whole(self._core, data)
        self._emit(rest.as_chunk())
        answer = self.answer
        answer.texts += rest.texts
        answer.logprobs += rest.logprobs
        answer.calls, answer.finish = rest.calls, rest.finish
        if (usage := rest.usage) is not None:
            moved = min(self._said.tokens, usage.prompt_tokens)
            cached = min(usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens - moved)
            answer.usage = Usage.of(usage.prompt_tokens - moved, usage.completion_tokens + moved, cached)
        return answer


def _bare(emit: Emit) -> Emit:
    """The first part did not go out as an upstream's events, so neither does this."""

    def without_raw(chunk: Chunk) -> None:
        emit(msgspec.structs.replace(chunk, raw=b""))

    return without_raw
