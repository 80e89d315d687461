"""Endless training dialogues from a seed: tasks and drills, their tools, and what is to be learned. Knows no torch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from extras import Item, builtin, copy_item, invented, invented_item, reading_item, system_prompt, talk_item
from gold import Desk, play
from wordings import WideDraw

from aios.eval.workload import Task, check
from aios.eval.workload.families import BUILTINS, MISSING
from aios.eval.workload.generate import one_task
from aios.eval.workload.split import numbers_fit
from aios.kernel.llm.local.chat import ChatTemplate

# How often each family and drill is drawn.
WEIGHTS = {
    "arithmetic": 15,
    "conversion": 7,
    "date": 6,
    "lookup": 22,
    "memory": 10,
    "two_step": 26,
    "error": 15,
    "no_tool": 10,
    "invented": 5,
    "copy": 3,
    "reading": 9,
    "talk": 1,
}
DRILLS = {"invented": invented_item, "copy": copy_item, "reading": reading_item, "talk": talk_item}
SOURCES = ("search_notes", "read_file", "recall")
READING = 0.5  # how often a task of looking up is drawn again when it has no lines to choose among
Dialogue = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def dialogue(rng: random.Random, most: int) -> Dialogue:
    """Messages and tools of a conversation of one to `most` tasks; every long number in it is of the training split."""
    while True:
        made = _dialogue(rng, most)
        if made and numbers_fit("\n".join(_texts(made[0])), "train"):
            return made


def _dialogue(rng: random.Random, most: int) -> Dialogue | None:
    desk = Desk()
    messages: list[dict[str, Any]] = []
    tools: dict[str, dict[str, Any]] = {}
    without: set[str] = set()
    for _ in range(most if most > 4 else rng.randint(1, most)):
        kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        item = DRILLS[kind](rng) if kind in DRILLS else _task_item(rng, kind, desk, set(tools), without)
        if item is None or item.without & set(tools) or without & {_name(tool) for tool in item.tools}:
            continue
        tools.update({_name(tool): tool for tool in item.tools})
        without |= item.without
        messages += item.messages
    if not messages:
        return None
    listed = _with_others(rng, tools, without)
    system = system_prompt(rng)
    opening = [{"role": "system", "content": system}] if system else []
    return opening + messages, listed


def twin(rng: random.Random, made: Dialogue) -> Dialogue | None:
    """The same single prompt without the tool that it needs, so that the list alone makes the difference."""
    messages, tools = made
    asked = [index for index, message in enumerate(messages) if message["role"] == "user"]
    reply = messages[asked[0] + 1]
    if len(asked) != 1 or not reply.get("tool_calls"):
        return None
    needed = reply["tool_calls"][0]["function"]["name"]
    banned = {needed} | (set(SOURCES) if needed in SOURCES else set())
    left = [tool for tool in tools if _name(tool) not in banned]
    if needed in BUILTINS and rng.random() < 0.7:
        spare = sorted(set(BUILTINS) - banned - {_name(tool) for tool in left})
        left += [builtin(rng, name) for name in rng.sample(spare, min(1, len(spare)))]
    rng.shuffle(left)
    opening = messages[: asked[0] + 1]
    if rng.random() < 0.3:  # it called all the same (which is not to be learned) and is told so
        hint = f"; did you mean '{_name(left[0])}'?" if left and rng.random() < 0.15 else ""
        opening += [{**reply, "skip": True}, {"role": "tool", "content": f"error: there is no tool '{needed}'{hint}"}]
    return [*opening, {"role": "assistant", "content": MISSING}], left


def _name(tool: dict[str, Any]) -> str:
    return str(tool["function"]["name"])


def _with_others(rng: random.Random, tools: dict[str, dict[str, Any]], without: set[str]) -> list[dict[str, Any]]:
    """The tools in any order, sometimes with an invented one among them."""
    listed = list(tools.values())
    if rng.random() < 0.15 and not any(_name(tool) not in BUILTINS for tool in listed):
        listed.append(invented(rng)[0])
    rng.shuffle(listed)
    return listed


def _task_item(rng: random.Random, family: str, desk: Desk, have: set[str], without: set[str]) -> Item | None:
    task = one_task(rng, family, "train", "seen", "", WideDraw)
    while family in ("lookup", "two_step", "error") and not _is_reading(task) and rng.random() < READING:
        task = one_task(rng, family, "train", "seen", "", WideDraw)
    needed = {step.tool for turn in task.turns for step in turn.steps}
    if needed & without or set(task.without) & have:
        return None
    offered = [name for name in task.tools if name in needed or name not in without]
    for path, text in task.files.items():
        kept = desk.files.get(path, "") if family != "error" else ""
        desk.files[path] = kept + text
    messages = _played(rng, task, desk)
    if messages is None:
        return None
    tools = [] if not needed and rng.random() < 0.1 else [builtin(rng, name) for name in offered]
    return Item(messages, tools, frozenset(task.without))


def _is_reading(task: Task) -> bool:
    """Whether a file is read in which several lines are alike: the hardest to learn."""
    reads = any(step.tool == "read_file" for turn in task.turns for step in turn.steps)
    return reads and any(text.count("\n") > 1 for text in task.files.values())


def _played(rng: random.Random, task: Task, desk: Desk) -> list[dict[str, Any]] | None:
    """The messages of a task, or None if its reference solution goes wrong among what else is there.

    What is remembered first may stand in this conversation or have been said in an earlier one.
    """
    messages: list[dict[str, Any]] = []
    answers = []
    shown_first = rng.random() < 0.45
    for index, (prompt, turn) in enumerate(zip(task.prompts, task.turns, strict=True)):
        said = play(desk, prompt, turn)
        answers.append(said[-1]["content"])
        if shown_first or index == len(task.prompts) - 1:
            messages += said
    if not check(task, answers, [step.tool for turn in task.turns for step in turn.steps]):
        return None
    return messages if all(map(_is_supported, messages, messages[1:])) else None


def _is_supported(before: dict[str, Any], said: dict[str, Any]) -> bool:
    """Whether a value that the assistant tells stands in what the tool returned."""
    _, names_it, told = (said["content"] or "").rpartition(" is ")
    return before["role"] != "tool" or not names_it or told.removesuffix(".") in before["content"]


def _texts(messages: list[dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        yield message["content"] or ""
        for each in message.get("tool_calls", ()):
            yield str(each["function"]["arguments"])


def tokens(template: ChatTemplate, made: Dialogue) -> tuple[list[int], list[bool]]:
    """Ids of the dialogue, and which of them the assistant is to say."""
    messages, tools = made
    ids: list[int] = []
    learn: list[bool] = []
    special = template.tokenizer.special
    skipped = [bool(message.get("skip")) for message in messages if message["role"] == "assistant"]
    for index, token in enumerate(template.render(messages, tools, add_generation_prompt=False)):
        ids.append(token)
        if token == special["<|assistant|>"] and index:
            learn.append(False)
            continue
        speaking = bool(learn) and (learn[-1] or ids[-2] == special["<|assistant|>"]) and ids[-2] != special["<|end|>"]
        learn.append(speaking)
    turn = -1
    for index, token in enumerate(ids):
        turn += token == special["<|assistant|>"]
        if turn >= 0 and skipped[turn]:
            learn[index] = False
    return ids, learn


def stream(template: ChatTemplate, seed: int, most: int) -> Iterator[tuple[list[int], list[bool]]]:
    rng = random.Random(f"dialogues/{seed}/{most}")
    while True:
        yield tokens(template, dialogue(rng, most))
