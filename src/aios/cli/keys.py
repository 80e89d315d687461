"""Make, list and revoke API keys. The kernel keeps a hash only: a key is shown once, when it is made."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from aios.abi.calls import nearest
from aios.abi.errors import AiosError, NotFound
from aios.sdk import Client

from .connect import client
from .console import note, print_json, safe, table, when, width
from .exits import code_of


def new(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    agent: Annotated[str | None, typer.Option(help="The agent it speaks for; the name, unless given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Id, key and agent, as JSON.")] = False,
) -> None:
    """Make a key and print it, this once. Only the key goes to stdout.

    \b
    Examples:
      aios keys new my-agent
      export OPENAI_API_KEY=$(aios keys new my-agent)
    """
    with client() as kernel:
        made = kernel.fetch("POST", "/aios/v1/keys", {"name": name, **({"agent": agent} if agent else {})})
    if as_json:
        print_json(made)
    else:
        note(f"Key {made['id']} for agent '{made['agent']}'; it is shown this once:")
        print(made["key"])


def listed(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """List keys: what each is for and since when, never the key itself.

    \b
    Example:
      aios keys list
    """
    with client() as kernel:
        keys = kernel.fetch("GET", "/aios/v1/keys")["keys"]
    if as_json:
        print_json(keys)
    else:
        print(table(("ID", "NAME", "AGENT", "OWNER", ">PID", "MADE"), [_row(k) for k in keys], columns=width()))


def _row(key: dict[str, Any]) -> tuple[object, ...]:
    made = when(key["created"])
    speaks_for = "everyone" if key["is_admin"] else key["agent"]
    return key["id"], key["name"] or "-", speaks_for, key["owner"], key["pid"] or "-", made


def revoke(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="As 'aios keys list' shows them.")],
    as_json: Annotated[bool, typer.Option("--json", help="The ids of those that are revoked now, as JSON.")] = False,
) -> None:
    """Revoke keys: the next request with one is refused. One that is not there does not spare the others.

    \b
    Example:
      aios keys revoke k_3f9a
    """
    revoked: list[str] = []
    first = 0
    with client() as kernel:
        for each in dict.fromkeys(ids):
            try:
                kernel.fetch("DELETE", f"/aios/v1/keys/{quote(each, safe='')}")
            except AiosError as error:
                note(f"aios keys: {safe(_why(kernel, each, error))}")
                first = first or code_of(error)
            else:
                revoked.append(each)
                note(f"Revoked {safe(each)}.")
    if as_json:
        print_json(revoked)
    if first:
        raise typer.Exit(first)


def _why(kernel: Client, key_id: str, error: AiosError) -> str:
    """One that is not there may have been meant to be another."""
    if not isinstance(error, NotFound):
        return error.message
    known = [key["id"] for key in kernel.fetch("GET", "/aios/v1/keys")["keys"]]
    hint = nearest(key_id, known) or "; 'aios keys list' shows them"
    return f"there is no key '{key_id[:100]}'{hint}"


commands = {"new": new, "list": listed, "revoke": revoke}
