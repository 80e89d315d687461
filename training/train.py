"""Trains the nano model: endless dialogues, length buckets, Muon and AdamW. Knows no evaluation and no export.

    python train.py --run runs/nano --steps 12000

Two workers with one thread each share the weights: each takes its own half of a batch, then each updates half of the
matrices from the sum of both gradients. They meet twice a step, so a busy machine costs little (threads of one process
meet after every operation). Takes RUN/tokenizer.json, writes RUN/last.pt every few minutes and starts again from it;
RUN/log.csv gets a line every 20 steps.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import muon
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from dialogues import dialogue, tokens, twin
from model import Decoder, Shape, rope
from torch import Tensor

from aios.kernel.llm.local.chat import ChatTemplate
from aios.kernel.llm.local.tokenizer import Tokenizer

WORKERS = 2
BATCH_TOKENS = 2048  # of one worker
WIDTH = 32  # lengths are padded to multiples of this
LONGEST = 2048
SHORT_FIRST = 250  # batches of single short tasks
TWINS = 0.5  # share of the single tasks that are followed by their twin without the tool
DECIDING, NAMING = 4.0, 2.0  # weights in the loss of an answer's first token, and of a tool's name
Rows = list[tuple[list[int], list[bool]]]


def batches(tokenizer: Tokenizer, seed: int, rank: int, skip: int) -> Iterator[tuple[int, Rows]]:
    """Padded length and rows, about `BATCH_TOKENS` together; short dialogues first."""
    template = ChatTemplate(tokenizer)
    rng = random.Random(f"batches/{seed}/{rank}/{skip}")
    buckets: dict[int, Rows] = defaultdict(list)
    made = skip
    while True:
        first = dialogue(rng, _most(rng, made))
        second = twin(rng, first) if rng.random() < TWINS else None
        for each in (first, second):
            if each is None:
                continue
            ids, learn = tokens(template, each)
            length = -(-len(ids) // WIDTH) * WIDTH
            if len(ids) > LONGEST or (made < SHORT_FIRST and length > 192):
                continue
            buckets[length].append((ids, learn))
            if (len(buckets[length]) + 1) * length > BATCH_TOKENS:
                yield length, buckets.pop(length)
                made += 1


def _most(rng: random.Random, made: int) -> int:
    """How many tasks a dialogue may have at this point of the training."""
    if made < SHORT_FIRST:
        return 1
    return rng.choices((1, 2, 4, 6, 14), (50, 27, 19, 3, 0.5))[0]


def tensors(length: int, rows: Rows, pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, the flat places whose next token is to be learned, and those tokens."""
    ids = torch.full((len(rows), length), pad)
    learn = torch.zeros((len(rows), length), dtype=torch.bool)
    for i, (row, mask) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        learn[i, : len(row)] = torch.tensor(mask)
    targets = ids.roll(-1, 1).reshape(-1)
    places = learn.roll(-1, 1)
    places[:, -1] = False
    index = places.reshape(-1).nonzero().squeeze(1)
    return ids, index, targets[index]


def rate(step: int, steps: int, decay: float) -> float:
    """Share of the full learning rate: a short warm-up, a plateau, a linear fall to a fiftieth."""
    if step < 40:
        return (step + 1) / 40
    left = (steps - step) / (steps * decay)
    return max(0.02, min(1.0, left))


class Shared:
    """What the workers share: flat weights, a flat gradient each, momentum, and counts (tokens, loss, hits)."""

    def __init__(self, size: int) -> None:
        self.weights = torch.zeros(size).share_memory_()
        self.grads = torch.zeros(WORKERS, size).share_memory_()
        self.momentum = torch.zeros(size).share_memory_()
        self.counts = torch.zeros(WORKERS, 3, dtype=torch.float64).share_memory_()


