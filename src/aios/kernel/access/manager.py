"""What each call needs the right to: one rule a call, and no call without a rule. Knows keys by their `Keys` only.

An agent is an owner's agent: two owners may each have a "writer", and neither sees the other's. The rules:

* Models, tools, memory and files are the caller's own. Their calls cannot even name somebody else, so they are allowed,
  but for blocks and mounts that are shared (`kernel/spaces.py`): those take a right, which the caller's groups have.
* Mounting a folder of the machine takes an admin.
* What leaves the trash is gone for good, so a process of an agent may not empty it: that takes a key of the agent that
  is no process's, which a person has.
* A process may be looked at, waited for, signalled and reniced by an admin; by a key of its agent; by a process of its
  agent that is itself or stands above it. Only an admin may lower a nice value.
* A process may be started by an admin for any agent; by others for their own agent or one below it in name: "writer"
  may start "writer/critic". That child's memory and files are its own.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from aios.abi.calls import CallSpec
from aios.abi.errors import Denied, NotFound, Unauthorized

from ..database import Database, HomeError
from ..process import Place, Principal, Process
from ..spaces import Spaces
from .base import CheckCount, Lookup
from .groups import Groups
from .keys import KeyInfo, Keys, write_key

ADMIN_KEY = "admin.key"
Rule = Callable[[Principal, Any, Lookup], None]
"""Raises Denied, saying why."""


class AccessManager:
    """Keys and rules of one home. `check` is passed by every call before it is queued."""

    def __init__(self, database: Database, groups: Groups | None = None, spaces: Spaces | None = None) -> None:
        self._keys = Keys(database)
        self._groups = groups or Groups(())
        self._spaces = spaces or Spaces()
        self._count = CheckCount()

    # ── keys ──

    def mint(
        self, *, owner: str, agent: str, pid: int | None = None, is_admin: bool = False, name: str = ""
    ) -> tuple[str, str]:
        """A new key: (id, text), valid at once. The text is shown this once. With `pid` it dies with that process."""
        return self._keys.mint(owner=owner, agent=agent, pid=pid, is_admin=is_admin, name=name)

    def authenticate(self, text: str | None) -> Principal:
        """Who asks. Raises Unauthorized."""
        try:
            return self._keys.authenticate(text)
        except Unauthorized:
            self._count.num_unauthorized += 1
            raise

    async def settled(self) -> None:
        """Wait until all that was minted or revoked is on disk, so that it may be told to somebody."""
        await self._keys.settled()

    def revoke(self, key_id: str) -> None:
        """Raises NotFound."""
        self._keys.revoke(key_id)

    def revoke_process(self, pid: int) -> None:
        """All keys of a process that has ended."""
        self._keys.revoke_process(pid)

    def purge(self, before: float, alive: Collection[int]) -> None:
        """Forget the keys of processes that vanished with an earlier kernel before the time `before`."""
        self._keys.purge(before, alive)

    def keys(self) -> list[KeyInfo]:
        return self._keys.infos()

    def ensure_admin(self, home: Path) -> None:
        """See to it that `home`'s admin.key holds a valid admin key. Blocks shortly; for boot."""
        path = home / ADMIN_KEY
        try:
            if self._keys.authenticate(path.read_text().strip()).is_admin:
                path.chmod(0o600)
                return
        except (FileNotFoundError, UnicodeDecodeError, Unauthorized):
            pass
        except OSError as error:
            raise HomeError(f"{path} cannot be read ({error.strerror}): give it back to the kernel's user") from None
        for info in self._keys.infos():
            if info.is_admin and info.name == ADMIN_KEY:
                self._keys.revoke(info.id)
        _, text = self._keys.mint(owner="admin", agent="admin", pid=None, is_admin=True, name=ADMIN_KEY)
        self._keys.settle()
        try:
            write_key(path, text)
        except OSError as error:
            raise HomeError(f"{path} cannot be written ({error.strerror}): make the home writable") from None

    # ── the check ──

    def check(self, principal: Principal, spec: CallSpec, args: Any, processes: Lookup) -> None:
        """Return if `principal` may make this call with these arguments. Raises Denied, saying why; NotFound for a
        process that is not there. A call that has no rule is denied."""
        try:
            rule = RULES.get(spec.name)
            if rule is None:
                raise Denied(f"no rule allows {spec.name}", code="no_rule")
            if rule is not _own:
                rule(principal, args, processes)
            for resource in self._shared(principal, spec, args):
                self._check_group(principal, spec, resource)
        except (Denied, NotFound):
            self._count.num_denied += 1
            raise
        self._count.num_allowed += 1

    def _shared(self, principal: Principal, spec: CallSpec, args: Any) -> list[str]:
        """The shared blocks or mounts that the call is about."""
        if spec.module == "memory":
            block: str | None = getattr(args, "block", None)
            return [block] if block is not None and self._spaces.is_shared_block(block) else []
        if spec.module == "storage":
            caller = Place(principal.owner, principal.agent)
            return [path.partition("/")[0] for path in _paths(args) if self._spaces.is_shared_path(caller, path)]
        return []

    def _check_group(self, principal: Principal, spec: CallSpec, resource: str) -> None:
        caller = Place(principal.owner, principal.agent)
        if not (principal.is_admin or self._groups.allows(caller, spec.name, resource)):
            raise Denied(
                f"'{resource[:80]}' is shared, and no group of agent '{caller.agent[:80]}' may {spec.name} there: "
                f'a [[group]] with it among its members and "{spec.name}:{resource[:80]}" in its may would allow it',
                code="not_in_group",
            )

    def statistics(self) -> dict[str, int]:
        count = self._count
        return {
            "keys": len(self._keys.infos()),
            "allowed": count.num_allowed,
            "denied": count.num_denied,
            "unauthorized": count.num_unauthorized,
        }


