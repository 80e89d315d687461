"""`aios bench prefix`: what the prefix cache saves when many agents have one system prompt. Asserts nothing.

The packaged model, once with the cache and once without, in turn. All agents ask at once, and each has a question of
its own after the prompt that they share; the cache is empty when they begin.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from aios.abi.calls import LLMGenerate
from aios.abi.messages import Chunk, Message
from aios.kernel import Kernel, Principal
from aios.kernel.llm.local.tokenizer import Tokenizer
from aios.kernel.llm.nano import WEIGHTS, NanoCore
from aios.testing import booted, principal

from .timing import Times, ratio

AGENTS = 32
SYSTEM_TOKENS = 1000
ANSWER = 8
SENTENCE = "You are one of the agents of a workshop: answer briefly, name your source, and ask when you are not sure. "
CONTESTANTS = {"cached": 64 << 20, "uncached": 0}
"""Bytes of cache."""


def main(as_json: bool, quick: bool) -> dict[str, Any]:
    """Measure it; print it unless the caller wants it as it is."""
    figures: dict[str, Any] = asyncio.run(measure(quick=quick))
    if not as_json:
        print(table(figures))
    return figures


async def measure(*, quick: bool = False, agents: int = AGENTS) -> dict[str, Any]:
    rounds = 1 if quick else 3
    text = system_prompt()
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    for _ in range(rounds):
        for name, budget in CONTESTANTS.items():
            seen[name].append(await _once(text, agents, budget))
    medians = {
        name: {key: statistics.median(each[key] for each in runs) for key in runs[0]} for name, runs in seen.items()
    }
    without, cached = medians["uncached"], medians["cached"]
    return {
        "agents": agents,
        "system_tokens": SYSTEM_TOKENS,
        "rounds": rounds,
        **{name: {key: round(value, 4) for key, value in each.items()} for name, each in medians.items()},
        "fewer_prefill_tokens": round(without["prefill_tokens"] / cached["prefill_tokens"], 2),
        "sooner_first_token": round(_ratio(seen, "first_token_s"), 2),
        "sooner_first_token_cpu": round(_ratio(seen, "first_token_cpu_s"), 2),
    }


def _ratio(seen: dict[str, list[dict[str, float]]], key: str) -> float:
    return ratio([each[key] for each in seen["uncached"]], [each[key] for each in seen["cached"]])


def system_prompt() -> str:
    """A text of SYSTEM_TOKENS tokens of the packaged model."""
    tokenizer = Tokenizer.load(WEIGHTS / "tokenizer.json")
    tokens = tokenizer.encode(SENTENCE * 100)[:SYSTEM_TOKENS]
    return b"".join(tokenizer.tokens[token] for token in tokens).decode()


async def _once(text: str, agents: int, budget: int) -> dict[str, float]:
    core = NanoCore(slots=agents, kv_bytes=1 << 30, prefix_bytes=budget)
    async with booted(cores=[core]) as kernel:
        whos = [principal(kernel, f"agent-{number}") for number in range(agents)]
        await kernel.access.settled()
        times = Times()
        with times.once():
            first = await asyncio.gather(*(_ask(kernel, who, text, number) for number, who in enumerate(whos)))
        return {
            "prefill_tokens": core.statistics()["prefilled_tokens"],
            "first_token_s": statistics.median(wall for wall, _ in first),
            "first_token_cpu_s": statistics.median(cpu for _, cpu in first),
            "wall_s": times.wall_s,
            "cpu_s": times.cpu_s,
        }


async def _ask(kernel: Kernel, who: Principal, text: str, number: int) -> tuple[float, float]:
    """Seconds until the first token was there, by the wall and of the CPU."""
    heard: list[tuple[float, float]] = []
    wall, cpu = time.perf_counter(), time.process_time()

    def listen(chunk: Chunk) -> None:
        if chunk.tokens and not heard:
            heard.append((time.perf_counter() - wall, time.process_time() - cpu))

    messages = [Message("system", text), Message("user", f"What is {number} + {number * 7}?")]
    asked = LLMGenerate(messages=messages, max_tokens=ANSWER, min_tokens=ANSWER)
    await kernel.call(who, "llm_generate", asked, on_chunk=listen)
    return heard[0]


def table(figures: dict[str, Any]) -> str:
    cached, without = figures["cached"], figures["uncached"]
    return "\n".join(
        [
            f"{figures['agents']} agents, one system prompt of {figures['system_tokens']} tokens",
            f"{'':<24}{'without':>10}{'cached':>10}{'ratio':>8}",
            f"{'tokens prefilled':<24}{without['prefill_tokens']:>10,.0f}{cached['prefill_tokens']:>10,.0f}"
            f"{figures['fewer_prefill_tokens']:>8.1f}",
            f"{'first token, median':<24}{without['first_token_s']:>9.2f}s{cached['first_token_s']:>9.2f}s"
            f"{figures['sooner_first_token']:>8.1f}",
            f"{'the same, of CPU':<24}{without['first_token_cpu_s']:>9.2f}s{cached['first_token_cpu_s']:>9.2f}s"
            f"{figures['sooner_first_token_cpu']:>8.1f}",
            f"{'CPU, all of it':<24}{without['cpu_s']:>9.2f}s{cached['cpu_s']:>9.2f}s"
            f"{without['cpu_s'] / cached['cpu_s']:>8.1f}",
        ]
    )
