"""A radix tree over bytes: contents that begin alike are kept once up to where they part. Knows no entry and no clock.

A node is what stands on the way to it; the content of a handle is its labels from the root down. No node has a single
child unless a content ends there: paths are compressed. Nothing here recurses, since dialogues make long thin trees.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from msgspec import Struct

from .sizes import BYTES, POINTER, TUPLE


class Node(Struct, eq=False, gc=False):
    """`heads` are the first bytes of the labels of `kids`, in their order; `uses` is how many contents end here.

    The garbage collector does not look at nodes, since there are millions: who takes one out has to unlink it.
    """

    parent: Node | None
    label: bytes
    uses: int = 0
    heads: bytes = b""
    kids: tuple[Node, ...] = ()


MAX_DEPTH = 4096
"""Nodes that a content may have to be put together of: some tenths of a millisecond."""
NODE = sys.getsizeof(Node(None, b""))
EMPTY = NODE + BYTES
"""Bytes of a tree that holds nothing: its root."""


class Trie:
    """`size` is bytes of memory, Python's own included; `raw` those of all contents, one by one."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._root = Node(None, b"")
        self.size = EMPTY
        self.raw = 0

    def insert(self, content: bytes) -> Node | None:
        """Keep `content`; the handle by which it is read and removed. The same content twice has one handle. None, and
        nothing is kept, if it would be a node more than `MAX_DEPTH` below the root."""
        node, at = self._root, 0
        for _ in range(MAX_DEPTH):
            if at == len(content):
                break
            which = node.heads.find(content[at])
            if which < 0:
                node, at = self._add(node, content[at:]), len(content)
                break
            kid = node.kids[which]
            if not content.startswith(kid.label, at):
                kid = self._split(kid, which, _common(kid.label, content, at))
            node = kid
            at += len(kid.label)
        if at < len(content):
            if not node.uses and len(node.kids) == 1:  # it was split for this
                self._join(node)
            return None
        node.uses += 1
        self.raw += len(content)
        return node

    def read(self, handle: Node) -> bytes:
        """The content."""
        if (node := handle.parent) is None or node.parent is None:
            return handle.label
        labels = [handle.label]
        while node is not None:
            labels.append(node.label)
            node = node.parent
        labels.reverse()
        return b"".join(labels)

    def length(self, handle: Node) -> int:
        """Bytes of the content."""
        length, node = 0, handle
        while node.parent is not None:
            length += len(node.label)
            node = node.parent
        return length

    def remove(self, handle: Node) -> None:
        """One fewer content ends at `handle`. What nobody needs any more is given back."""
        self.raw -= self.length(handle)
        handle.uses -= 1
        if handle.uses or handle is self._root:
            return
        parent = handle.parent
        assert parent is not None
        if len(handle.kids) > 1:
            return
        if handle.kids:
            self._join(handle)
            return
        self._take_out(parent, handle)
        if len(parent.kids) == 1 and not parent.uses and parent is not self._root:
            self._join(parent)

    def clear(self) -> None:
        """Remove everything; handles are worth nothing afterwards."""
        for node in self:
            node.parent, node.kids = None, ()
        self._reset()

    def __iter__(self) -> Iterator[Node]:
        """All nodes but the root, parents after their children."""
        waiting = [self._root]
        order: list[Node] = []
        while waiting:
            node = waiting.pop()
            order.append(node)
            waiting.extend(node.kids)
        return reversed(order[1:])

    # ── nodes ──

    def _add(self, parent: Node, label: bytes) -> Node:
        node = Node(parent, label)
        self._widen(parent, label[:1], node)
        self.size += NODE + BYTES + len(label)
        return node

    def _widen(self, parent: Node, head: bytes, node: Node) -> None:
        before = _size_of_kids(parent)
        parent.heads += head
        parent.kids += (node,)
        self.size += _size_of_kids(parent) - before

    def _take_out(self, parent: Node, node: Node) -> None:
        which, before = parent.heads.index(node.label[0]), _size_of_kids(parent)
        parent.heads = parent.heads[:which] + parent.heads[which + 1 :]
        parent.kids = parent.kids[:which] + parent.kids[which + 1 :]
        node.parent = None
        self.size += _size_of_kids(parent) - before - NODE - BYTES - len(node.label)

    def _split(self, node: Node, which: int, at: int) -> Node:
        """A new node between `node`, the child of that number, and its parent, `at` bytes down. Whoever holds `node`
        holds it on."""
        parent = node.parent
        assert parent is not None
        middle = Node(parent, node.label[:at])
        _replace(parent, which, middle)
        node.parent, node.label = middle, node.label[at:]
        self.size += NODE + BYTES
        self._widen(middle, node.label[:1], node)
        return middle

    def _join(self, node: Node) -> None:
        """Take out `node`, which has one child and no content: the child has its label too."""
        parent, (kid,) = node.parent, node.kids
        assert parent is not None
        _replace(parent, parent.heads.index(node.label[0]), kid)
        kid.parent, kid.label = parent, node.label + kid.label
        node.parent, node.kids = None, ()
        self.size -= NODE + BYTES + _ONE_KID

    def check_integrity(self) -> None:
        """Raises AssertionError when a link, a compressed path or a count is wrong."""
        size = sys.getsizeof(self._root) + sys.getsizeof(self._root.label) + _size_of_kids(self._root)
        for node in self:
            assert node.parent is not None
            assert node in node.parent.kids
            assert node.label
            assert node.uses or len(node.kids) > 1
            size += sys.getsizeof(node) + sys.getsizeof(node.label) + _size_of_kids(node)
        for node in (self._root, *self):
            assert node.heads == b"".join(kid.label[:1] for kid in node.kids)
            assert len(set(node.heads)) == len(node.heads)
            assert all(kid.parent is node for kid in node.kids)
        assert size == self.size, f"{size} bytes are there, and {self.size} are counted"


def _replace(parent: Node, which: int, node: Node) -> None:
    parent.kids = (*parent.kids[:which], node, *parent.kids[which + 1 :])


def _size_of_kids(node: Node) -> int:
    """Python has each single byte once, and one empty tuple."""
    num = len(node.kids)
    return 0 if not num else _ONE_KID if num == 1 else BYTES + TUPLE + num * (1 + POINTER)


_ONE_KID = TUPLE + POINTER


def _common(label: bytes, content: bytes, at: int) -> int:
    """How many bytes `label` and `content` from `at` on have in common: at least the first, and not all of `label`."""
    low, high = 1, min(len(label), len(content) - at)
    while low < high:
        middle = (low + high + 1) // 2
        if content.startswith(label[low:middle], at + low):
            low = middle
        else:
            high = middle - 1
    return low
