"""What an agent was promised: its memory and its files as plain dicts and lists. Knows no kernel.

`after` says what a call that was answered has changed, `plain` all that can be seen, to be compared with what is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

MAX_EARLIER = 32
"""Earlier states of an entry that are kept."""
COUNTED = 100
"""What a version counts beside its content."""
SETTINGS = {"limit": 64 << 10, "watermark": 0.8, "k": 2}
"""Of blocks that were allotted nothing else."""


class State(NamedTuple):
    """An entry at one time."""

    content: str
    kind: str
    metadata: dict[str, Any]
    importance: float | None
    source: str | None
    revision: int


class Version(NamedTuple):
    size: int
    hash: str


@dataclass
class File:
    versions: list[Version]


Folder = dict[str, Any]
"""What is in it by name: files and folders."""


@dataclass
class Known:
    """Of one agent. `blocks` have their entries by id, each as its states, the newest first. `trash` is in the order
    of clearing, with where it was."""

    blocks: dict[str, dict[str, list[State]]] = field(default_factory=lambda: {"": {}})
    allotted: dict[str, dict[str, Any]] = field(default_factory=dict)
    top: Folder = field(default_factory=dict)
    trash: list[tuple[str, Any]] = field(default_factory=list)

    # ── what was promised ──

    def after(self, name: str, args: dict[str, Any], result: dict[str, Any]) -> Known:
        """As it is once that call was carried out, of whose result the id of an entry is needed only. Raises KeyError
        for a call that cannot be."""
        known = copy.deepcopy(self)
        getattr(known, f"_{name}")(args, result)
        return known

    def answer(self, name: str, args: dict[str, Any]) -> dict[str, Any]:
        """What the result of that call must say, as far as that is known beforehand."""
        if name == "mem_update":
            return {"id": args["id"], "revision": self.blocks[args.get("block", "")][args["id"]][0].revision + 1}
        if name == "mem_clear":
            return {"count": len(self.blocks[args.get("block", "")]) if args.get("all") else 1}
        if name in ("sto_write", "sto_create", "sto_rollback"):
            there = self.find(args["path"])
            return {"path": args["path"], "version": len(there.versions) + 1 if isinstance(there, File) else 1}
        if name == "sto_move":
            return {"path": args["to"], "version": _newest(self.find(args["path"]))}
        if name == "sto_restore":
            return {"path": args["path"], "version": _newest(self.cleared(args["path"])[2])}
        if name == "sto_clear":
            gone = [node for _, node in self.trash] if args.get("trash") else [self.find(args["path"])]
            return {"count": sum(1 for node in gone for _ in _walk("", node))}
        return {}

    def plain(self) -> dict[str, Any]:
        """What can be seen of it."""
        live = dict(_below("", self.top))
        lost = [node for _, top in self.trash for _, node in _walk("", top)]
        kept = [node for node in (*live.values(), *lost) if isinstance(node, File)]
        return {
            "entries": self.blocks,
            "blocks": {block: self._block(block) for block in self.blocks},
            "files": {path: node.versions if isinstance(node, File) else "folder" for path, node in live.items()},
            "trash": {path: _stat(node) for path, node in self.trash},
            "count": {
                "entries": len(live) + len(lost),
                "versions": sum(len(file.versions) for file in kept),
                "bytes": sum(map(_counted, kept)),
                "trash_entries": len(lost),
                "trash_bytes": sum(_counted(node) for node in lost if isinstance(node, File)),
            },
        }

    def _block(self, block: str) -> dict[str, Any]:
        entries = self.blocks[block].values()
        raw = sum(len(states[0].content.encode()) for states in entries)
        return SETTINGS | self.allotted.get(block, {}) | {"entries": len(entries), "raw": raw}

    # ── looking ──

    def find(self, path: str) -> Any:
        """A file, a folder or None."""
        node: Any = self.top
        for name in path.split("/"):
            node = node.get(name) if isinstance(node, dict) else None
        return node

    def cleared(self, path: str) -> tuple[Folder | None, str, Any]:
        """What was cleared last at `path`: the folder that it is in, its name there, and it. The folder is None for
        what was cleared by itself."""
        for was, top in reversed(self.trash):
            if path == was:
                return None, was, top
            if path.startswith(f"{was}/"):
                *above, name = path[len(was) + 1 :].split("/")
                node = top
                for each in above:
                    node = node.get(each) if isinstance(node, dict) else None
                if isinstance(node, dict) and name in node:
                    return node, name, node[name]
        raise KeyError(path)

    def paths(self, kind: type) -> list[str]:
        return [path for path, node in _below("", self.top) if isinstance(node, kind)]

    def ids(self, block: str) -> list[str]:
        return list(self.blocks.get(block, ()))

    # ── calls ──

    def _mem_write(self, args: dict[str, Any], result: dict[str, Any]) -> None:
        state = State(
            args["content"], args.get("kind", "note"), args.get("metadata", {}), args.get("importance"),
            args.get("source"), 1,
        )  # fmt: skip
        self.blocks[args.get("block", "")][result["id"]] = [state]

    def _mem_update(self, args: dict[str, Any], result: dict[str, Any]) -> None:
        states = self.blocks[args.get("block", "")][args["id"]]
        changes = {name: args[name] for name in ("content", "kind", "metadata", "importance") if name in args}
        states.insert(0, states[0]._replace(revision=states[0].revision + 1, **changes))
        del states[MAX_EARLIER + 1 :]

    def _mem_clear(self, args: dict[str, Any], result: dict[str, Any]) -> None:
        block = self.blocks[args.get("block", "")]
        if args.get("all"):
            block.clear()
        else:
            del block[args["id"]]

    def _mem_alloc(self, args: dict[str, Any], result: dict[str, Any]) -> None:
        block = args.get("block", "")
        self.blocks.setdefault(block, {})
        self.allotted.setdefault(block, {}).update({name: args[name] for name in SETTINGS if name in args})

    def _sto_create(self, args: dict[str, Any], result: dict[str, Any]) -> None:
        self._put(args["path"], {} if args.get("kind") == "folder" else File([version_of("")]))

    def _sto_write(self, args: dict[str, Any], result: dict[str, Any]) -> None:
        file = self.find(args["path"])
        if file is None:
            self._put(args["path"], file := File([]))
        file.versions.append(version_of(args["content"]))

    def _sto_rollback(self, args: dict[str, Any], result: dict[str, Any]) -> None:
        versions = self.find(args["path"]).versions
        versions.append(versions[args["version"] - 1])

    def _sto_move(self, args: dict[str, Any], result: dict[str, Any]) -> None:
        self._put(args["to"], self._take(args["path"]))

    def _sto_clear(self, args: dict[str, Any], result: dict[str, Any]) -> None:
        if args.get("trash"):
            self.trash.clear()
        else:
            self.trash.append((args["path"], self._take(args["path"])))

    def _sto_restore(self, args: dict[str, Any], result: dict[str, Any]) -> None:
        folder, name, node = self.cleared(args["path"])
        if folder is None:
            last = max(n for n, (was, _) in enumerate(self.trash) if was == name)
            del self.trash[last]
        else:
            del folder[name]
        self._put(args["path"], node)

    def make_folders_above(self, path: str) -> Folder:
        """The one that `path` is in."""
        folder = self.top
        for each in path.split("/")[:-1]:
            folder = folder.setdefault(each, {})
        return folder

    def _put(self, path: str, node: Any) -> None:
        self.make_folders_above(path)[path.rpartition("/")[2]] = node

    def _take(self, path: str) -> Any:
        above, _, name = path.rpartition("/")
        return (self.find(above) if above else self.top).pop(name)


def version_of(content: str) -> Version:
    data = content.encode()
    return Version(len(data), sha256(data).hexdigest()[:16])


def _below(path: str, folder: Folder) -> Iterator[tuple[str, Any]]:
    for name, node in folder.items():
        yield from _walk(f"{path}/{name}" if path else name, node)


def _walk(path: str, node: Any) -> Iterator[tuple[str, Any]]:
    yield path, node
    if isinstance(node, dict):
        yield from _below(path, node)


def _newest(node: Any) -> int:
    return len(node.versions) if isinstance(node, File) else 1


def _counted(node: Any) -> int:
    return sum(version.size + COUNTED for version in node.versions) if isinstance(node, File) else 0


def _stat(node: Any) -> list[Any]:
    return ["file", node.versions[-1].size, len(node.versions)] if isinstance(node, File) else ["folder", 0, 1]
