"""Texts found by their words and their meaning, for the rooms that keep them. Knows no room and no call.

A room has an `Index`: rows with texts, each under the name of a scope, which is whose it is. Nothing of a scope can be
told from searches in another: words have the scope's number before them, vectors are compared scope by scope, and the
rarity of a word is that in the scope.

    put ──▶ words of the text, at once (FTS5) ──▶ BM25 ────────┐
      └───▶ its vector, later, in the background ──▶ cosines ──┴──▶ ranks, fused ──▶ rows
"""

from .asking import Asking
from .base import Asked, Embedder, Hit, Mode, Source, Where
from .index import Index
from .lexical import Lexical
from .search import Search

__all__ = ["Asked", "Asking", "Embedder", "Hit", "Index", "Lexical", "Mode", "Search", "Source", "Where"]
