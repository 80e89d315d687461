"""sto_retrieve in a kernel that is whole: by the methods of the SDK, with the rights of groups."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from aios.abi.calls import Where
from aios.abi.errors import BadRequest, Denied, NotFound
from aios.kernel import Kernel, parse
from aios.sdk import AsyncClient
from aios.sdk.transport import InProcess
from aios.testing import booted

pytestmark = pytest.mark.anyio

GROUPS = """
[[mount]]
name = "team"

[[group]]
name = "writers"
members = ["one"]
may = ["sto_read:team", "sto_write:team"]

[[group]]
name = "lookers"
members = ["two"]
may = ["sto_list:team"]
"""


@pytest.fixture
async def kernel() -> AsyncIterator[Kernel]:
    async with booted(config=parse(GROUPS)) as kernel:
        yield kernel


def client(kernel: Kernel, agent: str) -> AsyncClient:
    _, key = kernel.access.mint(owner="o", agent=agent)
    return AsyncClient(transport=InProcess(kernel, key), retries=0)


async def test_who_may_retrieve_in_a_mount_finds_what_is_there_and_nobody_else_does(kernel: Kernel) -> None:
    one, two = client(kernel, "one"), client(kernel, "two")
    await one.sto_write("team/plan.md", "# Plan\n\nThe harbour opens in May.")
    await one.sto_write("mine.txt", "harbour of one")
    await two.sto_write("mine.txt", "harbour of two")

    async def found(who: AsyncClient) -> list[str]:
        return sorted(each.path for each in (await who.sto_retrieve("harbour")).passages)

    assert await found(one) == ["mine.txt", "team/plan.md"]
    assert await found(two) == ["mine.txt"]
    with pytest.raises(Denied, match="'team' is shared"):
        await two.sto_retrieve("harbour", where={"path": "team"})
    for where in (Where(path="team", types=["md"]), {"path": "team", "types": ["md"]}):
        passage = (await one.sto_retrieve("when does it open", where=where)).passages[0]  # type: ignore[arg-type]
        assert (passage.path, passage.title) == ("team/plan.md", "Plan")


async def test_bad_arguments_are_told(kernel: Kernel) -> None:
    one = client(kernel, "one")
    for where in ({"path": "../x"}, {"types": []}, {"nmae": "x"}, {"since": -1}, {"name": "x" * 201}):
        with pytest.raises(BadRequest):
            await one.sto_retrieve("harbour", where=where)
    with pytest.raises(NotFound):
        await one.sto_retrieve("harbour", where={"path": "nowhere"})
    assert (await one.sto_retrieve("")).passages == []
    assert (await one.sto_retrieve('"*( NEAR', where={"name": "[!a-"})).passages == []


async def test_meaning_is_found_once_vectors_are_made(kernel: Kernel) -> None:
    one = client(kernel, "one")
    await one.sto_write("a.txt", "harbours and lighthouses")
    await one.sto_write("b.txt", "entirely different words")
    await one.sto_retrieve("x")
    await kernel.search.idle()
    found = await one.sto_retrieve("the lighthouse", mode="vector")
    assert [each.path for each in found.passages][:1] == ["a.txt"]


async def test_many_agents_that_ask_at_once_are_all_answered(kernel: Kernel) -> None:
    clients = [client(kernel, f"agent {n}") for n in range(8)]
    for n, each in enumerate(clients):
        for file in range(5):
            await each.sto_write(f"{file}.md", f"# Harbour {n}\n\nNumber {file}")
    answers = await asyncio.gather(*(each.sto_retrieve("harbour", k=50) for each in clients for _ in range(4)))
    for n, answer in enumerate(answers):
        assert {each.title for each in answer.passages} == {f"Harbour {n // 4}"}
        assert len(answer.passages) == 5
