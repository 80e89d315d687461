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
from typing import Any, NamedTuple

import numpy as np

from .dialect import NANO, Dialect, Reasoning, lark
from .sampler import Mask
from .schema_faults import explain_refusal, explain_stop

MAX_SCHEMA_BYTES = 100_000
MAX_SCHEMA_DEPTH = 64
MAX_COMPILED = 64
_DATA = ("const", "enum", "default", "examples")
"""Keys of a schema whose values are none."""
_COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
_SPACED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as our own model writes it, and as Python does, on which most models were trained."""


class GrammarError(ValueError):
    """A schema that cannot be followed: what is wrong with it."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Tokens as bytes, and those that mean something else. `encode` makes tokens of text.

    `end` ends an answer, and so do `ends`, if there are more. `call` is the token that opens tool calls, None where
    they open with text or where `dialect` is None: such a model calls no tools.
    """

    tokens: Sequence[bytes]
    end: int
    call: int | None
    bos: int
    special: frozenset[int]
    encode: Callable[[str], list[int]]
    dialect: Dialect | None = NANO
    ends: frozenset[int] = frozenset()
    marks: frozenset[int] = frozenset()
    """Tokens that stand within tool calls as text does, and nowhere else."""
    drops_first_space: bool = False
    """An answer's first token begins with a space that is not meant."""
    reasoning: Reasoning | None = None
    """The marks of what the model thinks aloud."""
    think: int | None = None
    """The token that is the first of these marks, where one is."""
    not_end: Mask = field(init=False)
    other_ends: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        ends = self.ends | {self.end}
        not_end = np.ones(len(self.tokens), np.bool_)
        not_end[list(ends)] = False
        object.__setattr__(self, "ends", ends)
        object.__setattr__(self, "not_end", not_end)
        object.__setattr__(self, "other_ends", tuple(ends - {self.end}))

    def banned(self, *, may_call: bool) -> Mask:
        """Special tokens that no answer may hold."""
        mask = np.zeros(len(self.tokens), np.bool_)
        mask[[i for i in self.special if i not in self.ends and not (may_call and i == self.call)]] = True
        if not may_call:
            mask[list(self.marks)] = True
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


class Grammar(NamedTuple):
    """What llguidance compiles, and the schema in it: what is wrong is told about that."""

    lark: str
    schema: str


def answer_grammar(schema: str) -> Grammar:
    """Of `response_schema`'s text."""
    return Grammar(lark(f"%json {schema}"), schema)


