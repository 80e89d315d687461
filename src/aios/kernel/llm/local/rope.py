"""Rotary positions: how far each pair of a head turns from one position to the next. Knows no model, layer or file."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Rope:
    """`kind` is how a model was made to reach further than it was trained: not at all, "linear", "llama3" or "yarn".

    `trained` is the number of positions of its first training; the other fields are those of a `rope_parameters`.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    trained: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0


def rotations(rope: Rope, dim: int, positions: int) -> NDArray[np.complex64]:
    """cos + i sin of each position and pair, (positions, dim / 2), rounded as the f32 reference rounds it."""
    angle = np.arange(positions, dtype=np.float32)[:, None] * _frequencies(rope, dim)
    turns = np.empty(angle.shape, np.complex64)
    turns.real, turns.imag = np.cos(angle.astype(np.float64)), np.sin(angle.astype(np.float64))
    if rope.attention_factor != 1:
        turns *= np.float32(rope.attention_factor)
    return turns


def _frequencies(rope: Rope, dim: int) -> NDArray[np.float32]:
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    plain = np.float32(1) / np.float32(rope.theta) ** exponent
    factor = np.float32(rope.factor)
    if rope.kind == "linear":
        return plain / factor
    if rope.kind == "llama3":
        return _by_wavelength(rope, plain)
    if rope.kind == "yarn":
        kept = np.float32(1) - _ramp(rope, dim)
        return (plain / factor * (np.float32(1) - kept) + plain * kept).astype(np.float32)
    return plain


def _by_wavelength(rope: Rope, plain: NDArray[np.float32]) -> NDArray[np.float32]:
    """Llama 3.1: short waves stay, long ones are stretched, those between are mixed."""
    wavelength = np.float32(2 * math.pi) / plain
    longest, shortest = rope.trained / rope.low_freq_factor, rope.trained / rope.high_freq_factor
    share = (rope.trained / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    stretched = plain / np.float32(rope.factor)
    mixed = (1 - share) * stretched + share * plain
    between = np.where(wavelength > longest, stretched, mixed)
    return np.where(wavelength < shortest, plain, between).astype(np.float32)


def _ramp(rope: Rope, dim: int) -> NDArray[np.float32]:
    """YaRN: 0 for pairs that turn often within the trained length, 1 for those that hardly do."""

    def pair_of(turns: float) -> float:
        return dim * math.log(rope.trained / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low = max(math.floor(pair_of(rope.beta_fast)), 0)
    high = min(math.ceil(pair_of(rope.beta_slow)), dim - 1)
    width = high - low or 0.001
    ramp: NDArray[np.float32] = np.clip((np.arange(dim // 2, dtype=np.float32) - low) / width, 0, 1)
    return ramp.astype(np.float32)
