"""Bodies within the bound on bytes that would keep the loop busy with parsing."""

from __future__ import annotations

import pytest
from served import served

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/aios/v1/calls/mem_write"])
async def test_a_body_of_a_million_tiny_values_is_refused_before_it_is_parsed(path: str) -> None:
    async with served() as at:
        status, answer, _ = await at.post(path, b'{"messages":[],"x":[' + b"[]," * 1_000_000 + b"[]]}")
        assert status == 413
        assert answer["error"]["code"] == "too_many_values"


async def test_a_long_text_with_many_commas_is_no_heavy_body() -> None:
    async with served() as at:
        assert (await at.chat("a, b, c " * 10_000))[0] == 200


async def test_a_version_beyond_what_the_store_can_count_is_a_bad_argument() -> None:
    async with served() as at:
        await at.post("/aios/v1/calls/sto_write", {"path": "f", "content": "x"})
        status, _, _ = await at.post("/aios/v1/calls/sto_read", b'{"path":"f","version":1180591620717411303424}')
        assert status == 400


async def test_names_with_control_characters_are_refused() -> None:
    async with served() as at:
        status, _, _ = await at.post("/aios/v1/calls/proc_spawn", {"agent": "tester/\u001b[31mX"})
        assert status == 400
