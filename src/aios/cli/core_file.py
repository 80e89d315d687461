"""The cores in the home's file of configuration: writing one in, taking one out. Leaves all else as it stands there.

What is to be written is read as the kernel would read it, before it takes the file's place.
"""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

from aios.abi.errors import BadRequest, Conflict
from aios.kernel import parse
from aios.sdk.client import home_path

from .config import to_toml
from .state import config_in_use, read_state

HEADER = re.compile(r"^\s*\[", re.MULTILINE)


def place() -> Path:
    """The file that the running kernel was started with. Raises BadRequest for a kernel that is not this home's."""
    home = home_path()
    asked, own = os.environ.get("AIOS_URL"), (read_state(home) or {}).get("url")
    if asked is not None and (own is None or asked.rstrip("/") != str(own).rstrip("/")):
        raise BadRequest(
            f"the kernel at {asked} is not that of {home}, so its file of configuration is not here; "
            "add the core to that file by hand"
        )
    return config_in_use(None) or home / "aios.toml"


def at_next_start() -> list[dict[str, Any]]:
    """The [[core]] sections that the running kernel's file has now; none where they cannot be known from here."""
    try:
        found: list[dict[str, Any]] = tomllib.loads(read(place())).get("core", [])
    except (BadRequest, OSError, tomllib.TOMLDecodeError):
        return []
    return found


def with_core(text: str, section: dict[str, Any], where: str) -> str:
    """`text` with a [[core]] of these keys at its end. Raises Conflict when another one has that name."""
    before = parse(text, where)
    raw = tomllib.loads(text)
    for each in raw.get("core", []):
        if each["name"] == section["name"]:
            if each == section:
                return text
            raise Conflict(f"{where} has another core '{section['name']}' already; edit it there")
    if not raw.get("core"):  # without any there is the packaged one, and it is the default: that is to stay so
        text = _with_default(text, before.router.default, "router" in raw, "default" in raw.get("router", {}))
        text += to_toml({"core": [{"name": "nano", "kind": "nano"}]}) + "\n\n"
    text = text if not text or text.endswith("\n\n") else text.rstrip("\n") + "\n\n"
    text += to_toml({"core": [section]}) + "\n"
    after = parse(text, where)
    if [core.name for core in after.core] != [*(core.name for core in before.core), section["name"]]:
        raise Conflict(f"{where} is written in a way that cannot be added to; add the core by hand")
    return text


def _with_default(text: str, default: str | None, has_router: bool, has_default: bool) -> str:
    text = text.rstrip("\n") + "\n\n" if text.strip() else text
    line = to_toml({"router": {"default": default}})
    if has_default:
        return text
    if has_router:
        return re.sub(r"^\s*\[router\][^\n]*$", lambda _: line, text, count=1, flags=re.MULTILINE)
    return f"{text}{line}\n\n"


def without_core(text: str, name: str, where: str) -> str:
    """`text` without the [[core]] of that name; as it is when there is none."""
    before = tomllib.loads(text)
    if not any(core.get("name") == name for core in before.get("core", [])):
        return text
    starts = [found.start() for found in HEADER.finditer(text)] + [len(text)]
    left = text[: starts[0]]
    for start, end in pairwise(starts):
        block = text[start:end]
        if not (block.lstrip().startswith("[[core]]") and _name_in(block) == name):
            left += block
    wanted = before | {"core": [core for core in before["core"] if core.get("name") != name]}
    if not wanted["core"]:
        del wanted["core"]
    if tomllib.loads(left) != wanted:
        raise Conflict(f"{where} is written in a way that cannot be taken apart; take the core out by hand")
    parse(left, where)
    return left


def _name_in(block: str) -> Any:
    try:
        return tomllib.loads(block)["core"][0].get("name")
    except (tomllib.TOMLDecodeError, LookupError):
        return None


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def write(path: Path, text: str) -> None:
    """Whole or not at all, with the rights that the file had."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as part:
        part.write(text)
    Path(part.name).chmod(mode)
    Path(part.name).replace(path)
