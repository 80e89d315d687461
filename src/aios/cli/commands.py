"""What the kernel's errors advise, in the words of whoever uses the command. Knows no verb."""

from __future__ import annotations

from typing import Final

ADVICE: Final = {
    "; sto_list with 'trash' shows": "; 'aios fs ls --trash' shows",
    "; sto_list shows": "; 'aios fs ls' shows",
    "; mem_list lists them": "; 'aios mem ls' lists them, with --agent those of another agent",
    "forget some with mem_clear first": "forget some with 'aios mem rm' first",
    "mem_clear, and sto_clear with 'trash',": "'aios mem rm', and 'aios fs rm --trash',",
    ": sto_clear moves them": ": 'aios fs rm' moves them",
    "and sto_clear with 'trash' empties it for good, which takes a key that is no process's ('aios keys new')": (
        "and 'aios fs rm . --trash' empties it for good"
    ),
}
"""Errors speak of calls to programs. What a rule allows ("sto_list:notes") has the call's name for people too."""


def in_commands(message: str) -> str:
    for call, command in ADVICE.items():
        message = message.replace(call, command)
    return message
