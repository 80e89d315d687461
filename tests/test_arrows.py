"""Who may import whom: walks the imports of every file and fails on any arrow that ARCHITECTURE.md does not draw."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "aios"

SMALL = {
    "database",
    "syscall",
    "process",
    "clock",
    "trace",
    "config",
    "journal",
    "secret",
    "spaces",
    "search",
    "unbroken",
}
MODULES = {"llm", "context", "memory", "storage", "tool", "access"}
DOOR = {"kernel"}

ALLOWED: dict[str, set[str]] = {
    "abi": set(),
    **{f"kernel/{name}": {"abi"} | {f"kernel/{other}" for other in SMALL} for name in SMALL | MODULES},
    "kernel/scheduler": {"abi", "kernel/syscall", "kernel/process", "kernel/clock", "kernel/trace"},
    "kernel/transfers": {"abi", "kernel/storage"} | {f"kernel/{name}" for name in SMALL},
    "kernel/idempotency": {"abi"} | {f"kernel/{name}" for name in SMALL},
    "kernel/prepare": {"abi", "kernel/syscall"},
    "kernel/open_calls": {"abi", "kernel/syscall"},
    "kernel/effects": {"abi", "kernel/scheduler", "kernel/journal", "kernel/syscall"},
    "kernel/errands": {"abi"} | {f"kernel/{name}" for name in SMALL},
    "kernel/models": {"abi", "kernel/open_calls"}
    | {f"kernel/{name}" for name in SMALL | {"context", "llm", "scheduler", "storage"}},
    "kernel/recovery": {"abi", "kernel/context", "kernel/llm"} | {f"kernel/{name}" for name in SMALL},
    "kernel/house": {"abi", "kernel/access", "kernel/memory", "kernel/storage"} | {f"kernel/{name}" for name in SMALL},
    "kernel/check": {"abi", "kernel/memory", "kernel/storage"} | {f"kernel/{name}" for name in SMALL},
    "kernel/backup": {"abi", "kernel/check", "kernel/storage"} | {f"kernel/{name}" for name in SMALL},
    "kernel/control": {"abi", "kernel/scheduler"} | {f"kernel/{name}" for name in SMALL},
    "kernel/kernel": {"abi"}
    | {f"kernel/{name}" for name in ("scheduler", "control", "idempotency", "transfers", "prepare", "check")}
    | {f"kernel/{name}" for name in ("open_calls", "effects", "errands", "models", "recovery", "house")}
    | {f"kernel/{n}" for n in SMALL | MODULES},
    "kernel": {f"kernel/{name}" for name in SMALL | {"kernel", "transfers", "check", "backup"}},
    "sdk": {"abi"},
    "agents": {"abi", "sdk"},
    "gateway": {"abi", "kernel"},
    "testing": {"abi", "kernel"} | {f"kernel/{name}" for name in SMALL | {"llm", "scheduler"}},
    "eval": {"abi", "sdk", "testing", "agents", "kernel", "gateway"},
    "cli": {"abi", "sdk", "gateway", "eval", "kernel", "agents", "testing"},
}
"""Room → rooms it may import. "kernel" alone is the kernel's door."""

EXCEPTIONS = {
    # The model's tasks are judged with the very tools that solve them.
    ("eval", "kernel/tool"),
    # `aios bench nano` measures the bare decoder, `aios bench kernel` the queue.
    ("eval", "kernel/llm"),
    # `aios bench memory` measures its policies of eviction on traces, without a kernel.
    ("eval", "kernel/memory"),
    # `aios demo context` saves a search in the context manager's two forms, and reads them back.
    ("eval", "kernel/context"),
    # A tool's worker process reads the manifests that `@tool` made.
    ("kernel/tool", "sdk"),
}


def room_of(parts: tuple[str, ...]) -> str:
    """("kernel", "llm", "base") → "kernel/llm"; ("kernel",) → "kernel"; ("sdk", "client") → "sdk"."""
    if not parts:
        return ""
    if parts[0] == "kernel":
        return "/".join(parts[:2])
    return parts[0]


def imports_of(path: Path) -> list[tuple[str, ...]]:
    """Modules of ours that `path` imports, as parts below `aios`, wherever in the file they stand."""
    here = path.relative_to(SRC).with_suffix("").parts
    package = here[:-1]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [tuple(a.name.split(".")[1:]) for a in node.names if a.name.split(".")[0] == "aios"]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
                target = base + tuple((node.module or "").split(".") if node.module else ())
            elif (node.module or "").split(".")[0] == "aios":
                target = tuple(node.module.split(".")[1:])
            else:
                continue
            found += [target] if node.module and target else [(*target, a.name) for a in node.names]
    return found


def files() -> list[Path]:
    return sorted(p for p in SRC.rglob("*.py") if p.parent != SRC)


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(SRC)))
def test_every_import_follows_an_arrow_of_the_house(path: Path) -> None:
    parts = path.relative_to(SRC).with_suffix("").parts
    room = room_of(tuple(p for p in parts if p != "__init__"))
    assert room in ALLOWED, f"{path} is in a room that the house does not have"
    for target in imports_of(path):
        to = room_of(target)
        if to in ("", "__version__") or to == room:
            continue
        assert to in ALLOWED[room] or (room, to) in EXCEPTIONS, f"{room} must not import {to} ({'.'.join(target)})"


def test_the_walker_sees_relative_absolute_and_inner_imports(tmp_path: Path) -> None:
    assert room_of(("kernel", "llm", "base")) == "kernel/llm"
    seen = {room_of(t) for t in imports_of(SRC / "kernel" / "kernel.py")}
    assert {"abi", "kernel/scheduler", "kernel/llm", "kernel/database"} <= seen


def test_nobody_imports_httpx_or_an_agent_framework_and_torch_only_what_computes_with_it() -> None:
    with_torch = {SRC / "kernel" / "llm" / "local" / name for name in ("torch_attention.py", "torch_backend.py")}
    beside = SRC / "eval" / "bench" / "beside.py"  # measures against them
    banned = {"httpx", "torch", "litellm", "langchain", "openai", "anthropic", "transformers"}
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            allowed = {"torch"} if path in with_torch else {"torch", "transformers"} if path == beside else set()
            assert not {n.split(".")[0] for n in names} & (banned - allowed), path
