"""Promise 4, no means no: no call reaches a module unchecked, and a checker that breaks says no."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.gateway.served import served

from aios.abi.calls import CALLS, Args, CallSpec
from aios.abi.errors import Denied
from aios.kernel import Kernel
from aios.testing import ScriptedCore, booted, principal

pytestmark = pytest.mark.anyio

EXAMPLES: dict[str, dict[str, Any]] = {
    "llm_generate": {"messages": [{"role": "user", "content": "hello"}]},
    "mem_write": {"content": "x"},
    "mem_read": {"id": "m1"},
    "mem_update": {"id": "m1", "content": "y"},
    "mem_history": {"id": "m1"},
    "mem_search": {"query": "x"},
    "sto_create": {"path": "a"},
    "sto_write": {"path": "a", "content": "x"},
    "llm_embed": {"input": "a"},
    "sto_read": {"path": "a"},
    "sto_clear": {"path": "a"},
    "sto_move": {"path": "a", "to": "b"},
    "sto_restore": {"path": "a"},
    "sto_history": {"path": "a"},
    "sto_diff": {"path": "a"},
    "sto_share": {"path": "a"},
    "sto_mount": {"name": "a"},
    "sto_unmount": {"name": "a"},
    "sto_rollback": {"path": "a", "version": 1},
    "sto_retrieve": {"query": "a"},
    "tool_run": {"name": "calculator", "arguments": {"expression": "1"}},
    "acc_check": {"call": "mem_list"},
    "proc_spawn": {"agent": "tester"},
    "proc_signal": {"pid": 1, "signal": "kill"},
    "proc_nice": {"pid": 1, "nice": 0},
    "proc_wait": {"pid": 1},
}


def example(spec: CallSpec) -> Args:
    return msgspec.convert(EXAMPLES.get(spec.name, {}), spec.args)


def untouched(kernel: Kernel, core: ScriptedCore) -> bool:
    calls = [row for row in kernel.trace.rows if row.call_id]  # other rows tell of cores
    return not core.seen and not calls and not kernel.statistics()["open_calls"]


@pytest.mark.parametrize("spec", CALLS.values(), ids=CALLS)
async def test_a_call_that_is_denied_reaches_no_module_and_no_queue(spec: CallSpec) -> None:
    core = ScriptedCore()
    async with booted(cores={"one": core}) as kernel:
        who = principal(kernel)

        def deny(*_: Any) -> None:
            raise Denied("no")

        kernel.access.check = deny
        with pytest.raises(Denied):
            kernel.submit(who, spec.name, example(spec))
        assert untouched(kernel, core)


@pytest.mark.parametrize("spec", CALLS.values(), ids=CALLS)
async def test_a_checker_that_breaks_lets_nothing_through(spec: CallSpec) -> None:
    core = ScriptedCore()
    async with booted(cores={"one": core}) as kernel:
        who = principal(kernel)

        def broken(*_: Any) -> None:
            raise ZeroDivisionError

        kernel.access.check = broken
        with pytest.raises(ZeroDivisionError):
            kernel.submit(who, spec.name, example(spec))
        assert untouched(kernel, core)


async def test_without_a_key_only_the_health_pages_answer() -> None:
    async with served() as world:
        paths = ["/v1/models", "/aios/v1/processes", "/aios/v1/cores", "/aios/v1/events", "/aios/v1/keys", "/metrics"]
        for headers in ({"authorization": ""}, {"authorization": "Bearer sk-aios-wrong"}):
            for path in paths:
                async with world.session.get(world.url + path, headers=headers) as response:
                    assert response.status == 401, path
            for name in CALLS:
                async with world.session.post(f"{world.url}/aios/v1/calls/{name}", headers=headers) as response:
                    assert response.status == 401, name
            async with world.session.post(f"{world.url}/v1/chat/completions", headers=headers) as response:
                assert response.status == 401
            for path in ("/healthz", "/readyz"):
                async with world.session.get(world.url + path, headers=headers) as response:
                    assert response.status == 200, path


async def test_a_revoked_key_is_refused_from_the_next_call_on() -> None:
    async with served() as world:
        key_id, key = world.kernel.access.mint(owner="test", agent="ann")
        headers = {"authorization": f"Bearer {key}"}
        body = {"messages": [{"role": "user", "content": "hello"}]}
        url = f"{world.url}/v1/chat/completions"
        async with world.session.post(url, json=body, headers=headers) as response:
            assert response.status == 200
        world.kernel.access.revoke(key_id)
        async with world.session.post(url, json=body, headers=headers) as response:
            assert response.status == 401
