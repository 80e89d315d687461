"""Judges a checkpoint: batched greedy ReAct over held-out tasks with the real pure tools, by family and phrasing.

python quick_eval.py --run runs/nano --count 400
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from extras import _BUILTIN, REACT
from gold import Desk, call
from model import Decoder, Shape, rms_norm, rope, rotate
from torch import Tensor

from aios.eval.workload import FAMILIES, Task, check, generate
from aios.kernel.llm.local.chat import ChatTemplate
from aios.kernel.llm.local.tokenizer import Tokenizer

MAX_NEW = 72
MAX_CALLS = 5


class Cached:
    """Batched greedy decoding with a KV cache, rows padded on the right."""

    def __init__(self, model: Decoder, end: int, pad: int) -> None:
        self.model, self.end, self.pad = model, end, pad
        self.cos, self.sin = rope(model.shape, 4096, torch.float32)

    @torch.no_grad()
    def generate(self, prompts: list[list[int]]) -> list[list[int]]:
        lengths = torch.tensor([len(each) for each in prompts])
        room = int(lengths.max()) + MAX_NEW
        ids = torch.full((len(prompts), int(lengths.max())), self.pad)
        for i, each in enumerate(prompts):
            ids[i, : len(each)] = torch.tensor(each)
        shape = self.model.shape
        size = (len(prompts), shape.num_key_value_heads, room, shape.head_dim)
        self.cache = [(torch.zeros(size), torch.zeros(size)) for _ in self.model.blocks]
        places = torch.arange(ids.size(1))[None].expand(len(prompts), -1)
        hidden = self._forward(ids, places)[torch.arange(len(prompts)), lengths - 1]
        out: list[list[int]] = [[] for _ in prompts]
        done = torch.zeros(len(prompts), dtype=torch.bool)
        for _ in range(MAX_NEW):
            token = self.model.logits(hidden).argmax(-1)
            done |= token == self.end
            if bool(done.all()):
                break
            for i in (~done).nonzero().squeeze(1).tolist():
                out[i].append(int(token[i]))
            hidden = self._forward(token[:, None], lengths[:, None])[:, 0]
            lengths = lengths + 1
        return out

    def _forward(self, ids: Tensor, places: Tensor) -> Tensor:
        shape = self.model.shape
        x = self.model.embed(ids)
        batch, length = ids.shape
        cos, sin = self.cos[places][:, None], self.sin[places][:, None]
        upto = int(places.max()) + 1
        mask = torch.arange(upto)[None, None, None] <= places[:, None, :, None]
        rows = torch.arange(batch)[:, None]
        groups = shape.num_attention_heads // shape.num_key_value_heads
        for block, (keys, values) in zip(self.model.blocks, self.cache, strict=True):
            h = rms_norm(x, block.norm1, shape.rms_norm_eps)
            q = block.q(h).view(batch, length, -1, shape.head_dim).transpose(1, 2)
            k = block.k(h).view(batch, length, -1, shape.head_dim).transpose(1, 2)
            v = block.v(h).view(batch, length, -1, shape.head_dim)
            keys[rows, :, places] = rotate(k, cos, sin).transpose(1, 2)
            values[rows, :, places] = v
            mixed = torch.nn.functional.scaled_dot_product_attention(
                rotate(q, cos, sin),
                keys[:, :, :upto].repeat_interleave(groups, 1),
                values[:, :, :upto].repeat_interleave(groups, 1),
                attn_mask=mask,
            )
            x = x + block.o(mixed.transpose(1, 2).reshape(batch, length, -1))
            h = rms_norm(x, block.norm2, shape.rms_norm_eps)
            x = x + block.down(torch.nn.functional.silu(block.gate(h)) * block.up(h))
        return rms_norm(x, self.model.norm, shape.rms_norm_eps)


@dataclass
class Run:
    """One task under way: its desk, the conversation of the current prompt, and what was answered."""

    task: Task
    desk: Desk
    answers: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    calls: int = 0

    @property
    def is_open(self) -> bool:
        return len(self.answers) < len(self.task.prompts)

    def begin(self) -> None:
        if not self.messages:
            prompt = self.task.prompts[len(self.answers)]
            self.messages = [{"role": "system", "content": REACT}, {"role": "user", "content": prompt}]
            self.calls = 0

    def take(self, text: str, called: str | None) -> None:
        """What the model said: an answer, or a call that is run at once."""
        if called is None or self.calls >= MAX_CALLS:
            self.answers.append(text)
            self.messages = []
            return
        self.calls += 1
        try:
            wanted = json.loads(called)
            name, arguments = wanted["name"], wanted["arguments"]
            said = self.desk.run(name, arguments) if name in self.task.tools else f"error: there is no tool '{name}'"
        except (ValueError, KeyError, TypeError, AttributeError):
            name, arguments, said = "broken", {}, "error: the call is not valid JSON"
        self.trace.append(name)
        self.messages += [call(name, arguments if isinstance(arguments, dict) else {}, text)]
        self.messages += [{"role": "tool", "content": said}]


def run_tasks(tasks: list[Task], model: Decoder, template: ChatTemplate, batch: int) -> list[Run]:
    tokenizer = template.tokenizer
    decoder = Cached(model, template.end, tokenizer.special["<|pad|>"])
    runs = [Run(task, Desk(task.files)) for task in tasks]
    while True:
        active = [run for run in runs if run.is_open][:batch]
        if not active:
            return runs
        for run in active:
            run.begin()
        prompts = [template.render(run.messages, [_BUILTIN[name] for name in run.task.tools]) for run in active]
        for run, ids in zip(active, decoder.generate(prompts), strict=True):
            at = ids.index(template.call) if template.call in ids else None
            text = tokenizer.decode(ids[:at]).decode(errors="replace")
            run.take(text, None if at is None else tokenizer.decode(ids[at + 1 :]).decode(errors="replace"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--count", type=int, default=400, help="tasks a phrasing kind")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--show", type=int, default=0, help="print so many wrong ones a family")
    parser.add_argument("--families", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = Tokenizer.load(options.run / "tokenizer.json")
    model = Decoder(Shape(vocab_size=tokenizer.vocab_size))
    kept = torch.load(options.run / "last.pt", weights_only=True)
    model.load_state_dict({name: value.half().float() for name, value in kept["model"].items()})
    report: dict[str, Any] = {"step": kept["step"], "tokens": kept["seen"], "seconds": round(kept["spent"])}
    for phrasing in ("seen", "unseen"):
        tasks = list(generate("test", phrasing, options.seed, options.count, options.families))  # type: ignore[arg-type]
        report[phrasing] = judge(run_tasks(tasks, model, ChatTemplate(tokenizer), options.batch), options.show)
    print(json.dumps(report))
    with (options.run / "eval.jsonl").open("a") as log:
        log.write(json.dumps(report) + "\n")


def judge(runs: list[Run], show: int) -> dict[str, float]:
    right: dict[str, list[bool]] = defaultdict(list)
    for run in runs:
        good = check(run.task, run.answers, run.trace)
        right[run.task.family].append(good)
        right["all"].append(good)
        if not good and show and right[run.task.family].count(False) <= show:
            print(run.task.family, run.task.prompts, run.task.tools, "\n   ", run.messages, run.answers, run.trace)
    return {name: round(sum(right[name]) / len(right[name]), 3) for name in ("all", *FAMILIES) if name in right}


if __name__ == "__main__":
    main()
