"""What agents are written on: clients, agents, tools. Knows the calls' table, no kernel."""

from .agent import Agent, Answer, Step, Trajectory
from .client import AsyncClient, Client
from .stream import AsyncStream, Stream
from .tool import tool
from .transport import HTTP, ConnectionLost, InProcess, NoKernel, Transport

__all__ = [
    "HTTP",
    "Agent",
    "Answer",
    "AsyncClient",
    "AsyncStream",
    "Client",
    "ConnectionLost",
    "InProcess",
    "NoKernel",
    "Step",
    "Stream",
    "Trajectory",
    "Transport",
    "tool",
]
