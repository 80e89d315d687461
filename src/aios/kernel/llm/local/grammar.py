"""What a sequence may say: JSON by a schema, tool calls, or anything. Knows no model, no messages and no sampling.

llguidance turns a JSON schema into a mask of the tokens that may come next. Its matchers cannot be written down, so a
guide that is to be restored is rebuilt from its tokens. All that may explode is bounded, here or by llguidance's own
limits: a schema is refused before it is compiled, or its sequence fails with a `GrammarError`; no one else waits.
"""

from __future__ import annotations

import copy
import functools
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .sampler import Mask
from .schema_faults import explain_refusal, explain_stop

MAX_SCHEMA_BYTES = 100_000
MAX_SCHEMA_DEPTH = 64
MAX_COMPILED = 64
_COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}


class GrammarError(ValueError):
    """A schema that cannot be followed: what is wrong with it."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Tokens as bytes, and those that mean something else. `encode` makes tokens of text."""

    tokens: Sequence[bytes]
    end: int
    call: int
    bos: int
    special: frozenset[int]
    encode: Callable[[str], list[int]]
    not_end: Mask = field(init=False)

    def __post_init__(self) -> None:
        not_end = np.ones(len(self.tokens), np.bool_)
        not_end[self.end] = False
        object.__setattr__(self, "not_end", not_end)

    def banned(self, *, may_call: bool) -> Mask:
        """Special tokens that no answer may hold."""
        mask = np.zeros(len(self.tokens), np.bool_)
        mask[[i for i in self.special if i != self.end and not (may_call and i == self.call)]] = True
        return mask

    # What llguidance asks of a tokenizer.
    @property
    def eos_token_id(self) -> int:
        return self.end

    @property
    def bos_token_id(self) -> int:
        return self.bos

    @property
    def special_token_ids(self) -> list[int]:
        return sorted(self.special)

    def __call__(self, text: str | bytes) -> list[int]:
        return self.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


class Grammars:
    """Compiles schemas for one vocabulary and keeps the latest. May be used by several threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._compiled: dict[str, Any] = {}  # the latest used last
        self._lock = threading.Lock()

    def matcher(self, schema: str) -> Any:
        """A fresh matcher for `schema` (JSON text from `response_schema` or `call_schema`). Raises GrammarError."""
        return self.prepared(schema).deep_copy()

    def is_ready(self, schema: str | None) -> bool:
        """Whether nothing is to be compiled for `schema`."""
        with self._lock:
            return schema is None or schema in self._compiled

    def prepared(self, schema: str) -> Any:
        """What `schema` compiles to, to be copied; takes up to a second for the largest ones. Raises GrammarError."""
        with self._lock:
            matcher = self._compiled.pop(schema, None)
            if matcher is not None:
                self._compiled[schema] = matcher
                return matcher
        matcher = self._compile(schema)  # without the lock: nobody waits for another's schema
        with self._lock:
            self._compiled[schema] = matcher
            if len(self._compiled) > MAX_COMPILED:
                del self._compiled[next(iter(self._compiled))]
        return matcher

    def _compile(self, schema: str) -> Any:
        from llguidance import LLMatcher  # heavy, and a kernel without constrained calls does without it

        # Forcing would leave only one way to cut text that is certain into tokens, and not always the model's own.
        grammar = LLMatcher.grammar_from_lark(f'%llguidance {{"no_forcing": true}}\nstart: %json {schema}')
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise GrammarError(explain_refusal(matcher.get_error(), json.loads(schema)))
        return matcher

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(self.vocabulary))


class Guide:
    """Follows one sequence and says which tokens may come next.

    `answer` constrains the text, `call` the JSON after the call token; both are schemas or None for free text.
    All that is to be compiled is compiled here, none of it in the middle of a sequence.
    """

    def __init__(
        self, grammars: Grammars, *, answer: str | None = None, call: str | None = None,
        may_call: bool = False, must_call: bool = False,
    ) -> None:  # fmt: skip
        self._vocabulary = grammars.vocabulary
        self._matcher = grammars.matcher(answer) if answer is not None else None
        self._call = grammars.prepared(call) if call is not None else None
        self._may_call = may_call or must_call
        self._must_call = must_call
        self._is_first = True
        self.in_call = False
        """The call token was chosen: what follows is a tool call."""

    @property
    def is_complete(self) -> bool:
        """The grammar is fulfilled and nothing can follow."""
        return self._matcher is not None and bool(self._matcher.is_stopped())

    def allowed(self) -> Mask | None:
        """The tokens that may come next; None when all may."""
        if self._is_first and self._must_call:
            return self._only_call()
        if self._matcher is None:
            return self._vocabulary_without_call() if self.in_call else None
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        mask = np.unpackbits(bits, bitorder="little")[: len(self._vocabulary.tokens)].view(np.bool_)
        if self._is_first and self._may_call and not self.in_call:
            mask[self._vocabulary.call] = True
        return mask

    def fork(self) -> Guide:
        """Another guide that has seen the same."""
        other = copy.copy(self)
        other._matcher = self._matcher.deep_copy() if self._matcher is not None else None
        return other

    def accept(self, token: int) -> None:
        """`token` was chosen."""
        vocabulary = self._vocabulary
        self._is_first = False
        if token == vocabulary.call and not self.in_call:
            self.in_call = True
            self._matcher = self._call.deep_copy() if self._call is not None else None
        elif self._matcher is not None and token != vocabulary.end:
            self._matcher.consume_token(token)
            self._check()

    def _check(self) -> None:
        if self._matcher is not None and self._matcher.is_error():
            raise GrammarError(explain_stop(self._matcher.get_error()))

    def _only_call(self) -> Mask:
        mask = np.zeros(len(self._vocabulary.tokens), np.bool_)
        mask[self._vocabulary.call] = True
        return mask

    def _vocabulary_without_call(self) -> Mask:
        return ~self._only_call()


def response_schema(response_format: dict[str, Any] | None) -> str | None:
    """The schema of OpenAI's `response_format`, None for free text. Raises GrammarError."""
    kind = (response_format or {}).get("type", "text")
    if kind == "text":
        return None
    if kind == "json_object":
        return _wrap({"type": "object"}, is_lenient=False)
    if kind != "json_schema":
        raise GrammarError(f"response_format.type is {kind!r:.50}; it must be text, json_object or json_schema")
    wanted = (response_format or {}).get("json_schema")
    schema = wanted.get("schema") if isinstance(wanted, dict) else None
    if not isinstance(schema, dict):
        raise GrammarError("response_format.json_schema.schema is missing or not an object")
    return _wrap(schema, is_lenient=not wanted.get("strict"))  # type: ignore[union-attr]


