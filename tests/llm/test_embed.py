"""`llm_embed`: which core gives the vectors, what servers are asked, and whose fault a failure is."""

from __future__ import annotations

import asyncio
import base64
import struct
from typing import Any

import pytest
from upstream import Step, Upstream, upstream, whole

from aios.abi.calls import LLMEmbed, LLMGenerate
from aios.abi.errors import AiosError, BadRequest, NotFound, UpstreamFault
from aios.abi.messages import Embeddings, Message
from aios.kernel.config import CoreSection
from aios.kernel.llm.base import NotBegun
from aios.kernel.llm.remote.openai import OpenAICore
from aios.testing import ScriptedCore, booted, principal
from aios.testing.wait import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


def listed(*vectors: Any, **more: Any) -> dict[str, Any]:
    data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": "e-1", "usage": {"prompt_tokens": 5, "total_tokens": 5}, **more}


def packed(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def remote(at: Upstream, name: str = "far", **section: Any) -> OpenAICore:
    return OpenAICore(CoreSection(name=name, kind="openai", base_url=at.url, model="e", **section))


async def ask(*cores: Any, config: Any = None, **given: Any) -> Embeddings:
    more = {} if config is None else {"config": config}
    async with booted(cores={core.name: core for core in cores}, **more) as kernel:
        found: Embeddings = await kernel.call(principal(kernel), "llm_embed", LLMEmbed(**given))
        kernel.check_integrity()
        return found


async def refused(*cores: Any, **given: Any) -> AiosError:
    with pytest.raises(AiosError) as caught:
        await ask(*cores, **given)
    return caught.value


async def test_texts_become_vectors_and_all_parameters_go_up() -> None:
    async with upstream(whole(listed([1.0, 0.5], [0.25, 0.125]))) as at:
        found = await ask(remote(at), input=["a", "b"], model="far", dimensions=2, extra={"user": "u"})
        assert [(each.index, each.embedding) for each in found.data] == [(0, [1.0, 0.5]), (1, [0.25, 0.125])]
        assert (found.model, found.core, found.usage.prompt_tokens) == ("e-1", "far", 5)
        assert at.seen == [{"model": "e", "input": ["a", "b"], "dimensions": 2, "user": "u"}]
        assert at.heads[0].startswith("POST /v1/embeddings ")


@pytest.mark.parametrize("given", ["one", ["one"], [1, 2, 3], [[1, 2], [3]]])
async def test_an_input_of_any_kind_goes_up_as_it_came(given: Any) -> None:
    vectors = [[1.0]] * (2 if given == [[1, 2], [3]] else 1)
    async with upstream(whole(listed(*vectors))) as at:
        assert len((await ask(remote(at), input=given)).data) == len(vectors)
        assert at.seen[0]["input"] == given


async def test_many_texts_are_asked_in_batches_and_come_back_in_order() -> None:
    answers = [whole(listed([0.0], [1.0])), whole(listed([3.0], [2.0])), whole(listed([4.0]))]
    for item in (swapped := listed([3.0], [2.0])["data"]):
        item["index"] = 1 - item["index"]
    answers[1] = whole({**listed(), "data": swapped})
    async with upstream(*answers) as at:
        found = await ask(remote(at, embed_batch=2), input=["a", "b", "c", "d", "e"])
        assert [each.embedding for each in found.data] == [[0.0], [1.0], [2.0], [3.0], [4.0]]
        assert [each.index for each in found.data] == [0, 1, 2, 3, 4]
        assert [seen["input"] for seen in at.seen] == [["a", "b"], ["c", "d"], ["e"]]
        assert found.usage.total_tokens == 15


@pytest.mark.parametrize("theirs", [[0.5, -2.0], packed(0.5, -2.0)])
async def test_vectors_come_in_the_form_that_was_asked_whatever_the_server_sends(theirs: Any) -> None:
    for form, expected in (("float", [0.5, -2.0]), ("base64", packed(0.5, -2.0))):
        async with upstream(whole(listed(theirs))) as at:
            found = await ask(remote(at), input="a", encoding_format=form)
            assert found.data[0].embedding == expected
            assert at.seen[0]["encoding_format"] == form


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([], "is empty"),
        ("", "input\\[0\\] is empty"),
        (["a", ""], "input\\[1\\] is empty"),
        ([[]], "input\\[0\\] is empty"),
        (["a", 1], "mixes texts and tokens"),
        ([-1], "whole numbers from 0 on"),
        (["a"] * 2049, "2049 texts"),
        (["a"] * 10_000, "10000 texts; ask for at most 2048"),
        (["a" * (1 << 20)] * 9, "9437184 characters"),
    ],
)
async def test_an_input_that_no_core_could_take_is_refused_before_it_is_queued(given: Any, why: str) -> None:
    async with upstream(whole(listed([1.0]))) as at:
        error = await refused(remote(at), input=given)
        assert isinstance(error, BadRequest)
        assert error.param == "input"
        with pytest.raises(BadRequest, match=why):
            raise error
        assert at.seen == []


async def test_a_core_that_cannot_embed_says_which_one_can() -> None:
    async with upstream(whole(listed([1.0]))) as at:
        error = await refused(ScriptedCore(), remote(at, "vectors", embeddings=True), input="a", model="scripted")
        assert isinstance(error, NotFound)
        assert (error.code, error.param) == ("model_not_found", "model")
        assert error.message == "core 'scripted' cannot embed; vectors can"
    error = await refused(ScriptedCore(), input="a", model="scripted")
    assert 'add a [[core]] of kind "embed"' in error.message


