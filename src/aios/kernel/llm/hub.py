"""Models of the Hugging Face hub, fetched once into a folder of the home. Knows no decoder and no core.

The fetching is a process of its own (`hub_fetch.py`): it can be ended at once, and goes on where it was the next time.
What was fetched whole is used from then on without asking the hub again; a newer one has another `revision`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import msgspec

from aios.abi.errors import ModuleFault

log = logging.getLogger("aios.hub")

SAY_EVERY = 5.0
"""Seconds between two words on how far it is."""


class Fetched(msgspec.Struct):
    """What a model's files are, once all are there: the commit they are of, and each one's size in bytes."""

    commit: str
    files: dict[str, int]


class Progress(msgspec.Struct):
    """A line that the fetching process says. `error` is for people, and the last one."""

    done: int = 0
    total: int = 0
    error: str | None = None


def place_of(home: Path, repository: str) -> Path:
    """Where all revisions of a model are kept."""
    return home / "models" / repository.replace("/", "--")


def record_of(home: Path, repository: str, revision: str) -> Path:
    """The file that says that a revision is there, and which commit that is."""
    return place_of(home, repository) / f"{quote(revision, safe='')}.json"


def fetched(home: Path, repository: str, revision: str) -> Path | None:
    """The folder of a model that was fetched, None unless it is there whole."""
    record = record_of(home, repository, revision)
    try:
        said = msgspec.json.decode(record.read_bytes(), type=Fetched)
        folder = place_of(home, repository) / said.commit
        is_whole = all((folder / name).stat().st_size == size for name, size in said.files.items())
    except (OSError, msgspec.MsgspecError):
        return None
    return folder if is_whole else None


async def fetch(home: Path, repository: str, revision: str, tell: Callable[[Progress], None]) -> Path:
    """The folder of a model, fetched if it is not there. Raises ModuleFault: why not, and what to do.

    When the waiting task is cancelled the fetching ends; what came so far is kept, and is not fetched again.
    """
    if (folder := fetched(home, repository, revision)) is not None:
        return folder
    command = (sys.executable, "-m", "aios.kernel.llm.hub_fetch", str(home), repository, revision)
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    # The child sees the end of its stdin when this process is gone, however that went.
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **quiet},
    )
    try:
        last = await _listen(child, repository, tell)
        await child.wait()
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if last.error is not None:
        raise ModuleFault(last.error, code="model_not_fetched")
    folder = fetched(home, repository, revision)
    if folder is None:
        raise ModuleFault(
            f"fetching {repository} ended with code {child.returncode} and said nothing; try again, and "
            f"'python -m aios.kernel.llm.hub_fetch {home} {repository} {revision}' shows what goes wrong",
            code="model_not_fetched",
        )
    return folder


async def _listen(child: asyncio.subprocess.Process, repository: str, tell: Callable[[Progress], None]) -> Progress:
    """Hand on what the process says until it says no more; returns the last of it."""
    assert child.stdout is not None
    last, said_at = Progress(), time.monotonic() - SAY_EVERY
    async for line in child.stdout:
        try:
            last = msgspec.json.decode(line, type=Progress)
        except msgspec.MsgspecError:
            continue  # something else that was printed
        tell(last)
        if time.monotonic() - said_at >= SAY_EVERY and last.total:
            said_at = time.monotonic()
            log.info("fetching %s: %s", repository, share(last))
    return last


def share(progress: Progress) -> str:
    """`45 % of 1.2 GB`."""
    return f"{100 * progress.done // max(1, progress.total)} % of {amount(progress.total)}"


def amount(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"


def write_record(path: Path, fetched: Fetched) -> None:
    """Say that a model is there whole; all at once, so that half a record is never read."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(msgspec.to_builtins(fetched), indent=1), encoding="utf-8")
    fresh.replace(path)
