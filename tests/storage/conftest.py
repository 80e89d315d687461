"""A storage room for each test, whose tables are looked at when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from storage_world import IN_FILES, World

from aios.kernel.storage import chunker


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.database.check_integrity()
    world.close()


@pytest.fixture
def in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of long contents are files, however short the content."""
    monkeypatch.setattr(chunker, "RANGES", IN_FILES)