def call_schema(functions: Sequence[tuple[str, dict[str, Any] | None, bool]]) -> str | None:
    """The schema of a call to one of `functions` (name, parameters, is constrained); None if none is constrained."""
    if not any(is_constrained for _, _, is_constrained in functions):
        return None
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": _parameters(parameters if is_constrained else None)},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for name, parameters, is_constrained in functions
    ]
    return _wrap({"anyOf": calls} if len(calls) > 1 else calls[0], is_lenient=True)


def _parameters(schema: dict[str, Any] | None) -> dict[str, Any]:
    """The arguments' schema: without `additionalProperties` a model may not invent any."""
    if not schema:
        return {"type": "object"}
    if "properties" in schema and "additionalProperties" not in schema:
        return {**schema, "type": "object", "additionalProperties": False}
    return {**schema, "type": "object"} if "type" not in schema and "$ref" not in schema else schema


def _wrap(schema: dict[str, Any], *, is_lenient: bool) -> str:
    check_schema(schema)
    return json.dumps({**schema, "x-guidance": {**_COMPACT, "lenient": is_lenient}}, separators=(",", ":"))


def check_schema(schema: Any) -> None:
    """Refuse what is too large, too deep, or refers elsewhere. Raises GrammarError."""
    level, depth = [schema], 0
    while level:
        depth += 1
        if depth > MAX_SCHEMA_DEPTH:
            raise GrammarError(f"the schema is nested more than {MAX_SCHEMA_DEPTH} levels deep")
        for node in level:
            if isinstance(node, dict) and isinstance(ref := node.get("$ref"), str) and not ref.startswith("#"):
                raise GrammarError(f"the schema refers to {ref[:100]!r}; only references inside it (#/…) are followed")
        level = [child for node in level for child in _children(node)]
    if (size := len(json.dumps(schema))) > MAX_SCHEMA_BYTES:
        raise GrammarError(f"the schema has {size} bytes; at most {MAX_SCHEMA_BYTES} are allowed")


def _children(node: Any) -> Sequence[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else ()
