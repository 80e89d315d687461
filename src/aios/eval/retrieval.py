"""A corpus with labels, made by program: passages, and questions each of which one of them answers.

Half of the questions use the words of their passage. The other half are paraphrases: every word with a meaning is
another one than any in the passage, which is checked. Beside these some repeat questions of the first kind with each
longer word misspelt. The same seed makes the same corpus. Knows no search.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

from .lexicon import (
    ACTIONS,
    FILLERS,
    FUNCTION_WORDS,
    MOODS,
    OBJECTS,
    PEOPLE,
    PLACES,
    QUALITIES,
    TIMES,
)

USUAL = 0.85
"""How often passages call a thing by its first word. Who asks in other words meets few passages that use these."""
Words = tuple[str, ...]
"""A concept: words that mean the same."""


Kind = Literal["same words", "other words", "misspelt"]


@dataclass(frozen=True)
class Question:
    """Passage number `passage` answers it."""

    text: str
    passage: int
    kind: Kind


@dataclass
class Corpus:
    """`passages` by number, and what is asked about some of them; `misspelt` is apart."""

    passages: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    misspelt: list[Question] = field(default_factory=list)


@dataclass(frozen=True)
class _Fact:
    """What a passage says, as concepts."""

    person: Words
    action: Words
    thing: Words
    place: Words
    time: Words
    quality: Words
    mood: Words

    @property
    def core(self) -> tuple[Words, ...]:
        return self.person, self.action, self.thing, self.place


class _Concepts:
    """Those of one part of speech in one half of the lexicon: what is tuned on one half is judged on the other."""

    def __init__(self, half: int) -> None:
        tables = (PEOPLE, ACTIONS, OBJECTS, PLACES, TIMES, QUALITIES, MOODS)
        self.parts = [[tuple(line.split("|")) for line in table.split("\n") if line][half::2] for table in tables]

    def fact(self, dice: random.Random) -> _Fact:
        return _Fact(*(dice.choice(part) for part in self.parts))


def corpus(seed: int, *, half: int = 0, num_passages: int = 2000, num_questions: int = 500) -> Corpus:
    """`half` 0 or 1 of the lexicon. No two passages have three of person, action, thing and place in common."""
    dice = random.Random(seed)
    concepts = _Concepts(half)
    facts: list[_Fact] = []
    taken: set[frozenset[Words]] = set()
    while len(facts) < num_passages:
        fact = concepts.fact(dice)
        triples = {frozenset(triple) for triple in combinations(fact.core, 3)}
        if not triples & taken:
            taken |= triples
            facts.append(fact)
    made = Corpus()
    said = []
    for fact in facts:
        text, words = _passage(fact, dice)
        made.passages.append(text)
        said.append(words)
    numbers = iter(dice.sample(range(num_passages), num_passages))
    while len(made.questions) < num_questions:
        number = next(numbers)
        if len(made.questions) % 2 == 0:
            text = _question(facts[number], said[number], dice)
            made.questions.append(Question(text, number, "same words"))
            made.misspelt.append(Question(misspelt(text, dice), number, "misspelt"))
        elif not shared(text := _paraphrase(facts[number], said[number], dice), made.passages[number]):
            made.questions.append(Question(text, number, "other words"))
    return made


_Said = dict[Words, str]
"""The word that was chosen for each concept; of a verb the pair."""


def _passage(fact: _Fact, dice: random.Random) -> tuple[str, _Said]:
    said = {c: c[0] if dice.random() < USUAL else dice.choice(c[1:]) for c in vars(fact).values()}
    person, thing, place = said[fact.person], said[fact.thing], said[fact.place]
    time, quality, mood = said[fact.time], said[fact.quality], said[fact.mood]
    past = _past(said[fact.action])
    shapes = (
        f"The {person} {past} the {quality} {thing} at the {place} during the {time}. The {person} was {mood} then.",
        f"During the {time} the {person}, who was {mood}, {past} a {quality} {thing}. This was at the {place}.",
        f"It was at the {place} that the {person} {past} the {thing}, a {quality} one. It was the time of the {time}, "
        f"and the {person} was {mood}.",
        f"They say the {person} was {mood} during the {time}, and {past} some {quality} {thing} near the {place}.",
    )
    parts = [dice.choice(shapes), *dice.sample(FILLERS, dice.randint(0, 2))]
    dice.shuffle(parts)
    return " ".join(parts), said


def _question(fact: _Fact, said: _Said, dice: random.Random) -> str:
    person, thing, place = said[fact.person], said[fact.thing], said[fact.place]
    base = _base(said[fact.action])
    quality, time, mood = said[fact.quality], said[fact.time], said[fact.mood]
    return dice.choice(
        (
            f"What {quality} thing did the {person} {base} at the {place}?",
            f"Where did the {person} {base} the {quality} {thing} during the {time}?",
            f"Did the {person} {base} a {quality} {thing} near the {place}?",
            f"When did the {mood} {person} {base} the {thing} at the {place}?",
            f"How did the {mood} {person} {base} the {quality} {thing}?",
            f"Who was {mood} and would {base} the {quality} {thing} at the {place}?",
        )
    )


def _paraphrase(fact: _Fact, said: _Said, dice: random.Random) -> str:
    """In other words. One may be in the passage after all, as another concept's."""
    other = {c: dice.choice([word for word in c if word != said[c]]) for c in vars(fact).values()}
    return _question(fact, other, dice)


def misspelt(text: str, dice: random.Random) -> str:
    """With one slip in each word of five letters or more."""
    return re.sub(r"[A-Za-z]{5,}", lambda found: _slip(found[0], dice), text)


def _slip(word: str, dice: random.Random) -> str:
    at = dice.randrange(1, len(word) - 1)
    match dice.randrange(4):
        case 0:
            return word[:at] + word[at + 1 :]
        case 1:
            return word[:at] + word[at] + word[at:]
        case 2:
            return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + dice.choice("aeiourstln") + word[at + 1 :]


def shared(one: str, other: str) -> set[str]:
    """Words with a meaning in `one` that begin as one in `other` does, with five letters or all they have."""
    there = {word[:5] for word in content_words(other)}
    return {word for word in content_words(one) if word[:5] in there}


def content_words(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z]+", text.lower()) if word not in FUNCTION_WORDS]


def _past(action: str) -> str:
    """Of "bought buy" the first half, of "took a picture of take a picture of" too."""
    words = action.split()
    return " ".join(words[: len(words) // 2])


def _base(action: str) -> str:
    words = action.split()
    return " ".join(words[len(words) // 2 :])


@dataclass(frozen=True)
class Scores:
    """Shares from 0 to 1: the passage was among the first five; one over its rank, on average."""

    recall_5: float
    mrr: float


def scores(ranks: Sequence[int | None]) -> Scores:
    """`ranks` from 1 on, None where it was not found."""
    hits = sum(rank is not None and rank <= 5 for rank in ranks)
    return Scores(hits / len(ranks), sum(1 / rank for rank in ranks if rank is not None) / len(ranks))
