"""Headers that decide who asks and where: strictly one of each, and nothing beside the name."""

from __future__ import annotations

import pytest
from served import served
from test_wire import post, raw

from aios.gateway.host import LocalNames, host_of
from aios.kernel import Config
from aios.kernel.config import Server

pytestmark = pytest.mark.anyio

LOCAL = ["127.0.0.1", "127.0.0.1:8420", "LOCALHOST:1", "localhost", "127.0.0.2:80", "127.255.1.9", "[::1]", "[::1]:80"]
FOREIGN = ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "10.0.0.1:80", "[::2]", "0.0.0.0", "128.0.0.1"]
BROKEN = [
    "127.0.0.1:80@evil", "user@127.0.0.1", "127.0.0.1:80:80", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:99999",
    "127.0.0.1/x", "127.0.0.1, evil", " 127.0.0.1", "::1", "[::1", "[::1]x", "", "http://127.0.0.1", "127.0.0.1\n",
    "127.0.0.1:٨",
]  # fmt: skip


@pytest.mark.parametrize("own", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_a_local_kernel_answers_to_every_loopback_name_and_to_its_own(own: str) -> None:
    names = LocalNames(own)
    assert not names.is_open
    assert all(names.allow(host) for host in LOCAL)
    assert names.allow(f"[{own}]:8420" if ":" in own else f"{own}:8420")
    assert not any(names.allow(host) for host in FOREIGN + BROKEN)


@pytest.mark.parametrize("own", ["0.0.0.0", "192.168.1.4", "kernel.example", "127.example"])
def test_a_kernel_that_others_reach_answers_to_every_name_but_to_no_nonsense(own: str) -> None:
    names = LocalNames(own)
    assert all(names.allow(host) for host in LOCAL + FOREIGN)
    assert not any(names.allow(host) for host in BROKEN)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.1.1", "::1", "::ffff:127.0.0.1"])
def test_a_host_of_any_name_that_is_bound_to_loopback_is_a_local_one(address: str) -> None:
    names = LocalNames("my-machine", address)
    assert all(names.allow(host) for host in [*LOCAL, "My-Machine:8420"])
    assert not any(names.allow(host) for host in FOREIGN + BROKEN)


def test_a_loopback_name_that_is_bound_elsewhere_is_open() -> None:
    assert LocalNames("localhost", "192.168.1.4").allow("kernel.example")


async def test_whether_a_kernel_is_local_is_seen_by_its_socket_and_not_by_its_configured_name() -> None:
    async with served(config=Config(server=Server(host="my-machine"))) as at:
        own = at.url.removeprefix("http://").encode()
        for host, status in ((b"evil.example", 403), (b"my-machine", 404), (b"localhost", 404)):
            answer = await raw(at, post(at, b"", "connection: close", path="/nothing").replace(own, host))
            assert answer.startswith(b"HTTP/1.1 %d " % status)


def test_no_host_at_all_is_good_enough_where_every_name_is() -> None:
    assert LocalNames("0.0.0.0").allow(None)
    assert not LocalNames("127.0.0.1").allow(None)


def test_a_host_is_read_without_its_port_and_brackets() -> None:
    assert [host_of(h) for h in ("A.b:1", "[::1]:2", "x@y")] == ["a.b", "::1", None]


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1:80@evil", 400), ("evil.example", 403), ("127.0.0.9:1", 404)])
async def test_the_host_is_looked_at_before_all_else(host: str, status: int) -> None:
    async with served() as at:
        sent = post(at, b"", "connection: close", path="/nothing")
        answer = await raw(at, sent.replace(at.url.removeprefix("http://").encode(), host.encode()))
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert (b"bad_host" in answer) == (status != 404)


@pytest.mark.parametrize(
    "header", ["Idempotency-Key: k", "Authorization: Bearer x", "Host: 127.0.0.1", "X-AIOS-Timeout: 5", "X-Api-Key: k"]
)
async def test_a_header_that_says_one_thing_may_not_come_twice(header: str) -> None:
    async with served() as at:
        answer = await raw(at, post(at, b"{}", header, header, "connection: close"))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"repeated_header" in answer
        assert header.partition(":")[0].encode().lower() in answer.lower()


async def test_two_lengths_are_no_request() -> None:
    async with served() as at:
        assert (await raw(at, post(at, b"{}", "content-length: 2"))).startswith(b"HTTP/1.1 400 ")


async def test_other_headers_may_come_as_often_as_they_like() -> None:
    async with served() as at:
        path = "/aios/v1/calls/mem_list"
        answer = await raw(at, post(at, b"{}", "x-a: 1", "x-a: 2", "connection: close", path=path))
        assert answer.startswith(b"HTTP/1.1 200 ")
