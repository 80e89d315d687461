"""From logits to a token: greedy or drawn, exact and repeatable. Knows no model, no text and no grammar.

Ties go to the smaller token id, always. A draw takes one number from the sequence's own PCG64, whose state can be
written down and put back. Log probabilities are those of the model, before temperature, bias or any mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .linear import F32

Mask = NDArray[np.bool_]


class NoNumbers(ValueError):
    """What a model computed is none of which a token could be chosen."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off; `logprobs` None is off."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)


class Logprob(NamedTuple):
    """A token's log probability, and the likeliest tokens at its place, the best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Sampler:
    """Chooses one sequence's tokens. `banned` tokens are never chosen, whatever the bias says."""

    def __init__(self, sampling: Sampling, vocabulary: int, banned: Mask) -> None:
        self.sampling = sampling
        self._bias = _bias(sampling, vocabulary, banned)
        self._counts = np.zeros(vocabulary, np.float32) if _has_penalty(sampling) else None
        self._bits = np.random.PCG64(sampling.seed % 2**64) if sampling.temperature > 0 else None
        self._rng = np.random.Generator(self._bits) if self._bits is not None else None

    def choose(self, logits: F32, allowed: Mask | None = None) -> int:
        """The next token among `allowed` (None: all that are not banned). `logits` is left as it is."""
        scores = logits + self._bias
        if self._counts is not None:
            scores -= self._counts * np.float32(self.sampling.frequency_penalty)
            scores -= (self._counts > 0) * np.float32(self.sampling.presence_penalty)
        if allowed is not None:
            scores[~allowed] = -np.inf
        token = int(scores.argmax()) if self._rng is None else self._draw(scores, self._rng)
        if self._counts is not None:
            self._counts[token] += 1
        return token

    def log_probabilities(self, logits: F32, allowed: Mask | None = None) -> NDArray[np.float64]:
        """Of each token, by the biased logits; -inf where it is banned or not allowed."""
        exact = _log_softmax(logits + self._bias)
        if allowed is not None:
            exact[~allowed] = -np.inf
        return exact

    def logprob(self, logits: F32, token: int) -> Logprob:
        """What the model itself gave `token` and its rivals."""
        exact = _log_softmax(logits)
        best = np.argsort(-exact, kind="stable")[: self.sampling.logprobs or 0]
        return Logprob(token, float(exact[token]), tuple((int(i), float(exact[i])) for i in best))

    def state(self) -> dict[str, Any]:
        """All that `choose` will depend on and that replaying the tokens does not bring back."""
        return {} if self._bits is None else {"rng": dict(self._bits.state["state"])}

    def restore(self, state: dict[str, Any], chosen: list[int]) -> None:
        """Become the sampler that gave `state` after it had chosen `chosen`."""
        if self._bits is not None:
            rng: dict[str, Any] = {**self._bits.state, "state": dict(state["rng"])}
            self._bits.state = rng  # type: ignore[assignment]  # numpy types it narrower
        if self._counts is not None:
            self._counts[:] = np.bincount(chosen, minlength=len(self._counts))

    def _draw(self, scores: F32, rng: np.random.Generator) -> int:
        best = scores.max()
        weights = np.exp((scores - best) / np.float32(self.sampling.temperature)).astype(np.float64)
        order = self._kept(weights)
        sums = np.cumsum(weights if order is None else weights[order])
        at = int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
        # A product that rounds up to the whole sum would fall behind the last token that has any weight.
        at = min(at, int(np.searchsorted(sums, sums[-1])))
        return at if order is None else int(order[at])

    def _kept(self, weights: NDArray[np.float64]) -> NDArray[np.intp] | None:
        """Tokens that top-k and top-p leave, likeliest first; None when both are off."""
        sampling = self.sampling
        if sampling.top_k <= 0 and sampling.top_p >= 1:
            return None
        order = np.argsort(-weights, kind="stable")
        if sampling.top_k > 0:
            order = order[: sampling.top_k]
        if sampling.top_p < 1:
            sums = np.cumsum(weights[order])
            order = order[: int(np.searchsorted(sums, sampling.top_p * sums[-1])) + 1]
        return order


def _log_softmax(logits: F32) -> NDArray[np.float64]:
    exact = logits.astype(np.float64)
    exact -= exact.max()
    exact -= np.log(np.exp(exact).sum())
    return exact


def _has_penalty(sampling: Sampling) -> bool:
    return sampling.presence_penalty != 0 or sampling.frequency_penalty != 0


def _bias(sampling: Sampling, vocabulary: int, banned: Mask) -> F32:
    bias = np.zeros(vocabulary, np.float32)
    for token, value in sampling.logit_bias.items():
        bias[token] = value
    bias[banned] = -np.inf
    return bias
