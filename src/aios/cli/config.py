"""Show the configuration in use. A kernel reads it once, when it starts."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
import typer

from aios.kernel import load

from .connect import checked_home
from .console import note, print_json
from .options import ConfigFile
from .state import config_in_use


def show(
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Print every setting with its value. As TOML that 'aios up --config' reads; defaults are filled in. Without
    --config it is the file that the home's running kernel was started with, as it is now; what 'aios up' was told by
    other options, such as --port, is not in it.

    \b
    Examples:
      aios config show
      aios config show --config other.toml --json
    """
    home = checked_home()
    used = config_in_use(config)
    place = used or home / "aios.toml"
    settings = msgspec.to_builtins(load(used), enc_hook=int)
    if as_json:
        print_json(settings)
        return
    note(f"# from {place}" if place.exists() else f"# defaults; there is no {place}")
    print(to_toml(settings))


def to_toml(settings: dict[str, Any]) -> str:
    """Two levels of TOML: sections, and lists of sections. What is None is left out."""
    blocks = []
    for name, value in settings.items():
        parts = value if isinstance(value, list) else [value]
        head = f"[[{name}]]" if isinstance(value, list) else f"[{name}]"
        for part in parts:
            lines = [f"{key} = {value_to_toml(each)}" for key, each in part.items() if each is not None]
            if lines:
                blocks.append("\n".join([head, *lines]))
    return "\n\n".join(blocks)


def value_to_toml(value: Any) -> str:
    """One value on one line. JSON's strings, numbers, lists and booleans are TOML's as well; objects are not."""
    if not isinstance(value, dict):
        return json.dumps(value)
    pairs = [f"{json.dumps(key)} = {value_to_toml(each)}" for key, each in value.items() if each is not None]
    return f"{{ {', '.join(pairs)} }}" if pairs else "{}"


commands = {"show": show}
