"""Options that several verbs have, each written once, and words that are chosen from a few. Knows no verb."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from aios.abi.calls import nearest
from aios.abi.errors import BadRequest

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Another file than the home's aios.toml, as given to 'aios up'.")
]

POLICIES = ("rr", "fifo")


def one_of(what: str, word: str, known: Collection[str]) -> str:
    """`word`, which is one of `known`. Raises BadRequest that names the nearest, else all of them."""
    if word not in known:
        hint = nearest(word.lower(), known) or f"; there are {' and '.join(', '.join(known).rsplit(', ', 1))}"
        raise BadRequest(f"there is no {what} '{word[:100]}'{hint}", code="unknown_choice")
    return word


def be_sure(question: str, is_sure: bool) -> None:
    """Go on if the person says yes, or said --yes. Raises BadRequest where nobody can be asked, Abort for a no."""
    if is_sure:
        return
    if not sys.stdin.isatty():
        raise BadRequest(f"{question} Nobody is there to be asked: say --yes", code="not_sure")
    typer.confirm(question, abort=True, err=True)
