"""What a request hands to a model's chat template beside messages and tools. Knows no template and no engine.

Servers take it as `chat_template_kwargs` in the body of a chat completion; `{"enable_thinking": false}` is what most
are asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aios.abi.calls import LLMGenerate
from aios.abi.errors import BadRequest

FIELD = "chat_template_kwargs"
MOST = 32
LONGEST = 1000
"""Characters of a text."""
LARGEST = 1 << 63
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
TAKEN = frozenset(
    (
        *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message"),
        *("bos_token", "eos_token", "pad_token", "unk_token"),
        *("raise_exception", "strftime_now", "range", "namespace", "dict", "loop", "self", "caller", "true", "false"),
        *("none", "True", "False", "None"),
    )
)
"""What is ours, or Jinja's."""


def variables_of(args: LLMGenerate) -> Mapping[str, Any]:
    """The variables by name, each a text, a number, true, false or null. Raises BadRequest for any other."""
    found = (args.extra or {}).get(FIELD)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _bad(f'{FIELD} is {_kind(found)}, and must be an object, as {{"enable_thinking": false}}')
    if len(found) > MOST:
        raise _bad(f"{FIELD} has {len(found)} names; at most {MOST} are allowed")
    for name, value in found.items():
        _check(name, value)
    return found


def _check(name: str, value: Any) -> None:
    if not _NAME.fullmatch(name):
        raise _bad(f"{FIELD} has the name {name[:70]!r}, and must have 1 to 64 of a-z, A-Z, 0-9 and _, a letter first")
    if name in TAKEN:
        raise _bad(f"{FIELD} has '{name}', which a template is given already; leave it out")
    if not (value is None or isinstance(value, str | int | float)):
        raise _bad(f"{FIELD}.{name} is {_kind(value)}, and must be a text, a number, true, false or null")
    if isinstance(value, str) and len(value) > LONGEST:
        raise _bad(f"{FIELD}.{name} has {len(value)} characters; at most {LONGEST} are allowed")
    if isinstance(value, int) and not -LARGEST <= value < LARGEST:
        raise _bad(f"{FIELD}.{name} is a number of {value.bit_length()} bits; at most 64 are allowed")


def _kind(value: Any) -> str:
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else f"{value!r:.60}"


def _bad(why: str) -> BadRequest:
    return BadRequest(why, param=FIELD)
