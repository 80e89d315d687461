"""Agents are tested on the SDK's fake transport, which lives beside the SDK's own tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "sdk"))
