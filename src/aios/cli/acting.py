"""A client that acts as an agent: with the environment's own key, or with one that is made for this command only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated
from urllib.parse import quote

import typer

from aios.abi.errors import AiosError
from aios.sdk import Client
from aios.sdk.client import default_url

from .connect import RETRIES, client

Agent = Annotated[str | None, typer.Option("--agent", metavar="AGENT", help="Whose; takes the admin key.")]


@contextlib.contextmanager
def acting(agent: str | None, verb: str) -> Iterator[Client]:
    """The caller's own client, or one that is `agent`: its key speaks for no process, and is revoked at the end."""
    with client() as own:
        if agent is None:
            yield own
            return
        made = own.fetch("POST", "/aios/v1/keys", {"name": f"aios {verb}", "agent": agent})
        try:
            with Client(default_url(), made["key"], retries=RETRIES) as theirs:
                yield theirs
        finally:
            with contextlib.suppress(AiosError):  # a kernel that left: the key is shown by 'aios keys list'
                own.fetch("DELETE", f"/aios/v1/keys/{quote(made['id'], safe='')}")
