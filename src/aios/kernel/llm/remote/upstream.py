"""The server behind a remote core: its address, key, connections, pace, and what a fault of its means for a call.

Knows no wire: which bytes are asked and what they mean is the core's. Every kind of remote core asks through this.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from aios.abi.errors import AiosError, ModuleFault, TimedOut, UpstreamFault

from ...config import ConfigError, CoreSection, check_url
from ...secret import Secret
from ..base import NotBegun
from .connection import OnData, Pool, Response, Unfinished, Unreachable, Unreadable
from .pace import Pace

WHOLE_FACTOR = 5
"""An answer that comes whole says nothing until it is done: it is given so many times the time between two tokens."""

PASSING = frozenset({"upstream_failed", "upstream_unreachable", "upstream_timeout", "upstream_cut", "upstream_garbage"})
"""Codes of what may go well the next time."""

HEADERS = {
    "accept": "application/json, text/event-stream",
    "accept-encoding": "identity",
    "content-type": "application/json",
    "user-agent": "aios",
}

KeyHeaders = Callable[[str | None], Mapping[str, str]]
"""The headers of a wire, which show the key if there is one."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request under way: when it was sent, and how many were under way then, this one among them."""

    began: float
    active: int


class Upstream:
    """One server, asked at `base_url` + a path.

    `key_source` says where the key comes from, for people who are told that it is refused; never the key.
    """

    def __init__(
        self,
        section: CoreSection,
        headers_of: KeyHeaders,
        *,
        now: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        check_url(section)
        self.name = section.name
        self.timeout = section.timeout
        self.first_timeout = section.first_timeout
        self.pace = Pace(section.slots, now, rng)
        self._section = section
        self._headers_of = headers_of
        self._secret = Secret(section)
        self._key: str | None = None
        """As the headers have it; None until opened."""
        self._headers: dict[str, str] = {}
        self._pools: dict[str, Pool] = {}
        self._now = now
        self._counts = {"requests": 0, "failed": 0, "active": 0}

    def open(self) -> None:
        """Read the key. Raises ConfigError for a file that holds none."""
        self._use_key(self._secret.text())

    def _use_key(self, key: str) -> None:
        if key == self._key:
            return
        self._key = key
        self._headers = HEADERS | dict(self._headers_of(key or None))
        for pool in self._pools.values():
            pool.set_headers(self._headers)

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()

    @property
    def key_source(self) -> str:
        return self._secret.source

    def statistics(self) -> dict[str, float | int]:
        return self._counts | self.pace.statistics()

    async def post(self, path: str, body: bytes, on_data: OnData | None = None) -> Response:
        """Post `body` to `path`. A stream has `timeout` between two tokens, an answer that comes whole more in all."""
        pool = self._pool(path)
        if on_data is None:
            return await pool.post(body, self.timeout * WHOLE_FACTOR, None)
        return await pool.post(body, self.timeout, on_data, first=self.first_timeout)

    async def get(self, path: str, timeout: float, *, is_beside: bool = False) -> Response:
        """Get `path`, or, `is_beside`, that of the same server outside the API."""
        url = urlsplit(self._url(path))
        if is_beside:
            url = url._replace(path=path, query="")
        return await self._pool(path).get(url._replace(scheme="", netloc="", fragment="").geturl(), timeout)

    def _pool(self, path: str) -> Pool:
        try:
            self._use_key(self._secret.text())
        except ConfigError as error:  # the file was sound when the core was opened
            raise ModuleFault(error.message, code="no_upstream_key") from None
        pool = self._pools.get(path)
        if pool is None:
            pool = self._pools[path] = Pool(self._url(path), self._headers)
        return pool

    def _url(self, path: str) -> str:
        """A query in `base_url` stays behind the path, as some servers want it."""
        parts = urlsplit(self._section.url or "")
        return parts._replace(path=parts.path.rstrip("/") + path).geturl()

    # ── one request, counted ──

    @contextmanager
    def attempt(self, *, is_streamed: bool, has_spoken: Callable[[], bool]) -> Iterator[None]:
        """One request under way. What goes wrong in it is judged here: raises NotBegun when trying again is
        worth it and `has_spoken` says that the agent heard nothing yet, else what the agent is told."""
        attempt = self.begin()
        is_well = False
        try:
            yield
            is_well = True
        except (AiosError, OSError) as error:
            verdict = self.judge(error, attempt, is_streamed=is_streamed)
            raise (verdict.error if isinstance(verdict, NotBegun) and has_spoken() else verdict) from None
        finally:
            self.end(attempt, is_well=is_well)

    def begin(self) -> Attempt:
        """A request is about to be sent; `end` must follow."""
        self._counts["requests"] += 1
        self._counts["active"] += 1
        return Attempt(self._now(), self._counts["active"])

    def end(self, attempt: Attempt, *, is_well: bool) -> None:
        self._counts["active"] -= 1
        self._counts["failed"] += not is_well
        if is_well:
            self.pace.went_well(attempt.began, attempt.active)

    def judge(self, error: AiosError | OSError, attempt: Attempt, *, is_streamed: bool) -> AiosError | NotBegun:
        """What the fault says about the server, and whether the call is worth trying again: what the agent is told."""
        told = self._told(error, is_streamed)
        is_busy = told.code == "upstream_busy"
        if is_busy:
            after = self.pace.was_refused(attempt.began, attempt.active, told.retry_after)
        elif told.code in PASSING:
            after = self.pace.went_wrong(attempt.began, told.retry_after)
        else:
            return told
        return NotBegun(told, after=after, is_busy=is_busy)

    def _told(self, error: AiosError | OSError, is_streamed: bool) -> AiosError:
        """What went wrong, for the agent."""
        if isinstance(error, AiosError):
            error.message = self.scrubbed(error.message)
            error.args = (error.message,)
            return error
        if isinstance(error, TimeoutError):
            factor, times = (1, "") if is_streamed else (WHOLE_FACTOR, f"{WHOLE_FACTOR} times ")
            limit = f"{self.timeout * factor:g} s ({times}[[core]] timeout)"
            if is_streamed and self.first_timeout is not None:
                limit += f", or {self.first_timeout:g} s before its first token ([[core]] first_timeout)"
            what = "did not end its answer within" if isinstance(error, Unfinished) else "said nothing for"
            return TimedOut(f"core '{self.name}' {what} {limit}", code="upstream_timeout")
        if isinstance(error, Unreachable):
            return UpstreamFault(f"core '{self.name}': {error}; is it running?", code="upstream_unreachable")
        code = "upstream_garbage" if isinstance(error, Unreadable) else "upstream_unreachable"
        return UpstreamFault(f"core '{self.name}': {error}", code=code)

    def scrubbed(self, message: str) -> str:
        """`message` without the key, if the server repeats it."""
        return self._secret.scrubbed(message)
