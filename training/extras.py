"""Drills beside the families: invented tools, copying, reading, small talk, system prompts. Of the training split."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from gold import call

from aios.eval.workload import entities
from aios.eval.workload.families import FAILED, MISSING, Draw
from aios.kernel.tool.builtins import BUILTIN_TOOLS


def _words(text: str) -> list[str]:
    return text.split()


def _parts(text: str) -> list[str]:
    return text.split("|")


REACT = "You are a ReAct agent. Use the tools; answer from what they return."
SYSTEMS = _parts(
    "You are a helpful assistant.|You are an agent. Use tools when they help.|Answer shortly.|You are a "
    "careful agent.|Use the tools you have. If there is none, say so.|You are a helpful agent with "
    "tools.|Be brief and exact.|Solve the task with the tools.|Think, act, observe. Then answer.|You can "
    "call functions. Answer in one sentence.|You are an office assistant.|Help the user. Never make up an"
    " answer.|You work for {name}.|Your name is {name}.|You are {name}, an agent. Use one tool at a "
    "time.|Call a tool, read what it returns, then answer.|You are one of many agents that share one "
    "model.|Use only the listed tools."
)
VERBS = _words(
    "get find fetch check show look_up query read list measure count track order book send open close start stop"
)
NOUNS = _words(
    "weather forecast humidity traffic stock_price exchange_rate news score schedule menu recipe address "
    "phone email balance invoice shipment parcel flight train hotel table ticket seat room user profile "
    "account order status inventory temperature pressure speed location route distance map song album "
    "movie book article document page photo report sensor device light alarm door heater backup log job "
    "task event meeting calendar contact message"
)
PARAMETERS = _words("city name id code place person item topic title user date key word product country title symbol")
ASK = _parts(
    "{V} the {n} of {x}.|{V} the {n} for {x}, please.|What is the {n} of {x}?|I need the {n} of {x}.|Tell"
    " me the {n} of {x}.|Give me the {n} for {x}.|Use {t} for {x}.|Call {t} with {x}.|Please {v} the {n} "
    "of {x}.|Can you {v} the {n} of {x}?|What's the {n} for {x}?|How about the {n} of {x}?|{x}: what is "
    "the {n}?|Run {t} on {x} and tell me what it says.|I want to know the {n} of {x}.|Try {t} on {x}."
)
FAULTS = _parts(
    "no {n} for {x}|{n} of {x} is locked|service {w} is down|limit of {d} reached|{w} not found|access to"
    " {x} denied|{w} took longer than {d} seconds|unknown {p} '{x}'|bad {p}|{w}|cannot reach {w}|{n} not "
    "ready, ask {w}|{x} is closed"
)
TALK = (
    ("Hello|Hi|Good morning|Hey|Hello there|Hi there", "Hello! How can I help you?"),
    ("Thanks|Thank you|Thanks a lot|Great, thanks", "You are welcome."),
    ("Who are you?|What are you?|What is your name?|Introduce yourself", "I am nano, a small model that uses tools."),
    ("How are you?|How is it going?|Are you well?", "I am fine. What can I do for you?"),
    ("Goodbye|Bye|See you|Good night", "Goodbye!"),
    ("What can you do?|How can you help?|What are you good at?", "I can use the tools that I am given."),
    ("Write a poem|Tell me a story|Tell me a joke|Explain gravity|What do you think about {x}?|Who is {x}?", MISSING),
)


@dataclass
class Item:
    """A stretch of a dialogue with the tools that it needs and those that may not be there."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    without: frozenset[str] = frozenset()