class Worker:
    """One of the workers: a model whose weights and gradients lie in shared memory, and its part of the update."""

    def __init__(self, rank: int, shared: Shared, barrier: Any, options: argparse.Namespace) -> None:
        self.rank, self.shared, self.barrier, self.options = rank, shared, barrier, options
        torch.manual_seed(options.seed)
        self.tokenizer = tokenizer = Tokenizer.load(options.run / "tokenizer.json")
        self.pad, self.assistant = tokenizer.special["<|pad|>"], tokenizer.special["<|assistant|>"]
        self.name = tokenizer.encode('{"name":"')[0]
        self.model = Decoder(Shape(vocab_size=tokenizer.vocab_size))
        self.table = rope(self.model.shape, LONGEST, torch.float32)
        self.places: dict[str, slice] = {}
        at = 0
        for name, p in self.model.named_parameters():
            self.places[name] = slice(at, at + p.numel())
            at += p.numel()
            view = shared.weights[self.places[name]].view_as(p)
            if rank == 0:
                view.copy_(p.data)
            p.data = view
            p.grad = shared.grads[rank][self.places[name]].view_as(p)
        matrices = [name for name, p in self.model.named_parameters() if p.ndim == 2 and name != "embed.weight"]
        self.mine = self._by_shape(sorted(matrices, key=lambda n: (self._p(n).shape, n))[rank::WORKERS])
        self.others = [name for name in self.places if name not in matrices] if rank == 0 else []
        rest = [self._p(name) for name in self.others]
        self.adam = torch.optim.AdamW(rest, options.adam, (0.9, 0.98), weight_decay=0.0) if rest else None
        self.step, self.spent = 0, 0.0
        self.path: Path = options.run / "last.pt"
        if self.path.exists():
            self.load()
        self.barrier.wait()

    def _p(self, name: str) -> Tensor:
        return self.model.get_parameter(name)

    def _by_shape(self, names: list[str]) -> list[list[str]]:
        groups: dict[torch.Size, list[str]] = defaultdict(list)
        for name in names:
            groups[self._p(name).shape].append(name)
        return list(groups.values())

    def load(self) -> None:
        kept = torch.load(self.path, weights_only=True)
        self.step, self.spent = kept["step"], kept["spent"]
        if self.adam:
            self.model.load_state_dict(kept["model"])
            self.shared.momentum.copy_(kept["momentum"])
            self.shared.counts[0, 0] = kept["seen"]
            self.adam.load_state_dict(kept["adam"])

    def save(self) -> None:
        assert self.adam
        kept = {"model": self.model.state_dict(), "momentum": self.shared.momentum, "adam": self.adam.state_dict()}
        kept |= {"step": self.step, "spent": self.spent, "seen": int(self.shared.counts[:, 0].sum())}
        fresh = self.path.with_suffix(".new")
        torch.save({**kept, "model": {name: value.clone() for name, value in self.model.state_dict().items()}}, fresh)
        fresh.replace(self.path)

    def learn(self, length: int, rows: Rows) -> None:
        """One step, together with the others."""
        ids, index, targets = tensors(length, rows, self.pad)
        cos, sin = self.table[0][:length], self.table[1][:length]
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.model(ids, cos, sin).reshape(-1, self.model.shape.hidden_size)
            scores = self.model.logits(hidden[index])
        before = ids.reshape(-1)[index]
        weights = 1 + (DECIDING - 1) * (before == self.assistant) + (NAMING - 1) * (before == self.name)
        loss = (F.cross_entropy(scores, targets, reduction="none") * weights).sum() / weights.sum()
        loss.backward()
        hits = (scores.argmax(-1) == targets).float().mean()
        self.shared.counts[self.rank] += torch.tensor([sum(len(row) for row, _ in rows), loss.item(), hits.item()])
        self.barrier.wait()
        self.update(rate(self.step, self.options.steps, self.options.decay))
        self.barrier.wait()
        self.shared.grads[self.rank].zero_()
        self.step += 1

    @torch.no_grad()
    def update(self, share: float) -> None:
        for names in self.mine:
            params = [self._p(name) for name in names]
            grads = [self._summed(name) for name in names]
            buffers = [self.shared.momentum[self.places[name]].view_as(self._p(name)) for name in names]
            muon.step(params, grads, buffers, self.options.muon * share)
        if self.adam:
            for name in self.others:
                self._p(name).grad.copy_(self._summed(name))  # type: ignore[union-attr]
            self.adam.param_groups[0]["lr"] = self.options.adam * share
            self.adam.step()

    def _summed(self, name: str) -> Tensor:
        return self.shared.grads[:, self.places[name]].mean(0).view_as(self._p(name))


def work(rank: int, shared: Shared, barrier: Any, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    worker = Worker(rank, shared, barrier, options)
    source = batches(worker.tokenizer, options.seed, rank, worker.step)
    started = saved = shown = time.monotonic()
    before, counts = worker.spent, shared.counts.sum(0)
    while worker.step < options.steps:
        worker.learn(*next(source))
        if rank:
            continue
        now = time.monotonic()
        worker.spent = before + now - started
        if worker.step % 20 == 0:
            counts = log_line(worker, counts, now - shown)
            shown = now
        if now - saved > 120 or worker.step == options.steps:
            worker.save()
            saved = now


def log_line(worker: Worker, before: Tensor, seconds: float) -> Tensor:
    """Step, tokens, seconds, loss, share of tokens foretold, tokens a second."""
    counts = worker.shared.counts.sum(0)
    seen, loss, hits = (counts - before).tolist()
    line = f"{worker.step},{int(counts[0])},{worker.spent:.0f},{loss / 20 / WORKERS:.4f},{hits / 20 / WORKERS:.4f}"
    line += f",{seen / seconds:.0f}"
    with (worker.options.run / "log.csv").open("a") as log:
        log.write(line + "\n")
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--decay", type=float, default=1.0, help="share of the steps in which the rate falls")
    parser.add_argument("--muon", type=float, default=0.014)
    parser.add_argument("--adam", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    tokenizer = Tokenizer.load(options.run / "tokenizer.json")
    size = sum(p.numel() for p in Decoder(Shape(vocab_size=tokenizer.vocab_size)).parameters())
    context = mp.get_context("spawn")
    shared, barrier = Shared(size), context.Barrier(WORKERS, timeout=300)
    workers = [
        context.Process(target=work, args=(rank, shared, barrier, options), daemon=True) for rank in range(WORKERS)
    ]
    for each in workers:
        each.start()
    for each in workers:
        each.join()


if __name__ == "__main__":
    main()
