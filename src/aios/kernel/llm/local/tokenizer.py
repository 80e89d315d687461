"""A byte-level BPE of our own with a small vocabulary. Knows no template and no model.

The text is cut into short pieces without backtracking: JSON glue, words (a leading space belongs to the word),
single digits, single other characters. A word that the vocabulary holds together with its space is one token; any
other word is its space, then the merges of its letters. So a rare name has the same tokens wherever it stands, at the
start of a JSON string or behind a space, and a small model copies it by looking back. Every byte is a token, hence any
text can be encoded and comes back unchanged; special tokens are never made from text.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Final

SPECIALS: Final = (
    "<|pad|>",
    "<|bos|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
    "<|call|>",
    "<|end|>",
)
# Pieces of compact JSON that would otherwise cost a small model several steps each; longest first.
GLUE: Final = (
    '","arguments":{"',
    '{"name":"',
    '":{"',
    '":"',
    '","',
    '"}}',
    '"}',
    '{"',
    ',"',
    '":',
    "}}",
    "{}}",
)
_PIECE: Final = re.compile(
    "|".join(re.escape(each) for each in sorted(GLUE, key=len, reverse=True))
    + r"| ?(?:[A-Z]?[a-z]{1,31}|[A-Z]{1,32})|.",
    re.DOTALL,
)
MAX_CACHED: Final = 50_000


def pieces(text: str) -> Iterator[str]:
    """The text cut where tokens may not cross; joined again the pieces are the text."""
    return (match.group() for match in _PIECE.finditer(text))


class Tokenizer:
    """Text to ids and back. Ids: 256 bytes, then glue, spaced words and merges, then the specials."""

    def __init__(self, words: Sequence[str], merges: Sequence[tuple[str, str]]) -> None:
        """`words` are whole pieces that are one token; `merges` join two tokens inside a word, in rank order."""
        learned = [*GLUE, *words, *(left + right for left, right in merges)]
        self.tokens: list[bytes] = [bytes([byte]) for byte in range(256)]
        self.tokens += [each.encode() for each in dict.fromkeys(learned)]
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._whole = {each: self._ids[each.encode()] for each in (*GLUE, *words)}
        self.special: dict[str, int] = {name: len(self.tokens) + i for i, name in enumerate(SPECIALS)}
        self.tokens += [name.encode() for name in SPECIALS]
        self.vocab_size = len(self.tokens)
        self._cache: dict[str, tuple[int, ...]] = {}

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Tokenizer:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(stored["words"], [(left, right) for left, right in stored["merges"]])

    def encode(self, text: str) -> list[int]:
        """Token ids of the text. Lone surrogates, which no UTF-8 can hold, become "?"."""
        ids: list[int] = []
        cache = self._cache
        for match in _PIECE.finditer(text):
            piece = match.group()
            known = cache.get(piece)
            if known is None:
                known = self._piece(piece)
                if len(cache) >= MAX_CACHED:
                    cache.clear()
                cache[piece] = known
            ids.extend(known)
        return ids

    def decode(self, ids: Sequence[int]) -> bytes:
        """The bytes of the ids; specials read as their names."""
        return b"".join(self.tokens[index] for index in ids)

    def _piece(self, piece: str) -> tuple[int, ...]:
        whole = self._whole.get(piece)
        if whole is not None:
            return (whole,)
        if piece[0] == " " and len(piece) > 1:
            return (32, *self._word(piece[1:]))
        if piece.isascii() and piece.isalpha():
            return self._word(piece)
        return tuple(piece.encode("utf-8", "replace"))

    def _word(self, word: str) -> tuple[int, ...]:
        parts = list(word)
        while len(parts) > 1:
            ranked = [(self._ranks.get(pair, 1 << 30), i) for i, pair in enumerate(itertools.pairwise(parts))]
            rank, at = min(ranked)
            if rank == 1 << 30:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return tuple(self._ids[part.encode()] for part in parts)