class Grammars:
    """Compiles schemas for one vocabulary and keeps the latest. May be used by several threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._compiled: dict[str, Any] = {}  # the latest used last
        self._lock = threading.Lock()

    def call_grammar(self, schema: str, *, is_forced: bool, is_parallel: bool) -> Grammar:
        """Of `call_schema`'s text, in the model's dialect: what follows the opening, which itself is held to the
        grammar only where it is text that must come."""
        vocabulary = self.vocabulary
        assert vocabulary.dialect is not None
        is_spelt = is_forced and vocabulary.call is None
        return Grammar(vocabulary.dialect.grammar(schema, is_parallel=is_parallel, with_opening=is_spelt), schema)

    def are_ready(self, answer: str | None, call: str | None, *, is_forced: bool, is_parallel: bool) -> bool:
        """Whether nothing is to be compiled for a `Guide` of these."""
        wanted = [answer_grammar(answer)] if answer is not None else []
        if call is not None:
            wanted.append(self.call_grammar(call, is_forced=is_forced, is_parallel=is_parallel))
        with self._lock:
            return all(grammar.lark in self._compiled for grammar in wanted)

    def prepared(self, grammar: Grammar) -> Any:
        """What it compiles to, to be copied; takes up to a second for the largest ones. Raises GrammarError."""
        with self._lock:
            matcher = self._compiled.pop(grammar.lark, None)
            if matcher is not None:
                self._compiled[grammar.lark] = matcher
                return matcher
        matcher = self._compile(grammar)  # without the lock: nobody waits for another's schema
        with self._lock:
            self._compiled[grammar.lark] = matcher
            if len(self._compiled) > MAX_COMPILED:
                del self._compiled[next(iter(self._compiled))]
        return matcher

    def _compile(self, grammar: Grammar) -> Any:
        from llguidance import LLMatcher  # heavy, and a kernel without constrained calls does without it

        matcher = LLMatcher(self._tokenizer, LLMatcher.grammar_from_lark(grammar.lark), log_level=0)
        if matcher.is_error():
            raise GrammarError(explain_refusal(matcher.get_error(), json.loads(grammar.schema)))
        return matcher

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(self.vocabulary))


class Guide:
    """Follows one sequence and says which tokens may come next.

    `answer` constrains the text, `call` the JSON of a tool call; both are schemas or None for free text.
    All that is to be compiled is compiled here, none of it in the middle of a sequence.
    """

    def __init__(
        self, grammars: Grammars, *, answer: str | None = None, call: str | None = None,
        may_call: bool = False, must_call: bool = False, is_parallel: bool = True,
    ) -> None:  # fmt: skip
        vocabulary = grammars.vocabulary
        self._vocabulary = vocabulary
        self._may_call = (may_call or must_call) and vocabulary.dialect is not None
        self._matcher = grammars.prepared(answer_grammar(answer)).deep_copy() if answer is not None else None
        self._call = None
        if call is not None and self._may_call:
            grammar = grammars.call_grammar(call, is_forced=must_call, is_parallel=is_parallel)
            self._call = grammars.prepared(grammar)
        is_bare = self._may_call and vocabulary.dialect is not None and vocabulary.dialect.is_bare
        self._may_be_bare = is_bare and (must_call or answer is None)
        """The first token may begin a call that has no opening."""
        self._is_spelt = must_call and vocabulary.call is None
        self._needs_token = must_call and not self._is_spelt and not is_bare
        if must_call and not self._needs_token:
            self._matcher = self._call.deep_copy() if self._call is not None else None
        self.watches = self._may_call and vocabulary.call is None and (must_call or answer is None)
        """Calls open with text, which is to be looked for: `open` wants to be told."""
        self._is_first = True
        self.in_call = False
        """What follows is a tool call."""
        self.is_bare = False
        """It began without the opening."""

    @property
    def is_bound(self) -> bool:
        """Not everything may come next."""
        return self._needs_token or self._matcher is not None

    @property
    def is_complete(self) -> bool:
        """The grammar is fulfilled and nothing can follow."""
        return self._matcher is not None and bool(self._matcher.is_stopped())

    def allowed(self) -> Mask | None:
        """The tokens that may come next; None when all may."""
        vocabulary = self._vocabulary
        if self._is_first and self._needs_token:
            return self._only_call()
        if self._matcher is None:
            return ~self._only_call() if self.in_call and vocabulary.dialect is NANO else None
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        mask = np.unpackbits(bits, bitorder="little")[: len(vocabulary.tokens)].view(np.bool_)
        if vocabulary.other_ends and mask[vocabulary.end]:
            mask[list(vocabulary.other_ends)] = True
        if self._is_first and self._may_call and not self.in_call and vocabulary.call is not None:
            mask[vocabulary.call] = True
        return mask

    def is_call(self, token: int) -> bool:
        """Whether `token`, as the next one, belongs to a tool call."""
        if self.in_call or not self._may_call:
            return self.in_call
        return token == self._vocabulary.call or (self._is_first and self._may_be_bare and self._is_json(token))

    def fork(self) -> Guide:
        """Another guide that has seen the same."""
        other = copy.copy(self)
        other._matcher = self._matcher.deep_copy() if self._matcher is not None else None
        return other

    def accept(self, token: int) -> None:
        """`token` was chosen."""
        vocabulary = self._vocabulary
        begins = not self.in_call and self.is_call(token)
        self._is_first = False
        if begins:
            self.in_call, self.is_bare = True, token != vocabulary.call
            self._matcher = self._call.deep_copy() if self._call is not None else None
        if self._matcher is None or token in vocabulary.ends or (begins and token == vocabulary.call):
            return
        self._matcher.consume_token(token)
        self._check()

    def open(self, rest: bytes) -> None:
        """The text that opens calls was said, and then `rest`."""
        self.in_call = True
        if self._is_spelt:
            return  # the grammar holds the opening as well, and goes on
        self._matcher = self._call.deep_copy() if self._call is not None else None
        if self._matcher is None or not rest:
            return
        tokens = self._vocabulary(rest)
        if self._matcher.validate_tokens(tokens) == len(tokens):
            self._matcher.consume_tokens(tokens)
        else:
            self._matcher = None  # it was free to say this: too late to hold it to a grammar

    def _is_json(self, token: int) -> bool:
        if not self._vocabulary.tokens[token].lstrip().startswith(b"{"):
            return False
        return self._call is None or bool(self._call.deep_copy().validate_tokens([token]) == 1)

    def _check(self) -> None:
        if self._matcher is not None and self._matcher.is_error():
            raise GrammarError(explain_stop(self._matcher.get_error()))

    def _only_call(self) -> Mask:
        mask = np.zeros(len(self._vocabulary.tokens), np.bool_)
        mask[self._vocabulary.call] = True
        return mask


def response_schema(response_format: dict[str, Any] | None, dialect: Dialect | None = NANO) -> str | None:
    """The schema of OpenAI's `response_format`, None for free text. Raises GrammarError."""
    style = _COMPACT if dialect is NANO else _SPACED
    kind = (response_format or {}).get("type", "text")
    if kind == "text":
        return None
    if kind == "json_object":
        return _wrap({"type": "object"}, style, is_lenient=False)
    if kind != "json_schema":
        raise GrammarError(f"response_format.type is {kind!r:.50}; it must be text, json_object or json_schema")
    wanted = (response_format or {}).get("json_schema")
    if not isinstance(wanted, dict) or not isinstance(wanted.get("schema"), dict):
        raise GrammarError("response_format.json_schema.schema is missing or not an object")
    return _wrap(wanted["schema"], style, is_lenient=not wanted.get("strict"))


