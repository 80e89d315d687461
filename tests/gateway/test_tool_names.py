"""Names of tools on the packaged model's surface: one clear 400 that names the place."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_model
from served import served

from aios.kernel.llm.nano import NanoCore

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("names", "param", "says"),
    [
        (["a", "b", "get.weather"], "tools[2].function.name", "call it 'get_weather'"),
        (["a", "b", "a"], "tools[2].function.name", "so is that of tools[0]"),
    ],
)
async def test_a_bad_name_of_a_tool_is_a_400_with_its_place(
    tmp_path: Path, names: list[str], param: str, says: str
) -> None:
    async with served(NanoCore(folder=tiny_model.write(tmp_path), kv_bytes=1 << 26)) as at:
        tools = [{"type": "function", "function": {"name": name}} for name in names]
        status, body, _ = await at.chat(model="nano", tools=tools, max_tokens=2)
        assert (status, body["error"]["param"]) == (400, param)
        assert says in body["error"]["message"]
        asked = {"messages": [{"role": "user", "content": "x"}], "tools": tools, "max_tokens": 2}
        status, body, _ = await at.post("/aios/v1/calls/llm_generate", asked)
        assert (status, body["error"]["param"]) == (400, param)
