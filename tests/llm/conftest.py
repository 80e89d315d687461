"""What several tests of models share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file that llama.cpp loads."""
    from tiny_gguf import write_gguf

    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")
