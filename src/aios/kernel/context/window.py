"""Which turns of a conversation go when it does not fit a model's window. Knows no core, no call and no clock.

Plain decisions: the same conversation, counter and window give the same answer. What goes are whole units, the oldest
first. A unit is a question with the answers to it, or, after the last question, one answer with its tools' results, so
that no tool call is ever parted from what came of it. System messages, the last question and what came last stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aios.abi.messages import Message

Count = Callable[[Sequence[Message]], int]
"""Tokens of a prompt with these messages, everything that stands around them included."""

SYSTEM = ("system", "developer")
_RESULTS = ("tool", "function")


@dataclass(frozen=True, slots=True)
class Fit:
    """`kept` in its old order takes `tokens`; `dropped` is what went, oldest first."""

    kept: list[Message]
    dropped: list[Message]
    tokens: int


def fit(messages: Sequence[Message], count: Count, *, limit: int, room: int) -> Fit | None:
    """All of `messages` if they take at most `limit` tokens, else as many as take at most `room`; None when not even
    what must stay does.

    What is kept was counted itself, so it fits even where `count` is not the sum of its parts.
    """
    tokens = count(messages)
    if tokens <= limit:
        return Fit(list(messages), [], tokens)
    droppable = [unit for unit in units(messages) if not unit.must_stay]
    best = _without(messages, droppable, count)
    if best.tokens > room:
        return None
    too_few, enough = 0, len(droppable)
    while enough - too_few > 1:
        number = (too_few + enough) // 2
        found = _without(messages, droppable[:number], count)
        if found.tokens <= room:
            best, enough = found, number
        else:
            too_few = number
    return best


def _without(messages: Sequence[Message], gone: Sequence[Unit], count: Count) -> Fit:
    places = {place for unit in gone for place in unit.places}
    kept = [message for place, message in enumerate(messages) if place not in places]
    return Fit(kept, [messages[place] for place in sorted(places)], count(kept))


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
    """`messages` with a word on the `number` of them that are gone, added to the last of the system messages at the
    beginning: many templates take no system message elsewhere."""
    note = f"Earlier in this conversation ({number} messages, summarised because they no longer fit):\n{summary}"
    begin = next((place for place, message in enumerate(messages) if message.role not in SYSTEM), len(messages))
    if begin == 0:
        return [Message("system", note), *messages]
    system = messages[begin - 1]
    text = system.text()
    noted = Message(system.role, f"{text}\n\n{note}" if text else note, system.name)
    return [*messages[: begin - 1], noted, *messages[begin:]]


def piece(text: str, fits: Callable[[str], bool]) -> str:
    """The longest beginning of `text` that fits, found by halves; "" when none does."""
    if fits(text):
        return text
    fitting, too_long = 0, len(text)
    while too_long - fitting > max(1, fitting // 50):  # a fiftieth more is not worth one more count
        middle = (fitting + too_long) // 2
        if fits(text[:middle]):
            fitting = middle
        else:
            too_long = middle
    return text[:fitting]
