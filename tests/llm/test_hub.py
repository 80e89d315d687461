"""Models of the hub: fetched once, gone on with after an interrupt, and each refusal says what to do.

Against a real HTTP server that speaks as the hub does; nothing outside this machine is asked.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huggingface_hub")
pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")

from hub_server import COMMIT, Hub, of_folder, serving

from aios.abi.calls import LLMGenerate
from aios.abi.errors import ModuleFault
from aios.abi.messages import Message
from aios.kernel import Config, Kernel
from aios.kernel.config import ConfigError, CoreSection, parse
from aios.kernel.llm import hub_fetch
from aios.kernel.llm.folder import FolderCore, read
from aios.kernel.llm.hub import Progress, fetch, fetched, place_of
from aios.kernel.llm.local.shape import ModelError
from aios.testing import models, principal, until

pytestmark = pytest.mark.anyio

BIG = os.urandom(1 << 20) * 24
"""More than the library keeps in memory before it writes."""
SMALL = {"config.json": b"{}", "tokenizer.json": b"{}", "README.md": b"# hi", "pytorch_model.bin": b"pickle"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving(Hub(files={**SMALL, "model.safetensors": BIG})) as at:
        monkeypatch.setenv("HF_ENDPOINT", at.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield at


async def get(home: Path, repository: str = "tiny/model", revision: str = "main") -> tuple[Path, list[Progress]]:
    said: list[Progress] = []
    async with asyncio.timeout(60):
        return await fetch(home, repository, revision, said.append), said


async def test_only_what_a_model_needs_is_fetched_and_only_once(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "aios.hub")
    folder, said = await get(tmp_path)
    assert caplog.messages[0].startswith("fetching tiny/model: ")
    assert {path.name for path in folder.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert folder == place_of(tmp_path, "tiny/model") / COMMIT
    assert (said[-1].done, said[-1].total) == (len(BIG) + 4, len(BIG) + 4)
    assert all(before.done <= after.done for before, after in itertools.pairwise(said))
    asked = len(hub.seen)
    again, said = await get(tmp_path)
    assert (again, said, len(hub.seen)) == (folder, [], asked)


async def test_a_transfer_that_is_cut_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    hub.cut["model.safetensors"] = 15 << 20
    folder, _ = await get(tmp_path)
    assert (folder / "model.safetensors").read_bytes() == BIG
    ranges = [wanted for name, wanted in hub.seen if name == "model.safetensors"]
    assert ranges[0] is None
    assert len(ranges) == 2
    assert int(str(ranges[1])[6:-1]) >= 10 << 20


async def test_a_fetch_that_is_ended_goes_on_where_it_was_the_next_time(hub: Hub, tmp_path: Path) -> None:
    hub.stall["model.safetensors"] = 22 << 20
    task = asyncio.create_task(fetch(tmp_path, "tiny/model", "main", lambda _: None))
    await asyncio.to_thread(hub.stalled.wait, 30)
    part = place_of(tmp_path, "tiny/model") / COMMIT / "model.safetensors.part"
    async with asyncio.timeout(30):
        await until(lambda: part.exists() and part.stat().st_size >= 10 << 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fetched(tmp_path, "tiny/model", "main") is None
    there = part.stat().st_size
    folder, _ = await get(tmp_path)
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert hub.seen[-1] == ("model.safetensors", f"bytes={there}-")


async def test_two_who_want_the_same_model_fetch_it_once(hub: Hub, tmp_path: Path) -> None:
    (first, _), (second, _) = await asyncio.gather(get(tmp_path), get(tmp_path))
    assert first == second
    assert [name for name, _ in hub.seen].count("model.safetensors") == 1


async def test_a_refusal_reaches_who_asked(hub: Hub, tmp_path: Path) -> None:
    hub.refusal = (403, "GatedRepo")
    with pytest.raises(ModuleFault, match="tiny/model is gated"):
        await get(tmp_path)


# ── in this process: what the other one does, without the time that it takes to start ──


def run(home: Path, revision: str = "main") -> None:
    with hub_fetch._in_words("tiny/model", revision):
        hub_fetch._fetch(home, "tiny/model", revision)


def test_a_file_that_is_not_what_the_hub_says_it_is_is_refused_and_thrown_away(hub: Hub, tmp_path: Path) -> None:
    hub.lies.add("model.safetensors")
    with pytest.raises(hub_fetch.Refused, match="damaged"):
        run(tmp_path)
    assert not list(tmp_path.rglob("model.safetensors*"))
    hub.lies.clear()
    run(tmp_path)
    assert fetched(tmp_path, "tiny/model", "main") is not None


def test_a_file_that_was_lost_is_fetched_again_and_no_other(hub: Hub, tmp_path: Path) -> None:
    run(tmp_path)
    folder = fetched(tmp_path, "tiny/model", "main")
    assert folder is not None
    (folder / "tokenizer.json").unlink()
    assert fetched(tmp_path, "tiny/model", "main") is None
    run(tmp_path)
    assert [name for name, _ in hub.seen].count("model.safetensors") == 1


def test_the_token_goes_along(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    run(tmp_path)
    assert hub.tokens == {"Bearer hf_secret"}


REFUSALS = [
    ((403, "GatedRepo"), "accept its terms at .*/tiny/model, and set HF_TOKEN"),
    ((404, "RepoNotFound"), "there is no model 'tiny/model' at .*: check its name"),
    ((401, "RepoNotFound"), "a private one needs HF_TOKEN"),
    ((500, ""), "answered 500 for tiny/model; try again"),
]


@pytest.mark.parametrize(("refusal", "words"), REFUSALS)
def test_a_refusal_says_what_to_do(hub: Hub, tmp_path: Path, refusal: Any, words: str) -> None:
    hub.refusal = refusal
    with pytest.raises(hub_fetch.Refused, match=words):
        run(tmp_path)


def test_a_revision_that_is_not_there_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(hub_fetch.Refused, match="no revision 'v9'"):
        run(tmp_path, revision="v9")


def test_weights_of_other_kinds_are_refused_by_name(hub: Hub, tmp_path: Path) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(hub_fetch.Refused, match=r"holds no safetensors: its weights are pickled \(\.bin\)"):
        run(tmp_path)
    hub.files["model-q4.gguf"] = b"GGUF"
    with pytest.raises(hub_fetch.Refused, match='use kind = "gguf"'):
        run(tmp_path)


def test_a_hub_that_cannot_be_reached_is_told_with_a_way_out(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(hub_fetch.Refused, match=r"cannot be reached .* check the network, or set HF_ENDPOINT"):
        run(tmp_path)


def test_a_full_disk_is_told_before_and_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(hub_fetch.Refused, match="make room, or set AIOS_HOME"):
        hub_fetch._check_room("tiny/model", tmp_path, {"model.safetensors": 1 << 60})
    with pytest.raises(hub_fetch.Refused, match="the disk is full"), hub_fetch._in_words("tiny/model", "main"):
        raise OSError(errno.ENOSPC, "no space")


# ── as a core ──


async def test_a_core_of_the_hub_answers_and_needs_no_hub_the_second_time(hub: Hub, tmp_path: Path) -> None:
    hub.files = of_folder(models.write_model(tmp_path / "source", "qwen3"))
    section = CoreSection(name="q", kind="local", hub="tiny/model", kv_bytes=1 << 26)
    question = LLMGenerate(messages=[Message("user", "hi")], model="tiny/model", seed=1, max_tokens=5)
    answers = []
    for _ in range(2):
        kernel = await Kernel.boot(Config(core=[section]), tmp_path / "home")
        try:
            assert kernel.llm.core("q").model == "tiny/model"
            answers.append((await kernel.call(principal(kernel), "llm_generate", question)).message.text())
        finally:
            await kernel.stop(0.0)
        hub.refusal = (500, "")
    assert answers[0] == answers[1]


def test_a_core_that_is_being_fetched_says_how_far_it_is(tmp_path: Path) -> None:
    core = FolderCore(CoreSection(name="q", kind="local", hub="tiny/model"), tmp_path)
    assert core.statistics() == {}
    core._note(Progress(600_000_000, 1_200_000_000))
    assert core.statistics()["progress"] == "50 % of 1.2 GB"


def test_a_path_that_looks_like_a_name_of_the_hub_is_told_how_to_write_one() -> None:
    with pytest.raises(ModelError, match=r'written hub = "Qwen/Qwen3-0\.6B"'):
        read(Path("Qwen/Qwen3-0.6B"))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ('kind = "local"\npath = "a"\nhub = "a/b"', "path and hub"),
        ('kind = "local"\npath = "a"\nrevision = "b"', "goes with hub"),
        ('kind = "local"', "hub, its name on the hub"),
        ('kind = "nano"\nhub = "a/b"', "takes no hub"),
        ('kind = "local"\nhub = "just-a-name"', "hub"),
        ('kind = "local"\nhub = "../../etc/passwd"', "hub"),
    ],
)
def test_keys_that_do_not_go_together_are_told(keys: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(f'[[core]]\nname = "m"\n{keys}\n')
