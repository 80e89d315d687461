"""The server behind a remote core: its address, key, connections, pace, and what a fault of its means for a call.

Knows no wire: which bytes are asked and what they mean is the core's. Every kind of remote core asks through this.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from aios.abi.errors import AiosError, TimedOut, UpstreamFault
from aios.abi.home import home_path

from ..config import ConfigError, CoreSection, check_url
from .base import NotBegun
from .connection import OnData, Pool, Response, Unreachable
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

KeyHeaders = Callable[[str], Mapping[str, str]]
"""How a wire shows a key."""


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
        self.pace = Pace(section.slots, now, rng)
        self._section = section
        self._headers_of = headers_of
        self._headers: dict[str, str] = {}
        self._pools: dict[str, Pool] = {}
        self._now = now
        self._counts = {"requests": 0, "failed": 0, "active": 0}

    def open(self) -> None:
        """Read the key. Nothing is asked of the server yet: it may start after this kernel, and be restarted."""
        key = _key(self._section)
        self._headers = HEADERS | (dict(self._headers_of(key)) if key else {})

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()

    @property
    def key_source(self) -> str:
        if self._section.api_key_file is not None:
            return self._section.api_key_file
        env = self._section.api_key_env
        return f"${env}" if env else "[[core]] api_key_env, which is not set"

    def statistics(self) -> dict[str, float | int]:
        return self._counts | self.pace.statistics()

    async def post(self, path: str, body: bytes, on_data: OnData | None = None) -> Response:
        """Post `body` to `path`. An answer that is streamed has `timeout` between two pieces, a whole one more."""
        pool = self._pools.get(path)
        if pool is None:
            assert self._headers, "opened before it is asked"
            pool = self._pools[path] = Pool(self._url(path), self._headers)
        return await pool.post(body, self.timeout * (1 if on_data is not None else WHOLE_FACTOR), on_data)

    def _url(self, path: str) -> str:
        """A query in `base_url` stays behind the path, as some servers want it."""
        parts = urlsplit(self._section.base_url or "")
        return parts._replace(path=parts.path.rstrip("/") + path).geturl()

    @contextmanager
    def attempt(self, *, is_streamed: bool, has_spoken: Callable[[], bool]) -> Iterator[None]:
        """One request under way, counted. What goes wrong in it is judged here: raises NotBegun when trying again is
        worth it and `has_spoken` says that the agent heard nothing yet, else what the agent is told."""
        counts = self._counts
        counts["requests"] += 1
        counts["active"] += 1
        counts["failed"] += 1
        began, active = self._now(), counts["active"]
        try:
            yield
        except (AiosError, OSError) as error:
            raise self._verdict(self._told(error, is_streamed), began, active, has_spoken()) from None
        finally:
            counts["active"] -= 1
        counts["failed"] -= 1
        self.pace.went_well(active)

    def _told(self, error: AiosError | OSError, is_streamed: bool) -> AiosError:
        """What went wrong, for the agent."""
        if isinstance(error, AiosError):
            return error
        if isinstance(error, TimeoutError):
            factor, what = (1, "") if is_streamed else (WHOLE_FACTOR, f"{WHOLE_FACTOR} times ")
            limit = f"{self.timeout * factor:g} s ({what}[[core]] timeout)"
            return TimedOut(f"core '{self.name}' said nothing for {limit}", code="upstream_timeout")
        if isinstance(error, Unreachable):
            return UpstreamFault(f"core '{self.name}': {error}; is it running?", code="upstream_unreachable")
        return UpstreamFault(f"core '{self.name}': {error}", code="upstream_unreachable")

    def _verdict(self, error: AiosError, began: float, active: int, has_spoken: bool) -> AiosError | NotBegun:
        """What the fault says about the server, and whether the call may be tried again."""
        is_busy = error.code == "upstream_busy"
        if is_busy:
            after = self.pace.was_refused(began, active, error.retry_after)
        elif error.code in PASSING:
            after = self.pace.went_wrong(error.retry_after)
        else:
            return error
        return error if has_spoken else NotBegun(error, after=after, is_busy=is_busy)


def _key(section: CoreSection) -> str | None:
    """From the environment, or from a file in the home, where no agent's program can look. Raises ConfigError."""
    if section.api_key_file is None:
        return os.environ.get(section.api_key_env) if section.api_key_env else None
    home = home_path().resolve()
    path = (home / section.api_key_file).resolve()
    if not path.is_relative_to(home):
        raise _bad_key(section, f"is outside the home {home}, where programs of agents could read it")
    try:
        key = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise _bad_key(section, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _bad_key(section, "is not plain ASCII text") from None
    if not key.isprintable() or not key:
        raise _bad_key(section, "must hold one line, the key")
    return key


def _bad_key(section: CoreSection, why: str) -> ConfigError:
    return ConfigError(f"core '{section.name}': api_key_file {section.api_key_file} {why}")
