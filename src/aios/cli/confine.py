"""Keeping a foreign program away from the kernel's home and from upstream keys. Knows nothing of what it does.

What is kept from it: the folder `$AIOS_HOME` with the admin key and everybody's data, the environment and memory of
other processes (a shell's exported keys, the kernel's), and keys in its own environment. What is not: files elsewhere
that its user may read or write; it is that user's program. A probe tries each mechanism on this machine before it is
relied on, and when none works the program does not start. It is no jail: whoever runs programs of people that mean
harm gives them a user of their own.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aios.abi.errors import Denied, NotFound

MECHANISMS = ("namespaces", "bubblewrap", "landlock")
"""In the order in which they are tried."""

KEYS = frozenset(
    f"{name}_API_KEY"
    for name in (
        *("OPENAI", "ANTHROPIC", "AZURE_OPENAI", "AZURE", "GEMINI", "GOOGLE", "MISTRAL", "COHERE", "CO", "GROQ"),
        *("TOGETHER", "OPENROUTER", "DEEPSEEK", "XAI", "PERPLEXITY", "FIREWORKS", "NVIDIA", "CEREBRAS", "VLLM"),
        *("DASHSCOPE", "MOONSHOT", "ZHIPUAI", "VOYAGE", "AI21", "SAMBANOVA", "DEEPINFRA", "HUGGINGFACE", "LITELLM"),
    )
) | {
    *("ANTHROPIC_AUTH_TOKEN", "AZURE_OPENAI_AD_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "REPLICATE_API_TOKEN"),
    *("HUGGINGFACEHUB_API_TOKEN", "AWS_BEARER_TOKEN_BEDROCK", "OPENAI_ADMIN_KEY", "COHERE_API_TOKEN"),
}
"""Where programs and people put upstream keys."""

_OURS = frozenset(("AIOS_URL", "AIOS_KEY", "AIOS_PID", "AIOS_AGENT"))
_SHORTEST_SECRET = 8
_DUMPABLE = 4


@dataclass(frozen=True, slots=True)
class Confined:
    """What to start instead: `argv` in `env`. Signals go to its process group. `how` names the mechanism."""

    argv: list[str]
    env: dict[str, str]
    how: str


def confine(argv: list[str], env: Mapping[str, str], home: Path, secrets: Iterable[str] = ()) -> Confined:
    """`argv` kept out of `home`, its environment `env` without upstream keys.

    `secrets` are names of variables that hold keys of cores. A name for which the caller has put another value into
    `env` than this process has (the program's own key) stays. Raises NotFound for a program that is not there,
    Denied when this machine has no way to do it.
    """
    home = home.expanduser().resolve()
    program = _program(argv[0], env)
    if program is None:
        raise NotFound(f"cannot start '{argv[0]}': there is no such program", code="no_such_program")
    if program.is_relative_to(home):
        raise Denied(f"{program} is inside {home}, which is kept from the programs of agents; put it elsewhere")
    failures = []
    for mechanism in MECHANISMS:
        failure = _try(mechanism, home)
        if failure is None:
            return Confined(_command(mechanism, home, argv), clean(env, secrets), mechanism)
        failures.append(f"{mechanism}: {failure}")
    raise Denied(
        f"'{argv[0]}' was not started: nothing on this machine can keep {home} from it ({'; '.join(failures)}). "
        "Install bubblewrap or allow unprivileged user namespaces; or add --unconfined, and it can read the admin key",
        code="cannot_confine",
    )


def probe() -> list[tuple[str, bool, str]]:
    """Each mechanism, whether it works here, and why it does not or what it costs."""
    with tempfile.TemporaryDirectory(prefix="aios-probe-") as folder:
        found = [(mechanism, _try(mechanism, Path(folder).resolve())) for mechanism in MECHANISMS]
    return [(mechanism, why is None, why or _PRICE[mechanism]) for mechanism, why in found]


_PRICE = {
    "namespaces": "the program sees its own processes only",
    "bubblewrap": "the program sees its own processes only, and a signal to end it leaves it no time to do so",
    "landlock": "the program can make no new entries in the folders that lead to $AIOS_HOME",
}


def clean(env: Mapping[str, str], secrets: Iterable[str] = ()) -> dict[str, str]:
    """`env` without upstream keys, under whatever name, and without what leads to the kernel's home."""
    outside = {os.environ[name] for name in (*secrets, *KEYS) if os.environ.get(name)}
    long = tuple(value for value in outside if len(value) >= _SHORTEST_SECRET)
    kept = {name: value for name, value in env.items() if not name.startswith("AIOS_") or name in _OURS}
    return {
        name: value
        for name, value in kept.items()
        if not any(secret in value for secret in long) and not (name in {*secrets, *KEYS} and value in outside)
    }


def undumpable() -> None:
    """Let no process of the same user read this one's memory and environment, or attach to it. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DUMPABLE, 0, 0, 0, 0)


# ── mechanisms ──


def _command(mechanism: str, home: Path, argv: list[str]) -> list[str]:
    if mechanism == "bubblewrap":
        return [*_bubblewrap(home), "--", *argv]
    launcher = Path(__file__).with_name("launcher.py")
    return [sys.executable, "-I", "-S", str(launcher), mechanism, str(home), *argv]


def _bubblewrap(home: Path) -> list[str]:
    from .launcher import DANGEROUS, side_doors

    words = ["bwrap", "--dev-bind", "/", "/", "--tmpfs", str(home), "--remount-ro", str(home)]
    words += ["--unshare-pid", "--proc", "/proc", "--die-with-parent"]
    for door in side_doors():
        words += ["--tmpfs", door] if os.path.isdir(door) else ["--ro-bind", "/dev/null", door]
    if os.getuid() == 0:
        for place in ("/proc/sys", "/sys"):
            words += ["--ro-bind-try", place, place]
        for capability in DANGEROUS:
            words += ["--cap-drop", f"CAP_{capability}"]
    return words


@functools.lru_cache(maxsize=8)
def _try(mechanism: str, home: Path) -> str | None:
    """Why `mechanism` does not keep a program out of `home`; None when it was seen to do so."""
    if sys.platform != "linux":
        return "needs Linux"
    if mechanism == "bubblewrap" and shutil.which("bwrap") is None:
        return "bwrap is not installed"
    try:
        with tempfile.NamedTemporaryFile(prefix=".probe-", dir=home) as marker:
            return _attack(mechanism, home, Path(marker.name))
    except OSError as error:
        return f"cannot be tried: {error}"


_ATTACK = """
test -r / && test -r /bin/sh || exit 3
for way in "$1" "/proc/$2/root$1"; do (: < "$way") 2>/dev/null && exit 4; done
grep -q "$3" "/proc/$2/environ" 2>/dev/null && exit 5
exit 0
"""
_MEANING = {3: "hides too much", 4: "does not hide it", 5: "shows the environment of other processes"}


def _attack(mechanism: str, home: Path, marker: Path) -> str | None:
    """Look for `marker` in all ways that are known, from inside, with a victim whose environment holds a word."""
    word = marker.name.lstrip(".")
    victim = subprocess.Popen(["sleep", "60"], env={"WORD": word, "PATH": os.environ.get("PATH", os.defpath)})
    try:
        attack = ["/bin/sh", "-c", _ATTACK, "attack", str(marker), str(victim.pid), word]
        seen = subprocess.run(
            _command(mechanism, home, attack), capture_output=True, text=True, timeout=20, check=False, cwd="/"
        )
    except subprocess.TimeoutExpired:
        return "does not answer"
    finally:
        victim.kill()
        victim.wait()
    if seen.returncode == 0:
        return None
    last = seen.stderr.strip().splitlines()[-1:] or [f"exit status {seen.returncode}"]
    return _MEANING.get(seen.returncode, last[0].removeprefix("aios run: "))


def _program(name: str, env: Mapping[str, str]) -> Path | None:
    found = shutil.which(name, path=env.get("PATH"))
    return Path(found).resolve() if found else None
