"""Whether an agent's memory and files are what it was promised, as it sees them by calls. Knows no kill."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aios.abi.errors import NotFound

from .known import Known, State, Version, version_of

Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Make a call as the agent: (name, arguments) → result."""


async def seen(ask: Ask, blocks: list[str]) -> dict[str, Any]:
    """What `Known.plain` says, of what is."""
    entries, about = {}, {}
    for block in blocks:
        where = {"block": block} if block else {}
        stat = await ask("mem_stat", where)
        entries[block] = await _entries(ask, where)
        about[block] = {name: stat[name] for name in ("limit", "watermark", "k", "entries", "raw")}
    files = await _files(ask, "")
    trash = (await ask("sto_list", {"trash": True}))["entries"]
    stat = await ask("sto_stat", {})
    return {
        "entries": entries,
        "blocks": about,
        "files": files,
        "trash": {each["path"]: [each["kind"], each["size"], each["version"]] for each in trash},
        "count": {name: stat[name] for name in ("entries", "versions", "bytes", "trash_entries", "trash_bytes")},
    }


async def _entries(ask: Ask, where: dict[str, str]) -> dict[str, list[State]]:
    found: dict[str, list[State]] = {}
    for each in (await ask("mem_list", {**where, "limit": 1000}))["entries"]:
        states = [_state(each)]
        if each["revision"] > 1:
            was = await ask("mem_history", {**where, "id": each["id"]})
            states += map(_state, was["entries"])
        found[each["id"]] = states
    return found


def _state(entry: dict[str, Any]) -> State:
    content = entry["content"] if entry.get("fault") is None else f"(damaged: {entry['fault']})"
    return State(
        content, entry["kind"], entry["metadata"], entry.get("importance"), entry.get("source"), entry["revision"]
    )


async def _files(ask: Ask, path: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in (await ask("sto_list", {"path": path}))["entries"]:
        if each["kind"] == "folder":
            found[each["path"]] = "folder"
            found |= await _files(ask, each["path"])
        else:
            found[each["path"]] = await _versions(ask, each["path"])
    return found


async def _versions(ask: Ask, path: str) -> list[Version]:
    history = await ask("sto_history", {"path": path, "limit": 1000})
    numbers = sorted(each["version"] for each in history["revisions"])
    read = [await ask("sto_read", {"path": path, "version": number}) for number in numbers]
    sizes = {each["version"]: each["size"] for each in history["revisions"]}
    return [
        version_of(file["content"]) if sizes[file["version"]] == file["size"] else Version(-1, "sizes differ")
        for file in read
    ]


def difference(promised: dict[str, Any], found: dict[str, Any], path: str = "") -> str | None:
    """Where the first thing is that is otherwise; None where all is the same."""
    for name in dict.fromkeys([*promised, *found]):
        here = f"{path} {name!r}"
        if name not in found:
            return f"{here}: {_short(promised[name])} is not there"
        if name not in promised:
            return f"{here}: {_short(found[name])} is there and never was promised"
        if isinstance(promised[name], dict) and isinstance(found[name], dict):
            if (inner := difference(promised[name], found[name], here)) is not None:
                return inner
        elif promised[name] != found[name]:
            return f"{here}: {_short(found[name])} instead of {_short(promised[name])}"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:150]} … {text[-150:]}"


async def lost_words(ask: Ask, known: Known, sample: Callable[[list[str]], list[str]]) -> str | None:
    """Whether some of the entries are found by the words that nothing else has; if not, which."""
    for block, entries in known.blocks.items():
        where = {"block": block} if block else {}
        for id in sample(list(entries)):
            word = entries[id][0].content.rpartition("\n")[2].split(" ")[0]
            hits = await ask("mem_search", {**where, "query": word, "k": 50, "mode": "keyword"})
            if id not in [each["id"] for each in hits["entries"]]:
                return f"a search for {word} does not find {id} in block {block!r}"
    return None


async def found_words(ask: Ask, block: str, words: list[str]) -> str | None:
    """Whether something is found by words that are nobody's any more; if so, which."""
    where = {"block": block} if block else {}
    for word in words:
        try:
            hits = await ask("mem_search", {**where, "query": word, "k": 50, "mode": "keyword"})
        except NotFound:
            continue
        if wrong := [each["id"] for each in hits["entries"] if word in each["content"].split()]:
            return f"a search for {word}, which was forgotten, finds {wrong}"
    return None
