"""The built-in tools as pure functions: arithmetic, units, dates, line search. Knows no kernel, no clock.

Every function takes plain values and returns the text an agent reads. What cannot be done raises
`ToolFault`, whose message is for the agent: what was wrong and, if there is one, the nearest valid name.
`BUILTIN_TOOLS` is the table of names, descriptions and JSON schemas that agents are offered.
"""

from __future__ import annotations

import datetime
import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any, Final, NamedTuple


class ToolFault(ValueError):
    """The tool could not do what it was asked; the message is for the agent."""


REMEMBERED: Final = "remembered"  # what `remember` answers


class BuiltinTool(NamedTuple):
    name: str
    description: str
    parameters: dict[str, Any]


def _schema(optional: str = "", /, **properties: str) -> dict[str, Any]:
    """A type a parameter; all are required but the optional one."""
    return {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": [name for name in properties if name != optional],
        "additionalProperties": False,
    }


BUILTIN_TOOLS: Final[tuple[BuiltinTool, ...]] = (
    BuiltinTool("calculator", "Evaluate an arithmetic expression.", _schema(expression="string")),
    BuiltinTool(
        "convert",
        "Convert a value from one unit to another.",
        _schema(value="number", from_unit="string", to_unit="string"),
    ),
    BuiltinTool("date_add", "Add days to a date (YYYY-MM-DD).", _schema(date="string", days="integer")),
    BuiltinTool("search_notes", "Search the notes for matching lines.", _schema(query="string")),
    BuiltinTool(
        "read_file",
        "Read a file, or only its lines that match a query.",
        _schema("query", path="string", query="string"),
    ),
    BuiltinTool("remember", "Store a fact in memory.", _schema(content="string")),
    BuiltinTool("recall", "Find facts in memory.", _schema(query="string")),
)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None when nothing is near."""
    by_fold = {each.casefold(): each for each in known}
    hits = difflib.get_close_matches(name.casefold(), list(by_fold), n=1, cutoff=0.6)
    return by_fold[hits[0]] if hits else None


# ---------------------------------------------------------------------------------------------- calculator

MAX_EXPRESSION: Final = 200
MAX_DEPTH: Final = 30
MAX_EXPONENT: Final = 64
MAX_MAGNITUDE: Final = 10**30
_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*|\.\d+)|(\*\*|//|[-+*/%()]))")
_SAME_SIGN = str.maketrans({"×": "*", "÷": "/", "−": "-", "·": "*"})


def calculator(expression: str) -> str:
    """Evaluate an arithmetic expression: + - * / // % ** and parentheses, exactly."""
    if len(expression) > MAX_EXPRESSION:
        raise ToolFault(f"expression longer than {MAX_EXPRESSION} characters")
    return format_number(_Parser(_lex(expression)).parse())


def format_number(value: Fraction) -> str:
    """Whole numbers in full, others in at most ten significant digits without trailing zeros."""
    if value.denominator == 1:
        return str(value.numerator)
    rounded = Context(prec=10).divide(Decimal(value.numerator), Decimal(value.denominator))
    text = format(rounded, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _lex(expression: str) -> list[str]:
    text = expression.translate(_SAME_SIGN).strip()
    tokens: list[str] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ToolFault(f"cannot read {text[at:].strip()[:12]!r} in expression")
        tokens.append(match.group(1) or match.group(2))
        at = match.end()
    if not tokens:
        raise ToolFault("empty expression")
    return tokens


class _Parser:
    """Precedence climbing over a list of tokens; values are exact fractions of bounded size."""

    LEVELS: Final[dict[str, int]] = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2}

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0

    def parse(self) -> Fraction:
        value = self._binary(1)
        if self.at < len(self.tokens):
            raise ToolFault(f"unexpected {self._peek()!r} in expression")
        return value

    def _peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self.at += 1
        return token

    def _binary(self, level: int) -> Fraction:
        left = self._unary()
        while self.LEVELS.get(self._peek(), 0) >= level:
            sign = self._take()
            left = _bounded(_apply(sign, left, self._binary(self.LEVELS[sign] + 1)))
        return left

    def _unary(self) -> Fraction:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ToolFault(f"expression nested deeper than {MAX_DEPTH}")
        sign = 1
        while self._peek() in ("+", "-"):
            sign = -sign if self._take() == "-" else sign
        value = sign * self._power()
        self.depth -= 1
        return value

    def _power(self) -> Fraction:
        base = self._atom()
        if self._peek() != "**":
            return base
        self._take()
        return _bounded(_raise(base, self._unary()))

    def _atom(self) -> Fraction:
        token = self._take()
        if token == "(":
            value = self._binary(1)
            if self._take() != ")":
                raise ToolFault("missing ')' in expression")
            return value
        if not token or not (token[0].isdigit() or token[0] == "."):
            raise ToolFault(f"expected a number, found {token!r}" if token else "expression ends too early")
        return _bounded(Fraction(token))


