"""How long the state machines run: a little with every test, `AIOS_STEPS` (10,000 at night) when that is set."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

STEPS = int(os.environ.get("AIOS_STEPS", "400"))
_EACH = 100
"""Steps of one history, so that there are many to choose from."""

machine = settings(
    max_examples=max(1, STEPS // _EACH),
    stateful_step_count=_EACH,
    deadline=None,
    derandomize="AIOS_STEPS" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # shrinking a history of a hundred steps takes longer than reading it
)
