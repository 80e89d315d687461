"""What tests of the command share: a kernel that serves, one for each file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cli.command import Served, Server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Server(tmp_path_factory.mktemp("home"))
    server.start()
    try:
        yield server.wait_ready()
    finally:
        server.stop()
