"""What the docs say that the code already says: the state diagram, the command's help, the configuration's keys.

Used by scripts/generate. Knows nothing about the SDK.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import os
import re
from typing import Any

import msgspec

from aios.cli.main import VERBS, main, usage
from aios.kernel import config
from aios.kernel.llm.roster import CORE_TRANSITIONS
from aios.kernel.process import PROCESS_TRANSITIONS
from aios.kernel.syscall import TRANSITIONS

MARK = re.compile(r"(<!-- generated:states -->\n).*?(<!-- /generated:states -->)", re.DOTALL)


def with_states(text: str) -> str:
    """ARCHITECTURE.md with its diagrams drawn anew from the tables."""
    drawn = [
        diagram("new", TRANSITIONS),
        "\nAnd of an agent process:\n",
        diagram("running", PROCESS_TRANSITIONS),
        "\nAnd of an LLM core:\n",
        diagram("opening", CORE_TRANSITIONS),
    ]
    return MARK.sub(lambda found: found[1] + "\n".join(drawn) + "\n" + found[2], text)


def diagram(first: str, table: Any) -> str:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    for state, targets in table.items():
        lines += sorted(f"    {state.value} --> {target.value}" for target in targets)
        if not targets:
            lines.append(f"    {state.value} --> [*]")
    return "\n".join([*lines, "```"])


def cli() -> str:
    """docs/cli.md: the help of every verb and of its commands, as a terminal shows it."""
    parts = [
        "# The `aios` command\n",
        "Made by `scripts/generate` from the command's own help.\n",
        f"```\n{usage()}\n```\n",
    ]
    for name, verb in VERBS.items():
        parts.append(f"## aios {name}\n\n```\n{help_of(name)}\n```\n")
        for command in getattr(importlib.import_module(f"aios.cli.{verb.module}"), "commands", ()):
            parts.append(f"### aios {name} {command}\n\n```\n{help_of(name, command)}\n```\n")
    return "\n".join(parts)


def help_of(*words: str) -> str:
    printed = io.StringIO()
    os.environ.update(COLUMNS="100", TERMINAL_WIDTH="100", TERM="dumb", NO_COLOR="1")
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return "\n".join(line.rstrip() for line in printed.getvalue().strip("\n").splitlines())


def configuration() -> str:
    """docs/configuration.md: every section and key, with type and default."""
    parts = [
        "# Configuration\n",
        "Made by `scripts/generate` from `src/aios/kernel/config/`. The file is `--config FILE`, else `aios.toml` in",
        "`$AIOS_HOME` (default `~/.aios`). A key that is not known is an error that names the nearest one.\n",
    ]
    for item in msgspec.structs.fields(config.Config):
        inner = getattr(item.type, "__args__", (item.type,))[0]
        head = f"[[{item.encode_name}]]" if inner is not item.type else f"[{item.encode_name}]"
        doc = inspect.getdoc(inner) or ""
        parts += [f"## `{head}`\n", *([doc + "\n"] if doc else []), "| key | type | default |", "|---|---|---|"]
        parts += [row(inner, field) for field in msgspec.structs.fields(inner)]
        parts.append("")
    return "\n".join(parts)


def row(section: type, field: Any) -> str:
    default = "required" if field.required else f"`{shown(field.default)}`"
    return f"| `{field.encode_name}` | {kinds(section)[field.encode_name]} | {default} |"


def shown(value: Any) -> str:
    return "none" if value is None else f'"{value}"' if isinstance(value, str) else str(value)


def kinds(section: type) -> dict[str, str]:
    """Key → what may stand there, as the source says it, in words."""
    bases = [base for base in section.__bases__ if issubclass(base, config.Section) and base is not config.Section]
    found = {name: kind for base in bases for name, kind in kinds(base).items()}
    node = ast.parse(inspect.getsource(section)).body[0]
    assert isinstance(node, ast.ClassDef)
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            found[line.target.id] = in_words(ast.unparse(line.annotation))
    return found


def in_words(annotation: str) -> str:
    text = annotation.replace(" | None", "")
    if text.startswith("Literal["):
        return " or ".join(f'`"{word}"`' for word in ast.literal_eval(f"({text[8:-1]},)"))
    if text.startswith("Annotated["):
        kind, _, rest = text[10:-1].partition(", ")
        bounds = dict(re.findall(r"(ge|le|gt|lt)=([^,)]+)", rest))
        words = [f"{sign} {bounds[name]}" for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤")) if name in bounds]
        return " ".join([named(kind), *words])
    return named(text)


def named(kind: str) -> str:
    words = {"str": "text", "int": "whole number", "float": "number", "Seconds": "seconds", "CoreName": "name"}
    words |= {"ByteSize": 'bytes, as `"64MiB"`', "bool": "`true` or `false`", "list[str]": "list of texts"}
    words |= {"Dollars": "dollars", "Price": "`{input, output, cached, cache_write}`"}
    return words.get(kind, kind)
