"""The tokenizer gives back every text, keeps specials out of it, and the template renders what OpenAI clients send."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.kernel.llm.local.chat import ChatTemplate, tool_line
from aios.kernel.llm.local.tokenizer import SPECIALS, Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    with resources.as_file(resources.files("aios.kernel.llm.local") / "weights" / "tokenizer.json") as path:
        return Tokenizer.load(Path(path))


def shown(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids).decode()


@given(text=st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back_unchanged(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)).decode() == text


def test_text_that_spells_specials_never_becomes_one(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("".join(SPECIALS) + "<|end|>")
    assert not set(ids) & set(tokenizer.special.values())
    assert tokenizer.decode(ids).decode().endswith("<|end|>")


def test_lone_surrogates_do_not_crash(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == b"a?b"


def test_the_vocabulary_is_small_and_every_byte_is_in_it(tokenizer: Tokenizer) -> None:
    assert 512 <= tokenizer.vocab_size <= 2048
    assert tokenizer.tokens[:256] == [bytes([byte]) for byte in range(256)]
    assert len(set(tokenizer.tokens)) == tokenizer.vocab_size == len(tokenizer.tokens)
    assert sorted(tokenizer.special.values()) == list(range(tokenizer.vocab_size - len(SPECIALS), tokenizer.vocab_size))


def test_every_digit_is_one_token(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("40712") == [ord(digit) for digit in "40712"]


def test_a_rare_name_has_the_same_tokens_after_a_space_and_after_a_quote(tokenizer: Tokenizer) -> None:
    name = tokenizer.encode("Zelquoram")
    assert tokenizer.encode(' "Zelquoram"')[-len(name) - 1 : -1] == name
    assert tokenizer.encode("of Zelquoram")[-len(name) :] == name


def test_a_long_word_is_cut_and_not_searched_for_ever(tokenizer: Tokenizer) -> None:
    text = "ab" * 50_000
    assert tokenizer.decode(tokenizer.encode(text)).decode() == text


TOOL = {
    "type": "function",
    "function": {
        "name": "book",
        "description": "Book a room.\n\nMore that is not shown.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "nights": {"type": ["integer", "null"]}, "note": {}},
            "required": ["city"],
        },
    },
}


def test_a_tool_is_one_line_from_its_schema() -> None:
    assert tool_line(TOOL) == "book(city,nights:integer?,note?) Book a room."
    assert tool_line({"type": "function", "function": {"name": "ping"}}) == "ping()"


def test_a_conversation_with_a_call_renders_as_documented(tokenizer: Tokenizer) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "book", "arguments": '{ "city": "Rom", "nights": 2 }'}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Two nights"}, {"type": "text", "text": " in Rom"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "booked"},
    ]
    assert shown(tokenizer, ChatTemplate(tokenizer).render(messages, [TOOL])) == (
        "<|bos|><|system|>Be brief.\nTools:\nbook(city,nights:integer?,note?) Book a room.<|end|>"
        "<|user|>Two nights in Rom<|end|>"
        '<|assistant|><|call|>{"name":"book","arguments":{"city":"Rom","nights":2}}<|end|>'
        "<|tool|>booked<|end|><|assistant|>"
    )


def test_without_system_and_tools_there_is_no_system_turn(tokenizer: Tokenizer) -> None:
    ids = ChatTemplate(tokenizer).render([{"role": "user", "content": "Hi"}], None, add_generation_prompt=False)
    assert shown(tokenizer, ids) == "<|bos|><|user|>Hi<|end|>"


def test_arguments_that_are_not_json_stand_as_a_string(tokenizer: Tokenizer) -> None:
    call = {"type": "function", "function": {"name": "book", "arguments": "{broken"}}
    ids = ChatTemplate(tokenizer).render([{"role": "assistant", "content": "So", "tool_calls": [call]}], None, False)
    assert shown(tokenizer, ids) == '<|bos|><|assistant|>So<|call|>{"name":"book","arguments":"{broken"}<|end|>'
