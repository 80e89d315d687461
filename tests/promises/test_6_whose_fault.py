"""Promise 6, whose fault: every error says whether agent, module, upstream or kernel is at fault, on each surface."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios.abi import errors
from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError, Cancelled, CutShort, Stopping
from aios.abi.messages import Generation, Message
from aios.gateway.errors import native_error, openai_error
from aios.kernel.journal import Journal
from aios.kernel.llm.base import Request
from aios.testing import ScriptedCore, booted, principal

pytestmark = pytest.mark.anyio


def tree(root: type[AiosError] = AiosError) -> Iterator[type[AiosError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from tree(kind)


@pytest.mark.parametrize("kind", sorted(set(tree()), key=lambda k: k.__name__))
def test_every_error_names_who_is_at_fault_in_one_shape_a_surface(kind: type[AiosError]) -> None:
    error = kind("what was wrong", param="x", call_id="c1")
    assert error.fault in ("agent", "module", "upstream", "kernel")
    assert (error.fault == "agent") == (400 <= error.status < 500)
    native, openai = native_error(error)["error"], openai_error(error)["error"]
    assert set(native) >= {"type", "code", "message", "fault", "call_id"}
    assert set(openai) == {"message", "type", "param", "code", "fault"}
    assert native["fault"] == openai["fault"] == error.fault


@pytest.mark.parametrize(
    "kind", sorted({k for k in tree() if k.__module__ == errors.__name__}, key=lambda k: k.__name__)
)
def test_a_client_raises_the_very_error_that_the_kernel_raised(kind: type[AiosError]) -> None:
    error = kind("what was wrong", param="x", retry_after=3, call_id="c1")
    again = errors.from_dict(error.status, error.to_dict())
    assert type(again) is kind
    assert again.to_dict() == error.to_dict()


@pytest.mark.parametrize(
    ("status", "code", "is_error"),
    [
        (503, "storage_full", Stopping),
        (503, "no_such_code", Stopping),
        (499, "killed", Cancelled),
        (503, "cut_short", CutShort),
    ],
)
def test_a_code_that_is_no_errors_own_is_the_most_general_error_of_its_place(
    status: int, code: str, is_error: type[AiosError]
) -> None:
    fault = "agent" if status < 500 else "kernel"
    assert type(errors.from_dict(status, {"code": code, "message": "x", "fault": fault})) is is_error


async def test_a_call_that_a_stop_cuts_short_is_the_kernels_fault_and_its_story_says_so() -> None:
    core = ScriptedCore()
    core.gate.clear()
    async with booted(cores={"one": core}) as kernel:
        ask = LLMGenerate(messages=[Message(role="user", content="hello")])
        call = kernel.submit(principal(kernel), "llm_generate", ask)
        await core.entered(1)
        await kernel.stop(drain=0.0)
        assert call.error is not None
        assert (call.error.fault, call.error.status) == ("kernel", 503)
        *_, last = kernel.trace.story(call.id)
        assert (last.state, last.why) == ("cancelled", "cut_short")


class Quitting(ScriptedCore):
    async def run(self, request: Request, quantum: int | None) -> Generation:
        raise asyncio.CancelledError


async def test_a_call_that_is_broken_off_though_nobody_asked_for_that_is_not_the_agents_fault() -> None:
    async with booted(cores=[Quitting()]) as kernel:
        with pytest.raises(CutShort) as caught:
            await kernel.call(principal(kernel), "llm_generate", LLMGenerate(messages=[Message("user", "hello")]))
        assert caught.value.fault == "kernel"


async def test_a_call_that_the_kernel_died_under_is_the_kernels_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, told = ScriptedCore(), list[AiosError | None]()
    core.gate.clear()
    async with booted(cores={"one": core}, home=tmp_path) as kernel:
        ask = LLMGenerate(messages=[Message(role="user", content="hello")])
        kernel.submit(principal(kernel), "llm_generate", ask)
        await core.entered(1)
        monkeypatch.setattr(kernel.journal, "close", lambda call, then=None: None)  # as kill -9 leaves it
    monkeypatch.setattr(Journal, "settle", lambda journal, record, state, error, then=None: told.append(error))
    async with booted(home=tmp_path):
        assert [(error.fault, error.code) for error in told if error] == [("kernel", "kernel_restarted")]


def test_the_drawing_in_the_docstring_names_every_error_and_its_status_and_fault() -> None:
    drawn = [line.split() for line in (errors.__doc__ or "").splitlines() if "──" in line]
    for kind in tree():
        if kind.__module__ == errors.__name__:
            words = next(words for words in drawn if kind.__name__ in words)
            at = words.index(kind.__name__)
            assert words[at + 1 : at + 3] == [str(kind.status), kind.fault]
