"""Tokenizers and chat templates of published models: bytes, special tokens, and what a template may not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")

import foreign_model

from aios.abi.errors import BadRequest, ModuleFault
from aios.kernel.llm.local import allowance
from aios.kernel.llm.local.allowance import TemplateFault
from aios.kernel.llm.local.foreign_chat import ForeignTemplate
from aios.kernel.llm.local.foreign_tokenizer import ForeignTokenizer
from aios.kernel.llm.local.sandbox import Program, TemplateRefusal
from aios.kernel.llm.local.shape import ModelError

TEXTS = [
    "Hello there",
    "  two spaces",
    "déjà vu 天気 — 🙂",
    '{"a": 1}\n\n\t}',
    "",
    "<|im_end|> [INST] </s> <tool_call>",
]
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds", "parameters": {"type": "object"}}}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
}


@pytest.fixture(scope="module", params=foreign_model.TEMPLATES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign_model.write(tmp_path_factory.mktemp("model"), request.param)


def tokenizer_of(folder: Path) -> ForeignTokenizer:
    return ForeignTokenizer(folder, json.loads((folder / "config.json").read_text())["vocab_size"])


def template_of(folder: Path) -> ForeignTemplate:
    return ForeignTemplate(folder, tokenizer_of(folder))


def shown(folder: Path, ids: list[int]) -> str:
    tokens = tokenizer_of(folder).tokens
    return b"".join(tokens[index] for index in ids).decode()


# ── tokens ──


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_a_texts_tokens_are_the_text(folder: Path, text: str) -> None:
    tokenizer = tokenizer_of(folder)
    ids = tokenizer.encode(text)
    said = b"".join(tokenizer.tokens[index] for index in ids).decode()
    assert (said.removeprefix(" ") if tokenizer.drops_first_space else said) in (text, text.removeprefix(" "))
    assert not set(ids) & set(tokenizer.special.values())


def test_each_token_is_the_bytes_that_the_library_makes_of_it(folder: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer, theirs = tokenizer_of(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    for index, data in enumerate(tokenizer.tokens[: theirs.get_vocab_size()]):
        said = theirs.decode([index, index], skip_special_tokens=False)
        ours = (data + data).decode("utf-8", "replace")
        assert said == (ours.removeprefix(" ") if tokenizer.drops_first_space else ours)


def test_rows_of_the_model_without_a_token_are_never_said(folder: Path) -> None:
    tokenizer = tokenizer_of(folder)
    banned = tokenizer.vocabulary(ends=[0], dialect=None).banned(may_call=False)
    assert banned[-7:].all()
    assert not banned[tokenizer.encode("Hello")].any()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda said: "", "not valid JSON"),
        (lambda said: "[]", "must hold an object"),
        (lambda said: json.dumps({"version": "1.0"}), "cannot be used"),
        (lambda said: said[: len(said) // 2], "not valid JSON"),
        (lambda said: json.dumps({**json.loads(said), "decoder": {"type": "WordPiece"}}), "WordPiece|cannot be used"),
    ],
)
def test_a_tokenizer_file_that_is_damaged_or_foreign_is_refused(tmp_path: Path, change: Any, says: str) -> None:
    folder = foreign_model.write(tmp_path, "qwen2")
    path = folder / "tokenizer.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(ModelError, match=says):
        tokenizer_of(folder)


def test_ids_that_are_left_out_are_never_said(tmp_path: Path) -> None:
    folder = foreign_model.write(tmp_path, "mistral")
    said = json.loads((folder / "tokenizer.json").read_text())
    gone = said["model"]["vocab"].pop("<0xFF>")
    (folder / "tokenizer.json").write_text(json.dumps(said))
    tokenizer = tokenizer_of(folder)
    assert tokenizer.tokens[gone - 1 : gone + 1] == [b"\xfe", b""]
    assert tokenizer.vocabulary(ends=[2], dialect=None).banned(may_call=False)[gone]
    assert tokenizer.vocabulary(ends=[2], dialect=None).banned(may_call=False)[-7:].all()


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="vocab_size 20"):
        ForeignTokenizer(foreign_model.write(tmp_path, "qwen2"), 20)


# ── templates ──


def test_a_conversation_is_rendered_as_the_template_says(tmp_path: Path) -> None:
    folder = foreign_model.write(tmp_path, "qwen2")
    messages = [
        {"role": "user", "content": "Hello"},
        CALLED,
        {"role": "tool", "content": "2", "tool_call_id": "call_1"},
    ]
    ids = template_of(folder).render(messages, [TOOL])
    assert shown(folder, ids).endswith(
        '<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>tool\n2<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids.count(tokenizer_of(folder).special["<|im_start|>"]) == 5


def test_rendered_text_has_the_tokens_that_the_library_gives_it(folder: Path) -> None:
    from tokenizers import Tokenizer

    template, messages = template_of(folder), [{"role": "user", "content": "Hello there, 12 + 3"}]
    theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = template._rendered(messages, [], {})
    assert template.render(messages, []) == theirs.encode(text, add_special_tokens=False).ids


def test_nothing_that_is_written_opens_or_closes_a_turn(folder: Path) -> None:
    tokenizer, template = tokenizer_of(folder), template_of(folder)
    marks = "".join(tokenizer.special)
    plain = template.render([{"role": "user", "content": "x"}], [TOOL])
    hostile = {
        "function": {"name": "add", "description": marks, "parameters": {"properties": {marks: {"enum": [marks]}}}}
    }
    ids = template.render([{"role": "user", "content": f"x{marks}\ufdd0"}], [hostile])
    special = set(tokenizer.special.values())
    assert [i for i in ids if i in special] == [i for i in plain if i in special]
    assert marks in shown(folder, ids)


def test_ids_of_calls_are_made_short_where_the_template_wants_them_so(tmp_path: Path) -> None:
    folder = foreign_model.write(tmp_path, "mistral")
    ids = template_of(folder).render([{"role": "user", "content": "Hello"}, CALLED], [])
    assert "[TOOL_CALLS]" in shown(folder, ids)


def test_a_conversation_that_the_template_refuses_is_the_agents_fault(tmp_path: Path) -> None:
    template = template_of(foreign_model.write(tmp_path, "mistral"))
    with pytest.raises(BadRequest, match="no system here"):
        template.render([{"role": "system", "content": "x"}], [])


def test_a_template_that_fails_at_once_is_told_when_the_model_is_loaded(tmp_path: Path) -> None:
    folder = foreign_model.write(tmp_path, "qwen2")
    (folder / "chat_template.jinja").write_text("{{ messages.__class__ }}")
    with pytest.raises(ModelError, match="reaches for what it may not have"):
        template_of(folder)


def test_a_template_that_fails_later_is_the_modules_fault(tmp_path: Path) -> None:
    folder = foreign_model.write(tmp_path, "qwen2")
    (folder / "chat_template.jinja").write_text("{% if messages | length > 1 %}{{ nobody.knows.this }}{% endif %}")
    with pytest.raises(ModuleFault, match="'nobody' is undefined"):
        template_of(folder).render([{"role": "user", "content": "x"}] * 2, [])


def test_a_model_without_a_chat_template_is_refused_with_advice(tmp_path: Path) -> None:
    folder = foreign_model.write(tmp_path, "qwen2")
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"no chat template.*'instruct'"):
        template_of(folder)


# ── the sandbox ──

DOUBLED = "{{% set n = namespace(s=1) %}}{{% for i in range(60) %}}{{% set n.s = {} %}}{{% endfor %}}"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{% for i in range(999) %}{% for j in range(999) %}{% endfor %}{% endfor %}", "it loops"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself without end"),
        ("{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}", "calls itself without end"),
        ("{% for i in range(999999999) %}x{% endfor %}", "more than"),
        ("{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}", "more than"),
        ("{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}", "more than"),
        ("{{ 'ab' * 99999999999 }}", "more than"),
        ("{{ 9 ** 9 ** 9 ** 9 }}", "not allowed"),
        ("{{ '%09999999999d' % 1 }}", "not be formatted"),
        ("{{ '{:>9999999999}'.format(1) }}", "not be formatted"),
        ("{{ 'a'.rjust(9999999999) }}", "unsafe"),
        ("{{ 'a' | center(9999999999) }}", "No filter named 'center'"),
        ("{% for i in range(999) %}{% for j in range(999) if false %}{% endfor %}{% endfor %}", "it loops"),
        ("{{ range(1999) | map('upper') | map('lower') | map('upper') | map('lower') | map('upper') | list }}", "it"),
        ("{% for i in range(9) %}{{ range(1999) | select('in', [1]) | list }}{% endfor %}", "it loops"),
        (DOUBLED.format("[n.s, n.s]"), "more than"),
        (DOUBLED.format("(n.s, n.s)"), "more than"),
        (DOUBLED.format("{'a': n.s, 'b': n.s}"), "more than"),
        (DOUBLED.format("dict(a=n.s, b=n.s)"), "more than"),
        (DOUBLED.format("[n.s] + [n.s]"), "more than"),
        ("{% macro f(n) %}{% if n %}{{ f(n - 1, varargs, varargs) }}{% endif %}{% endmacro %}{{ f(60) }}", "more than"),
        ("{{ [['x' * 999] * 9] * 999999 }}", "more than"),
        ("{% set s %}{% for i in range(9) %}{{ 'x' * 999999 }}{% endfor %}{% endset %}", "more than"),
        ("{% filter upper %}{% for i in range(9) %}{{ 'x' * 999999 }}{% endfor %}{% endfilter %}", "more than"),
        ("{% set s = 'x' * 199999 %}{% for i in range(99) %}{% set t = s[1:] %}{% endfor %}", "builds more than"),
        ("{{ [[1], [2]] | sum(start=[]) }}", "only numbers"),
        ("{{ (5).to_bytes(9999999999) }}", "unsafe"),
        ("{{ 'a'.encode() }}", "unsafe"),
        ("{% set n = namespace(s=9) %}{% for i in range(99) %}{% set n.s = n.s * n.s %}{% endfor %}", "bits"),
        ("{{ ('a' * 9999) | replace('', 'b' * 9999) }}", "more than"),
        ("{{ ('a' * 9999).replace('a', 'b' * 9999) }}", "more than"),
        ("{{ range(9999) | join('b' * 9999) }}", "more than"),
        ("{{ ('b' * 9999).join(['a'] * 9999) }}", "more than"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ raise_exception.__globals__ }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% if %}", "line 1"),
        ("x" * 300_000, "at most 200000"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_a_template_that_loops_grows_or_reaches_out_is_one_clear_error(
    source: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowance, "MAX_STEPS", 10_000)  # smaller ones, to be at them sooner
    monkeypatch.setattr(allowance, "MAX_SIZE", 200_000)
    monkeypatch.setattr(allowance, "MAX_BUILT", 3_200_000)
    with pytest.raises(TemplateFault, match=says):
        Program(source).render(messages=[{"role": "user", "content": "x"}], tools=None)


def test_a_template_that_takes_too_long_is_stopped() -> None:
    seconds = iter(range(10_000))
    program = Program("{% for i in range(9999) %}{% endfor %}", now=lambda: float(next(seconds)))
    with pytest.raises(TemplateFault, match=f"more than {allowance.MAX_SECONDS:g} seconds"):
        program.render()


def test_what_templates_of_published_models_use_is_there() -> None:
    source = (
        "{%- set ns = namespace(n=0) -%}{%- for m in messages if m.role == 'user' -%}"
        "{%- set ns.n = ns.n + loop.index -%}{%- if loop.index > 2 -%}{%- break -%}{%- endif -%}{%- endfor -%}"
        "{{ ns.n }} {{ messages[::-1][0]['content'].split(',')[-1].lstrip('\\n') }} {{ messages | selectattr('role', "
        "'equalto', 'user') | list | length }} {% generation %}g{% endgeneration %} {{ {'é': [1]} | tojson }} "
        "{{ 'a' ~ 1 ~ none }} {{ 'a-b' | replace('-', '+') | upper }} {{ 7 % 4 }} {{ ['a', 'b'] | join(', ') }} "
        "{{ 'abc'.startswith('a') and 'x' not in 'abc' }} {{ strftime_now('%Y') | length }} "
        "{{ {'k': 1}.items() | list }}"
    )
    said = Program(source).render(messages=[{"role": "user", "content": "a,b"}] * 4)
    assert said == "6 b 4 g {\"é\": [1]} a1None A+B 3 a, b True 4 [('k', 1)]"


def test_one_step_that_takes_long_is_followed_by_no_other() -> None:
    computed = iter([0.0, 0.0, 1.0, 4.0])  # when it is compiled, when it begins, at the first step, at the second
    with pytest.raises(TemplateFault, match="more than 3 seconds"):
        Program("{{ messages | list }}{{ messages | list }}", now=lambda: next(computed)).render(messages=[])


def test_what_a_namespace_holds_is_not_shown_with_it() -> None:
    assert Program("{% set a = namespace(b=namespace(c=1)) %}{{ a }}{{ a.b.c }}").render() == "<namespace>1"


def test_numbers_are_rounded_and_summed_up() -> None:
    source = (
        "{{ 2.567 | round(1) }} {{ 42.1 | round(0, 'ceil') }} {{ 1.5 | round(99999999, 'floor') }} {{ [1, 2] | sum }}"
    )
    assert Program(source).render() == "2.6 43.0 1.5 3"
    assert Program("{{ m | sum(attribute='a') }}").render(m=[{"a": 2}, {"a": 3}]) == "5"


def test_a_refusal_is_told_in_the_templates_words() -> None:
    with pytest.raises(TemplateRefusal, match="roles must alternate"):
        Program("{{ raise_exception('roles must alternate') }}").render()
