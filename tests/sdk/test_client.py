"""What a client promises whatever carries its calls: same methods, safe retries, errors as they were raised."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fake_transport import FakeTransport, generation

from aios.abi.calls import CALLS, Count, Empty, Entries, ToolResult, Written
from aios.abi.errors import AiosError, BadRequest, CutShort, Full, NotFound, Stopping, Unauthorized
from aios.sdk import AsyncClient, Client, NoKernel
from aios.sdk.client import default_key, default_url

ROOT = Path(__file__).parent.parent.parent


def flaky(times: int, error: Any, then: Any) -> FakeTransport:
    left = [error] * times
    return FakeTransport(lambda name, arguments: left.pop() if left else then)


def run(work: Any) -> Any:
    return asyncio.run(work)


def test_the_methods_are_those_of_the_table() -> None:
    checked = subprocess.run([sys.executable, ROOT / "scripts/generate", "--check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    for name in CALLS:
        assert callable(getattr(AsyncClient, name))
        assert callable(getattr(Client, name))


def test_what_is_left_out_is_not_sent() -> None:
    transport = FakeTransport(lambda name, arguments: Written(id="m1"))
    run(AsyncClient(transport=transport).mem_write("a fact", kind="fact"))
    assert transport.asked == [("mem_write", {"content": "a fact", "kind": "fact"}, None)]


@pytest.mark.parametrize("kind", [Full, Stopping, CutShort, NoKernel])
def test_a_read_is_tried_again_after_a_refusal(kind: type[AiosError]) -> None:
    transport = flaky(2, kind("busy", retry_after=0.0), Entries(entries=[]))
    run(AsyncClient(transport=transport).mem_list())
    assert len(transport.asked) == 3


def test_a_write_without_a_key_is_not_tried_again() -> None:
    transport = flaky(1, Full("busy", retry_after=0.0), Written(id="m1"))
    with pytest.raises(Full):
        run(AsyncClient(transport=transport).mem_write("x"))
    assert len(transport.asked) == 1


def test_a_write_with_a_key_is_tried_again_with_the_same_key() -> None:
    transport = flaky(1, NoKernel("gone", retry_after=0.0), Written(id="m1"))
    run(AsyncClient(transport=transport, keyed=True).mem_write("x"))
    assert len({key for _, _, key in transport.asked}) == 1
    assert transport.asked[0][2]


def test_calls_that_the_kernel_answers_at_once_get_no_key() -> None:
    transport = FakeTransport(lambda name, arguments: Empty())
    run(AsyncClient(transport=transport, keyed=True).proc_nice(1, 5))
    assert transport.asked[0][2] is None


def test_a_refusal_beyond_the_longest_pause_is_raised_at_once() -> None:
    transport = flaky(1, Full("spent", retry_after=3600.0), Entries(entries=[]))
    with pytest.raises(Full):
        run(AsyncClient(transport=transport).mem_list())


def test_other_errors_are_not_tried_again() -> None:
    transport = flaky(1, NotFound("no such entry"), Count(count=1))
    with pytest.raises(NotFound):
        run(AsyncClient(transport=transport).mem_read("m9"))
    assert len(transport.asked) == 1


def test_a_stream_gives_its_pieces_and_then_its_result() -> None:
    async def go() -> None:
        client = AsyncClient(transport=FakeTransport(lambda name, arguments: generation("one two")))
        stream = client.stream([{"role": "user", "content": "hi"}])
        with pytest.raises(ValueError, match="has not ended"):
            _ = stream.result
        assert [piece.text async for piece in stream] == ["one", "two"]
        assert stream.result.message.content == "one two"

    run(go())


def test_the_plain_client_works_inside_a_running_loop() -> None:
    async def go() -> None:
        with Client(transport=FakeTransport(lambda name, arguments: generation("one two"))) as client:
            assert client.llm_generate([{"role": "user", "content": "hi"}]).message.content == "one two"
            stream = client.stream([{"role": "user", "content": "hi"}])
            assert [piece.text for piece in stream] == ["one", "two"]
            assert stream.result.core == "fake"

    run(go())


def test_a_client_that_would_wait_for_its_own_loop_says_so() -> None:
    async def go() -> None:
        transport = FakeTransport(lambda name, arguments: ToolResult(content=""))
        transport.loop = asyncio.get_running_loop()
        with Client(transport=transport) as client, pytest.raises(BadRequest, match="AsyncClient"):
            client.tool_run("calculator")
        await asyncio.sleep(0)

    run(go())


def test_nobody_at_the_address_is_one_clear_sentence() -> None:
    with Client("http://127.0.0.1:1", "k", retries=0) as client, pytest.raises(NoKernel) as caught:
        client.tool_list()
    assert str(caught.value) == "no kernel at http://127.0.0.1:1 (connection refused); start one with 'aios up'"


def test_address_and_key_come_from_the_environment_else_from_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AIOS_URL", "AIOS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AIOS_HOME", str(tmp_path))
    assert default_url() == "http://127.0.0.1:8420"
    for client in (AsyncClient, Client):
        with pytest.raises(NoKernel, match=rf"no kernel runs on {tmp_path}; start one with 'aios up', or name one"):
            client()
    (tmp_path / "admin.key").write_text("sk-aios-home\n")
    with pytest.raises(NoKernel):  # the usual address may be another home's: it is not sent this one's key
        default_key()
    (tmp_path / "kernel.json").write_text('{"url": "http://127.0.0.1:9000", "pid": 1}')
    (tmp_path / "admin.key").write_text("sk-aios-home\n")
    assert (default_url(), default_key()) == ("http://127.0.0.1:9000", "sk-aios-home")
    monkeypatch.setenv("AIOS_URL", "http://127.0.0.1:9001")
    monkeypatch.setenv("AIOS_KEY", "sk-aios-env")
    assert (default_url(), default_key()) == ("http://127.0.0.1:9001", "sk-aios-env")


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("127.0.0.1:8420", "; did you mean 'http://127.0.0.1:8420'?"),
        ("ftp://127.0.0.1", ""),
        ("http://", ""),
        ("http://host:99999", ""),
        ("http://a host", ""),
        ("http://127.0.0.1:8420/v1/", "; leave out /v1, which is for OpenAI's clients: http://127.0.0.1:8420"),
    ],
)
def test_what_is_no_address_is_told_when_the_client_is_made(url: str, hint: str) -> None:
    with pytest.raises(BadRequest) as caught:
        Client(url, "k")
    assert str(caught.value) == f"{url!r} is no address of a kernel, such as http://127.0.0.1:8420{hint}"


PLAIN = "from aios import Client\nclient = Client()\nclient.tool_list()"
AWAITED = """
import asyncio
from aios import AsyncClient

