"""`aios run`: a built-in agent on a task, or any program, as an agent process of the kernel."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import typer

from aios.abi.calls import MemoryPolicy, nearest
from aios.abi.errors import AiosError, BadRequest
from aios.sdk import Answer, AsyncClient

from .connect import async_client
from .console import note, print_json, safe
from .exits import FAILED, OK
from .options import one_of
from .program import run_program

WORDS = typer.Argument(metavar="NAME TASK | -- PROGRAM ARGS", help="A built-in agent and its task, or any program.")
Words = Annotated[list[str] | None, WORDS]


def command(
    context: typer.Context,
    words: Words = None,
    agent: Annotated[str | None, typer.Option(help="The agent's name; its memory and files are kept by it.")] = None,
    nice: Annotated[int, typer.Option(min=-20, max=19, help="Its share of the models.")] = 0,
    remember: Annotated[
        bool, typer.Option("--remember", help="Keep what is said and done, and tell it again where it fits.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="The model to ask; the kernel's default, unless given.")] = None,
    tools: Annotated[str | None, typer.Option(help="Only these tools, with commas between.")] = None,
    max_steps: Annotated[int, typer.Option(min=1, max=100, help="Turns until a built-in agent gives up.")] = 8,
    strategy: Annotated[str, typer.Option(help="reflexion: none, last_attempt, reflexion or both.")] = "reflexion",
    unconfined: Annotated[
        bool, typer.Option("--unconfined", help="Leave the program what this user can reach: admin key and all.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The whole answer of a built-in agent, as JSON.")] = False,
) -> None:
    """Run an agent under the kernel. Built in are react and reflexion; behind -- stands any program.

    A program gets a key of its own and finds the kernel in its environment, so that agents written for OpenAI's or
    Anthropic's API run unchanged. It cannot reach $AIOS_HOME or the keys of the servers behind the kernel, unless it
    is --unconfined. 'aios kill' ends it; its exit code is this command's.

    \b
    Examples:
      aios run react "What is 127 * 49?"
      aios run reflexion --strategy both "Convert 3 miles to km."
      aios run -- python my_agent.py --fast
    """
    program = context.obj
    if program:
        if words:
            raise BadRequest(f"'{words[0]}' stands before --: give a built-in agent a task, or a program behind --")
        _refuse(context, _BUILT_IN_ONLY, "is for built-in agents; the program behind -- takes options of its own")
        name = agent or os.path.basename(program[0])
        code = asyncio.run(_run_program(program, name, nice, remember, unconfined))
    elif words and len(words) >= 2:
        _refuse(context, ("unconfined",), "is for programs behind --; a built-in agent is part of this command")
        options = {"model": model, "tools": tools.split(",") if tools else None, "max_steps": max_steps}
        if words[0] == "reflexion":
            options["strategy"] = _known(strategy)
        else:
            _refuse(context, ("strategy",), "is for reflexion")
        work = _run_built_in(words[0], " ".join(words[1:]), agent or words[0], nice, remember, options, as_json)
        code = asyncio.run(_until_told(work))
    else:
        raise BadRequest("give a built-in agent and its task, or a program: aios run -- PROGRAM ARGS")
    raise typer.Exit(code)


_BUILT_IN_ONLY = ("model", "tools", "max_steps", "strategy", "as_json")


def _refuse(context: typer.Context, names: tuple[str, ...], why: str) -> None:
    """Say so when one of the options `names` was given, instead of doing nothing with it."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise BadRequest(f"--{name.removeprefix('as_').replace('_', '-')} {why}")


def _known(strategy: str) -> str:
    from aios.agents.reflexion import Strategy

    return one_of("strategy", strategy, [each.value for each in Strategy])


MEMORY: dict[bool, MemoryPolicy | None] = {True: "auto", False: None}


@asynccontextmanager
async def process(
    agent: str, nice: int, remember: bool, line: str
) -> AsyncIterator[tuple[AsyncClient, int, str, list[int]]]:
    """A process of `agent`: (admin's client, pid, key, where to put its exit code). Ended when the block is left."""
    async with async_client() as admin:
        spawned = await admin.proc_spawn(agent, nice=nice, command=safe(line)[:4096], memory=MEMORY[remember])
        codes: list[int] = []
        try:
            yield admin, spawned.pid, spawned.key, codes
        finally:
            with suppress(AiosError):  # it may be killed already, and so may be the kernel
                await admin.proc_signal(spawned.pid, "exit", code=codes[-1] if codes else FAILED)


# ── a built-in agent ──


async def _until_told(work: Coroutine[Any, Any, int]) -> int:
    """Await `work`; SIGTERM ends it in order, as ctrl-C does: its process is over when this command is."""
    task = asyncio.current_task()
    assert task is not None
    is_told = asyncio.Event()

    def end() -> None:
        is_told.set()
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
    try:
        return await work
    except asyncio.CancelledError:
        if not is_told.is_set():
            raise
        return 128 + signal.SIGTERM


async def _run_built_in(
    name: str, task: str, agent: str, nice: int, remember: bool, options: dict[str, Any], as_json: bool
) -> int:
    from aios.agents import BUILT_IN

    if name not in BUILT_IN:
        hint = nearest(name, BUILT_IN) or f"; built in are {', '.join(BUILT_IN)}"
        raise BadRequest(f"there is no built-in agent '{name}'{hint}. A program stands behind --: aios run -- {name}")
    async with process(agent, nice, remember, f"aios run {name}") as (_, pid, key, codes):
        note(f"{name} runs as pid {pid}")
        async with async_client(key) as client:
            answer = await BUILT_IN[name](agent, client, **options).run(task)
        codes.append(OK if answer.succeeded else FAILED)
    _show(answer, as_json)
    return codes[-1]


def _show(answer: Answer, as_json: bool) -> None:
    if as_json:
        print_json({"succeeded": answer.succeeded, **{f: getattr(answer, f) for f in answer.__slots__}})
        return
    for step in answer.steps:
        note(safe(f"  {step.tool} {step.arguments} -> {step.observation}"))
    if not answer.succeeded:
        note(f"No answer: {'the turns are used up' if answer.finish == 'max_steps' else 'it was cut short'}.")
    print(answer.text)


# ── any program ──


async def _run_program(program: list[str], agent: str, nice: int, remember: bool, is_unconfined: bool) -> int:
    line = shlex.join(program)[:1000]
    async with process(agent, nice, remember, line) as (admin, pid, key, codes):
        code = await run_program(admin, program, pid, key, agent, is_unconfined)
        codes.append(code)
    return code
