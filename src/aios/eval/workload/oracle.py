"""Right answers worked out apart from the tools that are judged. Knows units, sums and dates, no tool."""

from __future__ import annotations

import datetime
from fractions import Fraction
from typing import Final

# Words for units in prompts, with their worth in one base unit of the kind.
UNITS: Final[dict[str, dict[str, str]]] = {
    "length": {
        "km": "1000", "kilometers": "1000", "m": "1", "meters": "1", "cm": "0.01", "centimeters": "0.01",
        "mm": "0.001", "miles": "1609.344", "yards": "0.9144", "feet": "0.3048", "inches": "0.0254",
    },
    "mass": {
        "kg": "1", "kilograms": "1", "g": "0.001", "grams": "0.001", "lb": "0.45359237",
        "pounds": "0.45359237", "oz": "0.028349523125", "ounces": "0.028349523125", "tons": "1000",
    },
    "volume": {
        "liters": "1", "ml": "0.001", "milliliters": "0.001", "gallons": "3.785411784", "pints": "0.473176473",
        "cups": "0.2365882365",
    },
    "time": {"seconds": "1", "minutes": "60", "hours": "3600", "days": "86400", "weeks": "604800"},
    "speed": {"km/h": "5/18", "mph": "0.44704", "m/s": "1", "knots": "463/900"},
    "data": {"kb": "1", "mb": "1000", "gb": "1000000", "tb": "1000000000", "megabytes": "1000", "gigabytes": "1000000"},
    "area": {"hectares": "10000", "acres": "4046.8564224", "km2": "1000000"},
}  # fmt: skip
TEMPERATURES: Final = ("celsius", "fahrenheit", "kelvin")


def kind_of(unit: str) -> str:
    """The kind a unit word belongs to."""
    name = unit.casefold()
    return "temperature" if name in TEMPERATURES else next(kind for kind in UNITS if name in UNITS[kind])


def siblings(unit: str) -> list[str]:
    """The other words of the same kind."""
    kind = kind_of(unit)
    words = TEMPERATURES if kind == "temperature" else tuple(UNITS[kind])
    return [word for word in words if word != unit.casefold() and not _same(kind, word, unit.casefold())]


def _same(kind: str, one: str, other: str) -> bool:
    return kind != "temperature" and UNITS[kind][one] == UNITS[kind][other]


def converted(value: str, source: str, target: str) -> float:
    """The value in the target unit, to six significant digits."""
    source, target = source.casefold(), target.casefold()
    kind = kind_of(source)
    if kind == "temperature":
        return float(f"{_from_celsius(_to_celsius(Fraction(value), source), target):.6g}")
    factor = Fraction(UNITS[kind][source]) / Fraction(UNITS[kind][target])
    return float(f"{float(Fraction(value) * factor):.6g}")


def _to_celsius(value: Fraction, unit: str) -> Fraction:
    if unit == "fahrenheit":
        return (value - 32) * Fraction(5, 9)
    return value - Fraction("273.15") if unit == "kelvin" else value


def _from_celsius(value: Fraction, unit: str) -> float:
    if unit == "fahrenheit":
        return float(value * Fraction(9, 5) + 32)
    return float(value + Fraction("273.15") if unit == "kelvin" else value)


def moved(date: str, days: int) -> str:
    return (datetime.date.fromisoformat(date) + datetime.timedelta(days=days)).isoformat()


def reckoned(kind: str, a: Fraction, b: Fraction) -> Fraction:
    """The result of one of the worded sums."""
    match kind:
        case "mul":
            return a * b
        case "add":
            return a + b
        case "sub":
            return a - b
        case "div":
            return a / b
        case "percent":
            return a * b / 100
        case "square":
            return a * a
        case "half":
            return a / 2
        case "double":
            return a * 2
        case "mod":
            return a % b
    raise ValueError(f"no such sum: {kind!r}")


EXPRESSIONS: Final = {
    "mul": "{a}*{b}",
    "add": "{a}+{b}",
    "sub": "{a}-{b}",
    "div": "{a}/{b}",
    "percent": "{a}*{b}/100",
    "square": "{a}**2",
    "half": "{a}/2",
    "double": "{a}*2",
    "mod": "{a}%{b}",
}


def plain(value: Fraction) -> str | None:
    """The value written out, or None when it needs more than four decimals."""
    scaled = value * 10_000
    if scaled.denominator != 1:
        return None
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.4f}".rstrip("0").rstrip(".")
