"""A person's editor: a text in, what they made of it out. Knows no verb."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from aios.abi.errors import BadRequest


def edited(text: str, suffix: str) -> str:
    """What the user made of `text` in $VISUAL or $EDITOR. Raises BadRequest when that cannot be run, or fails."""
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory(prefix="aios-") as folder:
        file = Path(folder) / f"edit{suffix}"
        file.write_text(text, encoding="utf-8")
        try:
            done = subprocess.run([*shlex.split(command), str(file)], check=False)
        except (OSError, ValueError) as error:
            raise BadRequest(f"the editor '{command}' cannot be started ({error}): set EDITOR") from None
        if done.returncode:
            raise BadRequest(f"the editor '{command}' ended with {done.returncode}: nothing was changed")
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise BadRequest("what the editor left is not UTF-8: nothing was changed") from None
