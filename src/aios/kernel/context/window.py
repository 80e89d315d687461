"""Which turns of a conversation go when it does not fit a model's window. Knows no core, no call and no clock.

Plain decisions: the same conversation, counter and window give the same answer. What goes are whole units, the oldest
first. A unit is a question with the answers to it, or, after the last question, one answer with its tools' results, so
that no tool call is ever parted from what came of it. System messages, the last question and what came last stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from aios.abi.messages import Message

Count = Callable[[Sequence[Message]], int]
"""Tokens of a prompt with these messages, everything that stands around them included."""

SYSTEM = ("system", "developer")
_RESULTS = ("tool", "function")
_AROUND = 16
"""Characters that what stands around a message is as dear as."""


@dataclass(frozen=True, slots=True)
class Fit:
    """`kept` in its old order takes `tokens`; `dropped` is what went, oldest first. Together they took `total`."""

    kept: list[Message]
    dropped: list[Message]
    tokens: int
    total: int


class TooMuch(ValueError):
    """What must stay takes `least` tokens, more than there is room for."""

    def __init__(self, least: int) -> None:
        super().__init__(f"{least} tokens must stay")
        self.least = least


def fit(messages: Sequence[Message], count: Count, *, limit: int, rooms: Sequence[int]) -> Fit:
    """All of `messages` if they take at most `limit` tokens, else as many as take at most the first of `rooms` that
    holds what must stay. Raises TooMuch when none does.

    The work grows with the messages, not with their square: each is counted once, in blocks beside what must stay, and
    what the blocks take is added up. What is kept is then counted as a whole, so it fits even where that is not the
    sum of its parts.
    """
    stay, droppable = _parted(messages)
    blocks = _blocks(messages, droppable, max(*rooms, _weight(messages, stay)))
    if len(blocks) <= 1 and (total := count(messages)) <= limit:
        return Fit(list(messages), [], total, total)

    def with_these(units: Sequence[Unit]) -> int:
        return count([messages[place] for place in _places(stay, units)])

    least = with_these([])
    room = next((room for room in rooms if room >= least), None)
    if room is None:
        raise TooMuch(least)
    takes = [with_these(block) - least for block in blocks]
    total = least + sum(takes)
    if len(blocks) > 1 and total <= limit and (whole := count(messages)) <= limit:
        return Fit(list(messages), [], whole, whole)
    number, left = 0, room - least
    while number < len(blocks) and takes[number] <= left:
        left -= takes[number]
        number += 1
    held = [unit for block in blocks[:number] for unit in block]
    if number < len(blocks):
        block = blocks[number]
        held += block[: _most(len(block), lambda size: with_these(block[:size]) - least <= left)]
    if (tokens := with_these(held)) > room:  # together they take more than one by one
        held = held[: _most(len(held), lambda size: with_these(held[:size]) <= room)]
        tokens = with_these(held)
    return _split(messages, _places(stay, held), tokens, max(total, tokens))


def _most(too_many: int, fits: Callable[[int], bool]) -> int:
    """The greatest number below `too_many` that fits, found by halves; 0 does."""
    fitting = 0
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if fits(middle):
            fitting = middle
        else:
            too_many = middle
    return fitting


def _split(messages: Sequence[Message], places: Sequence[int], tokens: int, total: int) -> Fit:
    kept = set(places)
    dropped = [message for place, message in enumerate(messages) if place not in kept]
    return Fit([messages[place] for place in places], dropped, tokens, total)


def _places(stay: Sequence[int], units: Sequence[Unit]) -> list[int]:
    return sorted([*stay, *(place for unit in units for place in unit.places)])


def _parted(messages: Sequence[Message]) -> tuple[list[int], list[Unit]]:
    """Where what must stay stands, and the units that may go, the latest first."""
    droppable = [unit for unit in reversed(units(messages)) if not unit.must_stay]
    may_go = {place for unit in droppable for place in unit.places}
    return [place for place in range(len(messages)) if place not in may_go], droppable


def _blocks(messages: Sequence[Message], droppable: Sequence[Unit], size: int) -> list[list[Unit]]:
    """`droppable` in runs of about `size` characters. Each is counted beside what must stay: where that is no longer
    than a block, this doubles the work at most."""
    blocks: list[list[Unit]] = []
    weight = size
    for unit in droppable:
        if weight >= size:
            blocks.append([])
            weight = 0
        blocks[-1].append(unit)
        weight += _weight(messages, unit.places)
    return blocks


def _weight(messages: Sequence[Message], places: Sequence[int]) -> int:
    """Characters of those messages, and some for what stands around each."""
    said = [messages[place] for place in places]
    called = sum(len(call.function.arguments) for message in said for call in message.tool_calls or ())
    return called + sum(_AROUND + len(message.text()) for message in said)


# ── units ──


@dataclass(frozen=True, slots=True)
class Unit:
    """Messages, by their places, that stay or go together."""

    places: tuple[int, ...]
    must_stay: bool


def units(messages: Sequence[Message]) -> list[Unit]:
    """What of `messages` stays or goes together, in order. System messages are in none of them."""
    asked = [place for place, message in enumerate(messages) if message.role == "user"]
    last = asked[-1] if asked else -1
    groups: list[list[int]] = []
    for place, message in enumerate(messages):
        if message.role in SYSTEM:
            continue
        if not groups or _begins(message, place > last):
            groups.append([])
        groups[-1].append(place)
    groups = _joined(groups, _pairs(messages))
    return [Unit(tuple(group), last in group or group is groups[-1]) for group in groups]


def _begins(message: Message, is_after_last: bool) -> bool:
    """Whether a unit begins here: with each question, and after the last one with each answer."""
    return message.role == "user" or (is_after_last and message.role not in _RESULTS)


def _pairs(messages: Sequence[Message]) -> list[tuple[int, int]]:
    """Where a tool was called, and where the result of that call stands."""
    called: dict[str, int] = {}
    pairs = []
    for place, message in enumerate(messages):
        if message.role in SYSTEM:
            continue  # it is in no unit, whatever it holds
        for call in message.tool_calls or ():
            called[call.id] = place
        if message.role in _RESULTS and message.tool_call_id in called:
            pairs.append((called[message.tool_call_id], place))
    return pairs


def _joined(groups: list[list[int]], pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """One group of those that a call and its result lie in, and of all between them."""
    home = {place: number for number, group in enumerate(groups) for place in group}
    reach = list(range(len(groups)))  # each group goes on to this one at least
    for call, result in pairs:
        reach[home[call]] = max(reach[home[call]], home[result])
    joined: list[list[int]] = []
    end = -1
    for number, group in enumerate(groups):
        if number > end:
            joined.append([])
        joined[-1] += group
        end = max(end, reach[number])
    return joined


# ── what is said in their place ──


def transcript(messages: Sequence[Message]) -> str:
    """`messages` as text for a reader: who said what, and which tools were called."""
    lines = []
    for message in messages:
        said = message.text()
        if message.role in _RESULTS:
            lines.append(f"Result of a tool: {said}")
        elif said:
            lines.append(f"{'User' if message.role == 'user' else 'Assistant'}: {said}")
        lines += [
            f"Assistant called {call.function.name} with {call.function.arguments}" for call in message.tool_calls or ()
        ]
    return "\n".join(lines)


def with_summary(messages: Sequence[Message], summary: str, number: int) -> list[Message]:
    """`messages` with a word on the `number` of them that are gone: at the end of the system messages that they begin
    with, or else before the first question. Many templates take a system message at the beginning only, some none."""
    note = f"Earlier in this conversation ({number} messages, summarised because they no longer fit):\n{summary}"
    begin = next((place for place, message in enumerate(messages) if message.role not in SYSTEM), len(messages))
    asked = next((place for place, message in enumerate(messages) if message.role == "user"), None)
    place = begin - 1 if begin else asked
    if place is None:
        return [Message("system", note), *messages]
    told = messages[place]
    content: str | list[dict[str, Any]]
    if begin:
        content = f"{told.text()}\n\n{note}".lstrip()
    elif isinstance(told.content, list):
        content = [{"type": "text", "text": f"{note}\n\n"}, *told.content]
    else:
        content = f"{note}\n\n{told.text()}"
    return [*messages[:place], msgspec.structs.replace(told, content=content), *messages[place + 1 :]]


def piece(text: str, count: Callable[[str], int], room: int) -> str:
    """A beginning of `text` that takes at most `room` tokens: all of it, or one to which little could be added; ""
    when none does. Two or three counts find it where the text is alike all through."""
    fitting, too_long = 0, len(text) + 1
    at = min(len(text), 4 * max(room, 1))
    while fitting + 1 < too_long:
        tokens = count(text[:at])
        if tokens <= room:
            fitting = at
            if at == len(text) or tokens * 10 >= room * 9:
                break
        else:
            too_long = at
        # As long again as it takes; yet neither so long that it is dear to find out, nor so near that it never ends.
        wanted = at * room * 19 // (max(tokens, 1) * 20)
        step = max(1, (too_long - fitting) // 8) if too_long <= len(text) else 1
        at = min(max(wanted, fitting + step), too_long - step, 4 * max(at, 1))
    return text[:fitting]
