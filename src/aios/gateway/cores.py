"""`/aios/v1/cores`: the LLM cores, and adding, draining and removing them. Knows the wire; asks the kernel."""

from __future__ import annotations

from typing import Any

import msgspec

from aios.abi.calls import Args, bad_arguments
from aios.kernel import read_core

from .body import read_args, read_json
from .exchange import Exchange


async def list_cores(exchange: Exchange) -> None:
    await exchange.reply_json({"cores": exchange.kernel.cores.info()})


async def get_core(exchange: Exchange, name: str) -> None:
    cores = exchange.kernel.cores
    await exchange.reply_json(cores.info_of(cores.find(name)))


async def add_core(exchange: Exchange) -> None:
    """Answers at once: whoever asked looks whether it is ready yet."""
    exchange.check_admin()
    section = read_core(_object(await exchange.body()), "the body")
    cores = exchange.kernel.cores
    await _reply(exchange, cores.info_of(cores.add(section, _who(exchange))))


async def open_core(exchange: Exchange, name: str) -> None:
    exchange.check_admin()
    cores = exchange.kernel.cores
    await _reply(exchange, cores.info_of(cores.reopen(name, _who(exchange))))


async def drain_core(exchange: Exchange, name: str) -> None:
    exchange.check_admin()
    cores = exchange.kernel.cores
    await _reply(exchange, cores.info_of(cores.drain(name, _who(exchange))))


async def remove_core(exchange: Exchange, name: str) -> None:
    exchange.check_admin()
    cores, now = exchange.kernel.cores, exchange.flag("now")
    await _reply(exchange, cores.info_of(cores.remove(name, now=now, by=_who(exchange))))


async def _reply(exchange: Exchange, core: Any) -> None:
    """The core as it is now: 202 while something of what was asked is still to come."""
    await exchange.reply_json(core, 202 if core.state in ("opening", "draining") else 200)


def _who(exchange: Exchange) -> str:
    return f"asked for by {exchange.principal.agent}"


class _Anything(Args, frozen=True, forbid_unknown_fields=False):
    """A JSON object: what is in it is the configuration's to check."""


def _object(body: bytes) -> dict[str, Any]:
    read_args(body, _Anything)
    try:
        value: dict[str, Any] = read_json(body or b"{}", msgspec.json.decode)
    except msgspec.ValidationError as error:  # a number that is too large to be one
        raise bad_arguments(error, _Anything) from None
    return value