def schema(name: str, description: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


_BUILTIN = {tool.name: schema(*tool) for tool in BUILTIN_TOOLS}
_OTHER_WORDS = {
    "calculator": "Do arithmetic.|Compute a sum.|A calculator for numbers.|Work out a formula.",
    "convert": "Convert units.|Change a value to another unit.|Unit conversion.",
    "date_add": "Add days to a date.|Move a date by some days.|Date arithmetic.",
    "search_notes": "Search the notes.|Find lines in the notes.|Look something up in the notes.",
    "read_file": "Read a file.|Get the text of a file.|Open a file and return its text or the lines asked for.",
    "remember": "Remember a fact.|Save something to memory.|Keep a fact for later.",
    "recall": "Recall facts.|Search the memory.|Find what was remembered.",
}


def builtin(rng: random.Random, name: str) -> dict[str, Any]:
    """A built-in tool's schema, at times described in other words or not at all."""
    tool = _BUILTIN[name]
    if rng.random() < 0.75:
        return tool
    words = rng.choice(["", *_OTHER_WORDS[name].split("|")])
    return schema(name, words, tool["function"]["parameters"])


def system_prompt(rng: random.Random) -> str | None:
    kind = rng.random()
    if kind < 0.25:
        return None
    if kind < 0.6:
        return REACT
    return rng.choice(SYSTEMS).replace("{name}", entities.person(rng, "train"))


def invented(rng: random.Random) -> tuple[dict[str, Any], str, str, list[str]]:
    """A tool nobody has heard of: schema, verb, noun, parameter names."""
    verb, noun = rng.choice(VERBS), rng.choice(NOUNS)
    if rng.random() < 0.35:
        noun = entities.word(rng, "train")
    names = rng.sample(sorted(set(PARAMETERS)), 1)
    name = f"{verb}_{noun}" if rng.random() < 0.8 else f"{noun}_{verb}"
    if rng.random() < 0.1:
        name = "".join(part.capitalize() for part in name.split("_"))
    words = f"{verb} the {noun} of a {names[0]}.".replace("_", " ")
    text = rng.choice([words.capitalize(), words.capitalize(), words.capitalize(), ""])
    parameters = {
        "type": "object",
        "properties": {each: {"type": "string"} for each in names},
        "required": names if rng.random() < 0.9 else [],
    }
    return schema(name, text, parameters), verb.replace("_", " "), noun.replace("_", " "), names


def invented_item(rng: random.Random) -> Item:
    """Use an invented tool, report its fault, or say that it is not there; others alike stand beside it."""
    tool, verb, noun, names = invented(rng)
    name = tool["function"]["name"]
    x = entities.entity(rng, "train") if rng.random() < 0.7 else entities.value(rng, "train")
    ask = rng.choice(ASK)
    prompt = ask.format(V=verb.capitalize(), v=verb, n=noun, x=x, t=name)
    others = [invented(rng)[0] for _ in range(rng.randint(0, 3))]
    others = [each for each in others if not {name, noun.replace(" ", "_")} & set(_name_parts(each))]
    user = {"role": "user", "content": prompt}
    if rng.random() < 0.25:
        return Item([user, {"role": "assistant", "content": MISSING}], others, frozenset({name}))
    seen, answer = _outcome(rng, noun, x, names[0])
    messages = [user, call(name, {names[0]: x}), {"role": "tool", "content": seen}]
    return Item([*messages, {"role": "assistant", "content": answer}], [tool, *others])


def _name_parts(tool: dict[str, Any]) -> list[str]:
    name = tool["function"]["name"]
    return [name, name.split("_", 1)[-1], name.rsplit("_", 1)[0]]


def _outcome(rng: random.Random, noun: str, x: str, parameter: str) -> tuple[str, str]:
    if rng.random() < 0.2:
        w, d = entities.word(rng, "train"), str(rng.randint(2, 99))
        said = rng.choice(FAULTS).format(n=noun, x=x, w=w, d=d, p=parameter)
        return f"error: {said}", FAILED.format(error=said)
    value = entities.value(rng, "train")
    other = entities.value(rng, "train")
    extra = rng.choice(NOUNS)
    seen = rng.choice(
        [
            value,
            f"{noun}: {value}",
            json.dumps({noun.replace(" ", "_"): value}, separators=(",", ":")),
            f"The {noun} of {x} is {value}.",
            f"{x} has {noun} {value}",
            json.dumps({extra: other, noun.replace(" ", "_"): value}, separators=(",", ":")),
        ]
    )
    return seen, f"It is {value}."


def copy_item(rng: random.Random) -> Item:
    """Say again what stands there."""
    words = " ".join(entities.value(rng, "train") for _ in range(rng.randint(1, 5)))
    prompt = rng.choice(["Repeat: {}", "Say {}", "Copy this: {}", "Say again: {}", "Echo {}"]).format(words)
    return Item([{"role": "user", "content": prompt}, {"role": "assistant", "content": words}])


def reading_item(rng: random.Random) -> Item:
    """Pick one of several lines alike, without a tool."""
    draw = Draw(rng, "train", "seen")
    fact = draw.fact()
    facts = [fact, *(draw.confusable(fact) for _ in range(rng.randint(1, 5)))]
    rng.shuffle(facts)
    lines = "\n".join(each.line(rng) for each in facts)
    key = fact.key(rng)
    question = rng.choice(["What is {}?", "Tell me {}.", "{}?", "Find {}."]).format(key)
    prompt = f"{lines}\n{question}" if rng.random() < 0.6 else f"{question}\n{lines}"
    return Item([{"role": "user", "content": prompt}, {"role": "assistant", "content": fact.told(key)}])


def talk_item(rng: random.Random) -> Item:
    asked, answer = rng.choice(TALK)
    prompt = rng.choice(asked.split("|")).format(x=entities.entity(rng, "train"))
    if rng.random() < 0.3:
        prompt = prompt.rstrip("?") + rng.choice(["!", ".", "?"])
    return Item([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}])
