"""One contract for both transports, on a real kernel: what goes in process goes over HTTP, word for word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from aios.abi.errors import AiosError, BadRequest, Cancelled, Conflict, NotFound, Unauthorized
from aios.gateway import bind, serve, url_of
from aios.kernel import Kernel
from aios.sdk import HTTP, AsyncClient, Client, InProcess, NoKernel
from aios.testing import ScriptedCore, booted

HELLO = [{"role": "user", "content": "hello"}]


@dataclass
class World:
    kernel: Kernel
    core: ScriptedCore
    client: AsyncClient
    admin: AsyncClient
    connect: Callable[[str], AsyncClient]


@asynccontextmanager
async def world(kind: str, script: object = "one two three four") -> AsyncIterator[World]:
    core = ScriptedCore(script, slots=1)
    async with booted(cores=[core], quantum=2) as kernel:
        _, key = kernel.access.mint(owner="o", agent="a")
        _, admin_key = kernel.access.mint(owner="o", agent="admin", is_admin=True)
        clients: list[AsyncClient] = []
        sock = bind("127.0.0.1", 0)
        url = url_of(sock)

        def connect(text: str) -> AsyncClient:
            transport = InProcess(kernel, text) if kind == "in process" else HTTP(url, text)
            clients.append(AsyncClient(transport=transport, retries=0))
            return clients[-1]

        ready = asyncio.Event()
        server = asyncio.ensure_future(serve(kernel, sock, on_ready=ready.set))
        await ready.wait()
        try:
            yield World(kernel, core, connect(key), connect(admin_key), connect)
        finally:
            for client in clients:
                await client.aclose()
            server.cancel()
            await asyncio.wait((server,))


def on(kind: str, test: Callable[[World], Awaitable[None]], script: object = "one two three four") -> None:
    async def go() -> None:
        async with asyncio.timeout(60):
            async with world(kind, script) as here:
                await test(here)

    asyncio.run(go())


def cancellation(kernel: Kernel) -> asyncio.Event:
    """Set when the next call is cancelled in `kernel`."""
    is_cancelled = asyncio.Event()
    kernel.trace.listen(lambda row: is_cancelled.set() if row.state == "cancelled" else None)
    return is_cancelled


both = pytest.mark.parametrize("kind", ["in process", "http"])


@both
def test_results_are_the_tables_structs(kind: str) -> None:
    async def check(here: World) -> None:
        written = await here.client.mem_write("the key is under the mat", metadata={"n": 1})
        found = await here.client.mem_search("key", k=1)
        assert [(e.id, e.metadata) for e in found.entries] == [(written.id, {"n": 1})]
        made = await here.client.llm_generate(HELLO, seed=7)
        assert (made.message.content, made.seed, made.usage.completion_tokens) == ("one two three four", 7, 4)
        assert (await here.client.tool_run("calculator", arguments={"expression": "6*7"})).content == "42"

    on(kind, check)


@both
def test_files_are_found_by_what_they_say(kind: str) -> None:
    async def check(here: World) -> None:
        kb = here.client.files / "kb"
        await (kb / "harbour.md").write_text("# Harbour\n\nIt opens in May.")
        await (kb / "broken.pdf").write_bytes(b"%PDF-1.7")
        found = await kb.search("when does it open", types=["md", "pdf"])
        assert [(each.path, each.title) for each in found.passages] == [("kb/harbour.md", "Harbour")]
        assert (list(found.skipped), found.pending) == (["kb/broken.pdf"], 0)
        with pytest.raises(NotFound, match="no file or folder 'kp'"):
            await (here.client.files / "kp").search("harbour")
        with pytest.raises(BadRequest, match="types"):
            await kb.search("harbour", types=[])

    on(kind, check)


@both
def test_errors_come_as_they_were_raised(kind: str) -> None:
    async def check(here: World) -> None:
        with pytest.raises(NotFound, match="did you mean 'calculator'") as caught:
            await here.client.tool_run("calculater")
        assert caught.value.code == "unknown_tool"
        with pytest.raises(BadRequest, match="temperature"):
            await here.client.llm_generate(HELLO, temperature=9.0)
        with pytest.raises(Unauthorized):
            await here.connect("sk-aios-none").mem_list()

    on(kind, check)


@both
def test_a_stream_is_the_answer_in_pieces(kind: str) -> None:
    async def check(here: World) -> None:
        stream = here.client.stream(HELLO)
        pieces = [piece.text async for piece in stream]
        assert "".join(pieces) == stream.result.message.content == "one two three four"
        assert len(pieces) > 1

    on(kind, check)


@both
def test_leaving_a_stream_frees_its_slot(kind: str) -> None:
    async def check(here: World) -> None:
        is_cancelled = cancellation(here.kernel)
        async with here.client.stream(HELLO) as stream:
            first = await anext(stream)
            here.core.gate.clear()
        await is_cancelled.wait()
        assert first.text.startswith("one")
        assert not here.core.inside

    on(kind, check, " ".join(["one"] * 5000))


@both
def test_a_cancelled_call_is_cancelled_in_the_kernel(kind: str) -> None:
    async def check(here: World) -> None:
        is_cancelled = cancellation(here.kernel)
        here.core.gate.clear()
        task = asyncio.ensure_future(here.client.llm_generate(HELLO))
        await here.core.entered(1)
        task.cancel()
        await is_cancelled.wait()
        assert task.cancelled()
        assert not here.core.inside

    on(kind, check)


@both
def test_a_repeated_key_gives_the_first_answer_and_another_body_is_a_conflict(kind: str) -> None:
    async def check(here: World) -> None:
        first = await here.client.llm_generate(HELLO, idempotency_key="k1")
        again = await here.client.llm_generate(HELLO, idempotency_key="k1")
        assert (first.message.content, again.message.content) == ("first", "first")
        assert len(here.core.seen) == 1
        stream = here.client.stream(HELLO, idempotency_key="k1")
        assert [piece.text async for piece in stream] == ["first"]
        with pytest.raises(Conflict):
            await here.client.llm_generate([{"role": "user", "content": "other"}], idempotency_key="k1")

    on(kind, check, ["first", "second"])


@both
def test_a_killed_process_hears_it(kind: str) -> None:
    async def check(here: World) -> None:
        spawned = await here.admin.proc_spawn("worker")
        worker = here.connect(spawned.key)
        here.core.gate.clear()
        streamed = worker.stream(HELLO)
        task = asyncio.ensure_future(anext(streamed))
        await here.core.entered(1)
        await here.admin.proc_signal(spawned.pid, "kill")
        with pytest.raises(Cancelled, match="killed"):
            await task
        assert (await here.admin.proc_wait(spawned.pid, timeout=1)).state == "ended"
        here.core.gate.set()

    on(kind, check)


def test_the_native_pages_are_there_over_http_and_refused_in_process() -> None:
    async def check(here: World) -> None:
        cores = await here.admin.fetch("GET", "/aios/v1/cores")
        assert cores["cores"][0]["name"] == "scripted"
        await here.client.mem_list()
        events = [e async for e in here.admin.events("/aios/v1/events?tail=100&follow=false")]
        assert {"mem_list"} <= {e["name"] for e in events}
        with pytest.raises(BadRequest, match="HTTP surface"):
            await AsyncClient(transport=InProcess(here.kernel, None)).fetch("GET", "/aios/v1/cores")

    on("http", check)


def test_the_plain_client_reaches_a_kernel_on_another_threads_loop() -> None:
    async def check(here: World) -> None:
        _, key = here.kernel.access.mint(owner="o", agent="b")
        transport = InProcess(here.kernel, key)

        def work() -> tuple[str | None, list[str]]:
            with Client(transport=transport) as client:
                whole = client.llm_generate(HELLO).message.content
                return str(whole), [piece.text for piece in client.stream(HELLO)]

        whole, pieces = await asyncio.to_thread(work)
        assert whole == "one two three four"
        assert pieces == ["one", " two", " three", " four"]

    on("in process", check)


def test_an_answer_that_is_no_kernels_says_so() -> None:
    async def go() -> AiosError:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        async with server, AsyncClient(f"http://{host}:{port}", "k", retries=0) as client:
            with pytest.raises(AiosError, match="no kernel of this version") as caught:
                await client.mem_list()
        return caught.value

    assert not isinstance(asyncio.run(go()), NoKernel)
