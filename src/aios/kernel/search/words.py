"""Words of texts as the full-text index holds them, and how rows are ranked by them. Knows no table.

Each word is written with the number of its scope before it, so that scopes share no list of rows: what one costs and
how rare its words are does not depend on what others write. Words are letters and digits only, so nothing that anybody
writes means something to the index's own language.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence

MAX_WORD = 64
"""Characters of a word that count."""
MAX_TERMS = 32
"""Words of a query that are looked for; the rest of a longer one is ignored."""

_MARKS = re.compile("[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670]")
"""Accents and points of vowels, which many leave out."""
_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Scripts that put no spaces between words, or not between all: Thai to Khmer, Chinese, Japanese, Korean."""
_INDIC = "\u0900-\u0963\u0966-\u0dff"
"""Their vowels are marks that belong to the word."""
_WORD = re.compile(f"([{_UNSPACED}]+)|((?:[^\\W_{_UNSPACED}]|[{_INDIC}]){{1,{MAX_WORD}}})[^\\W_{_UNSPACED}]*")
_ASCII = re.compile(f"([A-Za-z0-9]{{1,{MAX_WORD}}})[A-Za-z0-9]*")


def words_of(text: str) -> list[str]:
    """All words of `text`. Where no spaces tell them apart: each two neighbouring letters, and the last one alone."""
    if text.isascii():
        return _ASCII.findall(text.lower())
    plain = unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFKD", text))).casefold()
    found: list[str] = []
    for run, word in _WORD.findall(plain):
        if word:
            found.append(word)
        else:
            found += (run[i : i + 2] for i in range(len(run)))
    return found


def indexed(scope: int, text: str) -> str:
    """What the index is given of a text."""
    words = words_of(text)
    return f"{scope}x" + f" {scope}x".join(words) if words else ""


def terms_of(scope: int, query: str) -> list[str]:
    """The words of `query` as terms of the index's language, each once."""
    words = list(dict.fromkeys(words_of(query)))[: MAX_TERMS + 1]
    # The last letter of a run stands alone. Beside its pair it says nothing, by itself it may begin any pair.
    spaced = [word for n, word in enumerate(words) if not (n and _is_letter(word))]
    return [f'"{scope}x{word}"{"*" if _is_letter(word) else ""}' for word in spaced[:MAX_TERMS]]


def _is_letter(word: str) -> bool:
    return len(word) == 1 and re.match(f"[{_UNSPACED}]", word) is not None


def rarity(num_texts: int, num_holders: int) -> float:
    """How much it says that a text holds a term which `num_holders` of `num_texts` hold."""
    return math.log(1 + max(num_texts - num_holders + 0.5, 0.5) / (num_holders + 0.5))


def bm25(rarities: Sequence[float], tallies: Iterable[Sequence[int]]) -> list[float]:
    """Okapi BM25 (Robertson and Zaragoza 2009, k1 = 1.2, b = 0.75) of texts by their tallies: the number of words, then
    how often each term occurs."""
    found = list(tallies)
    mean = sum(size for size, *_ in found) / (len(found) or 1) or 1.0
    return [
        sum(
            weight * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * size / mean))
            for weight, count in zip(rarities, counts, strict=True)
        )
        for size, *counts in found
    ]
