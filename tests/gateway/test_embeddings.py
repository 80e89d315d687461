"""`/v1/embeddings`, asked by OpenAI's own client."""

from __future__ import annotations

import base64
import struct
from typing import Any

import openai
import pytest
from served import served
from upstream import upstream, whole

from aios.kernel.config import CoreSection
from aios.kernel.llm.remote.openai import OpenAICore

pytestmark = pytest.mark.anyio


def remote(url: str) -> OpenAICore:
    return OpenAICore(CoreSection(name="vectors", kind="openai", base_url=url, model="e"))


def listed(*vectors: Any) -> dict[str, Any]:
    data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": "e-1", "usage": {"prompt_tokens": 5, "total_tokens": 5}}


async def test_the_client_gets_its_vectors_as_base64_without_being_told_and_as_numbers() -> None:
    packed = base64.b64encode(struct.pack("<2f", 0.5, -2.0)).decode()
    answers = whole(listed(packed, packed)), whole(listed([0.5, -2.0]))
    async with upstream(*answers) as up, served(remote(up.url)) as at:
        sdk = openai.AsyncOpenAI(base_url=f"{at.url}/v1", api_key=at.key, max_retries=0)
        found = await sdk.embeddings.create(model="vectors", input=["a", "b"], extra_body={"input_type": "query"})
        assert [(item.index, item.embedding) for item in found.data] == [(0, [0.5, -2.0]), (1, [0.5, -2.0])]
        assert (found.model, found.usage.prompt_tokens, found.usage.total_tokens) == ("e-1", 5, 5)
        assert up.seen[0] == {"model": "e", "input": ["a", "b"], "encoding_format": "base64", "input_type": "query"}
        found = await sdk.embeddings.create(model="vectors", input="a", encoding_format="float", dimensions=2)
        assert found.data[0].embedding == [0.5, -2.0]
        assert up.seen[1]["dimensions"] == 2
        await sdk.close()


async def test_a_model_that_does_not_embed_is_the_clients_not_found() -> None:
    async with served() as at:
        sdk = openai.AsyncOpenAI(base_url=f"{at.url}/v1", api_key=at.key, max_retries=0)
        with pytest.raises(openai.NotFoundError, match="core 'scripted' cannot embed") as caught:
            await sdk.embeddings.create(model="scripted", input="a")
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError) as bad:
            await sdk.embeddings.create(model="scripted", input=[])
        assert bad.value.param == "input"
        await sdk.close()


async def test_the_native_call_and_a_repeat_by_key() -> None:
    async with upstream(whole(listed([0.5]))) as up, served(remote(up.url)) as at:
        body = {"input": "a"}
        status, found, _ = await at.post("/aios/v1/calls/llm_embed", body, idempotency_key="k")
        assert (status, found["data"]) == (200, [{"index": 0, "embedding": [0.5]}])
        assert await at.post("/aios/v1/calls/llm_embed", body, idempotency_key="k") != ()
        assert len(up.seen) == 1
