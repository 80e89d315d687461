"""Nothing leads out of a mounted folder: no name, no link, and no folder that is swapped for one in between."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import tempfile
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from escapes import SECRET, escapes, outside, swapping

from aios.abi.errors import AiosError, BadRequest, Conflict, Denied, NotFound
from aios.kernel.storage.mounts import beneath, exchange, naming, staged
from aios.kernel.storage.mounts.beneath import Beneath
from aios.kernel.storage.mounts.faults import Changed, Gone


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A folder with a file, beside one that is none of its business and that links in it point to."""
    (tmp_path / "outside" / "deep").mkdir(parents=True)
    (tmp_path / "outside" / "secret").write_text(SECRET)
    (tmp_path / "outside" / "deep" / "secret").write_text(SECRET)
    top = tmp_path / "top"
    (top / "sub" / "inner").mkdir(parents=True)
    (top / "sub" / "a.txt").write_text("inside")
    (top / "b.txt").write_text("inside")
    for link, target in {
        "out": "../outside", "abs": str(tmp_path / "outside"), "root": "/", "up": "..", "self": ".",
        "sub/up": "../..", "file": "../outside/secret", "loop": "loop", "nowhere": "../outside/none",
    }.items():  # fmt: skip
        (top / link).symlink_to(target)
    return top


@pytest.fixture
def folder(top: Path) -> Beneath:
    return Beneath(str(top))


def write(folder: Beneath, path: str, content: str) -> None:
    found = folder.find(path)
    stage = folder.stage(path)
    try:
        stage.write(content.encode())
        stage.commit(found.signature if found else None)
    finally:
        stage.discard()


def read(folder: Beneath, path: str) -> str:
    descriptor, _ = folder.open(path)
    with os.fdopen(descriptor, "rb") as file:
        return file.read().decode()


def names(folder: Beneath, path: str = "") -> list[str]:
    return [entry.path for entry in folder.list(path)[0]]


# ── files and folders ──


def test_a_file_is_read_as_it_was_written_and_its_folders_are_made(folder: Beneath, top: Path) -> None:
    write(folder, "new/er/file.txt", "one")
    write(folder, "new/er/file.txt", "two")
    assert read(folder, "new/er/file.txt") == (top / "new/er/file.txt").read_text() == "two"
    assert names(folder, "new/er") == ["new/er/file.txt"]
    assert not [name for _, _, files in os.walk(top) for name in files if name.startswith(".aios")]


def test_a_replaced_file_keeps_its_mode_and_a_new_one_has_the_usual(folder: Beneath, top: Path) -> None:
    (top / "b.txt").chmod(0o640)
    write(folder, "b.txt", "x")
    assert (top / "b.txt").stat().st_mode & 0o7777 == 0o640
    write(folder, "new.txt", "x")
    (top / "plain").touch()
    assert (top / "new.txt").stat().st_mode == (top / "plain").stat().st_mode


def test_what_was_changed_outside_since_it_was_looked_at_is_not_replaced(folder: Beneath, top: Path) -> None:
    seen = folder.stat("b.txt").signature
    (top / "b.txt").write_text("changed outside")
    stage = folder.stage("b.txt")
    stage.write(b"mine")
    with pytest.raises(Changed):
        stage.commit(seen)
    stage.commit(folder.stat("b.txt").signature)
    assert read(folder, "b.txt") == "mine"
    stage = folder.stage("fresh.txt")
    (top / "fresh.txt").write_text("made outside")
    with pytest.raises(Changed):
        stage.commit(None)
    stage.discard()
    assert sorted(os.listdir(top / "sub")) == ["a.txt", "inner", "up"]
    assert read(folder, "fresh.txt") == "made outside"


