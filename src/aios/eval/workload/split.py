"""Which values belong to the test split: decided by a hash, so that no list has to be kept. Knows no task."""

from __future__ import annotations

import random
import re
import zlib
from functools import lru_cache
from typing import Final, Literal

Split = Literal["train", "test"]
Phrasing = Literal["seen", "unseen"]

NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")
MIN_DIGITS: Final = 3
_SHARE: Final = 5  # one in five values, and one in five phrasings, is held out


@lru_cache(maxsize=200_000)
def _bucket(kind: str, value: str) -> int:
    return zlib.crc32(f"{kind}:{value}".encode()) % _SHARE


def is_held_out_number(text: str) -> bool:
    return _bucket("number", text) == 0


def is_held_out_entity(name: str) -> bool:
    return _bucket("entity", name.casefold()) == 0


def is_held_out_phrasing(text: str) -> bool:
    return _bucket("phrasing", text) == 0


def phrasing_order(row: str) -> int:
    """An arbitrary but fixed order of rows: the first of them are held out."""
    return zlib.crc32(f"row:{row}".encode())


def long_numbers(text: str) -> list[str]:
    """The numbers in a text that have three digits or more, as written."""
    return [found for found in NUMBER.findall(text) if len(found.replace(".", "")) >= MIN_DIGITS]


def numbers_fit(text: str, split: Split) -> bool:
    """Does every long number of the text belong to this split?"""
    return all(is_held_out_number(number) == (split == "test") for number in long_numbers(text))


def draw_int(rng: random.Random, low: int, high: int, split: Split) -> int:
    """A whole number of the split between both bounds; the range must hold some."""
    while True:
        value = rng.randint(low, high)
        if numbers_fit(str(value), split):
            return value
