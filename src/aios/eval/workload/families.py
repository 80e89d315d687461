"""The families of tasks: each builder draws values and a wording and says what the right answer is. Knows no tool.

A builder returns a `Draft`; `generate` adds the offered tools and keeps drafts whose every long number is of its split.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Final

from aios.eval.workload import entities, oracle
from aios.eval.workload.base import NO_TOOL, Expected, Step, Turn
from aios.eval.workload.phrasings import CLOSERS, OPENERS, SOURCES, TABLES, Wording, expand, of_kind, wordings
from aios.eval.workload.split import Phrasing, Split, draw_int, numbers_fit

RESULT: Final = "The result is {seen}."
CONVERTED: Final = "That is {seen}."
DATED: Final = "The date is {seen}."
STORED: Final = "I will remember that."
FAILED: Final = "The tool failed: {error}."
MISSING: Final = "I have no tool for that."
# Words that may lose their capital: those that begin a wording, never a name.
_FIRST_WORDS: Final = frozenset(
    text.split(" ")[0] for table in TABLES.values() for rows in table.values() for row in rows for text in expand(row)
)
BUILTINS: Final = ("calculator", "convert", "date_add", "search_notes", "read_file", "remember", "recall")


class Rejected(Exception):
    """The values drawn do not make a fair task of this split; draw again."""


@dataclass
class Draft:
    """A task on its way: what `Task` holds, before tools are offered."""

    prompts: list[str]
    turns: list[Turn]
    expected: Expected
    phrasing: str
    files: dict[str, str] = field(default_factory=dict)
    rivals: tuple[str, ...] = ()  # tools that would make the wording ambiguous if offered


@dataclass(frozen=True)
class Fact:
    """Something known: the attribute of an entity has a value."""

    attribute: str
    entity: str
    value: str

    def key(self, rng: random.Random) -> str:
        """What a question calls it; "the ..." always loses its article in a query."""
        if self.entity == "my":
            return f"my {self.attribute}"
        if rng.random() < 0.6:
            return f"the {self.attribute} of {self.entity}"
        return f"{self.entity}'s {self.attribute}"

    def told(self, key: str) -> str:
        """A sentence that answers the question for `key`: naming what was asked for first makes it easier to find."""
        asked = f"your {self.attribute}" if self.entity == "my" else key
        return f"{asked[0].upper()}{asked[1:]} is {self.value}."

    def line(self, rng: random.Random) -> str:
        """A line that states it, as somebody may have written it down."""
        e, a, v = self.entity, self.attribute, self.value
        bare = e.removeprefix("the ")
        forms = (
            f"The {a} of {e} is {v}.", f"The {a} of {e} is {v}", f"{a} of {e}: {v}", f"{bare}: {a} {v}",
            f"{e[0].upper()}{e[1:]}'s {a} is {v}.", f"{bare}, {a}: {v}", f"{bare} - {a} = {v}",
            f"{e[0].upper()}{e[1:]} has the {a} {v}.", f"We know that the {a} of {e} is {v}.",
        )  # fmt: skip
        return rng.choice(forms)


class Draw:
    """Values of one split from one seeded source, with a record of the names that were used."""

    def __init__(self, rng: random.Random, split: Split, phrasing: Phrasing) -> None:
        self.rng, self.split, self.phrasing = rng, split, phrasing
        self.names: list[str] = []

    def wording(self, table: str, kind: str | None = None) -> Wording:
        if kind is not None:
            return Wording(self.rng.choice(of_kind(table, kind, self.phrasing)), kind)
        kinds = sorted({each.kind for each in wordings(table, self.phrasing)})
        return self.wording(table, self.rng.choice(kinds))

    def dress(self, prompt: str) -> str:
        """The prompt as people type: now and then a greeting, a thanks, no capital, no full stop."""
        rng = self.rng
        if rng.random() < 0.12 and prompt.split(" ")[0] in _FIRST_WORDS:
            prompt = prompt[0].lower() + prompt[1:]
        if rng.random() < 0.1:
            prompt = prompt.rstrip("?.")
        if rng.random() < 0.2:
            prompt = rng.choice(OPENERS) + prompt
        if rng.random() < 0.1:
            prompt += rng.choice(CLOSERS)
        return prompt

    def entity(self) -> str:
        name = entities.entity(self.rng, self.split)
        self.names.append(name.removeprefix("the "))
        return name

    def file(self) -> str:
        name = entities.file_name(self.rng, self.split)
        self.names.append(name)
        return name

    def number(self) -> str:
        return entities.amount(self.rng, self.split)

    def second(self) -> str:
        """The smaller number of a sum."""
        if self.rng.random() < 0.65:
            return str(self.rng.randint(2, 99))
        return str(draw_int(self.rng, 100, 999, self.split))

    def fact(self, value: Callable[[], str] | None = None, attribute: str | None = None, mine: bool = False) -> Fact:
        text = value() if value else entities.value(self.rng, self.split)
        return Fact(attribute or entities.attribute(self.rng), "my" if mine else self.entity(), text)

    def confusable(self, fact: Fact, value: Callable[[], str] | None = None) -> Fact:
        """Another fact that shares the attribute or the entity with this one, with another value."""
        while True:
            other = self.fact(value, fact.attribute if self.rng.random() < 0.6 else None)
            if self.rng.random() < 0.4 and other.attribute != fact.attribute:
                other = Fact(other.attribute, fact.entity, other.value)
            clash = other.value in fact.value or fact.value in other.value
            same = (other.attribute, other.entity) == (fact.attribute, fact.entity)
            if not clash and not same and other.entity != "my":
                return other


def query_of(key: str) -> str:
    return key.removeprefix("the ")


# --------------------------------------------------------------------------------------------- one tool


def arithmetic(draw: Draw) -> Draft:
    kinds = ("symbols", "symbols", "mul", "mul", "add", "sub", "div", "percent", "square", "half", "double", "mod")
    wording = draw.wording("arithmetic", draw.rng.choice(kinds))
    if wording.kind == "symbols":
        expression, result = _symbols(draw)
        prompt = wording.text.format(e=expression)
    else:
        a = draw.number()
        b = draw.second() if wording.kind != "percent" else str(draw.rng.randint(2, 95))
        if wording.kind == "div" and draw.rng.random() < 0.7 and "." not in a:
            a = str(int(b) * draw.rng.randint(3, 400))
        result = oracle.reckoned(wording.kind, Fraction(a), Fraction(b))
        prompt = wording.text.format(a=a, b=b)
        expression = oracle.EXPRESSIONS[wording.kind].format(a=a, b=b)
    text = oracle.plain(result)
    if text is None or not numbers_fit(text, draw.split):
        raise Rejected
    step = Step("calculator", {"expression": expression})
    return Draft([prompt], [Turn((step,), RESULT)], Expected(number=float(text)), wording.text)


def _symbols(draw: Draw) -> tuple[str, Fraction]:
    """A sum in signs, as typed, and its value."""
    rng = draw.rng
    a, b, c = draw.number(), draw.second(), draw.second()
    x, y, z = Fraction(a), Fraction(b), Fraction(c)
    forms: list[tuple[str, Fraction]] = [
        (f"{a} + {b}", x + y), (f"{a} - {b}", x - y), (f"{a} * {b}", x * y), (f"{b} * {a}", x * y),
        (f"{a} / {b}", x / y), (f"({a} + {b}) * {c}", (x + y) * z), (f"{a} * {b} + {c}", x * y + z),
        (f"{a} - {b} - {c}", x - y - z), (f"{a} + {b} * {c}", x + y * z), (f"({a} - {b}) / {c}", (x - y) / z),
        (f"{a} * ({b} + {c})", x * (y + z)), (f"{a} + {b} + {c}", x + y + z), (f"{b} - {a}", y - x),
    ]  # fmt: skip
    text, value = rng.choice(forms)
    return (text if rng.random() < 0.6 else text.replace(" ", "")), value


def _measured(draw: Draw) -> tuple[str, str, str]:
    """A value, its unit and another unit of the same kind, in words."""
    rng = draw.rng
    unit = rng.choice([unit for kind in oracle.UNITS for unit in oracle.UNITS[kind]] + list(oracle.TEMPERATURES) * 2)
    other = rng.choice(oracle.siblings(unit))
    value = draw.number() if rng.random() < 0.7 else str(rng.randint(2, 99))
    return value, _as_typed(rng, unit), _as_typed(rng, other)


def _as_typed(rng: random.Random, unit: str) -> str:
    if unit in oracle.TEMPERATURES and rng.random() < 0.5:
        return unit.capitalize()
    return unit.upper() if unit in ("kb", "mb", "gb", "tb") and rng.random() < 0.4 else unit


def _conversion_result(value: str, source: str, target: str, split: Split) -> float:
    result = oracle.converted(value, source, target)
    text = f"{result:.12f}".rstrip("0").rstrip(".")
    if not 0.001 <= abs(result) < 1e7 or not numbers_fit(text, split):
        raise Rejected
    return result


def _json_number(text: str) -> int | float:
    return float(text) if "." in text else int(text)


def conversion(draw: Draw) -> Draft:
    wording = draw.wording("conversion", draw.rng.choice(("forward", "forward", "forward", "backward")))
    value, source, target = _measured(draw)
    result = _conversion_result(value, source, target, draw.split)
    step = Step("convert", {"value": _json_number(value), "from_unit": source, "to_unit": target})
    prompt = wording.text.format(v=value, u=source, w=target)
    return Draft([prompt], [Turn((step,), CONVERTED)], Expected(number=result, tolerance=1e-4), wording.text)


def date(draw: Draw) -> Draft:
    wording = draw.wording("date", draw.rng.choice(("plus", "plus", "minus")))
    start = entities.year_date(draw.rng, draw.split)
    days = draw.rng.randint(2, 99) if draw.rng.random() < 0.7 else draw_int(draw.rng, 100, 400, draw.split)
    signed = days if wording.kind == "plus" else -days
    result = oracle.moved(start, signed)
    if not numbers_fit(result, draw.split):
        raise Rejected
    step = Step("date_add", {"date": start, "days": signed})
    prompt = wording.text.format(n=days, d=start)
    return Draft([prompt], [Turn((step,), DATED)], Expected(contains=(result,)), wording.text)


# ------------------------------------------------------------------------------------- files and memory


def _spread(draw: Draw, lines: list[str], path: str) -> dict[str, str]:
    draw.rng.shuffle(lines)
    return {path: "\n".join(lines) + "\n"}


def _fits_answer(fact: Fact, others: list[Fact]) -> Expected:
    return Expected(contains=(fact.value,), absent=tuple(each.value for each in others))


def lookup(draw: Draw) -> Draft:
    """Find one of several lines alike: in the notes, or in a file that the prompt names."""
    rng = draw.rng
    table = rng.choice(("notes", "notes", "file", "file", "neutral"))
    wording = draw.wording(table)
    if wording.kind == "whole" and rng.random() < 0.5:
        wording = draw.wording("file", "file")
    fact = draw.fact()
    others = [draw.confusable(fact) for _ in range(rng.randint(1, 4))]
    path = draw.file() if table == "file" or rng.random() < 0.3 else "notes.txt"
    key = fact.key(rng)
    if wording.kind == "whole":
        line = fact.line(rng)
        step = Step("read_file", {"path": path})
        expected = Expected(contains=(fact.value,))
        return Draft([wording.text.format(f=path)], [Turn((step,), "{seen}")], expected, wording.text, {path: line})
    files = _spread(draw, [each.line(rng) for each in (fact, *others)], path)
    if table == "file":
        step = Step("read_file", {"path": path, "query": query_of(key)})
    else:
        step = Step("search_notes", {"query": query_of(key)})
    turn = Turn((step,), fact.told(key))
    rivals = ("recall",) if table == "neutral" else ()
    return Draft([wording.text.format(k=key, f=path)], [turn], _fits_answer(fact, others), wording.text, files, rivals)


def _remembering(draw: Draw, fact: Fact) -> tuple[str, Turn, str]:
    """A prompt that states a fact to keep, what a good agent does with it, and the phrasing."""
    wording = draw.wording("remember")
    said = f"{fact.key(draw.rng)} is {fact.value}"
    opens = wording.text.startswith("{s}")
    prompt = wording.text.format(s=said[0].upper() + said[1:] if opens else said)
    return prompt, Turn((Step("remember", {"content": said}),), STORED), wording.text


def memory(draw: Draw) -> Draft:
    """Remember one or two facts, each in a conversation of its own; later recall one of them."""
    rng = draw.rng
    fact = draw.fact(mine=rng.random() < 0.2)
    others = [draw.confusable(fact)] if rng.random() < 0.35 else []
    told = [_remembering(draw, each) for each in rng.sample([fact, *others], 1 + len(others))]
    wording = draw.wording("recall") if rng.random() < 0.8 else draw.wording("neutral")
    key = fact.key(rng)
    asked = wording.text.format(k=key)
    turn = Turn((Step("recall", {"query": query_of(key)}),), fact.told(key))
    return Draft(
        [*(prompt for prompt, _, _ in told), asked],
        [*(turn for _, turn, _ in told), turn],
        _fits_answer(fact, others),
        wording.text,
        rivals=("search_notes",) if wording.kind == "neutral" else (),
    )


# ------------------------------------------------------------------------------------------- two steps


def two_step(draw: Draw) -> Draft:
    """Find a number or a date, then reckon with it."""
    rng = draw.rng
    wording = draw.wording("then", rng.choice(("mul", "add", "sub", "div", "convert", "convert", "plus", "minus")))
    fact, second, expected, slots, value = _found_then(draw, wording.kind)
    source = rng.choice(("notes", "file", "recall"))
    path = draw.file() if source == "file" else "notes.txt"
    where = rng.choice(SOURCES[source]).format(f=path)
    key = fact.key(rng)
    prompt = wording.text.format(k=key, source=where, **slots)
    first = {
        "notes": Step("search_notes", {"query": query_of(key)}),
        "file": Step("read_file", {"path": path, "query": query_of(key)}),
        "recall": Step("recall", {"query": query_of(key)}),
    }[source]
    answer = {"convert": CONVERTED, "plus": DATED, "minus": DATED}.get(wording.kind, RESULT)
    final = Turn((first, replace(second, thought=fact.told(key))), answer)
    if source == "recall":
        told, turn, _ = _remembering(draw, fact)
        return Draft([told, prompt], [turn, final], expected, wording.text)
    others = [draw.confusable(fact, value) for _ in range(rng.randint(0, 3))]
    files = _spread(draw, [each.line(rng) for each in (fact, *others)], path)
    return Draft([prompt], [final], expected, wording.text, files)


def _found_then(draw: Draw, kind: str) -> tuple[Fact, Step, Expected, dict[str, str], Callable[[], str]]:
    """The fact to find, the second call, what comes out, the slots of the wording, and how to draw more such values."""
    rng = draw.rng
    if kind in ("plus", "minus"):
        fact = draw.fact(lambda: entities.year_date(rng, draw.split), rng.choice(entities.DATED))
        days = rng.randint(2, 99)
        signed = days if kind == "plus" else -days
        result = oracle.moved(fact.value, signed)
        if not numbers_fit(result, draw.split):
            raise Rejected
        step = Step("date_add", {"date": fact.value, "days": signed})
        again = lambda: entities.year_date(rng, draw.split)  # noqa: E731
        return fact, step, Expected(contains=(result,)), {"n": str(days)}, again
    if kind == "convert":
        names, units = rng.choice(entities.MEASURES)
        unit = rng.choice(units.split())
        target = rng.choice(oracle.siblings(unit))
        again = lambda: f"{draw.number()} {unit}"  # noqa: E731
        fact = draw.fact(again, rng.choice(names.split("|")))
        value = fact.value.split()[0]
        number = _conversion_result(value, unit, target, draw.split)
        step = Step("convert", {"value": _json_number(value), "from_unit": unit, "to_unit": target})
        return fact, step, Expected(number=number, tolerance=1e-4), {"w": target}, again
    fact = draw.fact(draw.number, rng.choice(entities.AMOUNTS))
    b = draw.second()
    text = oracle.plain(oracle.reckoned(kind, Fraction(fact.value), Fraction(b)))
    if text is None or not numbers_fit(text, draw.split):
        raise Rejected
    step = Step("calculator", {"expression": oracle.EXPRESSIONS[kind].format(a=fact.value, b=b)})
    return fact, step, Expected(number=float(text)), {"b": b}, draw.number


# ---------------------------------------------------------------------------------------------- errors


def typo(rng: random.Random, name: str) -> str:
    """The name with one letter dropped, doubled or changed, never the first."""
    stem, dot, end = name.partition(".")
    at = rng.randrange(1, len(stem))
    how = rng.random()
    if how < 0.4:
        stem = stem[:at] + stem[at + 1 :]
    elif how < 0.7:
        stem = stem[:at] + stem[at] + stem[at:]
    else:
        stem = stem[:at] + rng.choice("aeioustrn") + stem[at + 1 :]
    return stem + dot + end


def error(draw: Draw) -> Draft:
    """A tool says no: name the nearest and try again, or report what it said."""
    builders = (_by_zero, _misspelt_file, _misspelt_file, _no_file, _misspelt_unit, _no_unit, _no_note, _no_memory)
    return draw.rng.choice(builders)(draw)


def _report(prompt: str, step: Step, said: str, phrasing: str, files: dict[str, str] | None = None) -> Draft:
    return Draft([prompt], [Turn((step,), FAILED)], Expected(contains=(said,)), phrasing, files or {})


def _by_zero(draw: Draw) -> Draft:
    a = draw.number()
    if draw.rng.random() < 0.6:
        text = draw.wording("arithmetic", "div").text
        prompt, expression = text.format(a=a, b=0), f"{a}/0"
    else:
        text = draw.wording("arithmetic", "symbols").text
        expression = f"{a} / 0" if draw.rng.random() < 0.6 else f"{a}/0"
        prompt = text.format(e=expression)
    return _report(prompt, Step("calculator", {"expression": expression}), "by zero", text)


def _misspelt_file(draw: Draw) -> Draft:
    rng = draw.rng
    right = draw.file()
    wrong = typo(rng, right)
    if wrong == right:
        raise Rejected
    wording = draw.wording("file", "file")
    fact = draw.fact()
    others = [draw.confusable(fact) for _ in range(rng.randint(0, 2))]
    files = _spread(draw, [each.line(rng) for each in (fact, *others)], right)
    key = fact.key(rng)
    steps = tuple(Step("read_file", {"path": path, "query": query_of(key)}) for path in (wrong, "{nearest}"))
    prompt = wording.text.format(k=key, f=wrong)
    turn = Turn(steps, fact.told(key))
    return Draft([prompt], [turn], _fits_answer(fact, others), wording.text, files)


def _no_file(draw: Draw) -> Draft:
    wording = draw.wording("file")
    wrong = draw.file()
    files = {draw.file(): draw.fact().line(draw.rng)} if draw.rng.random() < 0.5 else {}
    key = draw.fact().key(draw.rng)
    asked = {"path": wrong} if wording.kind == "whole" else {"path": wrong, "query": query_of(key)}
    prompt = wording.text.format(k=key, f=wrong)
    return _report(prompt, Step("read_file", asked), "no file called", wording.text, files)


def _misspelt_unit(draw: Draw) -> Draft:
    wording = draw.wording("conversion")
    value, source, target = _measured(draw)
    if len(source) < 5 or source.startswith("kilo"):
        raise Rejected
    wrong = typo(draw.rng, source)
    if wrong.casefold() in (source.casefold(), source.casefold()[:-1]):
        raise Rejected
    result = _conversion_result(value, source, target, draw.split)
    number = _json_number(value)
    steps = (
        Step("convert", {"value": number, "from_unit": wrong, "to_unit": target}),
        Step("convert", {"value": number, "from_unit": "{nearest}", "to_unit": target}),
    )
    prompt = wording.text.format(v=value, u=wrong, w=target)
    return Draft([prompt], [Turn(steps, CONVERTED)], Expected(number=result, tolerance=1e-4), wording.text)


def _no_unit(draw: Draw) -> Draft:
    wording = draw.wording("conversion")
    value, source, target = _measured(draw)
    wrong = entities.word(draw.rng, draw.split)
    draw.names.append(wrong)
    source, target = (wrong, target) if draw.rng.random() < 0.6 else (source, wrong)
    step = Step("convert", {"value": _json_number(value), "from_unit": source, "to_unit": target})
    prompt = wording.text.format(v=value, u=source, w=target)
    return _report(prompt, step, "unknown unit", wording.text)


def _no_note(draw: Draw) -> Draft:
    wording = draw.wording("notes")
    key = draw.fact().key(draw.rng)
    files = {"notes.txt": draw.fact().line(draw.rng)}
    step = Step("search_notes", {"query": query_of(key)})
    return _report(wording.text.format(k=key), step, "nothing found", wording.text, files)


def _no_memory(draw: Draw) -> Draft:
    wording = draw.wording("recall")
    key = draw.fact(mine=draw.rng.random() < 0.2).key(draw.rng)
    return _report(
        wording.text.format(k=key), Step("recall", {"query": query_of(key)}), "nothing remembered", wording.text
    )


# -------------------------------------------------------------------------------------- the missing tool

_ONE_TOOL: Final = (arithmetic, conversion, date, lookup, lookup, memory)


def no_tool(draw: Draw) -> Draft:
    """A task of another family, of which only the prompt is kept: the tool that it needs will not be offered."""
    draft = draw.rng.choice(_ONE_TOOL)(draw)
    which = draw.rng.randrange(len(draft.prompts))
    step = draft.turns[which].steps[0]
    rivals = {step.tool, *draft.rivals}
    if step.tool in ("search_notes", "read_file", "recall"):
        rivals |= {"search_notes", "read_file", "recall"}
    return Draft(
        [draft.prompts[which]],
        [Turn((), MISSING)],
        Expected(contains=(NO_TOOL,)),
        draft.phrasing,
        {},
        tuple(sorted(rivals)),
    )


BUILDERS: Final[dict[str, Callable[[Draw], Draft]]] = {
    "arithmetic": arithmetic,
    "conversion": conversion,
    "date": date,
    "lookup": lookup,
    "memory": memory,
    "two_step": two_step,
    "error": error,
    "no_tool": no_tool,
}
