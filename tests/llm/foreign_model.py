"""The random models in folders that `aios.testing` publishes, by the names that tests know them by."""

from __future__ import annotations

from aios.testing.models import ENDS, HERMES, LLAMA3, MISTRAL, MISTRAL3, SPECIALS, TEMPLATES, TEXT
from aios.testing.models import write_model as write

__all__ = ["ENDS", "HERMES", "LLAMA3", "MISTRAL", "MISTRAL3", "SPECIALS", "TEMPLATES", "TEXT", "write"]
