"""What all tests share: the event loop that asynchronous ones run on. A room may choose another in its own file."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str | tuple[str, dict[str, bool]]:
    return "asyncio"
