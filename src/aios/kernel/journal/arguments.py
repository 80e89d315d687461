"""Arguments of calls with a key, taken apart into nodes that are stored once, and put together again.

Knows the argument structs of the table and the table of nodes, and nothing of a call's life.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import apsw
import msgspec

from aios.abi.calls import CALLS, Args, convert_args
from aios.abi.errors import BadRequest

from ..database import rows, value
from .records import Node

log = logging.getLogger("aios.journal")

LARGE = 512
"""Bytes of JSON from which an argument is stored by its hash."""
KNOWN_NODES = 100_000

encode = msgspec.json.Encoder(enc_hook=str).encode


def split(args: Args) -> tuple[bytes | None, bytes, list[Node]]:
    """`args` as the tip of a chain of messages, JSON of the rest, and all nodes that both refer to."""
    inline: dict[str, msgspec.Raw] = {}
    large: dict[str, str] = {}
    nodes: list[Node] = []
    tip = None
    for name, wire_name in zip(args.__struct_fields__, args.__struct_encode_fields__, strict=True):
        content = getattr(args, name)
        if content is None:
            continue
        if name == "messages":
            for message in content:
                nodes.append(_chain(tip, encode(message)))
                tip = nodes[-1].hash
            continue
        text = encode(content)
        if len(text) < LARGE:
            inline[wire_name] = msgspec.Raw(text)
        else:
            nodes.append(Node(hashlib.sha256(b"value" + text).digest(), None, text))
            large[wire_name] = nodes[-1].hash.hex()
    return tip, encode({"inline": inline, "large": large}), nodes


def _chain(parent: bytes | None, text: bytes) -> Node:
    return Node(hashlib.sha256(b"chain" + (parent or bytes(32)) + text).digest(), parent, text)


_CHAIN = """
    WITH RECURSIVE chain(parent, body, depth) AS (
        SELECT parent, body, 0 FROM nodes WHERE hash = ?1
        UNION ALL
        SELECT nodes.parent, nodes.body, depth + 1 FROM chain JOIN nodes ON nodes.hash = chain.parent)
    SELECT body, parent FROM chain ORDER BY depth DESC"""


def join(connection: apsw.Connection, name: str, tip: bytes | None, rest: bytes) -> Args | None:
    """What `split` took apart; None when a piece is gone or this kernel has no such call any more."""
    spec = CALLS.get(name)
    parts = msgspec.json.decode(rest)
    found: dict[str, Any] = dict(parts["inline"])
    for field, hash in parts["large"].items():
        text = value(connection, "SELECT body FROM nodes WHERE hash = ?", (bytes.fromhex(hash),))
        if text is None:
            return None
        found[field] = msgspec.json.decode(text)
    if tip is not None:
        chain = rows(connection, _CHAIN, (tip,))
        if not chain or chain[0][1] is not None:
            return None
        found["messages"] = [msgspec.json.decode(body) for body, _ in chain]
    try:
        return convert_args(spec, found) if spec else None
    except BadRequest as error:
        log.warning("a recorded call '%s' cannot be read any more: %s", name, error)
        return None


class Nodes:
    """Which nodes are known to be on disk, so that most are not written again. `slack` is how many seconds the time
    of a node's last use may lag behind."""

    def __init__(self, slack: float) -> None:
        self._slack = slack
        self._known: OrderedDict[bytes, float] = OrderedDict()

    def write(self, connection: apsw.Connection, nodes: Iterable[Node], wall: float) -> list[bytes]:
        """Add the nodes that are not there, and say of the others that they were used, once in a while. The hashes of
        those that were written. On the database's thread."""
        written = []
        for node in nodes:
            if wall - self._known.get(node.hash, -1e18) < self._slack:
                continue
            connection.execute(
                "INSERT INTO nodes VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET used = excluded.used",
                (node.hash, node.parent, wall, len(node.body) + 100, node.body),
            )
            written.append(node.hash)
        return written

    def settle(self, written: list[bytes], wall: float) -> None:
        """They are committed now, and were written at `wall`: what is later here than on the disk could be purged
        before its next use is written. On the event loop."""
        for hash in written:
            self._known[hash] = wall
        while len(self._known) > KNOWN_NODES:
            self._known.popitem(last=False)
