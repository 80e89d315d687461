"""What a client promises whatever carries its calls: same methods, safe retries, errors as they were raised."""

from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_transport import FakeTransport, generation

from aios.abi.calls import CALLS, Count, Empty, Entries, ToolResult, Written
from aios.abi.errors import BadRequest, Full, NotFound, Unauthorized
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


def test_a_read_is_tried_again_after_a_refusal() -> None:
    transport = flaky(2, Full("busy", retry_after=0.0), Entries(entries=[]))
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
        transport.loop = asyncio.get_running_loop()  # type: ignore[attr-defined]
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
    assert (default_url(), default_key()) == ("http://127.0.0.1:8420", None)
    (tmp_path / "kernel.json").write_text('{"url": "http://127.0.0.1:9000", "pid": 1}')
    (tmp_path / "admin.key").write_text("sk-aios-home\n")
    assert (default_url(), default_key()) == ("http://127.0.0.1:9000", "sk-aios-home")
    monkeypatch.setenv("AIOS_URL", "http://127.0.0.1:9001")
    monkeypatch.setenv("AIOS_KEY", "sk-aios-env")
    assert (default_url(), default_key()) == ("http://127.0.0.1:9001", "sk-aios-env")


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
