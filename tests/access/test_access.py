"""Keys and rules: who is let in, who reaches what, and that silence is no."""

from __future__ import annotations

import asyncio
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from aios.abi.calls import CALLS, CallSpec, Effect, Empty, ProcNice, ProcSignal, ProcSpawn, ProcWait, StoClear
from aios.abi.errors import AiosError, Denied, NotFound, Stopping, Unauthorized
from aios.kernel.access import RULES, AccessManager
from aios.kernel.database import Database, HomeError, value
from aios.kernel.process import Principal, ProcessTable


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "aios.db")
    yield database
    database.close()


@pytest.fixture
def access(database: Database) -> AccessManager:
    return AccessManager(database)


# ── keys ──


def test_a_key_says_who_asks(access: AccessManager) -> None:
    key_id, text = access.mint(owner="o", agent="a", name="laptop")
    assert text.startswith("sk-aios-")
    assert len(text) >= 8 + 43
    assert access.authenticate(text) == Principal("o", "a", None, False, key_id)
    (info,) = access.keys()
    assert (info.id, info.owner, info.agent, info.name, info.is_admin) == (key_id, "o", "a", "laptop", False)


def test_keys_outlive_a_restart_and_are_nowhere_written(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "aios.db")
    _, text = AccessManager(database).mint(owner="o", agent="a")
    database.close()
    assert all(text.encode() not in path.read_bytes() for path in tmp_path.iterdir())
    database = Database.open(tmp_path / "aios.db")
    assert AccessManager(database).authenticate(text).agent == "a"
    database.close()


@pytest.mark.parametrize("is_revoked", [False, True], ids=["minted", "revoked"])
def test_what_the_disk_refused_is_written_before_it_is_said_to_be_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_revoked: bool
) -> None:
    def full(*_: object) -> None:
        raise apsw.FullError("database or disk is full")

    database = Database.open(tmp_path / "aios.db")
    access = AccessManager(database)
    key_id, _ = access.mint(owner="o", agent="a")
    asyncio.run(access.settled())
    with monkeypatch.context() as patch:
        patch.setattr(database._writer, "_together", full)
        if is_revoked:
            access.revoke(key_id)
        else:
            key_id, _ = access.mint(owner="o", agent="b")
        with pytest.raises(Stopping):
            asyncio.run(access.settled())
    asyncio.run(access.settled())
    database.close()
    database = Database.open(tmp_path / "aios.db")
    infos = AccessManager(database).keys()
    assert any(info.id == key_id for info in infos) is not is_revoked
    database.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no API key was sent"),
        ("", "no API key was sent"),
        ("sk-proj-abc", "start with 'sk-aios-'"),
        ("sk-aios-", "not known"),
        ("sk-aios-" + "A" * 43, "not known"),
        ("sk-aios-\ud800", "not known"),
        ("sk-aios-" + "A" * 1_000_000, "not known"),
    ],
)
def test_a_key_that_is_not_known_is_refused_with_what_to_do(access: AccessManager, text: Any, message: str) -> None:
    access.mint(owner="o", agent="a")
    with pytest.raises(Unauthorized, match=message) as refusal:
        access.authenticate(text)
    assert len(refusal.value.message) < 300
    assert access.statistics()["unauthorized"] == 1


def test_a_key_opens_only_when_it_is_whole_and_nothing_more(access: AccessManager) -> None:
    _, text = access.mint(owner="o", agent="a")
    for near in (text[:-1], text + "A", text[:-1] + ("A" if text[-1] != "A" else "B"), text.swapcase(), f" {text}"):
        with pytest.raises(Unauthorized):
            access.authenticate(near)
    assert access.authenticate(text).agent == "a"


def test_a_revoked_key_is_worth_nothing_now_and_later(
    tmp_path: Path, access: AccessManager, database: Database
) -> None:
    key_id, text = access.mint(owner="o", agent="a")
    access.revoke(key_id)
    with pytest.raises(Unauthorized, match="revoked"):
        access.authenticate(text)
    with pytest.raises(NotFound, match="no key"):
        access.revoke(key_id)
    database.run_now(lambda c: None)
    with pytest.raises(Unauthorized):
        AccessManager(database).authenticate(text)


