"""Learns the vocabulary from training dialogues: frequent template words whole, then merges. Run: see README.md."""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
from collections import Counter
from pathlib import Path

import extras
from dialogues import dialogue

from aios.eval.workload import families, phrasings
from aios.kernel.llm.local.chat import call_json, tool_line
from aios.kernel.llm.local.tokenizer import GLUE, SPECIALS, pieces
from aios.kernel.tool.builtins import BUILTIN_TOOLS


def corpus(count: int, seed: int) -> Counter[str]:
    """How often each piece stands in so many dialogues."""
    rng = random.Random(f"tokenizer/{seed}")
    counts: Counter[str] = Counter()
    for _ in range(count):
        messages, tools = dialogue(rng, 3)
        counts.update(pieces("Tools:"))
        for tool in tools:
            counts.update(pieces(tool_line(tool)))
        for message in messages:
            counts.update(pieces(message["content"] or ""))
            for each in message.get("tool_calls", ()):
                counts.update(pieces(call_json(each["function"])))
    return counts


def template_words() -> set[str]:
    """Words of wordings, tools, answers and system prompts: names are not among them."""
    texts = [row for table in phrasings.TABLES.values() for rows in table.values() for row in rows]
    texts += [*phrasings.OPENERS, *phrasings.CLOSERS]
    texts += [each for rows in phrasings.SOURCES.values() for each in rows]
    texts += [extras.REACT, *extras.SYSTEMS, *extras.ASK, *extras.FAULTS, *extras._OTHER_WORDS.values()]
    texts += [str(value) for name, value in vars(families).items() if name.isupper() and isinstance(value, str)]
    texts += [f"{tool.name} {tool.description} {tool.parameters}" for tool in BUILTIN_TOOLS]
    texts += [text for talk in extras.TALK for text in talk]
    texts += [
        "no file called nearest unknown unit nothing found for remembered about error Tools division by zero is has"
    ]
    texts += [unit for kind in families.oracle.UNITS.values() for unit in kind]
    return {word for text in texts for word in re.findall(r"[A-Z]?[a-z]+", text) if len(word) > 1}


def learn(counts: Counter[str], whole: int, size: int) -> dict[str, list[object]]:
    """`whole` pieces that are one token, and merges up to the vocabulary size."""
    known = template_words()
    ranked = sorted(
        ((count * len(piece), piece) for piece, count in counts.items() if piece.strip() in known and len(piece) > 1),
        reverse=True,
    )
    words = [piece for _, piece in ranked[:whole]]
    rest: Counter[str] = Counter()
    for piece, count in counts.items():
        if piece not in words and piece.strip().isalpha() and piece.isascii():
            rest[piece.strip()] += count
    room = size - 256 - len(GLUE) - len(words) - len(SPECIALS)
    merges = merge_pairs(rest, room, {*words})
    return {"words": list(words), "merges": [list(pair) for pair in merges]}


def merge_pairs(words: Counter[str], room: int, taken: set[str]) -> list[tuple[str, str]]:
    split = {word: list(word) for word in words}
    merges: list[tuple[str, str]] = []
    new = 0
    while new < room:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        new += "".join(best) not in taken
        for word, parts in split.items():
            if best[0] in parts:
                split[word] = _merged(parts, best)
    return merges


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--dialogues", type=int, default=8_000)
    parser.add_argument("--whole", type=int, default=520)
    parser.add_argument("--size", type=int, default=1536)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    learned = learn(corpus(options.dialogues, options.seed), options.whole, options.size)
    options.run.mkdir(parents=True, exist_ok=True)
    out = options.run / "tokenizer.json"
    out.write_text(json.dumps(learned, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(learned['words'])} words, {len(learned['merges'])} merges in {out}")


if __name__ == "__main__":
    main()
