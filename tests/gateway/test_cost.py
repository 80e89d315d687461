"""Money that a call cost, end to end: in the answer, its process, `ps` and the metrics."""

from __future__ import annotations

from pathlib import Path

import pytest
from served import ask, served
from upstream import chat, upstream, whole

from aios.abi.calls import LLMGenerate, ProcList
from aios.abi.messages import Message
from aios.cli import view
from aios.kernel import Config, Kernel
from aios.kernel.config import CoreSection, Price
from aios.testing import principal

pytestmark = pytest.mark.anyio


async def test_an_answers_cost_is_told_and_added_up(tmp_path: Path) -> None:
    async with upstream(whole(chat({"content": "hello"}))) as up:
        core = CoreSection(
            name="far",
            kind="openai",
            base_url=up.url,
            model="m",
            price=Price(input=1000.0, output=2000.0, cached=500.0),
        )
        kernel = await Kernel.boot(Config(core=[core]), tmp_path)
        try:
            who = principal(kernel)
            args = LLMGenerate(messages=[Message("user", "hi")], model="far")
            first = await kernel.call(who, "llm_generate", args)
            usage = first.usage
            expected = (usage.prompt_tokens * 1000 + usage.completion_tokens * 2000) / 1e6
            assert first.cost == pytest.approx(expected)
            await kernel.call(who, "llm_generate", args)
            (process,) = (await kernel.call(who, "proc_list", ProcList())).processes
            assert process.cost == pytest.approx(2 * expected)
            assert kernel.llm.statistics()["far"]["spent_dollars"] == pytest.approx(2 * expected)
            assert "COST" in view.lines([process], 200)[0]
        finally:
            await kernel.stop(0.0)


async def test_where_no_price_is_known_nothing_is_said_of_costs() -> None:
    async with served() as at:
        status, body, _ = await at.post("/v1/chat/completions", ask())
        assert status == 200
        assert "aios" not in body
        key = at.key_of("root", is_admin=True)
        _, listed = await at.get("/aios/v1/processes", key)
        assert [p["cost"] for p in listed["processes"] if p["cost"] is not None] == []
        async with at.session.get(at.url + "/metrics", headers={"authorization": f"Bearer {key}"}) as response:
            assert "aios_cost_dollars 0.0" in await response.text()


def test_a_sum_shows_as_much_of_itself_as_matters() -> None:
    shown = [view.dollars(cost) for cost in (None, 0.0, 12.3456, 0.01234, 0.00000123)]
    assert shown == ["-", "$0.00", "$12.35", "$0.0123", "<$0.0001"]