def test_the_keys_of_a_process_die_with_it_and_no_others(access: AccessManager, database: Database) -> None:
    texts = {pid: access.mint(owner="o", agent="a", pid=pid)[1] for pid in (None, 1, 2)}
    access.revoke_process(1)
    access.revoke_process(77)
    assert access.authenticate(texts[None]).pid is None
    assert access.authenticate(texts[2]).pid == 2
    with pytest.raises(Unauthorized, match="its process ended"):
        access.authenticate(texts[1])
    database.run_now(lambda c: None)
    assert database.read(lambda c: value(c, "SELECT count(*) FROM keys WHERE pid = 1")) == 0


def test_old_keys_of_processes_that_live_are_not_purged(access: AccessManager) -> None:
    texts = {pid: access.mint(owner="o", agent="a", pid=pid)[1] for pid in (None, 1, 2)}
    access.purge(before=float("inf"), alive={1})
    assert [access.authenticate(texts[pid]).pid for pid in (None, 1)] == [None, 1]
    with pytest.raises(Unauthorized):
        access.authenticate(texts[2])


def test_the_home_has_an_admin_key_that_only_its_user_can_read(tmp_path: Path, access: AccessManager) -> None:
    access.ensure_admin(tmp_path)
    path = tmp_path / "admin.key"
    text = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert access.authenticate(text.strip()).is_admin
    access.ensure_admin(tmp_path)
    assert path.read_text() == text


@pytest.mark.parametrize("damage", ["gone", "garbage", "another", "binary"])
def test_an_admin_key_that_is_lost_or_wrong_is_replaced_and_the_old_one_revoked(
    tmp_path: Path, access: AccessManager, damage: str
) -> None:
    access.ensure_admin(tmp_path)
    path = tmp_path / "admin.key"
    old = path.read_text().strip()
    match damage:
        case "gone":
            path.unlink()
        case "garbage":
            path.write_text("garbage")
        case "another":
            path.write_text(access.mint(owner="o", agent="a")[1])
        case "binary":
            path.write_bytes(b"\xff\xfe\x00")
    access.ensure_admin(tmp_path)
    assert access.authenticate(path.read_text().strip()).is_admin
    with pytest.raises(Unauthorized):
        access.authenticate(old)
    admins = [info for info in access.keys() if info.is_admin]  # noqa: SIM118 - no dict
    assert len(admins) == 1


def test_an_admin_key_that_others_could_read_is_closed_again(tmp_path: Path, access: AccessManager) -> None:
    access.ensure_admin(tmp_path)
    os.chmod(tmp_path / "admin.key", 0o644)
    access.ensure_admin(tmp_path)
    assert stat.S_IMODE((tmp_path / "admin.key").stat().st_mode) == 0o600


def test_an_admin_key_that_cannot_be_written_is_one_clear_sentence(tmp_path: Path, access: AccessManager) -> None:
    (tmp_path / "admin.key").mkdir()
    with pytest.raises(HomeError, match=r"admin\.key cannot be"):
        access.ensure_admin(tmp_path)


# ── rules ──


class World:
    """Processes of two owners: 1 a, its child 2 a/x, its grandchild 3 b; 4 another a; 5 b; 6 a of another owner."""

    def __init__(self) -> None:
        self.table = ProcessTable()
        for agent, owner, parent in (
            ("a", "o", None), ("a/x", "o", 1), ("b", "o", 2), ("a", "o", None), ("b", "o", None), ("a", "p", None),
        ):  # fmt: skip
            self.table.spawn(agent, owner, wall=0.0, parent=parent)


KEYS = {
    "admin": (Principal("admin", "admin", None, True), {1, 2, 3, 4, 5, 6}),
    "agent a": (Principal("o", "a"), {1, 2, 3, 4}),
    "agent b": (Principal("o", "b"), {3, 5}),
    "process 1": (Principal("o", "a", 1), {1, 2, 3}),
    "process 2": (Principal("o", "a/x", 2), {2, 3}),
    "process 3": (Principal("o", "b", 3), {3}),
    "a of another owner": (Principal("p", "a"), {6}),
    "a stranger": (Principal("q", "c"), set()),
}


