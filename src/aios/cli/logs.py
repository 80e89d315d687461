"""`aios logs`: what happened to calls, from the kernel's trace. States and names, never contents."""

from __future__ import annotations

import asyncio
import datetime
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
import typer

from .connect import async_client
from .console import aligned, cut, note, safe, width


def command(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as things happen, until ctrl-C.")] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, max=10_000, help="Begin with so many past lines.")] = 50,
    pid: Annotated[int | None, typer.Option(help="Only this process.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show which call entered which state when.

    \b
    Examples:
      aios logs
      aios logs -f --pid 12
    """
    asyncio.run(_print_events(f"/aios/v1/events?tail={tail}&follow={str(follow).lower()}", pid, as_json))


async def _print_events(path: str, pid: int | None, as_json: bool) -> None:
    columns = width()
    is_silent = True
    async with async_client() as kernel, aclosing(kernel.events(path)) as events:
        async for event in events:
            if pid is not None and event["pid"] != pid:
                continue
            is_silent = False
            print(msgspec.json.encode(event).decode() if as_json else cut(line(event), columns), flush=True)
    if is_silent:
        whose = "" if pid is None else f" of process {pid}"
        note(f"Nothing{whose} among the last events; --tail looks further back.")


def line(event: dict[str, Any]) -> str:
    at = datetime.datetime.fromtimestamp(event["time"]).strftime("%H:%M:%S.%f")[:-3]
    where = f" on {event['core']}" if event.get("core") and event["state"] == "running" else ""
    why = f" ({event['why']})" if event.get("why") else ""
    who = aligned(cut(safe(event["agent"]), 16), 16)
    what = f"core {event['core']}" if event["name"] == "core" else event["name"]
    return safe(f"{at} {event['pid']:>5} {who} {what:<13} {event['state']}{where}{why}  {event['call_id']}").rstrip()
