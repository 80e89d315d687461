"""A connection to a server: whose answer is whose, what counts against its time, what is too much."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
from upstream import HEAD, LAST, framed, whole

from aios.kernel.llm.remote import connection
from aios.kernel.llm.remote.connection import Broken, Connection, Heard, OnData, Pool, Response, Unfinished, Unreachable

pytestmark = pytest.mark.anyio


class Wire:
    """A transport that notes whether it was cut."""

    is_cut = False

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None:
        self.is_cut = True


async def asked(data: bytes) -> tuple[Pool, Connection, Wire, asyncio.Task[Response]]:
    """A connection that asked and got `data`, and what is to come of that."""
    pool, wire = Pool("http://h/v1", {}), Wire()
    connected = Connection(pool)
    connected.connection_made(cast(asyncio.Transport, wire))
    asking = asyncio.create_task(connected.ask(b"x", 60.0, None))
    await asyncio.sleep(0)
    connected.data_received(data)
    return pool, connected, wire, asking


async def answered(data: bytes) -> tuple[Pool, Connection, Wire, Response]:
    pool, connected, wire, asking = await asked(data)
    return pool, connected, wire, await asking


async def test_certificates_are_read_once_and_not_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[threading.Thread] = []

    def read() -> ssl.SSLContext:
        places.append(threading.current_thread())
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    monkeypatch.setattr(ssl, "create_default_context", read)
    connection._trusted.cache_clear()
    try:
        for path in ("a", "b"):
            with pytest.raises(Unreachable):
                await Pool(f"https://127.0.0.1:1/{path}", {}).get("/", 60.0)
    finally:
        connection._trusted.cache_clear()
    assert len(places) == 1
    assert places[0] is not threading.current_thread()


async def test_an_answer_nobody_asked_for_ends_an_idle_connection() -> None:
    (answer,) = whole({"a": 1})
    assert isinstance(answer, bytes)
    pool, connected, wire, _ = await answered(answer)
    assert (pool._idle, wire.is_cut) == ([connected], False)
    connected.data_received(answer)
    assert (pool._idle, wire.is_cut) == ([], True)
    with pytest.raises(Broken):
        await connected.ask(b"x", 60.0, None)


async def test_a_second_answer_in_the_same_packet_changes_nothing_of_the_first() -> None:
    (answer,), (other,) = whole({"a": 1}), whole({"b": 2}, "500 Oops")
    assert isinstance(answer, bytes)
    assert isinstance(other, bytes)
    pool, _, wire, response = await answered(answer + other)
    assert (response.status, response.body) == (200, b'{"a": 1}')
    assert (pool._idle, wire.is_cut) == ([], True)


@pytest.mark.parametrize(
    ("bound", "data", "said"),
    [
        ("MAX_HEAD", b"HTTP/1.1 200 OK\r\n" + b"x-pad: y\r\n" * 20, "endless headers"),
        ("MAX_WHOLE", b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n" + b"x" * 200, "more than 100 bytes"),
    ],
)
async def test_a_server_that_says_more_than_the_bound_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, bound: str, data: bytes, said: str
) -> None:
    monkeypatch.setattr(connection, bound, 100)
    pool, _, wire, asking = await asked(data)
    assert (pool._idle, wire.is_cut) == ([], True)
    with pytest.raises(Broken, match=said):
        await asking


async def test_a_connection_whose_answer_nobody_waits_for_is_never_used_again() -> None:
    (answer,) = whole({"a": 1})
    assert isinstance(answer, bytes)
    pool, connected, wire, _ = await answered(answer)
    assert pool._take() is connected
    asking = asyncio.create_task(connected.ask(b"x", 60.0, None))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (pool._idle, wire.is_cut) == ([], True)


# ── time ──


class Clock:
    """An event loop's time, as a test moves it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        timer = Timer(self.now + delay, call)
        self._timers.append(timer)
        return timer

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self._timers if timer.when <= end]:
            first = min(due, key=lambda timer: timer.when)
            self._timers.remove(first)
            self.now = first.when
            first.fire()
        self.now = end


class Timer:
    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self._call: Callable[[], None] | None = call

    def fire(self) -> None:
        if self._call is not None:
            self._call()

    def cancel(self) -> None:
        self._call = None


class Slow:
    """A request under way, with 10 seconds between two tokens, and a server that says what a test makes it say."""

    def __init__(self, on_data: OnData | None = None, first: float | None = None) -> None:
        self._clock = Clock()
        self._connected = Connection(Pool("http://h/v1", {}))
        self._connected._loop = cast(asyncio.AbstractEventLoop, self._clock)
        self._connected.connection_made(cast(asyncio.Transport, Wire()))
        self._asking = asyncio.create_task(self._connected.ask(b"x", 10.0, on_data, first))

    async def drip(self, data: bytes, seconds: float = 1.0, times: int = 1000) -> None:
        """Say `data` every so many seconds, so many times or until nobody waits for it."""
        for _ in range(times):
            await asyncio.sleep(0)
            if self._asking.done():
                return
            self._connected.data_received(data)
            self._clock.advance(seconds)

    async def ends(self, error: type[Exception], after: float) -> None:
        with pytest.raises(error) as caught:
            await self._asking
        assert type(caught.value) is error
        assert self._clock.now == after


async def test_a_head_that_drips_gets_no_more_time_than_silence() -> None:
    slow = Slow()
    await slow.drip(b"HTTP/1.1 200 OK\r\n", 1.0, 1)
    await slow.drip(b"x-more: y\r\n")
    await slow.ends(TimeoutError, after=10.0)


async def test_an_answer_that_comes_whole_has_one_time_for_all_of_it() -> None:
    slow = Slow()
    await slow.drip(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n", 9.0, 1)
    await slow.drip(b"x")
    await slow.ends(Unfinished, after=10.0)


async def test_who_waited_for_a_stream_and_gets_one_piece_waits_for_its_end_once_more() -> None:
    slow = Slow(lambda data: Heard.SOMETHING, first=3.0)
    await slow.drip(b"HTTP/1.1 200 OK\r\n", 2.0, 1)
    await slow.drip(b"content-length: 99\r\n\r\n", 1.0, 1)
    await slow.drip(b"x")
    await slow.ends(Unfinished, after=5.0)


async def test_signs_of_life_buy_a_stream_no_time_and_words_do() -> None:
    heard = [Heard.NOTHING]
    slow = Slow(lambda data: heard[0], first=30.0)
    await slow.drip(HEAD, 1.0, 1)
    await slow.drip(framed(b": ping"), 1.0, 20)
    heard[0] = Heard.SOMETHING
    await slow.drip(framed(b"a word"), 9.0, 5)  # from 21 to 66
    heard[0] = Heard.NOTHING
    await slow.drip(framed(b": ping"))
    await slow.ends(TimeoutError, after=67.0)


async def test_before_its_first_word_a_stream_has_a_time_of_its_own() -> None:
    slow = Slow(lambda data: Heard.NOTHING, first=30.0)
    await slow.drip(HEAD, 1.0, 1)
    await slow.drip(framed(b": ping"))
    await slow.ends(TimeoutError, after=30.0)


async def test_a_stream_whose_words_all_came_is_over_whatever_follows() -> None:
    said: list[bytes] = []

    def hear(data: bytes) -> Heard:
        said.append(data)
        return Heard.ALL

    slow = Slow(hear)
    await slow.drip(HEAD + framed(b"a") + framed(b"b") + LAST, 1.0, 1)
    assert (await slow._asking).status == 200
    assert said == [b"ab"]
