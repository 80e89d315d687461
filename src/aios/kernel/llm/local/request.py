"""What an agent asks, `llm_generate`'s arguments, as a sequence's spec. Knows no engine, thread or core."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import msgspec

from aios.abi.calls import LLMGenerate, nearest
from aios.abi.errors import BadRequest, ContextLengthExceeded
from aios.abi.messages import ToolSpec

from .dialect import NANO
from .grammar import GrammarError, Vocabulary, call_schema, response_schema
from .sampler import Sampling
from .sequence import Spec
from .variables import variables_of

MAX_STOP = 1000
_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""As OpenAI and Anthropic have it. A server behind a core may allow more, and then gets more."""
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


class Template(Protocol):
    """What turns a conversation into tokens, up to where the model is to speak. Raises BadRequest for one it cannot."""

    def render(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], *, variables: Mapping[str, Any]
    ) -> list[int]:
        """`variables` are what else the request has for the template (see `variables`)."""

    def encode(self, text: str) -> list[int]:
        """Tokens of text in which nothing is special."""


class Translator:
    """Checks and translates requests for one model. `context` is its window in tokens."""

    def __init__(self, template: Template, vocabulary: Vocabulary, context: int) -> None:
        self._template = template
        self._context = context
        self._vocabulary = vocabulary
        self._dialect = vocabulary.dialect
        self._longest_token = max(map(len, vocabulary.tokens))

    def check(self, args: LLMGenerate) -> None:
        """Raise BadRequest for what no state of the model could answer. Does not count tokens."""
        self._limits(args)
        variables_of(args)
        self._sampling(args)
        self._grammar(args)
        for index, message in enumerate(args.messages):
            for part in message.content if isinstance(message.content, list) else ():
                if (kind := part.get("type")) not in _TEXT_PARTS:
                    raise BadRequest(
                        f"messages[{index}] holds a part of type {str(kind)[:40]!r}; this model reads text only",
                        param="messages",
                    )

    def spec(self, args: LLMGenerate, said: str = "") -> Spec:
        """The spec of `args`, behind what another core has `said` of the answer. Raises BadRequest, and
        ContextLengthExceeded with the counts."""
        prompt = self._prompt(args)
        room = self._context - len(prompt)
        minimum, stops = self._limits(args)
        if room < (args.max_tokens or 1):
            wanted = f"{len(prompt)} in the messages and tools, {args.max_tokens or 'at least 1'} for the answer"
            raise ContextLengthExceeded(
                f"this model's window is {self._context} tokens, and this asks for more: {wanted}; "
                "shorten the messages or lower max_tokens",
                param="messages",
            )
        spec = Spec(
            prompt=tuple(prompt),
            max_tokens=args.max_tokens or room,
            min_tokens=minimum,
            stops=stops,
            sampling=self._sampling(args),
            beam_width=args.beam_width or 1,
            length_penalty=1.0 if args.length_penalty is None else args.length_penalty,
            group=args.cache_salt or "",
            is_parallel=args.parallel_tool_calls is not False,
            is_thinking=self._ends_in_thought(prompt),
            **self._grammar(args),
        )
        return self._behind(spec, said) if said else spec

    def _behind(self, spec: Spec, said: str) -> Spec:
        """`spec` for what is left of its answer. With the same draws as its beginning it would repeat itself."""
        ids = self._template.encode(said)
        return replace(
            spec,
            prompt=(*spec.prompt, *ids),
            max_tokens=max(1, spec.max_tokens - len(ids)),
            min_tokens=max(0, spec.min_tokens - len(ids)),
            sampling=replace(spec.sampling, seed=spec.sampling.seed + len(ids)),
            said=said,
            num_said=len(ids),
        )

    def can_continue(self, args: LLMGenerate, said: str) -> bool:
        """Whether an answer can be gone on with from its text: not what is held to a form, thought aloud or counted."""
        stops = (args.stop,) if isinstance(args.stop, str) else args.stop or ()
        return not (
            args.response_format is not None
            or args.tool_choice not in (None, "auto", "none")
            or args.logprobs
            or (args.beam_width or 1) > 1
            or self._vocabulary.reasoning is not None
            or args.messages[-1].role == "assistant"
            or any(said.endswith(stop[:size]) for stop in stops for size in range(1, len(stop) + 1))
        )

    def _ends_in_thought(self, prompt: Sequence[int]) -> bool:
        """Whether the template has opened what the model thinks aloud."""
        vocabulary = self._vocabulary
        if vocabulary.reasoning is None:
            return False
        end = b"".join(vocabulary.tokens[token] for token in prompt[-16:])
        return end.rstrip().endswith(vocabulary.reasoning.opening.encode())

    def count(self, args: LLMGenerate) -> int:
        """Tokens of the prompt; for messages that are longer than the window by far, how many they have at least."""
        characters = sum(len(message.text()) for message in args.messages)
        if characters > self._context * self._longest_token:
            return -(-characters // self._longest_token)
        return len(self._prompt(args))

    def _prompt(self, args: LLMGenerate) -> list[int]:
        messages = [msgspec.to_builtins(message) for message in args.messages]
        tools = [msgspec.to_builtins(tool) for tool in args.tools or ()]
        size = sum(len(message.text()) for message in args.messages)
        # A text so long that no tokens could hold it is not worth the time of cutting it into tokens.
        if size > self._context * self._longest_token:
            raise ContextLengthExceeded(
                f"this model's window is {self._context} tokens, and the messages have {size} characters, "
                f"at least {-(-size // self._longest_token)} tokens; shorten them",
                param="messages",
            )
        return self._template.render(messages, tools, variables=variables_of(args))

    def _limits(self, args: LLMGenerate) -> tuple[int, tuple[str, ...]]:
        minimum = args.min_tokens or 0
        most = args.max_tokens or self._context
        if minimum > most:
            raise BadRequest(f"min_tokens is {minimum}, more than the {most} tokens possible", param="min_tokens")
        stops = (args.stop,) if isinstance(args.stop, str) else tuple(args.stop or ())
        for stop in stops:
            if not 0 < len(stop) <= MAX_STOP:
                raise BadRequest(f"a stop string has {len(stop)} characters; allowed are 1 to {MAX_STOP}", param="stop")
        return minimum, stops

    def _sampling(self, args: LLMGenerate) -> Sampling:
        if args.top_logprobs is not None and not args.logprobs:
            raise BadRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
        if (args.beam_width or 1) > 1 and (args.temperature or args.presence_penalty or args.frequency_penalty):
            raise BadRequest("beam search draws nothing: leave temperature and penalties at 0", param="beam_width")
        return Sampling(
            temperature=args.temperature or 0.0,
            top_p=1.0 if args.top_p is None else args.top_p,
            top_k=args.top_k or 0,
            seed=args.seed or 0,
            presence_penalty=args.presence_penalty or 0.0,
            frequency_penalty=args.frequency_penalty or 0.0,
            logprobs=(args.top_logprobs or 0) if args.logprobs else None,
            logit_bias={self._token(key): value for key, value in (args.logit_bias or {}).items()},
        )

    def _token(self, key: str) -> int:
        if not (key.isascii() and key.isdecimal() and len(key) < 10 and int(key) < len(self._vocabulary.tokens)):
            raise BadRequest(
                f"logit_bias names token {key[:20]!r}; tokens are 0 to {len(self._vocabulary.tokens) - 1}",
                param="logit_bias",
            )
        return int(key)

    def _grammar(self, args: LLMGenerate) -> dict[str, Any]:
        """The fields of a spec that say what may be said."""
        tools, is_forced = _callable_tools(args)
        if tools and self._dialect is None:
            raise BadRequest("this model's chat template tells it of no tools; ask another model", param="tools")
        try:
            answer = response_schema(args.response_format, self._dialect)
        except GrammarError as error:
            raise BadRequest(str(error), code="invalid_schema", param="response_format") from None
        try:
            call = call_schema(
                [(t.function.name, t.function.parameters, t.function.strict is not False) for t in tools],
                self._dialect or NANO,
                is_forced=is_forced,
            )
        except GrammarError as error:
            raise BadRequest(f"in the tools' parameters: {error}", code="invalid_schema", param="tools") from None
        return {"answer": answer, "call": call, "may_call": bool(tools), "must_call": is_forced}


def _names(tools: list[ToolSpec]) -> dict[str, int]:
    """The place of each function by its name. Raises BadRequest for a name that is none, or is there twice."""
    places: dict[str, int] = {}
    for place, tool in enumerate(tools):
        name, param = tool.function.name, f"tools[{place}].function.name"
        if not _FUNCTION_NAME.fullmatch(name):
            better = re.sub("[^a-zA-Z0-9_-]+", "_", name[:64])
            hint = f"; call it {better!r}" if better else ""
            raise BadRequest(
                f"{param} is {name[:100]!r}, but must be 1 to 64 of a-z, A-Z, 0-9, _ and -{hint}",
                code="bad_tool_name",
                param=param,
            )
        if name in places:
            raise BadRequest(
                f"{param} is {name!r}, and so is that of tools[{places[name]}]; give each function its own name",
                code="repeated_tool_name",
                param=param,
            )
        places[name] = place
    return places


def _callable_tools(args: LLMGenerate) -> tuple[list[ToolSpec], bool]:
    """The tools that may be called, and whether one must be."""
    tools, choice = args.tools or [], args.tool_choice
    names = _names(tools)
    if choice == "none":
        return [], False
    if choice == "required" and not tools:
        raise BadRequest("tool_choice is 'required', but there are no tools", param="tool_choice")
    if not isinstance(choice, dict):
        return tools, choice == "required"
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise BadRequest(
            'tool_choice must be "none", "auto", "required" or {"type": "function", "function": {"name": …}}, '
            f"not {json.dumps(choice)[:100]}",
            param="tool_choice",
        )
    if name not in names:
        raise BadRequest(
            f"tool_choice names {name[:100]!r}, which is not among tools{nearest(name[:100], names)}",
            param="tool_choice",
        )
    return [tool for tool in tools if tool.function.name == name], True
