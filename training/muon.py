"""Muon: momentum whose matrix updates are made orthogonal. Knows matrices, no model.

After K. Jordan and others, "Muon: an optimizer for hidden layers in neural networks" (2024). Matrices of one shape are
treated as one batch, which on a CPU costs about half of treating them one by one.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOMENTUM = 0.95
DECAY = 0.01


def orthogonal(g: Tensor, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly, by a quintic Newton-Schulz iteration; g is a batch."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    is_tall = x.size(-2) > x.size(-1)
    if is_tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return (x.mT if is_tall else x).float()


def step(params: list[Tensor], grads: list[Tensor], buffers: list[Tensor], lr: float) -> None:
    """One update in place of matrices of one shape; `buffers` hold their momentum from step to step."""
    updates = []
    for grad, buffer in zip(grads, buffers, strict=True):
        buffer.lerp_(grad, 1 - MOMENTUM)
        updates.append(grad.lerp(buffer, MOMENTUM))
    scale = max(1.0, params[0].size(0) / params[0].size(1)) ** 0.5
    for p, update in zip(params, orthogonal(torch.stack(updates)), strict=True):
        p.mul_(1 - lr * DECAY).add_(update, alpha=-lr * scale)
