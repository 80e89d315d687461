"""Small random models in folders, with all the files that a published one has: each family's tokens and template.

They say nothing, but say it the same every time. Knows no engine, core or kernel.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from aios.kernel.llm.local.shape import Shape

HERMES = """{%- if tools %}<|im_start|>system
Tools: {% for tool in tools %}{{ tool | tojson }}
{% endfor %}Call as <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif %}{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
THINKING = HERMES + """{# a model that thinks within <think> and </think> #}"""
OPENED = HERMES.removesuffix("{% endif %}") + "<think>\n{% endif %}"
"""Templates of models that think aloud, by themselves or because the template has begun it."""
LLAMA3 = """{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>

{% if loop.first and tools %}Answer with {"name": function name, "parameters": dictionary}: {% for tool in tools %}
{{ tool | tojson(indent=4) }}{% endfor %}{% endif %}{% if 'tool_calls' in message %}<|python_tag|>
{{ message.tool_calls[0].function.arguments | tojson }}{% endif %}{{ message.content | trim }}<|eot_id|>{% endfor %}
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""
MISTRAL = """{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}
{%- for message in messages %}{% if message.role == 'user' %}{% if loop.last and tools %}[AVAILABLE_TOOLS]{{ tools |
tojson }}[/AVAILABLE_TOOLS]{% endif %}[INST] {{ message.content }} [/INST]{% elif message.tool_calls is defined %}
{%- for call in message.tool_calls %}{% if call.id | length != 9 %}{{ raise_exception('ids') }}{% endif %}
[TOOL_CALLS] [{"name": "{{ call.function.name }}"}]{% endfor %}{% else %}{{ message.content }}{{ eos_token }}{% endif %}
{%- endfor %}"""
MISTRAL3 = """{{ bos_token }}{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{%- for message in messages %}{% if message.role == 'assistant' %}{{ message.content }}
{%- for call in message.tool_calls or [] %}[TOOL_CALLS]{{ call.function.name }}[ARGS]
{{- call.function.arguments | tojson }}{% endfor %}{{ eos_token }}{% else %}[INST]{{ message.content }}[/INST]
{%- endif %}{% endfor %}"""
SPECIALS = {
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "qwen3": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama 3": ["<|end_of_text|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
                "<|eom_id|>", "<|python_tag|>"],
    "mistral": ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"],
}  # fmt: skip
SPECIALS["mistral 3"] = [*SPECIALS["mistral"], "[ARGS]", "[CALL_ID]"]
ENDS = {
    "mistral 3": ["</s>"],
    "qwen2": ["<|im_end|>"],
    "qwen3": ["<|im_end|>"],
    "llama 3": ["<|eot_id|>", "<|eom_id|>"],
    "mistral": ["</s>"],
}
TEMPLATES = {"mistral 3": MISTRAL3, "qwen2": HERMES, "qwen3": HERMES, "llama 3": LLAMA3, "mistral": MISTRAL}
TEXT = [
    'Hello there, "name": "add", "arguments": {"a": 1}}',
    "the weather in Paris is fine — déjà vu 天気",
    "\n\n\t 12 + 3",
]


class Weights(dict[str, NDArray[np.float16]]):
    """Random tensors by their Hugging Face names."""

    def get_tensor(self, name: str) -> NDArray[np.float16]:
        return self[name]


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama 3": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "llama with biases": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": 40, "num_key_value_heads": 1},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False, "sliding_window": 40},
    "qwen2 with windows": {
        "architectures": ["Qwen2ForCausalLM"],
        "use_sliding_window": True,
        "sliding_window": 40,
        "max_window_layers": 1,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    },
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "head_dim": 32, "tie_word_embeddings": False},
}
"""What each architecture's config says beyond the plainest one."""


def weights(sizes: dict[str, Any], seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    found = Weights()
    for name, shape in Shape.from_config(sizes).tensors().items():
        values = rng.standard_normal(shape)
        if "norm" in name:
            values = 1 + values / 5
        elif name.endswith("bias"):
            values = values / 2
        elif name == "model.embed_tokens.weight":
            values = values * 3 / np.sqrt(shape[1])
        else:
            values = values / np.sqrt(shape[1])
        found[name] = values.astype(np.float16)
    return found


def config(**changes: Any) -> dict[str, Any]:
    """A `config.json` of the smallest Llama shape; `vocab_size` is to be given."""
    sizes: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 176,
        "max_position_embeddings": 512,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    return sizes | changes


def write_model(
    folder: Path, family: str, *, kind: str = "F32", shards: int = 1, template: str | None = None, **changes: Any
) -> Path:
    """All files of a model of `family`, one of TEMPLATES. `kind` is how its numbers are stored, `shards` in how many
    files; `template` is instead of its family's. Needs `tokenizers`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = (
        _sentence_pieces(family) if family == "mistral" else _byte_level(family, thinks="<think>" in (template or ""))
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    size = tokenizer.get_vocab_size() + 7  # as published ones do: more rows than tokens
    ends = [tokenizer.token_to_id(each) for each in ENDS[family]]
    sizes = config(**FAMILIES[family.replace("mistral 3", "mistral")]) | {
        "vocab_size": size,
        "eos_token_id": ends,
    }
    sizes |= {"max_position_embeddings": 1024} | changes
    (folder / "config.json").write_text(json.dumps(sizes))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    bos = "<|begin_of_text|>" if family == "llama 3" else "<s>"
    names = {
        "bos_token": {"__type": "AddedToken", "content": bos},
        "eos_token": ENDS[family][0],
        "chat_template": template or TEMPLATES[family],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    _save(folder, dict(weights(sizes)), kind, shards)
    return folder


def _save(folder: Path, tensors: dict[str, Any], kind: str, shards: int) -> None:
    tensors = {name: _stored(values.astype(np.float32), kind) for name, values in tensors.items()}
    names = list(tensors)
    files = {f"model-{n + 1:05}-of-{shards:05}.safetensors": names[n::shards] for n in range(shards)}
    if shards == 1:
        files = {"model.safetensors": names}
    else:
        placed = {name: file for file, held in files.items() for name in held}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    for file, held in files.items():
        path = folder / file
        save_file({name: tensors[name] for name in held}, path, metadata={"format": "pt"})
        if kind == "BF16":  # NumPy has none: it was stored as its bits, of a type as wide
            _retype(path)


def _retype(path: Path) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip().replace(b'"U16"', b'"BF16"')
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def _stored(values: Any, kind: str) -> Any:
    if kind == "F16":
        return values.astype(np.float16)
    if kind == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values


def _byte_level(family: str, *, thinks: bool = False) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in SPECIALS[family]])
    if TEMPLATES[family] is HERMES:
        marks = ["<tool_call>", "</tool_call>", *(["<think>", "</think>"] if thinks else [])]
        tokenizer.add_tokens([AddedToken(mark, special=False) for mark in marks])
    return tokenizer


def _sentence_pieces(family: str) -> Any:
    """As Llama 2's and Mistral's: spaces are a letter, bytes are tokens of last resort."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = sorted({letter for text in TEXT for letter in text if letter not in " \n\t"} | {"▁"})
    vocabulary = {name: n for n, name in enumerate([*SPECIALS[family], *bytes_, *letters])}
    model = models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in SPECIALS[family]])
    return tokenizer