def _apply(sign: str, left: Fraction, right: Fraction) -> Fraction:
    if sign in ("/", "//", "%") and right == 0:
        raise ToolFault("division by zero")
    operations: dict[str, Callable[[], Fraction]] = {
        "+": lambda: left + right,
        "-": lambda: left - right,
        "*": lambda: left * right,
        "/": lambda: left / right,
        "//": lambda: Fraction(left // right),
        "%": lambda: left % right,
    }
    return operations[sign]()


def _raise(base: Fraction, exponent: Fraction) -> Fraction:
    if abs(exponent) > MAX_EXPONENT:
        raise ToolFault(f"exponent beyond {MAX_EXPONENT}")
    if base == 0 and exponent < 0:
        raise ToolFault("division by zero")
    if exponent.denominator == 1:
        return Fraction(base ** int(exponent))
    if base < 0:
        raise ToolFault("root of a negative number")
    power = float(base) ** float(exponent)
    return Fraction(power).limit_denominator(10**12) if math.isfinite(power) else Fraction(MAX_MAGNITUDE + 1)


def _bounded(value: Fraction) -> Fraction:
    if abs(value) > MAX_MAGNITUDE or value.denominator > MAX_MAGNITUDE**3:
        raise ToolFault("result too large")
    return value


# ------------------------------------------------------------------------------------------------- convert


def _table(*rows: str) -> dict[str, Fraction]:
    """`"1000 km kilometer kilometers"` makes each of the names worth 1000 of the base unit."""
    factors: dict[str, Fraction] = {}
    for row in rows:
        factor, *names = row.split()
        factors.update(dict.fromkeys(names, Fraction(factor)))
    return factors


UNITS: Final[dict[str, dict[str, Fraction]]] = {
    "length": _table(
        "1 m meter meters metre metres",
        "1000 km kilometer kilometers kilometre kilometres",
        "0.01 cm centimeter centimeters centimetre centimetres",
        "0.001 mm millimeter millimeters millimetre millimetres",
        "1609.344 mi mile miles",
        "0.9144 yd yard yards",
        "0.3048 ft foot feet",
        "0.0254 in inch inches",
    ),
    "mass": _table(
        "1 kg kilogram kilograms kilo kilos",
        "0.001 g gram grams",
        "0.000001 mg milligram milligrams",
        "1000 t ton tons tonne tonnes",
        "0.45359237 lb lbs pound pounds",
        "0.028349523125 oz ounce ounces",
    ),
    "volume": _table(
        "1 l liter liters litre litres",
        "0.001 ml milliliter milliliters millilitre millilitres",
        "3.785411784 gal gallon gallons",
        "0.473176473 pt pint pints",
        "0.2365882365 cup cups",
    ),
    "time": _table(
        "1 s sec second seconds",
        "60 min minute minutes",
        "3600 h hr hour hours",
        "86400 d day days",
        "604800 week weeks",
        "0.001 ms millisecond milliseconds",
    ),
    "speed": _table("1 m/s mps", "5/18 km/h kmh kph", "0.44704 mph mi/h", "463/900 kn knot knots"),
    "data": _table(
        "1 b byte bytes",
        "1000 kb kilobyte kilobytes",
        "1000000 mb megabyte megabytes",
        "1000000000 gb gigabyte gigabytes",
        "1000000000000 tb terabyte terabytes",
    ),
    "area": _table(
        "1 m2 sqm",
        "1000000 km2",
        "10000 ha hectare hectares",
        "4046.8564224 acre acres",
        "0.09290304 ft2 sqft",
    ),
}
# A temperature is scale * value + offset in kelvin.
TEMPERATURES: Final[dict[str, tuple[Fraction, Fraction]]] = {
    name: (Fraction(scale), Fraction(offset))
    for names, scale, offset in (
        ("c celsius", "1", "273.15"),
        ("f fahrenheit", "5/9", "45967/180"),
        ("k kelvin", "1", "0"),
    )
    for name in names.split()
}


def convert(value: float, from_unit: str, to_unit: str) -> str:
    """Convert a value from one unit to another; the answer has at most six significant digits."""
    if not math.isfinite(value) or abs(value) > 1e15:
        raise ToolFault("value out of range")
    source, target = _unit(from_unit), _unit(to_unit)
    exact = Fraction(str(value))
    if source in TEMPERATURES and target in TEMPERATURES:
        (a, b), (c, d) = TEMPERATURES[source], TEMPERATURES[target]
        return f"{_six_digits((a * exact + b - d) / c)} {target}"
    for factors in UNITS.values():
        if source in factors and target in factors:
            return f"{_six_digits(exact * factors[source] / factors[target])} {target}"
    raise ToolFault(f"cannot convert {source} to {target}")


def _unit(name: str) -> str:
    wanted = name.strip().casefold()
    known = [unit for factors in UNITS.values() for unit in factors] + list(TEMPERATURES)
    if wanted in known:
        return wanted
    near = nearest(wanted, known)
    raise ToolFault(f"unknown unit '{name[:40]}'" + (f"; nearest: '{near}'" if near else ""))


def _six_digits(value: Fraction) -> str:
    rounded = Context(prec=6).divide(Decimal(value.numerator), Decimal(value.denominator))
    text = format(rounded, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


# ------------------------------------------------------------------------------------- dates, lines, files


def date_add(date: str, days: int) -> str:
    """Add days (negative to go back) to a date written YYYY-MM-DD."""
    try:
        start = datetime.date.fromisoformat(date.strip())
    except ValueError:
        raise ToolFault(f"not a date: '{date[:40]}'; write YYYY-MM-DD") from None
    try:
        return (start + datetime.timedelta(days=int(days))).isoformat()
    except OverflowError:
        raise ToolFault("date out of range") from None


_COMMON_WORDS = (
    "a an and are at be by did do does for from had has have how i in is it its many me much my of on or our"
    " s that the their this to was we were what when where which who whom whose will with you your"
)
_STOP = frozenset(_COMMON_WORDS.split())


def keywords(text: str) -> frozenset[str]:
    """The words a search goes by: lower case, without the commonest ones, plural s taken off."""
    words = (word for word in re.findall(r"\w+", text.casefold()) if word not in _STOP)
    return frozenset(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words)


def best_lines(lines: Iterable[str], query: str, limit: int) -> list[str]:
    """The lines sharing most keywords with the query, rare words first; ties keep their order."""
    wanted = keywords(query)
    kept = [line.strip() for line in lines if line.strip()]
    shared = [wanted & keywords(line) for line in kept]
    spread = {word: sum(word in each for each in shared) for word in wanted}
    scores = [sum(1.0 + 1.0 / spread[word] for word in sorted(each)) for each in shared]
    order = sorted((index for index in range(len(kept)) if scores[index] > 0), key=lambda i: (-scores[i], i))
    return list(dict.fromkeys(kept[index] for index in order))[:limit]


def search_lines(texts: Mapping[str, str], query: str, limit: int = 5) -> str:
    """The lines of all these files that match the query best, one below the other."""
    found = best_lines((line for path in sorted(texts) for line in texts[path].splitlines()), query, limit)
    if not found:
        raise ToolFault(f"nothing found for '{query[:80]}'")
    return "\n".join(found)


def recall_lines(facts: Iterable[str], query: str, limit: int = 3) -> str:
    """The remembered facts that match the query best, one below the other."""
    found = best_lines((line for fact in facts for line in fact.splitlines()), query, limit)
    if not found:
        raise ToolFault(f"nothing remembered about '{query[:80]}'")
    return "\n".join(found)


def missing_file(path: str, known: Iterable[str]) -> str:
    """What to tell an agent that asked for a file which is not there."""
    near = nearest(path, known)
    return f"no file called '{path[:80]}'" + (f"; nearest: '{near}'" if near else "")