@pytest.mark.parametrize(("who", "pid"), list(itertools.product(KEYS, range(1, 7))))
def test_a_key_reaches_its_own_processes_and_those_below(access: AccessManager, who: str, pid: int) -> None:
    principal, reach = KEYS[who]
    for name, args in (
        ("proc_signal", ProcSignal(pid=pid, signal="kill")),
        ("proc_wait", ProcWait(pid=pid)),
        ("proc_nice", ProcNice(pid=pid, nice=5)),
    ):
        assert allows(access, principal, name, args) == (pid in reach)


def allows(access: AccessManager, principal: Principal, name: str, args: Any) -> bool:
    try:
        access.check(principal, CALLS[name], args, World().table)
    except Denied:
        return False
    return True


def test_a_process_may_fill_the_trash_and_only_a_person_empties_it(access: AccessManager) -> None:
    agent, person = Principal("o", "a", 1), Principal("o", "a")
    assert allows(access, agent, "sto_clear", StoClear(path="notes"))
    assert allows(access, person, "sto_clear", StoClear(path="notes", trash=True))
    with pytest.raises(Denied, match=r"gone for good.*aios keys new NAME --agent a"):
        access.check(agent, CALLS["sto_clear"], StoClear(path="notes", trash=True), World().table)


def test_a_process_that_is_not_there_is_not_found(access: AccessManager) -> None:
    with pytest.raises(NotFound):
        access.check(Principal("o", "a"), CALLS["proc_wait"], ProcWait(pid=99), World().table)


@pytest.mark.parametrize(
    ("who", "agent", "is_allowed"),
    [
        ("admin", "anything", True),
        ("agent a", "a", True),
        ("agent a", "a/critic", True),
        ("agent a", "ab", False),
        ("agent a", "b", False),
        ("process 2", "a", False),
        ("process 2", "a/x/y", True),
        ("process 2", "a/y", False),
    ],
)
def test_an_agent_starts_itself_and_agents_below_it(
    access: AccessManager, who: str, agent: str, is_allowed: bool
) -> None:
    assert allows(access, KEYS[who][0], "proc_spawn", ProcSpawn(agent=agent)) == is_allowed


def test_only_an_admin_lowers_a_nice_value(access: AccessManager) -> None:
    admin, agent = KEYS["admin"][0], KEYS["agent a"][0]
    for nice, is_allowed in ((-1, False), (0, True), (19, True)):
        assert allows(access, agent, "proc_nice", ProcNice(pid=1, nice=nice)) == is_allowed
        assert allows(access, agent, "proc_spawn", ProcSpawn(agent="a", nice=nice)) == is_allowed
        assert allows(access, admin, "proc_nice", ProcNice(pid=1, nice=nice))
        assert allows(access, admin, "proc_spawn", ProcSpawn(agent="x", nice=nice))


def test_a_process_starts_no_child_that_is_less_nice_than_itself(access: AccessManager) -> None:
    table = ProcessTable()
    process = table.spawn("a", "o", wall=0.0, nice=10)
    who, spec = Principal("o", "a", process.pid), CALLS["proc_spawn"]
    for nice in (10, 19):
        access.check(who, spec, ProcSpawn(agent="a", nice=nice), table)
    with pytest.raises(Denied, match="below nice 10"):
        access.check(who, spec, ProcSpawn(agent="a", nice=9), table)


def test_every_call_of_the_table_has_a_rule_and_a_call_without_one_is_denied(access: AccessManager) -> None:
    assert set(RULES) == set(CALLS)
    unknown = CallSpec("proc_format_disk", "kernel", ProcWait, Empty, Effect.IRREVERSIBLE, "")
    with pytest.raises(Denied, match="no rule"):
        access.check(Principal("admin", "admin", None, True), unknown, ProcWait(pid=1), World().table)


def test_a_table_that_breaks_lets_nobody_through(access: AccessManager) -> None:
    class Broken:
        def get(self, pid: int) -> Any:
            raise NotFound("gone")

    with pytest.raises(AiosError):
        access.check(Principal("o", "a", 1), CALLS["proc_signal"], ProcSignal(pid=1, signal="kill"), Broken())


def test_checks_are_counted(access: AccessManager) -> None:
    allows(access, Principal("o", "a"), "proc_list", Empty())
    allows(access, Principal("o", "b"), "proc_wait", ProcWait(pid=1))
    counts = access.statistics()
    assert (counts["allowed"], counts["denied"]) == (1, 1)
