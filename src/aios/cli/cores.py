"""The LLM cores: list them, add, drain and remove them while the kernel runs, prove that one works."""

from __future__ import annotations

import asyncio
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from aios.abi.errors import BadRequest, ModuleFault, NotFound
from aios.kernel import read_core
from aios.sdk import Client
from aios.sdk.client import home_path

from . import core_file, core_view
from .connect import async_client, client
from .console import counted, note, print_json, safe, width
from .exits import FAILED
from .state import add_key_name

if TYPE_CHECKING:
    from aios.eval.proof import Check

CORES = "/aios/v1/cores"
LOOK_SECONDS = 0.2

AsJson = Annotated[bool, typer.Option("--json", help="With all figures, as JSON.")]
CoreName = Annotated[str, typer.Argument(metavar="NAME", help="As 'aios cores' shows it.")]
Wait = Annotated[bool, typer.Option("--wait", help="Return when it is done.")]
Save = Annotated[bool, typer.Option("--save", help="In the home's aios.toml as well, for the next start.")]


def command(context: typer.Context, as_json: AsJson = False) -> None:
    """List the LLM cores: their model and state, slots in use, tokens a second, memory of sequences, how much of the
    prompts was known already, and what an interrupt costs there. A narrow terminal leaves figures out.

    \b
    Examples:
      aios cores
      aios cores --json
    """
    if context.invoked_subcommand is None:
        listed(as_json)


def listed(as_json: AsJson = False) -> None:
    """List the cores, as 'aios cores' does.

    \b
    Example:
      aios cores list --json
    """
    with client() as kernel:
        cores = kernel.fetch("GET", CORES)["cores"]
    if as_json:
        print_json(cores)
    elif cores:
        print(core_view.lines(cores, width()))
    else:
        note("No cores; add one with 'aios cores add', or a [[core]] to aios.toml.")


