"""Our Llama-shaped decoder in torch, for training only. Knows no data and no tokenizer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRETCH = 256  # queries of one piece of attention


@dataclass(frozen=True)
class Shape:
    vocab_size: int
    hidden_size: int = 256
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    intermediate_size: int = 576
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 4096

    def config(self, bos: int, eos: int) -> dict[str, Any]:
        """The shape as a Hugging Face config.json says it."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **asdict(self),
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "torch_dtype": "float16",
            "bos_token_id": bos,
            "eos_token_id": eos,
        }


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        d, heads, kv, size = shape.hidden_size, shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        self.q = _linear(d, heads * size)
        self.k = _linear(d, kv * size)
        self.v = _linear(d, kv * size)
        self.o = _linear(heads * size, d, zero=True)
        self.gate = _linear(d, shape.intermediate_size)
        self.up = _linear(d, shape.intermediate_size)
        self.down = _linear(shape.intermediate_size, d, zero=True)
        self.norm1 = nn.Parameter(torch.ones(d))
        self.norm2 = nn.Parameter(torch.ones(d))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shape = self.shape
        batch, length, _ = x.shape
        h = rms_norm(x, self.norm1, shape.rms_norm_eps)
        q = self.q(h).view(batch, length, shape.num_attention_heads, shape.head_dim).transpose(1, 2)
        k = self.k(h).view(batch, length, shape.num_key_value_heads, shape.head_dim).transpose(1, 2)
        v = self.v(h).view(batch, length, shape.num_key_value_heads, shape.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        groups = shape.num_attention_heads // shape.num_key_value_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        mixed = attention(q, k, v)
        x = x + self.o(mixed.transpose(1, 2).reshape(batch, length, -1))
        h = rms_norm(x, self.norm2, shape.rms_norm_eps)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Decoder(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab_size, shape.hidden_size)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.Parameter(torch.ones(shape.hidden_size))

    def forward(self, ids: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Normed hidden states; `logits` turns the ones that matter into scores."""
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, cos, sin)
        return rms_norm(x, self.norm, self.shape.rms_norm_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        return (hidden @ self.embed.weight.to(hidden.dtype).t()).float()


def _linear(width: int, out: int, zero: bool = False) -> nn.Linear:
    layer = nn.Linear(width, out, bias=False)
    nn.init.zeros_(layer.weight) if zero else nn.init.normal_(layer.weight, std=0.6 * width**-0.5)
    return layer


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention, a stretch of queries at a time: on a CPU faster than the fused one."""
    length, out = q.size(2), []
    q, k = (q * q.size(-1) ** -0.5).to(v.dtype), k.to(v.dtype).transpose(-1, -2)
    for start in range(0, length, STRETCH):
        end = min(length, start + STRETCH)
        scores = q[:, :, start:end] @ k[..., :end]
        scores = scores + torch.full((end - start, end), float("-inf"), dtype=scores.dtype).triu(start + 1)
        out.append(torch.softmax(scores, -1).to(v.dtype) @ v[:, :, :end])
    return torch.cat(out, 2) if len(out) > 1 else out[0]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.size(-1),), weight, eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE in the rotate-half convention of Hugging Face, in the precision of the table."""
    first, second = x.to(cos.dtype).chunk(2, -1)
    return torch.cat((first, second), -1) * cos + torch.cat((-second, first), -1) * sin


def rope(shape: Shape, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    size = shape.head_dim
    frequencies = shape.rope_theta ** (-torch.arange(0, size, 2).double() / size)
    angles = torch.arange(length).double()[:, None] * frequencies[None]
    both = torch.cat((angles, angles), -1)
    return both.cos().to(dtype), both.sin().to(dtype)
