"""Published fakes: a clock that moves when told, a model that says what was written, a kernel to test on, patience."""

from .clock import MockClock
from .core import Reply, ScriptedCore, tool_call
from .kernel import booted, principal
from .wait import settle, until

__all__ = ["MockClock", "Reply", "ScriptedCore", "booted", "principal", "settle", "tool_call", "until"]
