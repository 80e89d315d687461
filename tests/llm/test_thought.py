"""What a model thinks aloud is told apart from its answer, however it is opened, cut into tokens, or cut off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import TOKENIZER, vocabulary

pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")

from aios.abi.calls import LLMGenerate
from aios.abi.messages import Chunk, FunctionCall, Generation, Message
from aios.kernel.config import CoreSection
from aios.kernel.llm.base import Request
from aios.kernel.llm.folder import FolderCore, read
from aios.kernel.llm.local.branch import Branch, Spec
from aios.kernel.llm.local.dialect import HERMES, REASONINGS, reasoning_of
from aios.kernel.llm.local.grammar import Grammars, call_schema, response_schema
from aios.kernel.llm.local.request import Translator
from aios.kernel.llm.local.thought import Thought
from aios.testing import models

THINK = REASONINGS[0]
END = TOKENIZER.special["<|end|>"]
ADD = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
ANSWER = {"type": "json_schema", "json_schema": {"schema": {"enum": ["yes", "no"]}, "strict": True}}


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write_model(tmp_path_factory.mktemp("qwen3"), "qwen3", template=models.THINKING)


@pytest.fixture(scope="module")
def grammars(qwen3: Path) -> Grammars:
    """Of a tokenizer whose marks are tokens."""
    return Grammars(read(qwen3).vocabulary)


@pytest.fixture(scope="module")
def spelt() -> Grammars:
    """Of a tokenizer that spells the marks, letter by letter."""
    return Grammars(replace(vocabulary(), dialect=HERMES, call=None, reasoning=THINK))


def line(own: Grammars, **more: Any) -> Branch:
    return Branch(Spec((1,), more.pop("max_tokens", 500), **more), own)


def say(branch: Branch, tokens: Sequence[int]) -> bool:
    """Whether all are allowed; they are then said, as far as the answer goes on."""
    for token in tokens:
        allowed = branch.allowed()
        if allowed is not None and not allowed[token]:
            return False
        branch.accept(token)
        if branch.finish is not None:
            break
    return True


def tokens(own: Grammars, text: str) -> list[int]:
    """As a model says them: marks are one token each where there is one."""
    vocabulary = own.vocabulary
    found: list[int] = []
    marks = {THINK.opening: vocabulary.think, THINK.closing: None}
    if vocabulary.think is not None:
        marks[THINK.closing] = vocabulary.tokens.index(THINK.closing.encode())
    while text:
        place, mark = min(((text.find(m), m) for m in marks if m in text), default=(len(text), ""))
        found += vocabulary.encode(text[:place])
        if mark:
            found += vocabulary.encode(mark) if marks[mark] is None else [marks[mark]]  # type: ignore[list-item]
        text = text[place + len(mark) :]
    return found


@pytest.fixture(params=["tokens", "letters"])
def either(request: pytest.FixtureRequest, grammars: Grammars, spelt: Grammars) -> Grammars:
    return grammars if request.param == "tokens" else spelt


def test_a_thought_is_no_part_of_the_answer(either: Grammars) -> None:
    branch = line(either)
    assert say(branch, [*tokens(either, "<think>\nLet me see.\n</think>\n\nIt is 4."), either.vocabulary.end])
    assert (branch.thought.text, branch.text.text, branch.finish) == ("Let me see.", "It is 4.", "stop")


def test_a_template_may_have_opened_it(either: Grammars) -> None:
    branch = line(either, is_thinking=True)
    assert say(branch, [*tokens(either, "Hm.\n</think>\n\nYes."), either.vocabulary.end])
    assert (branch.thought.text, branch.text.text) == ("Hm.", "Yes.")


def test_a_thought_that_is_cut_off_leaves_no_answer(either: Grammars) -> None:
    said = tokens(either, "<think>\nOne two three")
    branch = line(either, max_tokens=len(said))
    assert say(branch, said)
    assert (branch.thought.text, branch.text.text, branch.finish) == ("One two three", "", "length")
    branch = line(either)
    assert say(branch, [*said, either.vocabulary.end])
    assert (branch.thought.text, branch.text.text, branch.finish) == ("One two three", "", "stop")


@pytest.mark.parametrize(
    "text", ["Plain.", "<th", "<thinking> is a word", "a <think> in the middle</think>", "< 5", " x"]
)
def test_an_answer_that_only_looks_like_a_thought_stays_one(either: Grammars, text: str) -> None:
    said = either.vocabulary.encode(text)
    branch = line(either)
    assert say(branch, [*said, either.vocabulary.end])
    assert (branch.thought.text, branch.text.text) == ("", text)
    branch = line(either, max_tokens=len(said))
    assert say(branch, said)
    assert (branch.thought.text, branch.text.text, branch.finish) == ("", text, "length")


def test_a_tool_call_after_a_thought_is_one_and_one_within_it_is_not(either: Grammars) -> None:
    schema = call_schema([("add", ADD, True)], HERMES)
    branch = line(either, call=schema, may_call=True)
    call = '\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    opening = [either.vocabulary.call] if either.vocabulary.call is not None else tokens(either, "<tool_call>")
    thinking = tokens(either, "<think>call <tool_call>{} perhaps</think>\n\n")
    assert say(branch, [*thinking, *opening, *tokens(either, call), either.vocabulary.end])
    assert branch.finish == "tool_calls"
    assert HERMES.read(branch.call_bytes.decode()) == [FunctionCall("add", '{"a":1}')]
    assert branch.thought.text == "call <tool_call>{} perhaps"
    assert branch.text.text == ""


def test_a_call_that_must_come_may_be_thought_about_first(grammars: Grammars) -> None:
    schema = call_schema([("add", ADD, True)], HERMES, is_forced=True)
    branch = line(grammars, call=schema, must_call=True)
    assert say(branch, tokens(grammars, "<think>I must.</think>"))
    allowed = branch.allowed()
    assert allowed is not None
    assert [int(token) for token in allowed.nonzero()[0]] == [grammars.vocabulary.call]


def test_an_answer_held_to_a_schema_is_held_to_it_after_the_thought_only(grammars: Grammars) -> None:
    answer = response_schema(ANSWER, HERMES)
    branch = line(grammars, answer=answer)
    assert say(branch, tokens(grammars, "<think>Anything at all {"))
    assert branch.allowed() is None
    assert say(branch, tokens(grammars, "</think>"))
    assert not say(branch, tokens(grammars, "maybe"))
    assert say(branch, tokens(grammars, '"yes"'))
    assert (branch.text.text, branch.finish) == ('"yes"', "stop")
    straight = line(grammars, answer=answer)
    assert say(straight, tokens(grammars, '"no"'))
    assert (straight.thought.text, straight.text.text) == ("", '"no"')


def test_what_is_glued_to_the_closing_mark_is_dropped_where_a_schema_holds(spelt: Grammars) -> None:
    glued = spelt.vocabulary.tokens.index(b"\x01")
    own = Grammars(
        replace(
            spelt.vocabulary, tokens=[*spelt.vocabulary.tokens[:glued], b">x", *spelt.vocabulary.tokens[glued + 1 :]]
        )
    )
    branch = line(own, answer=response_schema(ANSWER, HERMES), is_thinking=True)
    assert say(branch, [*tokens(own, "so</think"), glued, *tokens(own, '"yes"')])
    assert (branch.thought.text, branch.text.text) == ("so", '"yes"')
    free = line(own, is_thinking=True)
    assert say(free, [*tokens(own, "so</think"), glued, *tokens(own, "y"), own.vocabulary.end])
    assert (free.thought.text, free.text.text) == ("so", "xy")


def test_a_stop_string_ends_the_answer_and_no_thought(either: Grammars) -> None:
    branch = line(either, stops=("stop",))
    assert say(branch, tokens(either, "<think>don't stop</think>\nnow stop here"))
    assert (branch.thought.text, branch.text.text, branch.finish) == ("don't stop", "now ", "stop")


def test_two_lines_of_a_search_think_each_for_themselves(either: Grammars) -> None:
    branch = line(either)
    assert say(branch, tokens(either, "<think>a"))
    other = branch.fork()
    assert say(branch, tokens(either, "b</think>c"))
    assert say(other, tokens(either, "d</think>e"))
    branch.accept(either.vocabulary.end)
    other.accept(either.vocabulary.end)
    assert (branch.thought.text, branch.text.text) == ("ab", "c")
    assert (other.thought.text, other.text.text) == ("ad", "e")


@given(st.text(alphabet="ab \n<>/think", max_size=30), st.lists(st.integers(1, 5), max_size=20))
def test_however_it_is_cut_a_thought_is_what_stands_before_the_closing_mark(text: str, cuts: list[int]) -> None:
    thought = Thought(THINK, is_open=True)
    whole = (text + THINK.closing + "answer").encode()
    rest, at = None, 0
    for size in [*cuts, len(whole)]:
        if rest is None:
            rest = thought.feed(whole[at : at + size])
            at += size
    before, _, after = (text + THINK.closing + "answer").partition(THINK.closing)
    assert thought.text == before.strip()
    assert rest is not None
    assert (rest + thought.stripped(whole[at:])).decode() == after.lstrip()


def test_the_marks_are_those_that_a_template_knows(tmp_path: Path) -> None:
    assert reasoning_of("a {{ x }}") is None
    assert reasoning_of("... '</think>' in content ...") == THINK
    assert reasoning_of("[THINK]") == REASONINGS[1]


def test_a_prompt_that_ends_with_the_opening_mark_is_seen(tmp_path: Path) -> None:
    model = read(models.write_model(tmp_path, "qwen3", template=models.OPENED))
    spec = Translator(model.template, model.vocabulary, 500).spec(LLMGenerate(messages=[Message("user", "<think>")]))
    assert spec.is_thinking


def test_a_question_that_holds_the_mark_opens_nothing(qwen3: Path) -> None:
    model = read(qwen3)
    spec = Translator(model.template, model.vocabulary, 500).spec(LLMGenerate(messages=[Message("user", "<think>")]))
    assert not spec.is_thinking


# ── through a core ──


async def run(folder: Path, *, quantum: int | None = None, **more: Any) -> tuple[Generation, list[Chunk]]:
    core = FolderCore(CoreSection(name="m", kind="local", path=str(folder), kv_bytes=1 << 26))
    await core.open()
    chunks: list[Chunk] = []
    args = LLMGenerate(messages=[Message("user", "hi")], seed=3, temperature=1.0, **more)
    try:
        snapshot: Any = None
        while True:
            outcome = await core.run(Request("c", args, chunks.append, snapshot, True), quantum)
            if isinstance(outcome, Generation):
                return outcome, chunks
            snapshot = outcome.snapshot
    finally:
        await core.close()


@pytest.mark.anyio
@pytest.mark.parametrize("quantum", [None, 1])
async def test_a_core_tells_the_thought_apart_in_the_answer_and_in_each_piece(
    tmp_path: Path, quantum: int | None
) -> None:
    folder = models.write_model(tmp_path, "qwen3", template=models.OPENED)
    vocabulary = read(folder).vocabulary
    closing = vocabulary.tokens.index(b"</think>")
    unfinished, chunks = await run(folder, quantum=quantum, max_tokens=12, logit_bias={str(closing): -100})
    thought = unfinished.message.reasoning_content
    assert thought
    assert unfinished.message.content == ""
    assert unfinished.finish_reason == "length"
    assert "".join(chunk.reasoning for chunk in chunks) == thought
    assert not any(chunk.text for chunk in chunks)
    bias = {str(closing): 8}
    done, chunks = await run(folder, quantum=quantum, max_tokens=40, logit_bias=bias, logprobs=True)
    assert done.message.reasoning_content
    assert done.message.content
    assert "".join(chunk.reasoning for chunk in chunks) == done.message.reasoning_content
    assert "".join(chunk.text for chunk in chunks) == done.message.content
    assert done.logprobs is not None
    assert len(done.logprobs) < 40
