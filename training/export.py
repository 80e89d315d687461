"""Writes a checkpoint as shipped files: f16 safetensors with Hugging Face Llama names, config.json and tokenizer.json.

python export.py --run runs/nano        (or --random: untrained weights of the same shape)
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from model import Decoder, Shape
from safetensors.numpy import save_file

from aios.kernel.llm.local.tokenizer import Tokenizer

WEIGHTS_DIR = Path(__file__).parent.parent / "src/aios/kernel/llm/local/weights"
NAMES = {
    "q.weight": "self_attn.q_proj.weight",
    "k.weight": "self_attn.k_proj.weight",
    "v.weight": "self_attn.v_proj.weight",
    "o.weight": "self_attn.o_proj.weight",
    "gate.weight": "mlp.gate_proj.weight",
    "up.weight": "mlp.up_proj.weight",
    "down.weight": "mlp.down_proj.weight",
    "norm1": "input_layernorm.weight",
    "norm2": "post_attention_layernorm.weight",
}


def shipped_name(name: str) -> str:
    if name == "embed.weight":
        return "model.embed_tokens.weight"
    if name == "norm":
        return "model.norm.weight"
    _, layer, rest = name.split(".", 2)
    return f"model.layers.{layer}.{NAMES[rest]}"


def export(state: dict[str, torch.Tensor], shape: Shape, tokenizer: Tokenizer, out: Path) -> int:
    """Writes both files; the number of parameters."""
    arrays = {shipped_name(name): value.float().numpy().astype(np.float16) for name, value in state.items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(arrays, out / "model.safetensors", metadata={"format": "pt"})
    config = shape.config(tokenizer.special["<|bos|>"], tokenizer.special["<|end|>"])
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return sum(array.size for array in arrays.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--out", type=Path, default=WEIGHTS_DIR)
    options = parser.parse_args()
    tokenizer = Tokenizer.load(options.run / "tokenizer.json")
    shape = Shape(vocab_size=tokenizer.vocab_size)
    if options.random:
        torch.manual_seed(0)
        state = {name: torch.randn_like(value) * 0.05 for name, value in Decoder(shape).state_dict().items()}
    else:
        state = torch.load(options.run / "last.pt", weights_only=True)["model"]
    count = export(state, shape, tokenizer, options.out)
    shutil.copyfile(options.run / "tokenizer.json", options.out / "tokenizer.json")
    print(f"{count:,} parameters in {options.out}")


if __name__ == "__main__":
    main()
