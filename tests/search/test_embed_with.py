"""`[search] embed_with`: a core of the kernel makes the vectors, asked by calls as anybody's are."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from aios.abi.calls import LLMEmbed, MemSearch, MemWrite
from aios.abi.errors import AiosError, UpstreamFault
from aios.abi.messages import Embedding, Embeddings, Usage
from aios.kernel import Kernel
from aios.kernel.config import Config, CoreSection, SearchSection
from aios.kernel.llm.roster import CoreState
from aios.kernel.llm.sentences import SentenceCore
from aios.kernel.search import Asking
from aios.testing import ScriptedCore, booted, principal, until

pytestmark = pytest.mark.anyio
tokenizers = pytest.importorskip("tokenizers")

MEANINGS = [["cat", "feline"], ["car", "automobile"], ["rain", "drizzle"]]
"""Words that mean the same have the same vector."""


def write_model(folder: Path, width: int = 6) -> Path:
    folder.mkdir()
    words = ["[UNK]", *(word for words in MEANINGS for word in words)]
    known = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    known.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    known.save(str(folder / "tokenizer.json"))
    vectors = np.repeat(np.eye(len(MEANINGS), width, dtype=np.float32), 2, axis=0)
    save_file({"embeddings": np.concatenate([np.zeros((1, width), np.float32), vectors])}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    return folder


@asynccontextmanager
async def running(home: Path, folder: Path | None = None) -> AsyncIterator[Kernel]:
    cores: list[Any] = [ScriptedCore()]
    if folder is not None:
        cores.append(SentenceCore(CoreSection(name="vectors", kind="embed", path=str(folder))))
    search = SearchSection(embed_with="vectors" if folder is not None else None)
    async with booted(cores=cores, home=home, config=Config(search=search)) as kernel:
        yield kernel


async def write(kernel: Kernel, *contents: str) -> None:
    who = principal(kernel, "a")
    for content in contents:
        await kernel.call(who, "mem_write", MemWrite(content=content))
    await kernel.search.idle()


async def found(kernel: Kernel, query: str, **more: Any) -> list[str]:
    answer = await kernel.call(principal(kernel, "a"), "mem_search", MemSearch(query=query, k=1, **more))
    return [entry.content for entry in answer.entries]


async def test_an_entry_is_found_by_what_it_means(tmp_path: Path) -> None:
    async with running(tmp_path / "home", write_model(tmp_path / "model")) as kernel:
        await write(kernel, "my feline sleeps", "an automobile", "drizzle all day")
        assert await found(kernel, "where is the cat") == ["my feline sleeps"]
        assert await found(kernel, "car", mode="vector") == ["an automobile"]
        assert await found(kernel, "car", mode="keyword") == []
        assert kernel.statistics()["search"]["unembedded"] == 0
        accounts = {(process.owner, process.agent): process.nice for process in kernel.processes.list()}
        assert (accounts["", "index"], accounts["", "search"]) == (10, 0)


async def test_entries_are_embedded_anew_when_the_configuration_names_another_model(tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with running(home) as kernel:
        await write(kernel, "my feline sleeps", "an automobile")
        assert await found(kernel, "car", mode="vector") == []
    async with running(home, write_model(tmp_path / "model")) as kernel:
        await kernel.search.idle()
        assert await found(kernel, "car", mode="vector") == ["an automobile"]
    async with running(home, write_model(tmp_path / "other", width=9)) as kernel:
        await kernel.search.idle()
        assert kernel.statistics()["search"]["dimension"] == 9
        assert await found(kernel, "car", mode="vector") == ["an automobile"]


async def test_a_model_that_leaves_is_not_replaced_by_another_and_the_answer_says_so(tmp_path: Path) -> None:
    async with running(tmp_path / "home", write_model(tmp_path / "model")) as kernel:
        await write(kernel, "my feline sleeps")
        kernel.cores.remove("vectors", now=True)
        kernel.cores.add(CoreSection(name="other", kind="embed", path=str(tmp_path / "model")))
        await until(lambda: kernel.cores.find("other").state is CoreState.READY)
        answer = await kernel.call(principal(kernel, "a"), "mem_search", MemSearch(query="feline"))
        assert [entry.content for entry in answer.entries] == ["my feline sleeps"]
        assert answer.note == "[search] embed_with names 'vectors', and there is no such model now"
        with pytest.raises(AiosError, match="no such model now"):
            await found(kernel, "cat", mode="vector")


async def test_a_stop_does_not_wait_for_what_is_still_to_be_embedded(tmp_path: Path) -> None:
    async with running(tmp_path / "home", write_model(tmp_path / "model")) as kernel:
        who = principal(kernel, "a")
        for n in range(300):
            await kernel.call(who, "mem_write", MemWrite(content=f"cat {n}"))
        await kernel.stop(drain=60.0)
    async with running(tmp_path / "home", tmp_path / "model") as kernel:
        await kernel.search.idle()
        assert kernel.statistics()["search"]["unembedded"] == 0


@pytest.mark.parametrize("text", ["not base64!", "AAAA", ""])
async def test_a_core_that_answers_with_garbage_is_a_fault_of_its_own(text: str) -> None:
    async def ask(args: LLMEmbed, is_urgent: bool) -> Embeddings:
        return Embeddings([Embedding(0, text)], "m", "liar", Usage.of(1, 0))

    asking = Asking("liar", "liar", ask, lambda: None)
    if text:
        with pytest.raises(UpstreamFault, match="core 'liar' answered with a vector that is none"):
            await asking.embed(["x"])
    else:
        assert [len(vector) for vector in await asking.embed(["x"])] == [0]
