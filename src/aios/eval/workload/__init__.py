"""Tasks for a tool-using model, with a test split that training never saw. The door of the room."""

from aios.eval.workload.base import Expected, Step, Task, Turn, check
from aios.eval.workload.generate import FAMILIES, generate
from aios.eval.workload.split import Phrasing, Split

__all__ = ["FAMILIES", "Expected", "Phrasing", "Split", "Step", "Task", "Turn", "check", "generate"]
