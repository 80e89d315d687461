"""Files of every format are found by what they say, and those that cannot be read are told, and harm no other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pdfs
import pytest
from knowledge_world import KnowledgeWorld

from aios.abi.calls import StoRead
from aios.kernel.storage.knowledge import converter, extract, split

pytestmark = pytest.mark.anyio
FILLING = "Words that say little. " * 15


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[KnowledgeWorld]:
    world = KnowledgeWorld(tmp_path)
    await world.begin()
    yield world
    await world.end()
    world.close()


async def test_each_format_is_found_with_its_titles(world: KnowledgeWorld) -> None:
    code = f'"""{FILLING}"""\n\n\nclass Ship:\n    """{FILLING}"""\n\n    def anchor(self):\n        """{FILLING}"""\n'
    await world.write("a.txt", "The anchor of a text.")
    await world.write("b.md", f"# Ship\n\n{FILLING}\n\nAnchor\n------\n\nIt holds.")
    await world.write("c.py", code)
    await world.write("d.csv", "part,metal\nanchor,iron\n")
    await world.write("e.html", f"<title>Ship</title><p>{FILLING}<h2>Anchor</h2><p>{FILLING}")
    await world.put_bytes("f.pdf", pdfs.pdf(FILLING * 2, f"{FILLING}\nThe anchor of a page."))
    await world.put_bytes("g", pdfs.pdf("An anchor without a name"))
    found = {each.path: each.title for each in (await world.ask("anchor")).passages}
    assert found == {
        "a.txt": None,
        "b.md": "Ship › Anchor",
        "c.py": "class Ship: › def anchor(self):",
        "d.csv": "part,metal",
        "e.html": "Ship › Anchor",
        "f.pdf": "page 2",
        "g": "page 1",
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
async def test_places_are_those_in_the_file_whatever_its_encoding(world: KnowledgeWorld, encoding: str) -> None:
    text = f"Ähnliche Wörter. {FILLING * 4}\n\nDer Anker hält „gut“. {FILLING * 4}"
    data = text.encode(encoding)
    await world.put_bytes("a.txt", data)
    passage = (await world.ask("Anker", k=1)).passages[0]
    there = data[passage.start : passage.end].decode(encoding.replace("utf-16", "utf-16-le"))
    assert there == passage.text
    assert "„gut“" in passage.text
    await world.call(StoRead(path="a.txt", offset=passage.start, length=passage.end - passage.start, encoding="base64"))


async def test_what_is_no_text_is_left_out_without_a_word(world: KnowledgeWorld) -> None:
    await world.put_bytes("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(200))
    await world.put_bytes("page.html", b"<html>" + bytes(200))
    await world.write("empty.txt", "")
    await world.write("blank.md", " \n\n ")
    passages = await world.ask("png html")
    assert (passages.passages, passages.pending, passages.skipped) == ([], 0, {})


async def test_files_that_cannot_be_read_are_told_and_harm_no_other(
    world: KnowledgeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.knowledge._store.workshop.pdf is not None
    world.knowledge._store.workshop.pdf = world.knowledge._store.workshop.pdf._replace(seconds=1)
    monkeypatch.setattr(extract, "MAX_TEXT_SIZE", 20_000)
    await world.put_bytes("bomb.pdf", pdfs.bomb())
    await world.put_bytes("broken.pdf", b"%PDF-1.7 and no more")
    await world.put_bytes("locked.pdf", pdfs.locked("anchor"))
    await world.write("large.txt", "anchor " * 4000)
    await world.put_bytes("good.pdf", pdfs.pdf("anchor"))
    await world.write("good.html", "<p>anchor")
    await world.write("good.txt", "anchor")
    await world.ask("anchor")
    await world.read()
    passages = await world.ask("anchor")
    assert sorted(each.path for each in passages.passages) == ["good.html", "good.pdf", "good.txt"]
    assert passages.pending == 0
    why = passages.skipped
    assert list(why) == ["bomb.pdf", "broken.pdf", "large.txt", "locked.pdf"]
    assert why["bomb.pdf"] == "it took more than 1 seconds of the processor"
    assert "broken" in why["broken.pdf"]
    assert "password" in why["locked.pdf"]
    assert why["large.txt"] == "it holds 28,000 bytes, and 20,000 are read of one file: split it"


async def test_without_pypdf_a_pdf_waits_until_it_is_there(
    world: KnowledgeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.put_bytes("a.pdf", pdfs.pdf("anchor"))
    with monkeypatch.context() as patch:
        patch.setattr(converter, "pdf", lambda: None)
        await world.again()
        assert "aios-kernel[pdf]" in (await world.skipped())["a.pdf"]
        await world.again()
        assert list(await world.skipped()) == ["a.pdf"]
    await world.again()
    assert await world.paths("anchor") == ["a.pdf"]
    assert await world.skipped() == {}


async def test_of_a_file_with_too_many_passages_the_first_are_read(
    world: KnowledgeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "MAX_PASSAGES", 3)
    monkeypatch.setattr(extract, "MAX_PASSAGES", 3)
    await world.write("a.txt", (FILLING * 4 + "\n\n") * 9)
    passages = await world.ask("words")
    assert len(passages.passages) == 3
    assert passages.skipped == {"a.txt": "only its first 3 passages are read"}


async def test_no_file_turns_into_more_text_than_so_many_times_its_size(
    world: KnowledgeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "LEAST_TEXT", 1000)
    data = pdfs.pdf(*["anchor " * 500] * 40)
    await world.put_bytes("a.pdf", data)
    passages = await world.ask("anchor", k=1000)
    assert sum(len(each.text) for each in passages.passages) <= extract.MOST_TIMES * len(data)
    assert "pages were read, for want of room" in passages.skipped["a.pdf"]


async def test_a_machine_that_starts_no_process_reads_what_takes_none(
    world: KnowledgeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(*_: Any) -> Any:
        raise BlockingIOError("no more processes")

    await world.write("a.html", "<p>anchor")
    await world.write("a.txt", "anchor")
    with monkeypatch.context() as patch:
        patch.setattr(converter, "_start", none)
        passages = await world.ask("anchor")
        assert ([each.path for each in passages.passages], passages.pending) == (["a.txt"], 1)
    assert await world.paths("anchor") == ["a.html", "a.txt"]
