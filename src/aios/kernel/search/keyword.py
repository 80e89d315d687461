"""Texts of scopes that hold words of a query, ranked by BM25. Knows no vector.

Which texts to weigh is decided by the rarer words; those that many texts hold say little, and reading all who hold
them would take long. How rare a word is, is how rare it is in the scopes that are searched, all together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

import apsw
import msgspec
import numpy as np

from ..database import as_list, rows, value
from .base import Asked
from .tables import Scope, Tables
from .words import bm25, rarity, terms_of

COMMON = 4000
"""Texts that hold a word, of which no more are read for it."""
SCAN = 2000
"""The newest texts that are looked through as they stand, when none holds a word of the query."""
SCAN_CHARS = 32 << 20
"""Characters of theirs after which the looking ends; a text may be a megabyte."""
LOOK = 50
"""Texts that are read at once for that."""
UNHELD = 0.25
"""How much a word of the query that no text holds counts, beside one that hardly any does."""


class Held(NamedTuple):
    """What texts hold of a query, by row: their BM25, and the share of its words, each counting as much as it is rare.
    Those that no text holds count less, since a query's "what" and "where" may be among them."""

    scores: dict[int, float]
    shares: dict[int, float]


class _Term(NamedTuple):
    """A word as each scope writes it where a text has it."""

    spellings: tuple[str, ...]
    holders: int
    rarity: float

    @property
    def text(self) -> str:
        return " OR ".join(self.spellings)


def by_words(connection: apsw.Connection, tables: Tables, scopes: Sequence[Scope], asked: Asked, count: int) -> Held:
    """Of up to `count` texts that hold words of the query."""
    terms, mass = _terms(connection, tables, scopes, asked.text)
    seeds = [term for term in terms if term.holders <= COMMON]
    chosen = _candidates(connection, tables, asked, [(term.text, term.rarity) for term in seeds], count)
    common = terms[len(seeds) :]
    if len(chosen) < count and common:
        lists = [(common[0].text, common[0].rarity)]
        if len(common) > 1:  # who holds both may be older than all who are read for one
            lists.append((f"({common[0].text}) AND ({common[1].text})", common[1].rarity))
        more = _candidates(connection, tables, asked, lists, count)
        chosen = list(dict.fromkeys([*chosen, *more]))
        seeds.append(common[0])
    if not chosen:
        return Held({}, {})
    scores, shares = _scored(connection, tables, scopes, asked, terms, seeds, chosen[:count])
    return Held(scores, {row: share / mass for row, share in shares.items()})


def _terms(
    connection: apsw.Connection, tables: Tables, scopes: Sequence[Scope], query: str
) -> tuple[list[_Term], float]:
    """Those of the query that any text holds, the rarest first; and how rare all of its words are together."""
    sql = f"SELECT count(*) FROM {tables.words} WHERE {tables.words} MATCH ?"
    num_texts = sum(scope.texts for scope in scopes)
    found, mass = [], 0.0
    for spellings in zip(*(terms_of(scope.number, query) for scope in scopes), strict=True):
        counts = {text: value(connection, sql, (text,)) for text in spellings}
        if holders := sum(counts.values()):
            held = tuple(text for text in spellings if counts[text])
            found.append(_Term(held, holders, rarity(num_texts, holders)))
        mass += rarity(num_texts, holders) * (1.0 if holders else UNHELD)
    return sorted(found, key=lambda term: term.holders), mass


def _candidates(
    connection: apsw.Connection, tables: Tables, asked: Asked, lists: Sequence[tuple[str, float]], count: int
) -> list[int]:
    """Up to `count` rows that match any of `lists`, the first those whose matches weigh most in all."""
    if not lists:
        return []
    sql, bindings = f"SELECT rowid FROM {tables.words} WHERE {tables.words} MATCH ?", ()
    if asked.where is not None:
        also = tables.fulfils(f"{tables.words}.rowid", asked.where)
        sql, bindings = f"{sql} AND {also.sql}", also.bindings
    sql += f" ORDER BY rowid DESC LIMIT {COMMON}"
    read = [np.array(rows(connection, sql, (text, *bindings)), np.int64).reshape(-1) for text, _ in lists]
    all_rows, where = np.unique(np.concatenate(read), return_inverse=True)
    weights = np.repeat([weight for _, weight in lists], [len(each) for each in read])
    worth = np.bincount(where, weights, minlength=len(all_rows))
    best: list[int] = all_rows[np.lexsort((all_rows, worth))[::-1][:count]].tolist()
    return best