async def main():
    async with AsyncClient() as client:
        await client.tool_list()

asyncio.run(main())
"""


class Refusing(BaseHTTPRequestHandler):
    """A kernel that knows no key."""

    def do_POST(self) -> None:
        body = json.dumps({"error": Unauthorized("not known").to_dict()}).encode()
        self.send_response(401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def refusing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def failing(program: str, **env: str) -> list[str]:
    """What a program says that fails."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AIOS_")}
    done = subprocess.run([sys.executable, "-c", program], env={**clean, **env}, capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr.splitlines()


@pytest.mark.parametrize("program", [PLAIN, AWAITED])
def test_a_program_without_a_kernel_ends_in_one_clear_sentence(program: str, tmp_path: Path) -> None:
    nobody = "no kernel at http://127.0.0.1:1 (connection refused); start one with 'aios up'"
    none = f"no kernel runs on {tmp_path}; start one with 'aios up', or name one by AIOS_URL and AIOS_KEY"
    for env, says in (({"AIOS_URL": "http://127.0.0.1:1"}, nobody), ({}, none)):
        said = failing(program, AIOS_HOME=str(tmp_path), **env)
        assert said[-1] == f"aios.sdk.transport.NoKernel: {says}"
        assert sum(line.startswith("Traceback") for line in said) == 1
        ours = [line for line in said if "/aios/" in line]
        assert len(ours) <= 3
        assert not any("aiohttp" in line or "Unclosed" in line for line in said)


def test_a_program_with_a_wrong_key_ends_in_the_kernels_sentence_and_without_one_in_ours(
    refusing: str, tmp_path: Path
) -> None:
    home = {"AIOS_HOME": str(tmp_path), "AIOS_URL": refusing}
    assert failing(PLAIN, **home, AIOS_KEY="k")[-1] == "aios.abi.errors.Unauthorized: not known"
    assert failing(PLAIN, **home)[-1] == (
        f"aios.abi.errors.Unauthorized: {refusing} wants a key and there is none: set AIOS_KEY to one that "
        "'aios keys new NAME' prints there"
    )


def test_an_address_that_does_not_speak_tls_is_told_so(refusing: str) -> None:
    with Client(refusing.replace("http:", "https:"), "k", retries=0) as client, pytest.raises(NoKernel) as caught:
        client.tool_list()
    assert str(caught.value).endswith("a kernel speaks http://, unless a proxy stands before it")


def test_the_homes_admin_key_goes_to_the_homes_kernel_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIOS_URL", "AIOS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AIOS_HOME", str(tmp_path))
    (tmp_path / "kernel.json").write_text('{"url": "http://127.0.0.1:9000", "pid": 1}')
    (tmp_path / "admin.key").write_text("sk-aios-home\n")
    for client in (AsyncClient, Client):
        with pytest.raises(Unauthorized, match=r"no key for http://elsewhere: .*set AIOS_KEY"):
            client("http://elsewhere")
    assert default_key("http://127.0.0.1:9000/") == "sk-aios-home"
    monkeypatch.setenv("AIOS_URL", "http://127.0.0.1:9000")
    assert default_key() == "sk-aios-home"
    monkeypatch.setenv("AIOS_URL", "http://127.0.0.1:9001")
    with pytest.raises(Unauthorized, match="set AIOS_KEY"):
        AsyncClient()
    AsyncClient(key="sk-aios-mine")
    monkeypatch.setenv("AIOS_KEY", "sk-aios-env")
    assert default_key("http://elsewhere") == "sk-aios-env"


def test_importing_aios_loads_nothing_until_asked() -> None:
    code = "import sys, aios; assert not {'aios.sdk', 'aiohttp', 'msgspec'} & set(sys.modules); aios.Client"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_readme_names_the_argument_that_makes_a_call_repeatable() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    (name,) = re.findall(r"`(\w+)=` in the SDK", readme)
    assert name in inspect.signature(AsyncClient.tool_run).parameters
