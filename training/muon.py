"""Muon: momentum whose matrix updates are made orthogonal. Knows matrices, no model.

After K. Jordan and others, "Muon: an optimizer for hidden layers in neural networks" (2024). Matrices of one shape are
treated as one batch, which on a CPU costs about half of treating them one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor


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


class Muon(torch.optim.Optimizer):
    def __init__(self, params: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95, decay: float = 0.01) -> None:
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                by_shape[p.shape].append(p)
            for shape, params in by_shape.items():
                updates = torch.stack([self._momentum(p, group["momentum"]) for p in params])
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for p, update in zip(params, orthogonal(updates), strict=True):
                    p.mul_(1 - group["lr"] * group["decay"]).add_(update, alpha=-group["lr"] * scale)

    def _momentum(self, p: Tensor, momentum: float) -> Tensor:
        assert p.grad is not None
        state = self.state[p]
        if "buffer" not in state:
            state["buffer"] = torch.zeros_like(p)
        buffer = state["buffer"]
        buffer.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buffer, momentum)