# ── the rules ──


def _own(principal: Principal, args: Any, processes: Lookup) -> None:
    """The caller's own agent, which the module takes from the call's process and from nowhere else."""


def _paths(args: Any) -> list[str]:
    """The paths that a storage call names, in the one spelling that shared mounts are known by. What is no path is
    refused by the room."""
    where = getattr(args, "where", None)
    found = (getattr(args, "path", None), getattr(args, "to", None), where.path if where is not None else None)
    return [unicodedata.normalize("NFC", path) for path in found if path and isinstance(path, str)]


def _clear(principal: Principal, args: Any, processes: Lookup) -> None:
    if args.trash and principal.pid is not None and not principal.is_admin:
        raise Denied(
            "what leaves the trash is gone for good, so a process may not empty it: ask the person who runs this "
            f"agent, who may with a key of it ('aios keys new NAME --agent {principal.agent[:80]}')",
            code="trash_is_for_people",
            param="trash",
        )


def _admin(principal: Principal, args: Any, processes: Lookup) -> None:
    if not principal.is_admin:
        raise Denied(
            "only an admin may show agents a folder of the machine, or take it away again: ask the person who runs "
            "this kernel ('aios fs mount')",
            code="admin_only",
        )


def _target(principal: Principal, args: Any, processes: Lookup) -> None:
    target = processes.get(args.pid)
    if not (principal.is_admin or _is_below(principal, target, processes)):
        raise Denied(
            f"process {target.pid} is not yours: a key reaches the processes of its own agent and their children",
            code="not_your_process",
            param="pid",
        )


def _is_below(principal: Principal, target: Process, processes: Lookup) -> bool:
    """Whether `target` is the principal's process or of its agent (a key without a process), or a child of such."""
    step: Process | None = target
    while step is not None:
        if step.owner != principal.owner:
            return False
        if step.pid == principal.pid if principal.pid is not None else step.agent == principal.agent:
            return True
        step = _parent(step, processes)
    return False


def _parent(process: Process, processes: Lookup) -> Process | None:
    if process.parent is None:
        return None
    try:
        return processes.get(process.parent)
    except NotFound:
        return None  # ended long ago: nobody below it is reached through it any more


def _nice(principal: Principal, args: Any, processes: Lookup) -> None:
    _target(principal, args, processes)
    current = processes.get(args.pid).nice
    if args.nice < current and not principal.is_admin:
        raise Denied(
            f"only an admin may lower a nice value (process {args.pid} has {current})", code="nice_denied", param="nice"
        )


def _spawn(principal: Principal, args: Any, processes: Lookup) -> None:
    if principal.is_admin:
        return
    own = principal.agent
    if args.agent != own and not args.agent.startswith(f"{own}/"):
        raise Denied(
            f"agent '{own}' may start processes of '{own}' and of agents named '{own}/…', not of '{args.agent[:80]}'",
            code="spawn_denied",
            param="agent",
        )
    least = processes.get(principal.pid).nice if principal.pid is not None else 0
    if args.nice < least:
        raise Denied(f"only an admin may start a process below nice {least}", code="nice_denied", param="nice")


RULES: dict[str, Rule] = {
    **dict.fromkeys(("llm_generate", "llm_embed", "tool_list", "tool_run", "acc_check", "proc_list"), _own),
    **dict.fromkeys(("mem_alloc", "mem_write", "mem_update", "mem_read", "mem_history", "mem_search"), _own),
    **dict.fromkeys(("mem_list", "mem_clear", "mem_stat"), _own),
    **dict.fromkeys(("sto_create", "sto_write", "sto_read", "sto_list", "sto_move", "sto_restore"), _own),
    **dict.fromkeys(("sto_history", "sto_diff", "sto_rollback", "sto_share", "sto_stat", "sto_retrieve"), _own),
    "sto_clear": _clear,
    **dict.fromkeys(("sto_mount", "sto_unmount"), _admin),
    "sto_mounts": _own,
    **dict.fromkeys(("proc_signal", "proc_wait"), _target),
    "proc_nice": _nice,
    "proc_spawn": _spawn,
}
"""Every call of the table has its rule here; a test says so."""
