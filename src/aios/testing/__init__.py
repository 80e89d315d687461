"""Published fakes: a clock that moves when told, a model that says what was written, a kernel to test on."""

from .clock import MockClock
from .core import Reply, ScriptedCore, tool_call
from .kernel import booted, principal

__all__ = ["MockClock", "Reply", "ScriptedCore", "booted", "principal", "tool_call"]