@pytest.mark.parametrize("is_known", [True, False], ids=["renameat2", "without"])
def test_what_is_replaced_is_looked_at_once_more_when_it_has_lost_its_place(
    folder: Beneath, top: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    seen, stage = folder.stat("b.txt").signature, folder.stage("b.txt")
    stage.write(b"mine")
    if is_known:
        real = exchange.exchange

        def late(*args: Any) -> bool:
            if args[1] == "b.txt" and not (top / "new").exists():
                (top / "new").write_text("made outside in this very moment")
                (top / "new").rename(top / "b.txt")
                (top / "new").touch()
            return real(*args)

        monkeypatch.setattr(staged, "exchange", late)
        with pytest.raises(Changed):
            stage.commit(seen)
        assert read(folder, "b.txt") == "made outside in this very moment"
        stage.commit(folder.stat("b.txt").signature)
    else:
        monkeypatch.setattr(exchange, "_renameat2", lambda: None)
        stage.commit(seen)
        with pytest.raises(Conflict):
            folder.move("sub/a.txt", "b.txt")
        folder.move("sub/a.txt", "c.txt")
    assert read(folder, "b.txt") == "mine"
    assert not [name for name in os.listdir(top) if name.startswith(".aios")]


def test_a_folder_that_was_moved_while_a_file_was_written_gets_nothing(folder: Beneath, top: Path) -> None:
    stage = folder.stage("sub/new.txt")
    (top / "sub").rename(top.parent / "outside" / "taken")
    (top / "sub").mkdir()
    with pytest.raises(Changed):
        stage.commit(None)
    stage.discard()
    assert sorted(os.listdir(top.parent / "outside" / "taken")) == ["a.txt", "inner", "up"]
    assert os.listdir(top / "sub") == []


def test_in_durable_mode_file_and_folder_are_synced_before_and_after_the_rename(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: seen.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
    )
    write(Beneath(str(top), durable=True), "b.txt", "x")
    assert seen == ["file", "folder"]
    write(Beneath(str(top)), "b.txt", "y")
    assert seen == ["file", "folder"]


def test_a_listing_is_in_order_page_by_page_and_leaves_out_what_no_path_can_name(folder: Beneath, top: Path) -> None:
    os.mkfifo(top / "pipe")
    (top / "back\\slash").touch()
    (top / "new\nline").touch()
    (top / os.fsdecode(b"\xff\xfe")).touch()
    (top / ".aios-0123456789abcdef.part").touch()
    (top / "é.txt").touch()
    (top / "~b").touch()
    assert names(folder) == ["b.txt", "sub", "~b", "é.txt"]
    entries, has_more = folder.list("", limit=2)
    assert ([entry.path for entry in entries], has_more) == (["b.txt", "sub"], True)
    entries, has_more = folder.list("", after="sub", limit=2)
    assert ([entry.path for entry in entries], has_more) == (["~b", "é.txt"], False)


def test_a_page_is_full_though_much_beside_it_is_not_shown(
    folder: Beneath, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beneath, "SPARE", 3)
    for n in range(40):
        (top / "sub" / f"link{n:02}").symlink_to("a.txt")
        (top / "sub" / f"m{n:02}").touch()
    entries, has_more = folder.list("sub", limit=4)
    assert ([e.path for e in entries], has_more) == (["sub/a.txt", "sub/inner", "sub/m00", "sub/m01"], True)
    entries, has_more = folder.list("sub", after="m37", limit=2)
    assert ([e.path for e in entries], has_more) == (["sub/m38", "sub/m39"], False)


def test_a_walk_sees_what_listings_show_in_bounded_steps_and_says_what_it_cannot_read(
    folder: Beneath, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beneath, "STEP", 3)
    for n in range(7):
        (top / "sub" / f"f{n}").touch()
    walk = folder.walk()
    first = next(walk)
    assert (first.folder, sorted(e.path for e in first.entries), first.is_last) == ("", ["b.txt", "sub"], True)
    batches = [next(walk) for _ in range(3)]
    assert [(b.folder, len(b.entries), b.is_last) for b in batches] == [("sub", 3, False)] * 3
    assert [(b.folder, b.is_last) for b in walk] == [("sub", True), ("sub/inner", True)]
    walk = folder.walk()
    next(walk)
    (top / "sub").rename(top / "other")
    assert [(b.folder, b.entries, b.is_last) for b in walk] == [("sub", [], None)]


def test_a_walk_goes_as_deep_as_paths_reach(folder: Beneath, top: Path) -> None:
    here = top
    for _ in range(60):
        here /= "d"
    here.mkdir(parents=True)
    (here / "f").touch()
    deepest = max(len(e.path.split("/")) for batch in folder.walk() for e in batch.entries)
    assert deepest == 31  # with the name of the mount it is 32


def test_a_folder_moves_and_never_onto_what_is_there(folder: Beneath, top: Path) -> None:
    folder.move("sub", "else/where")
    assert read(folder, "else/where/a.txt") == "inside"
    with pytest.raises(Conflict, match=r"something is at 'b\.txt' already"):
        folder.move("else/where/a.txt", "b.txt")
    with pytest.raises(Conflict):
        folder.move("else/where/a.txt", "out")
    with pytest.raises(NotFound):
        folder.move("nothing", "x")
    with pytest.raises(AiosError):
        folder.move("else", "else/where/below")


def test_what_is_set_aside_is_out_of_sight_comes_back_or_goes(folder: Beneath, top: Path) -> None:
    aside = folder.set_aside("sub")
    assert names(folder) == ["b.txt"]
    folder.put_back(aside, "sub")
    assert read(folder, "sub/a.txt") == "inside"
    before = outside(top)
    folder.remove(folder.set_aside("sub"))
    assert not (top / "sub").exists()
    assert outside(top) == before


def test_a_folder_that_is_away_says_so_and_is_used_again_when_it_is_back(folder: Beneath, top: Path) -> None:
    folder.identity = folder.look()
    top.rename(top.with_name("away"))
    for use in (lambda: folder.list(""), lambda: folder.stat("b.txt"), lambda: write(folder, "b.txt", "x")):
        with pytest.raises(Gone):
            use()
    top.mkdir()
    with pytest.raises(Gone, match="another folder is in its place"):
        folder.list("")
    top.rmdir()
    top.symlink_to(top.with_name("away"))
    with pytest.raises(Gone):
        folder.list("")
    top.unlink()
    top.with_name("away").rename(top)
    assert read(folder, "b.txt") == "inside"


# ── what is refused ──


@pytest.mark.parametrize("path", ["file", "out", "loop", "nowhere", "out/secret", "abs/secret", "sub/up", "self/b.txt"])
def test_a_link_is_refused_as_what_it_is_and_nothing_follows_it(folder: Beneath, top: Path, path: str) -> None:
    before = outside(top)
    for use in (folder.stat, folder.open, folder.list, folder.set_aside, lambda p: folder.move(p, "x")):
        with pytest.raises(Denied, match="is a link") as refusal:
            use(path)
        assert refusal.value.code == "is_a_link"
    with pytest.raises((Denied, Conflict)):
        write(folder, path, "x")
    with pytest.raises((Denied, Conflict)):
        folder.make_folder(f"{path}/new")
    assert outside(top) == before


def test_pipes_sockets_and_devices_are_refused_without_being_opened(folder: Beneath, top: Path) -> None:
    os.mkfifo(top / "pipe")
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(top):
        server.bind("socket")
    specials = ["pipe", "socket"]
    with contextlib.suppress(PermissionError):
        os.mknod(top / "device", 0o20666, os.makedev(1, 3))
        specials.append("device")
    for name in specials:
        for use in (folder.open, folder.stat, folder.set_aside, lambda p: write(folder, p, "x")):
            with pytest.raises(BadRequest, match="neither a file nor a folder"):
                use(name)


def test_a_file_that_becomes_a_pipe_between_look_and_open_holds_nobody_up(
    folder: Beneath, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def swapping(name: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if name == "b.txt":
            (top / "b.txt").unlink()
            os.mkfifo(top / "b.txt")
        return real(name, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", swapping)
    with pytest.raises(BadRequest, match="neither a file nor a folder"):
        folder.open("b.txt")


def test_a_user_without_rights_needs_none_and_what_it_may_not_do_is_told_without_a_path_of_the_machine() -> None:
    def use(top: str) -> None:
        folder = Beneath(top, durable=True)
        write(folder, "new/a.txt", "x")
        folder.move("new/a.txt", "b.txt")
        assert (read(folder, "b.txt"), names(folder)) == ("x", ["b.txt", "new", "theirs"])
        folder.remove(folder.set_aside("b.txt"))
        for attempt in (
            lambda: folder.open("theirs/closed"),
            lambda: write(folder, "theirs/x", "x"),
            lambda: folder.set_aside("theirs/closed"),
            lambda: folder.make_folder("theirs/y"),
        ):
            with pytest.raises(Denied, match="'theirs") as refusal:
                attempt()
            assert (refusal.value.code, top in refusal.value.message) == ("folder_denied", False)

    with tempfile.TemporaryDirectory() as place:
        top = Path(place, "top")
        (top / "theirs").mkdir(parents=True)
        (top / "theirs" / "closed").touch()
        (top / "theirs" / "closed").chmod(0)
        (top / "theirs").chmod(0o555)
        as_nobody(place, lambda: use(str(top)))
        (top / "theirs").chmod(0o755)


def as_nobody(place: str, use: Callable[[], None]) -> None:
    """Do it in a process of a user without rights, to whom the top of `place` is given."""
    if os.geteuid() == 0:
        os.chmod(place, 0o755)
        os.chown(Path(place, "top"), 65534, 65534)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            use()
            code = 0
        except BaseException:  # noqa: BLE001  # told to the parent
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ── names that are the same ──


def test_a_name_in_another_normal_form_is_the_same_file(folder: Beneath, top: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "é.txt")
    (top / decomposed).write_text("e")
    assert names(folder) == ["b.txt", "sub", "é.txt"]
    assert read(folder, "é.txt") == "e"
    write(folder, "é.txt", "new")
    assert [each for each in os.listdir(top) if "txt" in each and not each.isascii()] == [decomposed]
    (top / "é.txt").write_text("exact")
    assert (names(folder), read(folder, "é.txt")) == (["b.txt", "sub", "é.txt"], "exact")


def test_where_names_are_folded_only_the_one_that_is_listed_is_right(
    folder: Beneath, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (top / "Readme.md").write_text("x")
    (top / "日").write_text("y")
    fold = FoldingNames(monkeypatch)
    assert read(folder, "Readme.md") == "x"
    for name in ("README.md", "readme.md"):
        for use in (folder.open, folder.stat, lambda p: write(folder, p, "z"), folder.set_aside, folder.make_folder):
            with pytest.raises(Conflict, match=r"is called 'Readme\.md' there") as refusal:
                use(name)
            assert refusal.value.code == "name_differs"
    with pytest.raises(Conflict):
        read(folder, "日\u200d")
    with pytest.raises(Conflict):
        write(folder, "SUB/new.txt", "x")
    write(folder, "Other.md", "x")
    assert names(folder) == ["Other.md", "Readme.md", "b.txt", "sub", "日"]
    assert fold.num_folded > 0


class FoldingNames:
    """A file system that tells neither capital from small letters nor joiners from nothing, under `naming`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_folded = 0
        for name in ("stat", "open", "rename", "mkdir"):
            monkeypatch.setattr(os, name, self._folding(getattr(os, name)))

    def _folding(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def folded(name: Any, *args: Any, **kwargs: Any) -> Any:
            folder = kwargs.get("dir_fd", kwargs.get("src_dir_fd"))
            if folder is not None and isinstance(name, str):
                for each in os.listdir(f"/proc/self/fd/{folder}"):
                    if each != name and _fold(each) == _fold(name):
                        self.num_folded += 1
                        name = each
            return real(name, *args, **kwargs)

        return folded


def _fold(name: str) -> str:
    return name.casefold().replace("\u200d", "")


# ── attacks ──


def attempts(folder: Beneath, path: str) -> Iterator[Callable[[], object]]:
    yield lambda: read(folder, path)
    yield lambda: folder.stat(path)
    yield lambda: "".join(names(folder, path))
    yield lambda: [e.path for batch in folder.walk(path) for e in batch.entries]
    yield lambda: write(folder, path, "planted")
    yield lambda: folder.make_folder(path)
    yield lambda: folder.move("b.txt", path)
    yield lambda: folder.move(path, "taken")
    yield lambda: folder.remove(folder.set_aside(path))
    yield lambda: folder.remove(path)


def test_of_a_thousand_generated_escapes_none_succeeds(folder: Beneath, top: Path) -> None:
    before = outside(top)
    num_refused = 0
    for path in escapes(4, 1000, top):
        for attempt in attempts(folder, path):
            try:
                found = attempt()
            except (AiosError, Changed):
                num_refused += 1
            else:
                assert SECRET not in str(found), path
                assert "secret" not in str(found) or (top / "secret").exists() or "planted" in str(found), path
        assert outside(top) == before, path
        (top / "sub" / "inner").mkdir(parents=True, exist_ok=True)
        (top / "b.txt").write_text("inside")
    assert num_refused > 5000


@pytest.mark.parametrize("name", ["sub", "inner", "top"])
@pytest.mark.parametrize("number", range(8))
def test_what_is_swapped_for_a_link_between_a_look_and_the_next_step_is_not_followed(
    folder: Beneath, top: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    (top.parent / "outside" / "inner").mkdir()
    (top.parent / "outside" / "inner" / "secret").write_text(SECRET)
    (top.parent / "outside" / "sub").symlink_to(".")
    place = {"top": top, "sub": top / "sub", "inner": top / "sub" / "inner"}[name]
    before = outside(top)
    real = os.open

    def swapping(what: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if what != name:
            return real(what, flags, *args, **kwargs)
        place.rename(top.parent / "away")
        place.symlink_to(top.parent / "outside")
        try:
            return real(what, flags, *args, **kwargs)
        finally:
            place.unlink()
            (top.parent / "away").rename(place)

    monkeypatch.setattr(os, "open", swapping)
    path = "sub/inner/secret" if name == "inner" else "sub/secret"
    attempt = list(attempts(folder, path))[number]
    with contextlib.suppress(AiosError, Changed):
        assert SECRET not in str(attempt())
    with contextlib.suppress(AiosError, Changed):
        assert "secret" not in str(names(folder, path.rpartition("/")[0]))
    monkeypatch.undo()
    assert outside(top) == before


class ByPath:
    """What `Beneath` would be if it looked at a path and then opened it: for the test of the test."""

    def __init__(self, top: Path) -> None:
        self.top = top

    def write(self, path: str, content: str) -> None:
        self._place(path).write_text(content)

    def read(self, path: str) -> str:
        return self._place(path).read_text()

    def _place(self, path: str) -> Path:
        place = self.top / path
        if place.parent.resolve() not in (self.top / "d", self.top / "d" / "e"):
            raise BadRequest("it leads out")
        return place


def races(num: int, reading: Callable[[str], str], writing: Callable[[str, str], None], rest: list[Any]) -> list[str]:
    """`num` operations by 64 threads on what is being swapped; all that they read."""

    def work(worker: int) -> list[str]:
        dice, seen = random.Random(worker), []
        for n in range(num // 64):
            where = dice.choice(["d", "d/e"])
            try:
                if n % 3 == 0:
                    writing(f"{where}/f{worker}", "inside")
                elif n % 3 == 1:
                    seen.append(reading(f"{where}/{dice.choice(['secret', 'f0', f'f{worker}'])}"))
                elif rest:
                    seen.append(str(dice.choice(rest)(where, worker)))
            except (AiosError, Changed, OSError):
                pass
        return seen

    with ThreadPoolExecutor(64) as threads:
        return [text for seen in threads.map(work, range(64)) for text in seen]


def test_a_folder_that_is_swapped_for_a_link_meanwhile_is_never_followed(
    folder: Beneath, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = [
        lambda where, n: names(folder, where),
        lambda where, n: [e.path for batch in folder.walk(where) for e in batch.entries],
        lambda where, n: folder.make_folder(f"{where}/new{n}"),
        lambda where, n: folder.move(f"{where}/f{n}", f"{where}/g{n}"),
        lambda where, n: folder.remove(folder.set_aside(f"{where}/g{n}")),
    ]
    real = os.open

    def slowly(*args: Any, **kwargs: Any) -> int:
        os.sched_yield()  # between the look and the step: what is swapped is swapped there
        return real(*args, **kwargs)

    monkeypatch.setattr(os, "open", slowly)
    with swapping(top):
        before = outside(top)
        seen = races(3200, lambda p: read(folder, p), lambda p, c: write(folder, p, c), rest)
        after = outside(top)
    assert after == before
    assert not [text for text in seen if SECRET in text or "secret" in text]
    assert "inside" in seen


def test_that_race_is_lost_by_who_looks_first_and_then_opens_a_path(top: Path) -> None:
    naive = ByPath(top)
    with swapping(top):
        before = outside(top)
        for _ in range(20):
            seen = races(6400, naive.read, naive.write, [])
            if SECRET in seen or outside(top) != before:
                return
    pytest.fail("the swapping process swaps too slowly to prove anything")


def test_signatures_tell_contents_and_files_apart(top: Path) -> None:
    first = staged.Signature.of((top / "b.txt").stat())
    (top / "b.txt").write_text("inside, longer")
    second = staged.Signature.of((top / "b.txt").stat())
    assert first != second
    assert naming.is_nameable("a b.txt")
