"""Which folders may be mounted, by what names, by whom; and that they are there again after a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mount_world import MountWorld

from aios.abi.calls import StoMount, StoMounts, convert_args, spec_of
from aios.abi.errors import AiosError, BadRequest, Conflict, Denied, NotFound
from aios.kernel.config import ConfigError, MountSection, parse

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MountWorld]:
    world = MountWorld(tmp_path)
    await world.begin()
    yield world
    await world.end()
    world.close()


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("/", "whole machine"),
        ("/proc", "the system itself"),
        ("/proc/self", "the system itself"),
        ("/sys/kernel", "the system itself"),
        ("/dev", "the system itself"),
        ("HOME", "the kernel's home"),
        ("HOME/blobs", "the kernel's home"),
        ("HOME/..", "the kernel's home"),
        ("LINK", "the kernel's home"),
        ("relative/folder", "not absolute"),
        ("~", "not absolute"),
        ("NONE", "there is no folder"),
        ("FILE", "is not a folder"),
    ],
)
async def test_a_folder_that_no_agent_may_be_shown_is_refused_with_a_reason(
    world: MountWorld, folder: str, says: str
) -> None:
    (world.top / "link").symlink_to(world.home)
    (world.top / "file").touch()
    places = {"HOME": world.home, "LINK": world.top / "link", "NONE": world.top / "none", "FILE": world.top / "file"}
    for name, place in places.items():
        folder = folder.replace(name, str(place))
    with pytest.raises((BadRequest, Denied, NotFound), match=says) as refusal:
        await world.mount("x", Path(folder) if folder.startswith("/") else folder)  # type: ignore[arg-type]
    assert refusal.value.param == "folder"
    assert await world.names() == []


async def test_a_name_that_is_taken_or_would_hide_a_folder_is_refused(world: MountWorld) -> None:
    await world.write("work/a.txt", "x", agent="one")
    with pytest.raises(Conflict, match="agent 'one' has a folder 'work'"):
        await world.mount("work")
    with pytest.raises(Conflict, match="agent 'one' has a folder 'work'"):
        await world.mount("work", agent="one")
    await world.mount("work", agent="two")
    other = world.top / "other"
    other.mkdir()
    await world.mount("docs")
    with pytest.raises(Conflict, match="groups have a mount 'docs' already"):
        await world.mount("docs", other)
    assert (await world.mount("docs")).name == "docs"  # once more changes nothing


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "a b", "x" * 65, "a\n", "ü"])
async def test_a_name_that_is_not_one_part_of_a_path_is_refused(world: MountWorld, name: str) -> None:
    with pytest.raises(BadRequest):
        await world.call(convert_args(spec_of("sto_mount"), {"name": name, "folder": str(world.top)}))
    assert await world.names() == []


async def test_what_is_unmounted_is_as_it_was_and_its_versions_are_back_when_it_is_mounted_again(
    world: MountWorld,
) -> None:
    await world.mount()
    await world.write("docs/a.txt", "one")
    await world.unmount()
    assert await world.names() == []
    assert world.text("a.txt") == "one"
    with pytest.raises(NotFound, match="groups have no mount 'docs'"):
        await world.unmount()
    with pytest.raises(NotFound):
        await world.read("docs/a.txt")
    world.put("a.txt", "two")
    await world.mount()
    assert await world.history("docs/a.txt") == [(1, "a"), (2, "outside")]


async def test_a_mount_without_a_folder_has_a_fresh_one_of_the_kernels_own(world: MountWorld) -> None:
    info = await world.call(StoMount(name="team"))
    again = await world.call(StoMount(name="team"))
    assert info.folder == again.folder
    assert str(info.folder).startswith(str(world.home / "mounts" / "team-"))
    await world.write("team/a.txt", "x")
    assert (Path(info.folder) / "a.txt").read_text() == "x"
    await world.end()
    world.close()
    world.home.rename(world.home.with_name("moved"))  # its own folder goes with the home
    world.home = world.home.with_name("moved")
    world.open()
    await world.begin()
    assert await world.read("team/a.txt") == "x"


async def test_mounts_are_there_again_after_a_restart_and_those_of_the_configuration_as_it_says(
    world: MountWorld, tmp_path: Path
) -> None:
    (tmp_path / "conf").mkdir()
    section = MountSection(name="conf", folder=str(tmp_path / "conf"), agent="o:one", read_only=True)
    await world.mount()
    await world.again(section, MountSection(name="own"))
    assert await world.names(agent="one") == ["conf", "docs", "own"]
    await world.write("own/a.txt", "x")
    with pytest.raises(Denied, match="can only be read"):
        await world.write("conf/a.txt", "x", agent="one")
    with pytest.raises(Conflict, match="one of the configuration"):
        await world.unmount("conf", agent="one")
    await world.again(MountSection(name="conf", folder=str(tmp_path / "conf"), agent="o:one"), MountSection(name="own"))
    await world.write("conf/a.txt", "x", agent="one")
    assert await world.read("own/a.txt") == "x"
    await world.again()
    assert await world.names(agent="one") == ["docs"]


async def test_a_folder_of_the_configuration_that_is_not_there_is_no_reason_not_to_start(
    world: MountWorld, tmp_path: Path
) -> None:
    await world.again(MountSection(name="usb", folder=str(tmp_path / "usb")))
    (info,) = (await world.call(StoMounts())).mounts
    assert info.why_gone is not None
    assert info.folder is None  # that is told to admins only
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb" / "a.txt").write_text("x")
    assert await world.read("usb/a.txt") == "x"
    with pytest.raises(ConfigError, match=r"\[\[mount\]\] 'all': '/' cannot be mounted"):
        await world.again(MountSection(name="all", folder="/"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[mount]]\nname = "a b"', "name"),
        ('[[mount]]\nname = "a"\n[[mount]]\nname = "a"', "two mounts are called 'a'"),
        ('[[mount]]\nname = "a"\nagent = "one"', 'agent = "OWNER:AGENT"'),
        ('[[mount]]\nname = "a"\nfolder = "rel"', "not absolute"),
        ('[[mount]]\nname = "a"\nfoldr = "/x"', "did you mean 'folder'"),
    ],
)
async def test_a_mount_that_cannot_be_is_told_when_the_configuration_is_read(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(text)


async def test_an_agent_sees_shared_mounts_that_its_groups_may_look_into_and_an_admin_all(world: MountWorld) -> None:
    await world.mount()
    world.storage.mounts._may_use = lambda agent, mount: agent.agent == "member"
    assert await world.names(agent="member") == ["docs"]
    assert await world.names(agent="other") == []
    assert [m.name for m in (await world.call(StoMounts(), agent="other")).mounts] == []
    infos = world.storage.mounts.infos(("o", "other"), is_admin=True)  # type: ignore[arg-type]
    assert [(info.name, info.folder) for info in infos] == [("docs", str(world.top))]


async def test_a_call_that_waits_while_its_mount_is_taken_away_is_told_so(world: MountWorld) -> None:
    await world.mount()
    await world.write("docs/a.txt", "one")
    mount = world.mounted()
    await world.unmount()
    with pytest.raises(AiosError):
        await mount.current("a.txt")
