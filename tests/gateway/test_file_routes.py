"""Files as bytes over HTTP: of any length, in parts, upon a version, and through links that need no key."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from served import Served, served
from yarl import URL

from aios.abi.calls import StoClear, StoHistory, StoMove, StoRead, StoRestore, StoShare, StoWrite
from aios.abi.errors import AiosError
from aios.gateway import server
from aios.kernel import Config, transfers
from aios.kernel.config import MountSection, StorageSection
from aios.kernel.storage import chunker
from aios.kernel.storage.chunker import Sizes
from aios.testing import MockClock
from aios.testing.wait import until

pytestmark = pytest.mark.anyio
LONG = random.Random(0).randbytes(300_000)


@pytest.fixture(autouse=True)
def in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunker, "RANGES", ((0, Sizes(70 << 10, 72 << 10, 100 << 10)),))


async def put(gate: Served, path: str, data: Any, **headers: str) -> tuple[int, Any, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with gate.session.put(f"{gate.url}/aios/v1/files/{path}", data=data, headers=named) as response:
        return response.status, msgspec.json.decode(await response.read()), response.headers


async def get(gate: Served, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = path if path.startswith("/") else f"/aios/v1/files/{path}"
    async with gate.session.request(method, gate.url + url, headers=named) as response:
        return response.status, await response.read(), response.headers


async def call(gate: Served, name: str, args: Any, agent: str = "tester") -> Any:
    _, text = gate.kernel.access.mint(owner="test", agent=agent)
    return await gate.kernel.call(gate.kernel.authenticate(text), name, args)


@pytest.mark.parametrize("data", [b"", b"text", b"\xff\0", LONG], ids=["empty", "text", "bytes", "long"])
async def test_what_is_put_is_what_is_got(data: bytes) -> None:
    async with served() as gate:
        status, version, headers = await put(gate, "d/a%20b.txt", data)
        assert (status, version, headers["etag"]) == (201, {"path": "d/a b.txt", "version": 1}, '"1"')
        status, version, headers = await put(gate, "d/a%20b.txt", data + b"!")
        assert (status, version["version"], headers["etag"]) == (200, 2, '"2"')
        status, body, headers = await get(gate, "d/a%20b.txt")
        assert (status, body, headers["content-length"]) == (200, data + b"!", str(len(data) + 1))
        assert (await get(gate, "d/a%20b.txt?version=1"))[1] == data
        status, body, headers = await get(gate, "d/a%20b.txt", "HEAD")
        assert (status, body, headers["content-length"]) == (200, b"", str(len(data) + 1))
        history = await call(gate, "sto_history", StoHistory(path="d/a b.txt"))
        assert [(r.author, r.why.split()[0]) for r in history.revisions] == [("tester", "sto_write")] * 2


async def test_a_path_that_is_not_utf_8_names_no_file() -> None:
    async with served() as gate:
        for path in ("caf%e9.txt", "caf%e8.txt"):  # both would be read as one
            url = URL(f"{gate.url}/aios/v1/files/{path}", encoded=True)
            async with gate.session.put(url, data=b"x") as response:
                assert (response.status, (await response.json())["error"]["code"]) == (400, "bad_path")
        assert (await put(gate, "caf%EF%BF%BD.txt", b"x"))[0] == 201  # the sign itself is one like any other


async def test_a_file_of_unknown_length_comes_as_it_comes() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for begin in range(0, len(LONG), 10_000):
            yield LONG[begin : begin + 10_000]

    async with served() as gate:
        assert (await put(gate, "a", pieces()))[0] == 201
        assert (await get(gate, "a"))[1] == LONG


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [("bytes=0-9", 0, 10), ("bytes=299990-", 299_990, 300_000), ("bytes=-5", 299_995, 300_000),
     ("bytes=100000-250000", 100_000, 250_001), ("bytes=10-999999", 10, 300_000)],
)  # fmt: skip
async def test_one_part_of_a_file_is_got_by_its_range(asked: str, begin: int, end: int) -> None:
    async with served() as gate:
        await put(gate, "a", LONG)
        status, body, headers = await get(gate, "a", range=asked)
        assert (status, body) == (206, LONG[begin:end])
        assert headers["content-range"] == f"bytes {begin}-{end - 1}/300000"


async def test_a_range_that_the_file_does_not_have_is_refused_and_one_that_is_none_is_not_heard() -> None:
    async with served() as gate:
        _, _, _ = await put(gate, "a", b"0123456789")
        status, body, _ = await get(gate, "a", range="bytes=10-")
        assert (status, msgspec.json.decode(body)["error"]["code"]) == (416, "out_of_range")
        for odd in ("bytes=0-1,3-4", "lines=1-2", "bytes=5-4", "bytes=-"):
            assert (await get(gate, "a", range=odd))[:2] == (200, b"0123456789")
        etag = (await get(gate, "a"))[2]["etag"]
        assert (await get(gate, "a", range="bytes=0-0", if_range=etag))[0] == 206
        assert (await get(gate, "a", range="bytes=0-0", if_range='"1-0"'))[0] == 200
        assert (await get(gate, "a", if_none_match=etag))[:2] == (304, b"")


async def test_a_file_is_written_upon_the_version_that_was_read_only() -> None:
    async with served() as gate:
        assert (await put(gate, "a", LONG, if_none_match="*"))[0] == 201
        assert (await put(gate, "a", LONG, if_none_match="*"))[1]["error"]["code"] == "version_conflict"
        etag = (await get(gate, "a"))[2]["etag"]
        assert (await put(gate, "a", b"2", if_match=etag))[1]["version"] == 2
        for data in (b"3", LONG):
            status, body, _ = await put(gate, "a", data, if_match=etag)
            assert (status, body["error"]["code"]) == (409, "version_conflict")
        assert (await put(gate, "a", b"3", if_match="v2"))[0] == 400
        assert (await put(gate, "a", b"3", if_none_match='"2"'))[0] == 400
        assert gate.kernel.database.read(lambda c: c.execute("SELECT count(*) FROM contents").fetchone()) == (2,)


@pytest.mark.parametrize("data", [b"short", LONG], ids=["short", "long"])
async def test_a_put_under_a_key_is_one_version_however_often_it_is_sent(data: bytes) -> None:
    async with served() as gate:
        first = await put(gate, "a", data, idempotency_key="k")
        assert (await put(gate, "a", data, idempotency_key="k"))[:2] == first[:2]
        assert (await put(gate, "a", data + b"!", idempotency_key="k"))[1]["error"]["code"] == "idempotency_conflict"
        assert (await put(gate, "b", data, idempotency_key="k"))[0] == 409
        assert (await call(gate, "sto_history", StoHistory(path="a"))).revisions[0].version == 1
        await gate.kernel.database.run(lambda c: None)
        await gate.kernel.storage.keep_house()
        counts = "SELECT (SELECT count(*) FROM uploads), (SELECT count(*) FROM contents)"
        assert gate.kernel.database.read(lambda c: c.execute(counts).fetchone()) == (0, 1)


async def test_a_client_that_leaves_in_the_middle_has_written_nothing() -> None:
    async with served() as gate:
        came, may_end = asyncio.Event(), asyncio.Event()

        async def pieces() -> AsyncIterator[bytes]:
            yield LONG
            came.set()
            await may_end.wait()

        sending = asyncio.create_task(put(gate, "a", pieces()))
        await came.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await until(lambda: not gate.kernel.transfers._long)
        assert (await get(gate, "a"))[0] == 404
        rows = "SELECT (SELECT count(*) FROM chunks), (SELECT count(*) FROM contents), (SELECT count(*) FROM files)"
        assert gate.kernel.database.read(lambda c: c.execute(rows).fetchone()) == (0, 0, 0)


async def test_what_would_be_refused_is_refused_before_it_is_sent() -> None:
    config = Config(storage=StorageSection(max_file=200_000, limit=250_000))  # type: ignore[arg-type]
    async with served(config=config) as gate:
        sent = 0

        async def pieces() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 20_000_000:
                sent += 10_000
                yield bytes(10_000)

        status, body, _ = await put(gate, "a", LONG, expect="100-continue")
        assert (status, body["error"]["code"]) == (413, "file_too_large")
        status, body, _ = await put(gate, "a", pieces())
        assert (status, body["error"]["code"], sent < 20_000_000) == (413, "file_too_large", True)
        await put(gate, "a", LONG[:200_000])
        status, body, _ = await put(gate, "b", LONG[:100_000], expect="100-continue")
        assert (status, body["error"]["code"]) == (413, "storage_of_agent_full")
        for path in ("../a", "a/../../b", "%2Fetc"):
            assert (await put(gate, path.replace("/..", "%2F.."), b"x"))[0] in (400, 404)
        assert (await get(gate, "nothing"))[0] == 404


async def test_another_agent_and_a_stranger_get_nothing() -> None:
    async with served() as gate:
        await put(gate, "a", b"mine")
        for key, expected in ((gate.key_of("another"), 404), ("wrong", 401)):
            async with gate.session.get(
                f"{gate.url}/aios/v1/files/a", headers={"authorization": f"Bearer {key}"}
            ) as response:
                assert response.status == expected
        async with (
            aiohttp.ClientSession() as bare,
            bare.put(f"{gate.url}/aios/v1/files/a", data=b"theirs") as response,
        ):
            assert response.status == 401
        assert (await get(gate, "a"))[1] == b"mine"


async def test_more_long_transfers_than_memory_is_for_are_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "MAX_EACH", 1)
    monkeypatch.setattr(transfers, "LONG", 1)
    async with served() as gate:
        await put(gate, "a", LONG)
        came, may_end = asyncio.Event(), asyncio.Event()

        async def pieces() -> AsyncIterator[bytes]:
            yield LONG
            came.set()
            await may_end.wait()

        sending = asyncio.create_task(put(gate, "b", pieces()))
        await came.wait()
        await until(lambda: gate.kernel.transfers._long)
        for answer in (await get(gate, "a"), await put(gate, "c", LONG)):
            body = answer[1] if isinstance(answer[1], dict) else msgspec.json.decode(answer[1])
            assert (answer[0], body["error"]["code"], answer[2]["retry-after"]) == (429, "too_many_transfers", "2")
        may_end.set()
        assert (await sending)[0] == 201
        assert (await get(gate, "a"))[1] == LONG


async def test_a_damaged_file_ends_in_the_middle_and_is_not_taken_for_whole() -> None:
    async with served() as gate:
        await put(gate, "a", LONG)
        last = max((gate.kernel.home / "blobs").rglob("*.*"), key=lambda path: LONG.index(path.read_bytes()))
        last.write_bytes(b"x" + last.read_bytes()[1:])
        with pytest.raises(aiohttp.ClientPayloadError):
            await get(gate, "a")
        status, body, _ = await get(gate, "a", range="bytes=0-10")
        assert (status, body) == (206, LONG[:11])


async def test_a_long_file_goes_into_a_mounted_folder_and_comes_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    config = Config(mount=[MountSection(name="data", folder=str(tmp_path / "shared"))])
    async with served(home=tmp_path / "home", config=config) as gate:
        headers = {"authorization": f"Bearer {gate.key_of('boss', is_admin=True)}"}
        for number, data in enumerate((LONG, LONG + b"!", b"short")):
            status, version, _ = await put(gate, "data/d/a", data, **headers)
            assert (status, version["version"]) == (201 if not number else 200, number + 1)
            assert (tmp_path / "shared" / "d" / "a").read_bytes() == data
            assert (await get(gate, "data/d/a", **headers))[:2] == (200, data)
        assert (await get(gate, "data/d/a?version=1", range="bytes=7-9", **headers))[:2] == (206, LONG[7:10])
        first = await put(gate, "data/b", LONG, idempotency_key="k", **headers)
        assert (await put(gate, "data/b", LONG, idempotency_key="k", **headers))[:2] == first[:2]
        assert (await put(gate, "data/b", LONG))[0] == 403
        await gate.kernel.storage.keep_house()
        rows = "SELECT (SELECT count(*) FROM uploads), (SELECT count(*) FROM contents WHERE refs <= 0)"
        assert gate.kernel.database.read(lambda c: c.execute(rows).fetchone()) == (0, 0)


# ── links ──


async def bare(gate: Served, url: str, method: str = "GET", **headers: str) -> tuple[int, bytes, Any]:
    """Asked by somebody without a key."""
    async with aiohttp.ClientSession() as session, session.request(method, gate.url + url, headers=headers) as answer:
        return answer.status, await answer.read(), answer.headers


async def test_a_link_opens_the_file_for_who_has_it_until_it_expires_even_after_a_restart(tmp_path: Any) -> None:
    clock = MockClock()
    async with served(home=tmp_path, clock=clock) as gate:
        await put(gate, "d/a.txt", LONG)
        link = await call(gate, "sto_share", StoShare(path="d/a.txt", ttl=100.0))
        assert link.expires == clock.wall() + 100
        assert len(link.url.rpartition("/")[2]) == 43
        assert (await bare(gate, link.url))[:2] == (200, LONG)
    async with served(home=tmp_path, clock=clock) as gate:
        assert (await bare(gate, link.url, Range="bytes=5-6"))[:2] == (206, LONG[5:7])
        assert (await bare(gate, link.url, "HEAD"))[:2] == (200, b"")
        clock.advance(101)
        status, body, _ = await bare(gate, link.url)
        assert (status, msgspec.json.decode(body)["error"]["code"]) == (404, "no_such_link")
        await gate.kernel.storage.keep_house()
        assert gate.kernel.database.read(lambda c: c.execute("SELECT count(*) FROM links").fetchone()) == (0,)


async def test_a_link_follows_its_file_and_leads_nowhere_when_that_is_gone() -> None:
    async with served() as gate:
        await put(gate, "a", b"1")
        newest = await call(gate, "sto_share", StoShare(path="a"))
        first = await call(gate, "sto_share", StoShare(path="a", version=1))
        await put(gate, "a", b"2")
        await call(gate, "sto_move", StoMove(path="a", to="d/b"))
        assert [(await bare(gate, link.url))[1] for link in (newest, first)] == [b"2", b"1"]
        await call(gate, "sto_clear", StoClear(path="d"))
        await put(gate, "d/b", b"another")
        assert [(await bare(gate, link.url))[0] for link in (newest, first)] == [404, 404]
        await call(gate, "sto_move", StoMove(path="d", to="e"))
        await call(gate, "sto_restore", StoRestore(path="d"))
        assert (await bare(gate, newest.url))[:2] == (200, b"2")
        assert (await call(gate, "sto_share", StoShare(path="d/b", ttl=0))).ended == 2
        assert (await bare(gate, newest.url))[0] == 404


async def test_the_store_has_no_link_that_anybody_could_follow_and_no_key_repeats_one() -> None:
    async with served() as gate:
        await put(gate, "a", b"1")
        link = await call(gate, "sto_share", StoShare(path="a"))
        token = link.url.rpartition("/")[2]
        gate.kernel.database.read(lambda c: c.execute("PRAGMA wal_checkpoint"))
        stored = b"".join(path.read_bytes() for path in gate.kernel.home.glob("aios.db*"))
        assert token.encode() not in stored
        status, body, _ = await gate.post("/aios/v1/calls/sto_share", {"path": "a"}, idempotency_key="k")
        assert (status, body["error"]["code"]) == (400, "no_key_here")
        assert (await bare(gate, f"/aios/v1/shared/{token[:-1]}"))[0] == 404
        assert (await bare(gate, "/aios/v1/shared/"))[0] in (401, 404)
        assert (await bare(gate, f"/aios/v1/shared/{token}/../../files/a"))[0] in (401, 404)
        for n in range(2, 101):
            await call(gate, "sto_share", StoShare(path="a", ttl=float(n)))
        with pytest.raises(AiosError, match="has 100 links already"):
            await call(gate, "sto_share", StoShare(path="a"))


@pytest.mark.parametrize(
    ("name", "kind", "way"),
    [("a.html", "text/html; charset=utf-8", "attachment"), ("a.svg", "image/svg+xml", "attachment"),
     ("a.txt", "text/plain; charset=utf-8", "inline"), ("a.png", "image/png", "inline"),
     ("a.txt.gz", "application/octet-stream", "attachment"), ("a", "application/octet-stream", "attachment"),
     ("ä\".js", "text/javascript; charset=utf-8", "attachment")],
)  # fmt: skip
async def test_a_browser_shows_no_file_as_a_page_of_the_kernel(name: str, kind: str, way: str) -> None:
    async with served() as gate:
        await call(gate, "sto_write", StoWrite(path=name, content="<script>alert(1)</script>"))
        link = await call(gate, "sto_share", StoShare(path=name))
        _, _, headers = await bare(gate, link.url)
        assert (headers["content-type"], headers["content-disposition"].split(";")[0]) == (kind, way)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
        assert '"' not in headers["content-disposition"]


async def test_a_long_file_may_take_longer_than_other_bodies_as_long_as_it_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "SLOWEST", 1)
    monkeypatch.setattr(server, "REQUEST_SECONDS", -1.0)
    async with served() as gate:
        status, body, _ = await put(gate, "a", LONG)
        assert status == 201, body
        assert (await call(gate, "sto_read", StoRead(path="a", length=0, encoding="base64"))).size == len(LONG)
