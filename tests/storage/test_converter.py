"""HTML and PDF become text in a process that is shut in, and what they do there is told and harms nobody."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pdfs
import pytest

from aios.kernel.storage.knowledge import converter
from aios.kernel.storage.knowledge.converter import HTML, Converter, Program, Unreadable
from aios.testing import MockClock, until

pytestmark = pytest.mark.anyio
PROBE = Program("probe_text", 2, 512 << 20, (str(Path(__file__).parent),))
PDF = converter.pdf()


@contextlib.asynccontextmanager
async def running(program: Program | None, clock: MockClock | None = None) -> AsyncIterator[Converter]:
    assert program is not None
    worker = Converter(program, clock or MockClock())
    yield worker
    await worker.close()


async def text_of(page: str) -> str:
    async with running(HTML) as html:
        return (await html.convert([page.encode()])).text


# ── HTML ──


async def test_a_page_is_what_a_reader_sees_with_its_headings() -> None:
    page = """<!doctype html><html><head><title>My
        ship</title><style>p { color: red }</style><script>var a = "<p>no</p>"</script></head>
        <body><nav><a href=x>Home</a></nav><h1>The <em>ship</em></h1><p>It&nbsp;floats &amp; sails.<br>Fast<!-- no -->
        <h3>Sails</h3><ul><li>main<li>jib</ul><template>no</template><svg><title>no</title><text>no</text></svg>
        <table><tr><th>a</th><th>b</th></tr><tr><td>1<td>2</table><p>After</p><select><option>no</select>"""
    assert await text_of(page) == (
        "# My ship\n\nHome\n\n# The ship\n\nIt floats & sails.\nFast\n\n### Sails\n\n- main\n- jib\n\n"
        "a | b\n1 | 2\n\nAfter"
    )


async def test_what_looks_like_a_heading_of_markdown_is_none() -> None:
    assert (
        await text_of("<p># one<pre>\n# two\n  ```</pre>``` three") == "\\# one\n\n    # two\n      ```\n\n\\``` three"
    )


@pytest.mark.parametrize(
    "page", ["", "<", "</", "<!", "<p", "<script>", "<script>x", "&#x110000; &bogus; &#0;", "<![CDATA["]
)
async def test_a_broken_page_is_read_as_far_as_it_goes(page: str) -> None:
    assert "script" not in await text_of(f"before<p>{page}")
    assert (await text_of(f"before<p>{page}")).startswith("before")


async def test_a_page_nested_a_hundred_thousand_times_is_a_page() -> None:
    assert await text_of("<div>" * 100_000 + "deep") == "deep"


async def test_no_more_text_than_is_wanted_comes_of_a_page() -> None:
    async with running(HTML) as html:
        found = await html.convert([b"<pre>\n" + b"a\n" * 10_000 + b"</pre>"], 1000)
        assert (len(found.text), found.why) == (1000, "only the first 1,000 characters of its text were read")
        assert (await html.convert([b"<p>", b"next"], 1000)).text == "next"


# ── PDF ──


async def test_a_pdf_is_its_pages() -> None:
    async with running(PDF) as pdf:
        found = await pdf.convert([pdfs.pdf("Grüße (from)\nthe sea", "second page")])
        assert found == ("Grüße (from)\nthe sea\fsecond page", None)
        assert (await pdf.convert([pdfs.locked("opened by anybody", password="")])).text == "opened by anybody"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is no PDF"),
        (b"a text", "it is no PDF"),
        (b"%PDF-1.7", "it is broken"),
        (pdfs.pdf("one")[:-150], "it is broken"),
        (pdfs.locked("one"), "it is encrypted, and its password is not known"),
        (pdfs.endless(), "it is broken"),
        (pdfs.of_pages([]), "it has no pages"),
        (pdfs.of_pages([pdfs.stream(b"0 0 100 100 re f")]), "its pages hold no text"),
        (pdfs.bomb(300 << 20, times=2), "1 of its 1 pages cannot be read"),
        (pdfs.of_objects([b"<< /Type /Catalog /Pages " + b"[" * 100_000]), "it is "),
    ],
)
async def test_a_pdf_that_cannot_be_read_says_why_and_the_next_one_is_read(data: bytes, why: str) -> None:
    async with running(PDF) as pdf:
        with pytest.raises(Unreadable, match=why):
            await pdf.convert([data])
        assert (await pdf.convert([pdfs.pdf("next")])).text == "next"


async def test_of_a_pdf_with_a_broken_page_the_others_are_read() -> None:
    pages = [
        pdfs.stream(pdfs.drawn("first")),
        pdfs.stream(b"\xff" * 100, b"/Filter /LZWDecode "),
        pdfs.stream(pdfs.drawn("third")),
    ]
    async with running(PDF) as pdf:
        found = await pdf.convert([pdfs.of_pages(pages)])
        assert ([page for page in found.text.split("\f") if page], found.why) in (
            (["first", "third"], "1 of its 3 pages cannot be read"),
            (["first", "third"], None),
        )


async def test_a_pdf_of_more_text_than_is_wanted_is_read_up_to_there() -> None:
    async with running(PDF) as pdf:
        found = await pdf.convert([pdfs.pdf(*["word " * 100] * 30)], 2000)
        assert len(found.text) <= 2100
        assert found.why is not None
        assert "of 30 pages were read, for want of room" in found.why


# ── being shut in ──


def has_landlock() -> bool:
    return int(ctypes.CDLL(None).syscall(444, None, 0, 1)) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="what a system can forbid differs")
async def test_the_process_reaches_nothing_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "admin.key").write_text("secret")
    monkeypatch.setenv("AIOS_TEST_SECRET", "secret")
    async with running(PROBE) as probe:
        found = (await probe.convert([f"reach {tmp_path}".encode()])).text
    done = {line.removesuffix(" done") for line in found.splitlines() if "refused" not in line}
    assert done <= (set() if has_landlock() else {"remove", "rename", "link", "folder", "parent"}), found
    assert os.listdir(tmp_path) == ["admin.key"] or not has_landlock()


@pytest.mark.parametrize(
    ("order", "why"),
    [
        ("memory 2000000000", "it takes more memory than there is for one file"),
        ("spin 60", "it took more than 2 seconds of the processor"),
        ("die", "the process that read it ended with status 3"),
        ("crash", "the process that read it was ended by SIGABRT"),
        ("lie", "the process that read it was ended by SIGKILL"),
        ("mumble", "the process that read it was ended by SIGKILL"),
        ("shout 100000000", "the process that read it was ended by SIGKILL"),
        ("raise x", r"it is broken \(KeyError: 'x'\)"),
        ("nest", "it is nested too deeply"),
    ],
)
async def test_what_a_file_does_to_its_reader_is_told_and_the_next_file_is_read(order: str, why: str) -> None:
    async with running(PROBE) as probe:
        with pytest.raises(Unreadable, match=why):
            await probe.convert([order.encode()], 100_000)
        assert (await probe.convert([b"next"])).text == "next done"


async def test_each_file_has_the_processor_for_so_long_as_if_it_were_alone() -> None:
    async with running(PROBE) as probe:
        for _ in range(3):
            assert (await probe.convert([b"spin 1"])).text == "spin done"


async def test_a_file_that_takes_too_long_is_given_up() -> None:
    clock = MockClock()
    async with running(PROBE, clock) as probe:
        asking = asyncio.ensure_future(probe.convert([b"sleep 600"]))
        await until(lambda: clock.num_timers == 1 and probe._process is not None)
        clock.advance(converter.LATE)
        with pytest.raises(Unreadable, match="it took longer than 120 seconds"):
            await asking
        assert (await probe.convert([b"next"])).text == "next done"
        assert clock.num_timers == 0


async def test_of_a_process_that_is_ended_in_the_middle_of_its_answer_no_pipe_stays_open() -> None:
    async with running(PROBE) as probe:
        process = probe._process = await converter._start(PROBE)
        with pytest.raises(Unreadable, match="SIGKILL"):
            await probe.convert([b"shout 8000000"], limit=1000)
        assert process.stdout is not None
        assert process.stdout.at_eof()


async def test_a_wait_that_is_given_up_ends_the_process() -> None:
    async with running(PROBE) as probe:
        asking = asyncio.ensure_future(probe.convert([b"sleep 600"]))
        await until(lambda: probe._process is not None)
        process = probe._process
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert process is not None
        assert process.returncode is not None
