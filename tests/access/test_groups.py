"""Who may use what is shared: a right that a group grants, and nothing else."""

from __future__ import annotations

import pytest

from aios.kernel.access import Groups
from aios.kernel.config import ConfigError, GroupSection, byte_size, parse
from aios.kernel.process import Place
from aios.kernel.spaces import NOBODY, Spaces

ALICE, BOB = Place("ann", "alice"), Place("ben", "bob")


def groups(*may: str, members: tuple[str, ...] = ("alice",)) -> Groups:
    return Groups([GroupSection(name="g", members=list(members), may=list(may))])


def test_a_right_holds_for_members_that_call_and_that_resource_only() -> None:
    some = groups("mem_read:team")
    assert some.allows(ALICE, "mem_search", "team")
    assert not some.allows(ALICE, "mem_write", "team")
    assert not some.allows(ALICE, "mem_search", "teams")
    assert not some.allows(BOB, "mem_search", "team")


def test_a_member_may_be_named_with_its_owner_and_with_stars() -> None:
    assert groups("mem_read:t", members=("ann:al*",)).allows(ALICE, "mem_read", "t")
    assert not groups("mem_read:t", members=("ben:al*",)).allows(ALICE, "mem_read", "t")


@pytest.mark.parametrize(("right", "says"), [("mem_raed:t", "mem_read"), ("mem_read", "NAME"), ("mem_read:", "NAME")])
def test_a_right_that_is_none_is_refused_with_what_was_meant(right: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        groups(right)


def test_a_shared_block_is_nobodys_and_any_other_the_callers() -> None:
    spaces = Spaces(groups("mem_read:team").shared_blocks())
    assert spaces.block(ALICE, "team") == spaces.block(BOB, "team") == (Place(NOBODY, ""), "team")
    assert spaces.block(ALICE, "own") == (ALICE, "own")
    assert spaces.block(ALICE, None) == (ALICE, "")


def test_an_agents_own_mount_goes_before_a_shared_one_and_is_no_others() -> None:
    spaces = Spaces()
    spaces.add_mount(Place(NOBODY, ""), "docs")
    spaces.add_mount(ALICE, "docs")
    assert spaces.mount(ALICE, "docs/a.md") == (ALICE, "docs")
    assert spaces.mount(BOB, "docs/a.md") == (Place(NOBODY, ""), "docs")
    assert spaces.is_shared_path(BOB, "docs")
    assert not spaces.is_shared_path(ALICE, "docs")
    spaces.drop_mount(ALICE, "docs")
    assert spaces.is_shared_path(ALICE, "docs")


@pytest.mark.parametrize(("text", "number"), [("64MiB", 64 << 20), ("1.5 GiB", 3 << 29), (4096, 4096), ("12", 12)])
def test_sizes_are_written_with_their_unit(text: str | int, number: int) -> None:
    assert byte_size(text) == number


@pytest.mark.parametrize("text", ["64MB", "lots", "-1", "2000TiB", True])
def test_a_size_that_is_none_is_refused_with_its_place_and_how_to_write_it(text: object) -> None:
    shown = f'"{text}"' if isinstance(text, str) else "true"
    with pytest.raises(ConfigError, match=r"memory.total: expected bytes"):
        parse(f"[memory]\ntotal = {shown}")