def call_schema(
    functions: Sequence[tuple[str, dict[str, Any] | None, bool]], dialect: Dialect = NANO, *, is_forced: bool = False
) -> str | None:
    """The schema of a call to one of `functions` (name, parameters, is constrained).

    None if none is constrained, unless a call is forced that has to be spelt.
    """
    is_spelt = is_forced and dialect is not NANO
    if not is_spelt and not any(is_constrained for _, _, is_constrained in functions):
        return None
    given = [
        (name, _parameters(parameters if is_constrained else None)) for name, parameters, is_constrained in functions
    ]
    if not dialect.is_named_first:  # there the parameters stand alone
        above = "#/anyOf/{}/properties/{}" if len(given) > 1 else "#/properties/{1}"
        given = [(name, _moved(schema, above.format(n, dialect.key))) for n, (name, schema) in enumerate(given)]
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, dialect.key: schema},
            "required": ["name", dialect.key],
            "additionalProperties": False,
        }
        for name, schema in given
    ]
    style = _COMPACT if dialect.is_compact else _SPACED
    return _wrap({"anyOf": calls} if len(calls) > 1 else calls[0], style, is_lenient=True)


def _parameters(schema: dict[str, Any] | None) -> dict[str, Any]:
    """The arguments' schema: without `additionalProperties` a model may not invent any."""
    if not schema:
        return {"type": "object"}
    if "properties" in schema and "additionalProperties" not in schema:
        return {**schema, "type": "object", "additionalProperties": False}
    return {**schema, "type": "object"} if "type" not in schema and "$ref" not in schema else schema


def _moved(schema: Any, place: str) -> Any:
    """`schema` for where it stands at `place` within another: what it refers to in itself is there now."""
    if isinstance(schema, list):
        return [_moved(each, place) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: value if key in _DATA else _moved(value, place) for key, value in schema.items()}
    if isinstance(ref := schema.get("$ref"), str) and (ref == "#" or ref.startswith("#/")):
        moved["$ref"] = place + ref[1:]
    return moved


def _wrap(schema: dict[str, Any], style: dict[str, Any], *, is_lenient: bool) -> str:
    check_schema(schema)
    return json.dumps({**schema, "x-guidance": {**style, "lenient": is_lenient}}, separators=(",", ":"))


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
