"""Writes a llama.cpp model of a few hundred kilobytes: random weights, one token a byte. Knows the GGUF format only."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, LAYERS, HEADS, KV_HEADS, FEED, CONTEXT = 64, 2, 4, 2, 128, 2048
SPECIAL = ("<|im_start|>", "<|im_end|>", "<tool_call>\n", "</tool_call>")
TEXT_OF_A_CALL = {"257": 60.0, "258": 50.0, "10": -100.0, "32": -100.0}
"""A `logit_bias` that makes the model call a tool, where the server lets it, and end then."""
TEMPLATE = (
    "{%- if tools %}<|im_start|>system\n# Tools\n<tools>{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n"
    '</tools>\nFor each call return <tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call>'
    "<|im_end|>\n{% endif %}"
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}"
    '{%- for call in message.tool_calls or [] %}<tool_call>\n{"name": "{{ call.function.name }}", '
    '"arguments": {{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}'
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = (
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n{% if message.reasoning_content %}"
    "<think>\n{{ message.reasoning_content }}\n</think>\n\n{% endif %}{{ message.content or '' }}<|im_end|>\n"
    "{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is not defined or enable_thinking %}<think>\n"
    "{% else %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""A template that has the model think aloud first."""
TRIMMING = (
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n"
    "{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template that strips blanks from the ends of what was said, as many do."""
ALIGNMENT = 32
UINT32, FLOAT32, STRING, ARRAY = 4, 6, 8, 9
F32 = 0


def byte_letters() -> list[str]:
    """The letter that stands for each byte in vocabularies of GPT-2's kind."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = dict(zip(plain, map(chr, plain), strict=True))
    others = (byte for byte in range(256) if byte not in letters)
    letters |= {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def write_gguf(path: Path, *, seed: int = 7, template: str = TEMPLATE) -> Path:
    """A model that says printable ASCII, and never ends by itself."""
    tensors = _tensors(np.random.default_rng(seed))
    metadata = _metadata("llama", template)
    data = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, (kind, value) in metadata.items():
        data += _text(key) + struct.pack("<I", kind) + _value(kind, value)
    offset = 0
    for name, array in tensors.items():
        data += _text(name) + struct.pack("<I", array.ndim) + struct.pack(f"<{array.ndim}Q", *array.shape[::-1])
        data += struct.pack("<IQ", F32, offset)
        offset += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    for array in tensors.values():
        data += bytes(-len(data) % ALIGNMENT) + array.tobytes()
    path.write_bytes(data)
    return path


def _metadata(architecture: str, template: str) -> dict[str, tuple[int, Any]]:
    letters = [*byte_letters(), *SPECIAL]
    numbers = {
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "block_count": LAYERS,
        "feed_forward_length": FEED,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "rope.dimension_count": WIDTH // HEADS,
    }
    return {
        "general.architecture": (STRING, architecture),
        "general.name": (STRING, "tiny"),
        **{f"{architecture}.{key}": (UINT32, number) for key, number in numbers.items()},
        f"{architecture}.attention.layer_norm_rms_epsilon": (FLOAT32, 1e-5),
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.pre": (STRING, "gpt-2"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, letters)),
        "tokenizer.ggml.token_type": (ARRAY, (UINT32 + 1, [1] * 256 + [3, 3, 4, 4])),
        "tokenizer.ggml.merges": (ARRAY, (STRING, ["\u00fe \u00ff"])),
        "tokenizer.ggml.eos_token_id": (UINT32, 257),
        "tokenizer.ggml.bos_token_id": (UINT32, 256),
        "tokenizer.chat_template": (STRING, template),
    }


def _tensors(rng: np.random.Generator) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    def draw(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return rng.standard_normal(shape, np.float32) * np.float32(1.5 / np.sqrt(shape[-1]))

    vocabulary = 256 + len(SPECIAL)
    out = draw(vocabulary, WIDTH) * np.float32(4)
    for token in range(vocabulary):
        if not 32 <= token < 127:
            out[token] = 0  # never the greatest among so many random ones
    tensors = {"token_embd.weight": draw(vocabulary, WIDTH) * np.float32(8), "output.weight": out}
    tensors["output_norm.weight"] = np.ones(WIDTH, np.float32)
    kv = WIDTH // HEADS * KV_HEADS
    for n in range(LAYERS):
        tensors |= {
            f"blk.{n}.attn_norm.weight": np.ones(WIDTH, np.float32),
            f"blk.{n}.ffn_norm.weight": np.ones(WIDTH, np.float32),
            f"blk.{n}.attn_q.weight": draw(WIDTH, WIDTH),
            f"blk.{n}.attn_k.weight": draw(kv, WIDTH),
            f"blk.{n}.attn_v.weight": draw(kv, WIDTH),
            f"blk.{n}.attn_output.weight": draw(WIDTH, WIDTH),
            f"blk.{n}.ffn_gate.weight": draw(FEED, WIDTH),
            f"blk.{n}.ffn_up.weight": draw(FEED, WIDTH),
            f"blk.{n}.ffn_down.weight": draw(WIDTH, FEED),
        }
    return tensors


def _value(kind: int, value: Any) -> bytes:
    if kind == ARRAY:
        inner, items = value
        return struct.pack("<IQ", inner, len(items)) + b"".join(_value(inner, item) for item in items)
    if kind == STRING:
        return _text(value)
    return struct.pack("<f" if kind == FLOAT32 else "<I", value)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