async def test_a_core_whose_configuration_says_so_is_not_asked() -> None:
    async with upstream(whole(listed([1.0]))) as at:
        assert isinstance(await refused(remote(at, embeddings=False), input="a"), NotFound)
        assert at.seen == []


async def test_no_name_and_a_name_that_nobody_knows_go_to_the_core_that_is_for_embedding() -> None:
    from aios.kernel.config import Config, RouterSection

    config = Config(router=RouterSection(default="scripted"))
    for model in (None, "text-embedding-3-small"):
        async with upstream(whole(listed([1.0]))) as at:
            cores = ScriptedCore(), remote(at, "vectors", embeddings=True)
            assert (await ask(*cores, config=config, input="a", model=model)).core == "vectors"
            assert at.seen[0]["model"] == "e"


async def test_beside_a_core_for_embedding_the_only_one_that_speaks_needs_no_name() -> None:
    async with upstream(whole(listed([1.0]))) as at:
        cores = {"scripted": ScriptedCore(), "vectors": remote(at, "vectors", embeddings=True)}
        async with booted(cores=cores) as kernel:
            kernel.llm.router.default = None
            asked = LLMGenerate(messages=[Message(role="user", content="hello")])
            assert (await kernel.call(principal(kernel), "llm_generate", asked)).core == "scripted"


@pytest.mark.parametrize(
    "body",
    [
        {"data": "x"},
        b"<html>",
        listed([1.0], [2.0]),
        listed("not base64!"),
        {**listed(), "data": [{"index": 3, "embedding": [1.0]}]},
        listed([1.0], usage={"prompt_tokens": -5}),
        listed([1.0], usage={"prompt_tokens": 1 << 63}),
    ],
)
async def test_an_answer_that_is_garbage_is_the_servers_fault(body: Any) -> None:
    async with upstream(whole(body)) as at:
        core = remote(at, probe=False)
        await core.open()
        with pytest.raises(NotBegun) as caught:
            await core.embed(LLMEmbed(input="a", encoding_format="float"))
        await core.close()
    assert isinstance(caught.value.error, UpstreamFault)
    assert caught.value.error.code == "upstream_garbage"


@pytest.mark.parametrize("form", ["float", "base64"])
@pytest.mark.parametrize(
    "vector",
    [
        packed(1.0, float("nan")),
        packed(float("inf")),
        "not base64!",
        packed(1.0)[:-3],
        "",
        [],
        [1e300],
    ],
)
async def test_what_is_no_vector_of_numbers_reaches_nobody(vector: Any, form: Any) -> None:
    async with upstream(whole(listed([1.0], vector))) as at:
        error = await refused(remote(at), input=["a", "b"], encoding_format=form)
        assert isinstance(error, UpstreamFault)
        assert (error.code, error.message) == (
            "upstream_garbage",
            "core 'far' answered input[1] with what is no vector of numbers",
        )


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999", b"null", b'"x"'])
async def test_what_json_has_no_number_for_is_the_servers_fault(number: bytes) -> None:
    body = b'{"data":[{"index":0,"embedding":[1.0,%b]}]}' % number
    async with upstream(whole(body)) as at:
        error = await refused(remote(at), input="a")
        assert (type(error), error.code) == (UpstreamFault, "upstream_garbage")


@pytest.mark.parametrize("vector", [[1.0, 0.5], packed(1.0, 0.5)])
async def test_a_server_that_pays_no_heed_to_dimensions_is_at_fault(vector: Any) -> None:
    async with upstream(whole(listed(vector))) as at:
        error = await refused(remote(at), input="a", dimensions=3000)
        assert error.message == "core 'far' answered input[0] with 2 dimensions, where 3000 were asked for"


async def test_a_server_that_is_busy_is_asked_again() -> None:
    busy = whole({"error": {"message": "busy"}}, "429 Too Many", retry_after="0")
    async with upstream(busy, whole(listed([1.0]))) as at:
        assert (await ask(remote(at), input="a")).data[0].embedding == [1.0]
        assert len(at.seen) == 2


async def test_a_refusal_of_the_server_comes_back_as_it_is() -> None:
    async with upstream(whole({"error": {"message": "no dimensions", "param": "dimensions"}}, "400 Bad Request")) as at:
        error = await refused(remote(at), input="a", dimensions=7)
    assert isinstance(error, BadRequest)
    assert error.param == "dimensions"


async def test_a_cancelled_call_hangs_up_and_frees_its_slot() -> None:
    never: list[Step] = [b"HTTP/1.1 200 OK\r\n", asyncio.Event()]
    async with upstream(never) as at, booted(cores={"far": remote(at)}) as kernel:
        call = asyncio.create_task(kernel.call(principal(kernel), "llm_embed", LLMEmbed(input="a")))
        await at.asked.wait()
        call.cancel()
        async with asyncio.timeout(5):
            await at.left.wait()
            await until(lambda: not kernel.llm.info()[0].active)
        kernel.check_integrity()


async def test_what_was_embedded_is_on_the_processs_account_and_a_key_repeats_the_answer() -> None:
    async with upstream(whole(listed([1.0]))) as at, booted(cores={"far": remote(at)}) as kernel:
        who = principal(kernel)
        first = await kernel.call(who, "llm_embed", LLMEmbed(input="a"), key="k")
        assert await kernel.call(who, "llm_embed", LLMEmbed(input="a"), key="k") == first
        assert len(at.seen) == 1
        assert [process.tokens_in for process in kernel.processes.list()] == [5]
