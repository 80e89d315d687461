"""Agents to run and to start from, each a page written on the SDK alone."""

from .react import ReAct
from .reflexion import Reflexion

BUILT_IN = {"react": ReAct, "reflexion": Reflexion}
"""What `aios run NAME` starts."""

__all__ = ["BUILT_IN", "ReAct", "Reflexion"]
