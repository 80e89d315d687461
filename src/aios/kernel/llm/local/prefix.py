"""KV of prompts that begin alike, kept for the next one. Knows tokens and arrays; no sequence, engine or request.

A radix tree whose edges are whole chunks of `CHUNK` tokens. What is kept was made by prefilling, whose bits depend on
the tokens up to the chunk's end and on nothing else, so a sequence that begins with it says the same as one that
computes it anew. What decoding made is never kept: its products have other shapes, and other bits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from .linear import F32

Key = tuple[str, tuple[int, ...]]
"""A chunk's group and tokens."""


class Node:
    """A chunk after its parent's: its keys and values (layers, 2 * heads, chunk, dim), and the chunks seen after it."""

    __slots__ = ("children", "data", "key", "parent")

    def __init__(self, key: Key, data: F32 | None, parent: Node | None) -> None:
        self.key = key
        self.data = data
        self.parent = parent
        self.children: dict[Key, Node] = {}


class PrefixCache:
    """At most `budget` bytes; the least recently used chunk that none follows goes first.

    `group` keeps those apart who must not learn from each other's speed what the other was asked.
    """

    def __init__(self, budget: int, chunk: int) -> None:
        self.budget = budget
        self.chunk = chunk
        self.bytes = 0
        self.num_hits = self.num_misses = self.num_evicted = 0
        """Tokens found, tokens looked for in vain, chunks that had to go."""
        self._root = Node(("", ()), None, None)
        self._order: OrderedDict[Node, None] = OrderedDict()
        """The least recently used first. A node is always older than its parent, so the first one is a leaf."""

    def find(self, group: str, tokens: Sequence[int], start: int = 0) -> list[F32]:
        """The KV of the longest known beginning of `tokens`, chunk by chunk, behind the first `start` tokens (a whole
        number of chunks), which were looked for before. One token at least is left to compute."""
        path = self._walk(group, tokens, (len(tokens) - 1) // self.chunk)
        found = path[start // self.chunk :]
        self._touch(path)
        self.num_hits += len(found) * self.chunk
        self.num_misses += (0 if start else len(tokens)) - len(found) * self.chunk
        return [node.data for node in found if node.data is not None]

    def put(self, group: str, tokens: Sequence[int], data: F32) -> None:
        """Keep `data`, the KV of the last chunk of `tokens` (a whole number of chunks), if what leads to it is kept."""
        depth = len(tokens) // self.chunk - 1
        path = self._walk(group, tokens, depth)
        if len(path) < depth or data.nbytes > self.budget:
            return
        parent = path[-1] if path else self._root
        key = group, tuple(tokens[-self.chunk :])
        if key not in parent.children:
            parent.children[key] = node = Node(key, data, parent)
            self.bytes += data.nbytes
            self._touch([*path, node])
            while self.bytes > self.budget:
                self._evict()

    def has(self, group: str, tokens: Sequence[int]) -> bool:
        """Whether all of `tokens`, a whole number of chunks, is kept."""
        depth = len(tokens) // self.chunk
        return len(self._walk(group, tokens, depth)) == depth

    def clear(self) -> None:
        self._root.children.clear()
        self._order.clear()
        self.bytes = 0

    def statistics(self) -> dict[str, int]:
        return {
            "bytes": self.bytes,
            "budget_bytes": self.budget,
            "chunks": len(self._order),
            "hit_tokens": self.num_hits,
            "missed_tokens": self.num_misses,
            "evicted_chunks": self.num_evicted,
        }

    def check_integrity(self) -> None:
        """Raises AssertionError when the tree, the order and the count of bytes do not agree."""
        seen: list[Node] = []
        pending = [self._root]
        while pending:
            node = pending.pop()
            pending += node.children.values()
            seen += node.children.values()
            assert all(child.parent is node and key == child.key for key, child in node.children.items())
        assert set(seen) == set(self._order), "the tree and the order hold other chunks"
        assert self.bytes == sum(node.data.nbytes for node in seen if node.data is not None) <= self.budget
        age = {node: n for n, node in enumerate(self._order)}
        assert all(age[node] < age[node.parent] for node in seen if node.parent in age), "a parent is older"

    def _walk(self, group: str, tokens: Sequence[int], depth: int) -> list[Node]:
        node = self._root
        path: list[Node] = []
        for start in range(0, depth * self.chunk, self.chunk):
            child = node.children.get((group, tuple(tokens[start : start + self.chunk])))
            if child is None:
                break
            path.append(child)
            node = child
        return path

    def _touch(self, path: list[Node]) -> None:
        for node in reversed(path):
            self._order[node] = None
            self._order.move_to_end(node)

    def _evict(self) -> None:
        node, _ = self._order.popitem(last=False)
        assert node.parent is not None, "the root is never in the order"
        assert node.data is not None
        assert not node.children, "what others follow is never the oldest"
        del node.parent.children[node.key]
        self.bytes -= node.data.nbytes
        self.num_evicted += 1
