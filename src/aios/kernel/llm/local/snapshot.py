"""A sequence as plain data, and back: what was asked, said and decided. Knows no pool, engine, file or checksum.

The keys and values stay apart: with them it goes on at once, without them all is computed again.
"""

from __future__ import annotations

import hashlib

import msgspec

from .branch import Branch, Spec
from .grammar import Grammars, Vocabulary
from .sampler import Logprob
from .sequence import Sequence


class SnapshotError(ValueError):
    """Data that is of no sequence, or of none that these tokens can mean."""


class _Line(msgspec.Struct, frozen=True):
    output: list[int]
    score: float
    logprobs: list[Logprob]


class _State(msgspec.Struct, frozen=True):
    spec: Spec
    computed: int
    num_cached: int
    num_chosen: int
    rng: dict[str, str]
    """Decimal: JSON's numbers are too small for it."""
    branches: list[_Line]
    ended: list[_Line]


# Made here, not where it is used: two threads that come upon a type for the first time together crash msgspec.
_decode = msgspec.json.Decoder(_State).decode


def state_of(sequence: Sequence) -> bytes:
    """All of an unfinished sequence but its keys and values."""
    rng = {name: str(value) for name, value in sequence.sampler.state().get("rng", {}).items()}
    branches, ended = map(_line, sequence.branches), map(_line, sequence.ended)
    counts = sequence.computed, sequence.num_cached, sequence.num_chosen
    return msgspec.json.encode(_State(sequence.spec, *counts, rng, list(branches), list(ended)))


def sequence_of(id: str, state: bytes, grammars: Grammars) -> Sequence:
    """The sequence that `state_of` told of, not in any pool. Nobody has heard any of its text.

    Raises SnapshotError, GrammarError.
    """
    try:
        saved = _decode(state)
        return _restored(id, saved, grammars)
    except (msgspec.DecodeError, KeyError, IndexError, TypeError) as error:
        raise SnapshotError(f"this is no state of a sequence: {error!r:.200}") from None


def _restored(id: str, saved: _State, grammars: Grammars) -> Sequence:
    spec, lines = saved.spec, [*saved.branches, *saved.ended]
    said = {len(line.output) for line in saved.branches}
    most = len(spec.prompt) + max(said, default=0)
    if not saved.branches or len(said) > 1 or len(saved.branches) > spec.beam_width or saved.computed > most:
        raise SnapshotError("this is no state of a sequence that could go on")
    size = len(grammars.vocabulary.tokens)
    if not all(0 <= token < size for tokens in (spec.prompt, *(line.output for line in lines)) for token in tokens):
        raise SnapshotError("it holds tokens that this model does not have")
    sequence = Sequence(id, spec, grammars)
    sequence.branches = [_branch(line, spec, grammars) for line in saved.branches]
    sequence.ended = [_branch(line, spec, grammars) for line in saved.ended]
    sequence.computed, sequence.num_cached, sequence.num_chosen = saved.computed, saved.num_cached, saved.num_chosen
    rng = {"rng": {name: int(value) for name, value in saved.rng.items()}}
    sequence.sampler.restore(rng, sequence.output)
    return sequence


def _line(branch: Branch) -> _Line:
    return _Line(branch.output, branch.score, branch.logprobs)


def _branch(line: _Line, spec: Spec, grammars: Grammars) -> Branch:
    branch = Branch(spec, grammars)
    branch.fresh.append(branch.text.text)  # what another core has said of the answer
    for token in line.output:
        branch.accept(token)
    branch.score, branch.logprobs = line.score, line.logprobs
    return branch


def vocabulary_print(vocabulary: Vocabulary) -> str:
    """Names what token numbers mean: text-based snapshots are of use where it is the same."""
    digest = hashlib.sha256(repr((sorted(vocabulary.ends), vocabulary.call, sorted(vocabulary.special))).encode())
    for token in vocabulary.tokens:
        digest.update(len(token).to_bytes(4, "little") + token)
    return digest.hexdigest()[:16]
