"""Privilege groups: which agents are in them, and what they may do with what is shared. Knows no key and no process.

A right is `call:resource`, such as "mem_read:team": `resource` is the name of a block or of a mount. Without a group
that grants it nobody has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from aios.abi.calls import CALLS, nearest

from ..config import ConfigError, GroupSection
from ..process import Place

READS = {
    "mem_read": ("mem_read", "mem_search", "mem_list", "mem_stat", "mem_history"),
    "sto_read": ("sto_read", "sto_list", "sto_retrieve", "sto_history", "sto_diff"),
    "mem_write": ("mem_write", "mem_update"),
    "sto_write": ("sto_write", "sto_create", "sto_move", "sto_clear", "sto_restore", "sto_rollback"),
}
"""A right to read is one to look in every way, a right to write one to change in every way that can be undone."""


class Groups:
    """The groups of a configuration. Raises ConfigError for a right to what is no call."""

    def __init__(self, sections: Iterable[GroupSection]) -> None:
        self._sections = tuple(sections)
        for section in self._sections:
            for right in section.may:
                _check_right(section.name, right)

    def shared_blocks(self) -> frozenset[str]:
        """Names of blocks that some group has a right to."""
        rights = (right.partition(":") for section in self._sections for right in section.may)
        return frozenset(resource for call, _, resource in rights if call.startswith("mem_"))

    def of(self, agent: Place) -> list[str]:
        """Names of the groups that `agent` is in."""
        return [section.name for section in self._sections if _is_member(agent, section.members)]

    def allows(self, agent: Place, call: str, resource: str) -> bool:
        return any(
            _grants(right, call, resource)
            for section in self._sections
            if _is_member(agent, section.members)
            for right in section.may
        )


def _is_member(agent: Place, members: Collection[str]) -> bool:
    """A member is the name of an agent, of any owner, or "owner:agent"; "*" stands for any letters."""
    names = (agent.agent, f"{agent.owner}:{agent.agent}")
    return any(fnmatchcase(name, member) for member in members for name in names)


def _grants(right: str, call: str, resource: str) -> bool:
    granted, _, what = right.partition(":")
    return what == resource and (granted == call or call in READS.get(granted, ()))


def _check_right(group: str, right: str) -> None:
    call, _, resource = right.partition(":")
    if call not in CALLS:
        raise ConfigError(f"group '{group}' may '{right}', and there is no call '{call}'{nearest(call, CALLS)}")
    if not resource:
        raise ConfigError(f"group '{group}' may '{right}', which names no resource: write '{call}:NAME'")