def _scored(
    connection: apsw.Connection,
    tables: Tables,
    scopes: Sequence[Scope],
    asked: Asked,
    terms: Sequence[_Term],
    seeds: Sequence[_Term],
    chosen: list[int],
) -> Held:
    """Those of `chosen`, each of which holds one of `seeds`, that may be found: by all `terms`. A share is still how
    rare the words are that a text holds, together."""
    connection.register_fts5_function("tally", _tally)
    any_seed, any_term = (" OR ".join(term.text for term in each) for each in (seeds, terms))
    own = tables.fulfils(f"{tables.words}.rowid", tables.among(scopes, asked.where))
    num_seeds = sum(len(term.spellings) for term in seeds)
    sql = (
        f"SELECT rowid, tally({tables.words}, {num_seeds}) FROM {tables.words}"
        f" WHERE {tables.words} MATCH ? AND rowid BETWEEN ? AND ?"
        # The plus keeps the rows from being looked up one by one, each with a search of its own.
        f" AND +rowid IN (SELECT value FROM json_each(?)) AND {own.sql}"
    )
    match = f"({any_seed}) AND ({any_term})"
    found = dict(rows(connection, sql, (match, min(chosen), max(chosen), as_list(chosen), *own.bindings)))
    tallies = [_by_term(msgspec.json.decode(text), terms) for text in found.values()]
    rarities = [term.rarity for term in terms]
    scores = dict(zip(found, bm25(rarities, tallies), strict=True))
    return Held(scores, {row: _held(rarities, counts) for row, (_, *counts) in zip(found, tallies, strict=True)})


def _held(rarities: Sequence[float], counts: Sequence[int]) -> float:
    return sum(rarity for rarity, count in zip(rarities, counts, strict=True) if count)


def _tally(api: apsw.FTS5ExtensionApi, /, *skipped: Any) -> str:
    """Of the row at hand: its number of words, and how often it holds each spelling but the first `skipped`."""
    counts = [len(api.phrase_locations(n)[0]) for n in range(skipped[0], api.phrase_count)]
    return f"[{api.column_size(0)},{','.join(map(str, counts))}]"


def _by_term(tally: list[int], terms: Sequence[_Term]) -> list[int]:
    """A text is of one scope, and has a term in that one's spelling."""
    if len(tally) == 1 + len(terms):
        return tally
    counts = iter(tally[1:])
    return [tally[0], *(sum(islice(counts, len(term.spellings))) for term in terms)]


def by_looking(connection: apsw.Connection, tables: Tables, scopes: Sequence[Scope], asked: Asked) -> Held:
    """The first of the newest rows whose text holds the query as it stands, upper or lower case."""
    text, source = asked.text.strip().lower(), tables.source
    if not text:
        return Held({}, {})
    where = tables.among(scopes, asked.where)
    sql = f"SELECT row FROM {source.table} AS t WHERE {where.sql} ORDER BY row DESC LIMIT {SCAN}"
    newest = [row for (row,) in rows(connection, sql, where.bindings)]
    found: dict[int, float] = {}
    num_chars = 0
    for at in range(0, len(newest), LOOK):
        texts = source.texts(connection, newest[at : at + LOOK])
        for row in newest[at : at + LOOK]:
            held = texts.get(row, "").lower()
            if text in held:
                found[row] = -float(len(found))
            num_chars += len(held)
            if len(found) >= asked.k or num_chars >= SCAN_CHARS:
                return Held(found, dict.fromkeys(found, 1.0))
    return Held(found, dict.fromkeys(found, 1.0))
