"""Fetches a model's files from the hub: `python -m aios.kernel.llm.hub_fetch HOME OWNER/NAME REVISION`.

A process of its own, and the only file that knows `huggingface_hub`. It prints a line of JSON now and then (`Progress`
in hub.py) and ends when its stdin does. $HF_ENDPOINT, $HF_TOKEN and the token of `hf auth login` count as they do for
every program that uses the hub. A file under way is `NAME.part`: it is of one commit, whose files never change, so
it can be gone on with at any time.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from .hub import Fetched, Progress, amount, place_of, record_of, write_record

WANTED = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|model\.safetensors\.index)\.json"
    r"|chat_template\.jinja|model(-\d+-of-\d+)?\.safetensors"
)
"""Files that a model is made of here. Whatever else a repository holds (other formats, copies) stays there."""
OTHER_WEIGHTS = {
    ".gguf": "it has .gguf files: download one, and use kind = \"gguf\" with its path",
    ".bin": "its weights are pickled (.bin): take a version of it with safetensors, which cannot run code",
    ".pt": "its weights are pickled (.pt): take a version of it with safetensors, which cannot run code",
}  # fmt: skip
TICK = 0.5
"""Seconds between two looks at how far it is."""
SPARE = 64 << 20
"""Bytes that stay free on the disk."""


class Refused(Exception):
    """Why the model cannot be had, and what to do."""


def main(home: Path, repository: str, revision: str) -> int:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with _in_words(repository, revision):
            _fetch(home, repository, revision)
    except Refused as refusal:
        _say(Progress(error=str(refusal)))
        return 1
    return 0


def _fetch(home: Path, repository: str, revision: str) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # public, but not re-exported

    info = HfApi(endpoint=_endpoint(), library_name="aios").model_info(
        repository, revision=revision, files_metadata=True, timeout=30
    )
    files = {each.rfilename: each for each in info.siblings or [] if WANTED.fullmatch(each.rfilename)}
    _check(repository, [each.rfilename for each in info.siblings or []])
    commit = str(info.sha)
    folder = place_of(home, repository) / commit
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    sizes = {name: int(each.size or 0) for name, each in files.items()}
    _check_room(repository, folder, sizes)
    # Two cores may ask for one model at once: the second waits, and finds it there.
    with WeakFileLock(place_of(home, repository) / "lock"), _told(folder, sizes):
        for name in sorted(files, key=lambda name: sizes[name]):
            _file(repository, commit, folder, files[name])
    write_record(record_of(home, repository, revision), Fetched(commit, sizes))


def _check(repository: str, names: list[str]) -> None:
    """Raise Refused when what a model needs is not among the files."""
    if not any(name.endswith(".safetensors") and WANTED.fullmatch(name) for name in names):
        hints = [hint for end, hint in OTHER_WEIGHTS.items() if any(name.endswith(end) for name in names)]
        hint = hints[0] if hints else "it is no model that can be run here"
        raise Refused(f"{repository} holds no safetensors: {hint}")
    for name in ("config.json", "tokenizer.json"):
        if name not in names:
            raise Refused(f"{repository} holds no {name}: it is no complete model; take the one that it was made from")


def _check_room(repository: str, folder: Path, sizes: dict[str, int]) -> None:
    missing = sum(sizes.values()) - _there(folder, sizes)
    free = shutil.disk_usage(folder).free
    if missing + SPARE > free:
        raise Refused(
            f"{repository} takes {amount(missing)} more on disk, and {amount(free)} are free at {folder}; "
            "make room, or set AIOS_HOME to a folder on a larger disk"
        )


def _file(repository: str, commit: str, folder: Path, file: Any) -> None:
    """One file, from where it is. It gets its name only when it is whole, and is what the hub says it is."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but not re-exported

    name, size = file.rfilename, file.size
    whole, part = folder / name, folder / f"{name}.part"
    if whole.exists() and whole.stat().st_size == size:
        return
    with part.open("ab") as out:
        url = hf_hub_url(repository, name, revision=commit, endpoint=_endpoint())
        http_get(url, out, resume_size=out.tell(), headers=build_hf_headers(library_name="aios"), expected_size=size)
    if file.lfs is not None and _digest(part) != file.lfs.sha256:
        part.unlink()
        raise Refused(f"{name} of {repository} came damaged: its checksum is another one; try again")
    part.replace(whole)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


# ── what is told ──


def _there(folder: Path, sizes: dict[str, int]) -> int:
    """Bytes of the files that are here already, whole or in part."""
    total = 0
    for name, size in sizes.items():
        for path in (folder / name, folder / f"{name}.part"):
            if path.exists():
                total += min(size, path.stat().st_size)
                break
    return total


@contextmanager
def _told(folder: Path, sizes: dict[str, int]) -> Iterator[None]:
    """While entered, how far it is is said now and then."""
    is_over = threading.Event()
    total = sum(sizes.values())

    def watch() -> None:
        while True:
            _say(Progress(_there(folder, sizes), total))
            if is_over.wait(TICK):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
    _say(Progress(total, total))


def _say(progress: Progress) -> None:
    print(msgspec.json.encode(progress).decode(), flush=True)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


# ── what goes wrong ──


@contextmanager
def _in_words(repository: str, revision: str) -> Iterator[None]:
    """The library's errors as one sentence each that says what to do. Its own are for programmers."""
    from huggingface_hub import constants, errors
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the client that it was built on

    where = _endpoint() or constants.ENDPOINT
    try:
        yield
    except errors.GatedRepoError:
        raise Refused(
            f"{repository} is gated: accept its terms at {where}/{repository}, and set HF_TOKEN to a token of the "
            "account that did"
        ) from None
    except errors.RevisionNotFoundError:
        raise Refused(f"{repository} has no revision '{revision}'; leave revision out for the newest") from None
    except errors.RepositoryNotFoundError:
        hint = "the token in HF_TOKEN may not read it" if os.environ.get("HF_TOKEN") else "a private one needs HF_TOKEN"
        raise Refused(f"there is no model '{repository}' at {where}: check its name (owner/name); {hint}") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "?"
        raise Refused(f"{where} answered {status} for {repository}; try again, what came so far is kept") from None
    except (errors.OfflineModeIsEnabled, HTTPError) as error:
        raise Refused(
            f"{where} cannot be reached ({type(error).__name__}), and {repository} is not here yet: check the network, "
            "or set HF_ENDPOINT to a mirror; what came so far is kept"
        ) from None
    except errors.HFValidationError as error:
        raise Refused(f"'{repository}' is no name of a model (owner/name): {error}") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refused(f"the disk is full; make room and try again: what came of {repository} is kept") from None
        raise Refused(f"{repository} cannot be fetched: {str(error)[:300]}; what came so far is kept") from None


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
    except ModuleNotFoundError as missing:
        _say(Progress(error=f"{missing.name} is not installed; pip install 'aios-kernel[local]' brings it"))
        sys.exit(1)
