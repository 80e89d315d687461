"""Word problems for training alone: the same sum in many scenes, with things and names drawn anew each time.

A fifth of the arithmetic wordings are held out by whole rows, so a model must read a scene, not know it by heart. None
of these scenes is one of `phrasings`.
"""

from __future__ import annotations

import random

from aios.eval.workload import entities
from aios.eval.workload.phrasings import expand

# {a} and {b} are the numbers of the task; {x}, {y} things, {w} a person, {p} a place: drawn here.
SCENES: dict[str, list[str]] = {
    "mul": [
        "{w} has {b} [bags|drawers|boats] with {a} {x} in each. How many {x} does {w} have?",
        "[In every|In each] {y} there are {a} {x}. How many {x} are in {b} {ys}?",
        "{p} has {b} [streets|halls|floors] of {a} {x} each. [How many {x} is that|Count the {x}]?",
        "[One|A single] {y} needs {a} {x}. [What about|How many for] {b} {ys}?",
        "{b} {ys} at {a} coins [each|apiece|per piece] [cost|come to|are] how much?",
        "[Every|Each] day {w} [reads|writes|sorts|cleans] {a} {x}. [After|In] {b} days, how many?",
        "{w} walks {a} steps {b} times. [How many steps|Steps in all]?",
        "A {y} weighs {a} grams. [What do|How much do] {b} of them weigh?",
        "[We get|They deliver] {b} [pallets|loads|sacks] of {a} {x}. How many {x} [arrive|come]?",
        "{b} [teams|classes|crews] with {a} people in each: how many people?",
        "[If|Suppose] one {y} takes {a} minutes, how long do {b} {ys} take?",
        "{p} sells {a} {x} [a month|a week]. How many in {b} [months|weeks]?",
        "[I fill|She fills] {b} [jars|pots] with {a} {x} each. [Total {x}|How many {x}]?",
        "{w} prints {b} copies of {a} pages. How many pages?",
    ],
    "add": [
        "{w} has {a} {x} and finds {b} more. How many {x} [now|does {w} have now]?",
        "[There are|We count] {a} {x} and {b} {ys}. How many things [in total|altogether]?",
        "{w} had {a} {x}, then {w} bought {b}. [How many are there|What is the count]?",
        "{p} has {a} {x}. {b} more [arrive|come|are built]. How many then?",
        "[First|Today] {w} paid {a} coins, [then|tomorrow] {b}. How much altogether?",
        "The {y} costs {a} and the [bag|case] {b}. [What do both cost|Both together]?",
        "{a} {x} stand in {p}, {b} in another place. [How many altogether|The sum]?",
        "[We drove|She walked] {a} meters and then {b} meters. How far [in total|altogether]?",
        "{w} is {a} and gains {b}. [What is the new value|Where does it stand]?",
        "[A list|A book] with {a} [lines|pages] gets {b} more. How long is it now?",
        "{b} {x} are put with {a} others. How many [{x} are there|altogether]?",
        "[My score|The score] was {a} and went up by {b}. What is it [now|]?",
    ],
    "sub": [
        "{w} has {a} {x} and [breaks|eats|drops|burns] {b}. How many {x} [does {w} still have|are still there]?",
        "{p} had {a} {x}. {b} were [closed|sold|torn down]. How many [stand|remain]?",
        "[There were|We had] {a} {x}. {w} took {b}. [What was left|How many stayed]?",
        "{w} needs {a} {x} and has {b}. How many [are missing|more are needed]?",
        "The {y} cost {a}, but {w} got {b} off. What did {w} pay?",
        "[My score|The score] was {a} and went down by {b}. What is it [now|]?",
        "{w} has {a} coins and pays {b}. [How much is left|What does {w} keep]?",
        "[Of|Among] {a} {x}, {b} are [old|broken]. How many are [not|fine]?",
        "[A rope|A road] of {a} meters: {b} meters are done. How much is [still to do|missing]?",
        "{a} {x} come and {b} go. How many are there?",
        "[The {y} was|It was] at {a} and fell by {b}. [Where is it now|The new value]?",
        "{p} has {a} people, another town {b}. How many [fewer|less] has the other?",
    ],
    "div": [
        "{w} shares {a} {x} [equally|fairly] with {b} [people|children]. How many does each [one get|have]?",
        "{a} {x} fill {b} {ys} evenly. How many {x} are in one {y}?",
        "[We pack|She packs] {a} {x} into {b} {ys}, the same number in each. How many in each?",
        "{b} {ys} weigh {a} grams. What does one {y} weigh?",
        "{w} reads {a} pages in {b} days. How many a day?",
        "{w} pays {a} coins for {b} {x}. [The price of one|How much was one]?",
        "[A trip|A road] of {a} kilometers is done in {b} equal [days|parts]. How long is one?",
        "{a} {x} are [dealt|handed] out to {b} [teams|classes] in equal parts. How many for each?",
        "[It takes|We need] {a} minutes for {b} {x}. How many minutes for one?",
        "{p} gives {a} coins to {b} [schools|farms], all the same. What does one get?",
        "[How many|What number of] {x} does each of {b} {ys} hold if there are {a} {x} and all hold the same?",
    ],
    "percent": [
        "{b}% of the {a} {x} are [red|old|sold]. How many [is that|{x} are that]?",
        "{w} gets {b} percent of {a} coins. How much?",
        "[A fee|A share] of {b}% is taken on {a}. How much is the [fee|share]?",
        "{p} has {a} people and {b} percent [vote|work]. How many [vote|work]?",
    ],
    "square": ["A square {y} has sides of {a}. What is its area?", "{a} rows of {a} {x}. How many {x}?"],
    "half": ["{w} gives away half of {a} {x}. How many is that?", "Half of the {a} {x} are gone. How many?"],
    "double": ["{w} has {a} {x} and gets as many again. How many now?", "Twice as many as {a} {x} is how many?"],
    "mod": [
        "{a} {x} go into {ys} of {b}. How many {x} are left over?",
        "{w} deals {a} {x} to {b} people. What is left over?",
    ],
}


def scene(rng: random.Random, kind: str) -> str:
    """A scene for this kind of sum, with {a} and {b} still open."""
    row = rng.choice(SCENES[kind])
    text = rng.choice(expand(row))
    one, other = (_thing(rng), _thing(rng))
    drawn = {"x": _plural(one), "y": other, "ys": _plural(other), "w": entities.person(rng, "train")}
    drawn["p"] = entities.place(rng, "train")
    for name, value in drawn.items():
        text = text.replace("{" + name + "}", value)
    return text


def _thing(rng: random.Random) -> str:
    return rng.choice(entities._NOUNS) if rng.random() < 0.75 else entities.word(rng, "train")


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")
