"""What the proof asks, and what happens meanwhile, all drawn from a seed. Knows no kernel and no model's files."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from aios.abi.calls import LLMGenerate
from aios.abi.messages import FunctionSpec, Message, ToolSpec

MODELS = ("qwen3", "nano", "llama 3", "mistral", "qwen2")
"""The packaged one, and a random one of each family; a round has one of them, in turn."""
PACKAGED = "nano"
"""Computed by NumPy only."""
WAYS = ("greedy", "sampled", "beam", "grammar")
Fate = Literal["calm", "stopped", "killed"]
FATES: tuple[Fate, ...] = ("calm", "stopped", "calm", "killed")
"""What becomes of a round's kernel: nothing; it is stopped with calls open and boots again; it is a process of its own
that is killed with calls open, started, stopped, and started again."""
Tier = Literal["ram", "disk", "text", "mixed"]
TIERS: tuple[Tier, ...] = ("ram", "disk", "text", "mixed")
"""Where the suspended go when others need the pool: all into host memory, all to disk, none but as text, or a little of
each."""
SLOTS = (1, 1, 2, 2, 3, 4, 6, 8, 12, 16)
"""Few more often: then more of those who ask have to wait, and interrupt each other."""
CONTEXT = 640
LONGEST_PROMPT, BESIDE_TOOLS = 340, 150
"""Characters, which may be a token each; templates say much of tools."""

BEGINNINGS = (
    "You are the agent of a traveller. You know flights, trains and the weather, and you answer in one sentence. ",
    "You keep the books of a small workshop: what came in, what went out, what is owed, and by whom, to the cent. ",
    "Read the log below and say what broke first; do not guess, and name the line that you found it in. Log: ",
)
"""Longer than a chunk, so that prompts which begin with the same one share it."""
WORDS = ("flight", "UA057", "lands", "in", "Paris", "rain", "or", "snow", "17", "degrees", "why", "is", "north", "wind")

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "days": {"type": "integer", "minimum": 0, "maximum": 99},
        "rain": {"type": "boolean"},
    },
    "required": ["city", "days", "rain"],
    "additionalProperties": False,
}
PLACE = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 8}}, "required": ["city"]}
TOOL = ToolSpec(FunctionSpec("weather", "Tells the weather", PLACE))


@dataclass(frozen=True, slots=True)
class Ask:
    """A generation, and how long (seconds) after its round's beginning it is asked for."""

    way: str
    args: LLMGenerate
    after: float


@dataclass(frozen=True, slots=True)
class Round:
    """Generations that are asked for at once, of one kernel with one model. `cuts`: after how many answers it ends."""

    number: int
    model: str
    fate: Fate
    slots: int
    quantum: int
    has_cache: bool
    tier: Tier
    asks: tuple[Ask, ...]
    noise: tuple[Ask, ...]
    """Asked for as well, and given up half-way."""
    cuts: tuple[int, ...]


def rounds(count: int, size: int, seed: int, backend: str = "numpy") -> Iterator[Round]:
    """So many that `count` generations are asked for, `size` in each but perhaps the last one."""
    models = [model for model in MODELS if backend == "numpy" or model != PACKAGED]
    for number in range(-(-count // size)):
        # As many models as fates would meet in the same pairs for ever.
        turn = number // len(FATES) if len(models) == len(FATES) else 0
        model = models[(number + turn) % len(models)]
        yield _round(number, min(size, count - number * size), seed, model)


def _round(number: int, size: int, seed: int, model: str) -> Round:
    dice = random.Random(f"{seed}/{number}")
    fate = FATES[number % len(FATES)]
    num_cuts = {"calm": 0, "stopped": 1, "killed": 2}[fate]
    return Round(
        number=number,
        model=model,
        fate=fate,
        slots=dice.choice(SLOTS),
        quantum=dice.choice((dice.randint(1, 8), dice.randint(1, 64))),
        has_cache=dice.random() < 0.5,
        tier=dice.choice(TIERS),
        asks=tuple(_ask(dice, WAYS[n % len(WAYS)]) for n in range(size)),
        noise=tuple(_ask(dice, dice.choice(WAYS)) for _ in range(dice.randint(0, 3))),
        cuts=tuple(sorted(dice.randrange(size) for _ in range(num_cuts))),
    )


def _ask(dice: random.Random, way: str) -> Ask:
    limits: dict[str, Any] = {"max_tokens": dice.randint(4, 24 if way == "beam" else 64)}
    if dice.random() < 0.5:
        limits["min_tokens"] = dice.randint(1, limits["max_tokens"])
    told: dict[str, Any] = {"logprobs": True, "top_logprobs": dice.randint(0, 3)} if dice.random() < 0.5 else {}
    if dice.random() < 0.2:
        told["stop"] = [" the", "e"]
    chosen = {"greedy": _greedy, "sampled": _sampled, "beam": _beam, "grammar": _grammar}[way](dice)
    prompt = [Message("user", _prompt(dice)[: BESIDE_TOOLS if "tools" in chosen else LONGEST_PROMPT])]
    args = LLMGenerate(messages=prompt, seed=dice.getrandbits(40), **limits, **told, **chosen)
    return Ask(way, args, dice.choice((0.0, 0.0, dice.random() * 0.05)))


def _prompt(dice: random.Random) -> str:
    beginning = dice.choice(BEGINNINGS) if dice.random() < 0.6 else ""
    words = " ".join(dice.choices(WORDS, k=dice.choice((dice.randint(1, 8), dice.randint(1, 60)))))
    return beginning + words


def _greedy(dice: random.Random) -> dict[str, Any]:
    if dice.random() < 0.2:
        return {"logit_bias": {str(dice.randrange(200)): dice.uniform(-3, 3) for _ in range(4)}}
    return {"temperature": 0.0} if dice.random() < 0.5 else {}


def _sampled(dice: random.Random) -> dict[str, Any]:
    chosen: dict[str, Any] = {"temperature": dice.uniform(0.2, 1.6)}
    if dice.random() < 0.4:
        chosen["top_p"] = dice.uniform(0.5, 1.0)
    if dice.random() < 0.4:
        chosen["top_k"] = dice.randint(1, 50)
    if dice.random() < 0.3:
        chosen |= {"presence_penalty": dice.uniform(-1, 1), "frequency_penalty": dice.uniform(-1, 1)}
    return chosen


def _beam(dice: random.Random) -> dict[str, Any]:
    chosen: dict[str, Any] = {"beam_width": dice.randint(2, 5), "length_penalty": dice.uniform(0, 2)}
    return chosen | (_format() if dice.random() < 0.25 else {})


def _grammar(dice: random.Random) -> dict[str, Any]:
    chosen = _format() if dice.random() < 0.5 else {"tools": [TOOL], "tool_choice": "required"}
    return chosen | ({"temperature": dice.uniform(0.2, 1.6)} if dice.random() < 0.7 else {})


def _format() -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}}