def add(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="What it is to be called.")] = None,
    kind: Annotated[str | None, typer.Option(help="nano, local, gguf, openai, anthropic or embed.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Where its server is.")] = None,
    model: Annotated[str | None, typer.Option(help="What the server calls the model.")] = None,
    path: Annotated[str | None, typer.Option(help="The model's folder or file.")] = None,
    slots: Annotated[int | None, typer.Option(help="Calls at once.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="The kernel's variable that has the key.")] = None,
    api_key_file: Annotated[str | None, typer.Option(help="The file in the home that has the key.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other key of a [[core]] section.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--from", help="TOML with [[core]] sections to add.")] = None,
    save: Save = False,
    as_json: AsJson = False,
) -> None:
    """Add a core and wait until it is open. With a name alone, open anew one that failed, or put back to work one that
    is drained. It takes the keys of a [[core]] section.

    \b
    Examples:
      aios cores add gpu --kind openai --base-url http://127.0.0.1:8000/v1 --slots 64
      aios cores add small --kind local --path models/small --set context_length=4096 --save
      aios cores add --from more-cores.toml
      aios cores add gpu
    """
    given = {"kind": kind, "base_url": base_url, "model": model, "path": path, "slots": slots}
    given |= {"api_key_env": api_key_env, "api_key_file": api_key_file}
    given = {key: value for key, value in given.items() if value is not None}
    given |= dict(_setting(each) for each in settings or ())
    sections = _sections(name, given, file)
    with client() as kernel:
        opened = [_add(kernel, section, save) for section in sections]
    if as_json:
        print_json(opened)
    if bad := next((core for core in opened if core["state"] == "failed"), None):
        told = f"core '{bad['name']}' could not be opened: {bad['why']}; mend that, then 'aios cores add {bad['name']}'"
        raise ModuleFault(f"{told}, or 'aios cores remove {bad['name']}'")


def _sections(name: str | None, given: dict[str, Any], file: Path | None) -> list[dict[str, Any]]:
    """What to add; a section with nothing but its name is there already."""
    if file is None:
        if name is None:
            raise BadRequest("which core? Give its name, or a file of cores with --from")
        return [{"name": name, **given}]
    if given:
        raise BadRequest("--from takes all keys from the file; leave out the others, or the file")
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRequest(f"{file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"{file} is not valid TOML: {error}") from None
    listed = raw.get("core", [])
    found: list[dict[str, Any]] = listed if isinstance(listed, list) and listed else [raw] if "kind" in raw else []
    if name is not None:
        found = [{**each, "name": name} for each in found if each.get("name", name) == name]
    if not found:
        raise BadRequest(f"{file} has no [[core]]{f' called {name!r}' if name else ''}")
    return list(found)


def _setting(text: str) -> tuple[str, Any]:
    """`key=value` of `--set`: the value as TOML, else as the text that it is."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise BadRequest(f"--set takes KEY=VALUE, not '{text[:100]}'")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def _add(kernel: Client, section: dict[str, Any], save: bool) -> dict[str, Any]:
    name = str(section.get("name", ""))
    if set(section) == {"name"}:
        core = kernel.fetch("POST", f"{_page(name)}/open")
        save = False
    else:
        section = _absolute(section)
        read_core(section, "the core")  # wrong keys are told without asking the kernel
        where = core_file.place() if save else None
        text = core_file.with_core(core_file.read(where), section, str(where)) if where else ""
        core = kernel.fetch("POST", CORES, section)
    if isinstance(variable := section.get("api_key_env"), str):
        add_key_name(home_path(), variable)  # programs that 'aios run' starts are not to have it
    core = _followed(kernel, core, "opening", lambda told: f"Opening {name}")
    if core["state"] != "ready":
        return core
    context = f", {core['context_length']} tokens of context" if core["context_length"] else ""
    note(safe(f"Core '{name}' is ready: {core['model']}, {counted(core['slots'], 'slot')}{context}."))
    if save and where:
        core_file.write(where, text)
        note(f"Saved in {where}.")
    elif set(section) != {"name"} and section not in core_file.at_next_start():
        note("It is gone at the kernel's next start; --save writes it to aios.toml.")
    return core


def _absolute(section: dict[str, Any]) -> dict[str, Any]:
    """The kernel may have been started elsewhere: a path that is there from here is sent whole."""
    path = section.get("path")
    if isinstance(path, str) and not path.startswith("~") and Path(path).exists():
        return {**section, "path": str(Path(path).absolute())}
    return section


def drain(
    name: CoreName,
    wait: Wait = False,
    undo: Annotated[bool, typer.Option("--undo", help="Give it calls again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give a core nothing new; what has begun there ends there. Calls that wait for it go to another core of their
    model, or are told that there is none.

    \b
    Examples:
      aios cores drain gpu --wait
      aios cores drain gpu --undo
    """
    with client() as kernel:
        core = kernel.fetch("POST", f"{_page(name)}/{'open' if undo else 'drain'}")
        if wait and not undo:
            core = _followed(
                kernel, core, "draining", lambda told: f"Draining {name}, {_left(told)}", until=_is_drained
            )
    if as_json:
        print_json(core)
    elif undo:
        note(safe(f"Core '{name}' takes calls again."))
    else:
        note(safe(f"Core '{name}' takes nothing new: {_left(core)}."))


def remove(
    name: CoreName,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for what runs there.")] = False,
    wait: Wait = False,
    save: Save = False,
    as_json: AsJson = False,
) -> None:
    """Drain a core, then close it. With --now what runs there begins anew on another core of its model; what cannot,
    because somebody has heard half of it or there is no other, ends with an error that says so.

    \b
    Examples:
      aios cores remove gpu --wait
      aios cores remove gpu --now --save
    """
    with client() as kernel:
        where = core_file.place() if save else None
        text = core_file.without_core(core_file.read(where), name, str(where)) if where and where.exists() else ""
        core = kernel.fetch("DELETE", f"{_page(name)}{'?now=true' if now else ''}")
        if wait or now:
            core = _followed(kernel, core, "draining", lambda told: f"Removing {name}, {_left(told)}")
    if where and text:
        core_file.write(where, text)
    if as_json:
        print_json(core)
    elif core["state"] == "draining":
        note(safe(f"Core '{name}' is being removed: {_left(core)}; 'aios cores' shows when it is gone."))
    else:
        note(safe(f"Removed core '{name}'."))
    if not as_json and any(section.get("name") == name for section in core_file.at_next_start()):
        note("It is back at the kernel's next start; --save takes it out of aios.toml.")


def _left(core: dict[str, Any]) -> str:
    return f"{counted(core['left'], 'call')} left" if core["left"] else "nothing left on it"


def _is_drained(core: dict[str, Any]) -> bool:
    return not core["left"]


def _page(name: str) -> str:
    return f"{CORES}/{quote(name, safe='')}"


def _followed(
    kernel: Client,
    core: dict[str, Any],
    state: str,
    say: Callable[[dict[str, Any]], str],
    until: Callable[[dict[str, Any]], bool] = lambda core: False,
) -> dict[str, Any]:
    """Look until the core has left `state`, or `until` says so; on a terminal, tell how it goes."""
    began, has_told = time.monotonic(), False
    while core["state"] == state and not until(core):
        if sys.stderr.isatty():
            progress = core["detail"].get("progress")
            more = f", {progress}" if progress else ""
            sys.stderr.write(f"\r\x1b[K{safe(say(core) + str(more))} … {time.monotonic() - began:.0f} s")
            sys.stderr.flush()
            has_told = True
        time.sleep(LOOK_SECONDS)
        try:
            core = kernel.fetch("GET", _page(core["name"]))
        except NotFound:
            core = {**core, "state": "closed", "left": 0}
    if has_told:
        sys.stderr.write("\r\x1b[K")
    return core


def proved(name: CoreName, as_json: AsJson = False) -> None:
    """Prove that a core works: chat, stream, tools, answers by schema, breaking off, going on after an interrupt, and
    its context length. Asked through the kernel, by a process that ends with it; costs some hundred tokens. Ends with 1
    when something fails; what a core does not offer is no failure.

    \b
    Examples:
      aios cores test gpu
      aios cores test nano --json
    """
    found = asyncio.run(_proved(name, as_json))
    if as_json:
        print_json(found)
    if any(check.state == "fails" for check in found):
        raise typer.Exit(FAILED)


async def _proved(name: str, is_quiet: bool) -> list[Check]:
    from aios.eval.proof import prove

    found = []
    async with async_client() as admin:
        async for check in prove(admin, async_client, quote(name, safe="")):
            found.append(check)
            if not is_quiet:
                print(core_view.check_line(check, width()), flush=True)
    return found


commands = {"list": listed, "add": add, "drain": drain, "remove": remove, "test": proved}
