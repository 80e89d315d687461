"""Trains the nano model: endless dialogues, length buckets, Muon and AdamW. Knows no evaluation and no export.

    python train.py --run runs/nano --steps 6000

Writes RUN/last.pt every few minutes and starts again from it; RUN/log.csv gets a line every 20 steps.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from aios.kernel.llm.local.chat import ChatTemplate
from aios.kernel.llm.local.tokenizer import Tokenizer
from dialogues import dialogue, tokens
from make_tokenizer import WEIGHTS_DIR
from model import Decoder, Shape, rope
from muon import Muon

BATCH_TOKENS = 4096
WIDTH = 64  # lengths are padded to multiples of this
LONGEST = 2048
Rows = list[tuple[list[int], list[bool]]]


def batches(seed: int, skip: int) -> Iterator[tuple[int, Rows]]:
    """Padded length and rows, about `BATCH_TOKENS` together; short dialogues first."""
    template = ChatTemplate(Tokenizer.load(WEIGHTS_DIR / "tokenizer.json"))
    rng = random.Random(f"batches/{seed}/{skip}")
    buckets: dict[int, Rows] = defaultdict(list)
    made = skip
    while True:
        ids, learn = tokens(template, dialogue(rng, _most(rng, made)))
        length = -(-len(ids) // WIDTH) * WIDTH
        if len(ids) > LONGEST or (made < 250 and length > 192):
            continue
        buckets[length].append((ids, learn))
        if (len(buckets[length]) + 1) * length > BATCH_TOKENS:
            yield length, buckets.pop(length)
            made += 1


def _most(rng: random.Random, made: int) -> int:
    """How many tasks a dialogue may have at this point of the training."""
    if made < 250:
        return 1
    return rng.choices((1, 2, 4, 6, 14), (45, 25, 25, 5, 0.8))[0]


def feed(queue: multiprocessing.Queue[tuple[int, Rows]], seed: int, skip: int) -> None:
    os.nice(2)
    for each in batches(seed, skip):
        queue.put(each)


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


class Trainer:
    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        tokenizer = Tokenizer.load(WEIGHTS_DIR / "tokenizer.json")
        self.pad = tokenizer.special["<|pad|>"]
        self.model = Decoder(Shape(vocab_size=tokenizer.vocab_size))
        matrices = [p for block in self.model.blocks for p in block.parameters() if p.ndim == 2]
        others = [p for p in self.model.parameters() if not any(p is each for each in matrices)]
        self.muon = Muon(matrices, lr=options.muon)
        self.adam = torch.optim.AdamW(others, lr=options.adam, betas=(0.9, 0.98), weight_decay=0.0)
        self.step, self.seen, self.spent = 0, 0, 0.0
        self.path: Path = options.run / "last.pt"
        if self.path.exists():
            self.load()
        self.table = rope(self.model.shape, LONGEST, torch.bfloat16)
        self.forward = self.model if options.eager else torch.compile(self.model, dynamic=True)

    def load(self) -> None:
        kept = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(kept["model"])
        self.muon.load_state_dict(kept["muon"])
        self.adam.load_state_dict(kept["adam"])
        self.step, self.seen, self.spent = kept["step"], kept["seen"], kept["spent"]

    def save(self) -> None:
        kept = {"model": self.model.state_dict(), "muon": self.muon.state_dict(), "adam": self.adam.state_dict()}
        fresh = self.path.with_suffix(".new")
        torch.save({**kept, "step": self.step, "seen": self.seen, "spent": self.spent}, fresh)
        fresh.replace(self.path)

    def learn(self, length: int, rows: Rows) -> tuple[float, float]:
        """One step; the loss and the share of tokens foretold."""
        share = rate(self.step, self.options.steps, self.options.decay)
        for optimizer, full in ((self.muon, self.options.muon), (self.adam, self.options.adam)):
            optimizer.param_groups[0]["lr"] = full * share
        ids, index, targets = tensors(length, rows, self.pad)
        cos, sin = self.table[0][:length], self.table[1][:length]
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.forward(ids, cos, sin).reshape(-1, self.model.shape.hidden_size)
            scores = self.model.logits(hidden[index])
        loss = F.cross_entropy(scores, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.adam.param_groups[0]["params"], 1.0)
        self.muon.step()
        self.adam.step()
        self.muon.zero_grad()
        self.adam.zero_grad()
        self.step += 1
        self.seen += sum(len(row) for row, _ in rows)
        return loss.item(), (scores.argmax(-1) == targets).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--decay", type=float, default=0.4, help="share of the steps in which the rate falls")
    parser.add_argument("--muon", type=float, default=0.02)
    parser.add_argument("--adam", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--eager", action="store_true")
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    train(Trainer(options), options)


def train(trainer: Trainer, options: argparse.Namespace) -> None:
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[tuple[int, Rows]] = context.Queue(16)
    feeder = context.Process(target=feed, args=(queue, options.seed, trainer.step), daemon=True)
    feeder.start()
    started, saved, losses, hits, before = time.monotonic(), time.monotonic(), 0.0, 0.0, trainer.spent
    first, tokens_first = time.monotonic(), trainer.seen
    while trainer.step < options.steps:
        loss, hit = trainer.learn(*queue.get())
        losses, hits = losses + loss, hits + hit
        trainer.spent = before + time.monotonic() - started
        if trainer.step % 20 == 0:
            speed = (trainer.seen - tokens_first) / (time.monotonic() - first)
            line = f"{trainer.step},{trainer.seen},{trainer.spent:.0f},{losses / 20:.4f},{hits / 20:.4f},{speed:.0f}"
            with (options.run / "log.csv").open("a") as log:
                log.write(line + "\n")
            print(line, flush=True)
            losses, hits, first, tokens_first = 0.0, 0.0, time.monotonic(), trainer.seen
        if time.monotonic() - saved > 150 or trainer.step == options.steps:
            trainer.save()
            saved = time.monotonic()
    feeder.terminate()


if __name__ == "__main__":
    main()
