"""The decoder against `transformers`, on random small models of each architecture. Needs torch; skipped without."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import foreign_model
import numpy as np
import pytest
import tiny_model
from safetensors.numpy import save_file

from aios.kernel.llm.local.backend import Compute
from aios.kernel.llm.local.engine import Engine
from aios.kernel.llm.local.foreign_chat import ForeignTemplate
from aios.kernel.llm.local.foreign_tokenizer import ForeignTokenizer
from aios.kernel.llm.local.load import load
from aios.kernel.llm.local.sequence import Spec
from aios.kernel.llm.local.weights import Weights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")

COMPUTE = [Compute(), Compute("torch")]

LENGTH = 150
"""Tokens of the prompt: more than two chunks, and more than the windows of those that have one."""


@pytest.fixture(scope="module", params=tiny_model.FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("model"), request.param)


def written(folder: Path, name: str) -> Path:
    sizes = tiny_model.config(**tiny_model.FAMILIES[name])
    kind = getattr(transformers, sizes["architectures"][0])
    (folder / "config.json").write_text(json.dumps(sizes | {"model_type": kind.config_class.model_type}))
    tensors = {key: value.astype(np.float32) for key, value in tiny_model.weights(sizes).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    return model.eval()


def prompt() -> list[int]:
    return np.random.default_rng(5).integers(0, tiny_model.TOKENIZER.vocab_size, LENGTH).tolist()


@pytest.mark.parametrize("compute", COMPUTE, ids=lambda each: each.backend)
def test_logits_differ_by_at_most_one_in_ten_thousand(folder: Path, reference: Any, compute: Compute) -> None:
    tokens = prompt()
    with torch.no_grad():
        expected = reference(torch.tensor([tokens])).logits[0].numpy()
    decoder = load(folder, compute=compute)
    kv = decoder.pool(1 << 28).open(LENGTH)
    worst, at, read = 0.0, 0, tokens[: LENGTH - 60]
    while at < len(read):
        at = decoder.prefill(kv, read, at)
        worst = max(worst, np.abs(decoder.last_logits() - expected[at - 1]).max())
    for position in range(at, LENGTH):
        logits = decoder.decode([tokens[position]], [kv], [position])[0]
        worst = max(worst, np.abs(logits - expected[position]).max())
    assert worst < 1e-4


@pytest.mark.parametrize("compute", COMPUTE, ids=lambda each: each.backend)
def test_two_hundred_greedy_tokens_are_the_same(folder: Path, reference: Any, compute: Compute) -> None:
    tokens = prompt()
    with torch.no_grad():
        given = torch.tensor([tokens])
        made = reference.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=200, do_sample=False)
    engine = Engine(load(folder, compute=compute), tiny_model.without_specials(), kv_bytes=1 << 28)
    sequence = engine.new("s", Spec(tuple(tokens), 200))
    engine.add(sequence)
    while sequence.finish is None:
        engine.step()
    assert sequence.output == made[0, LENGTH:].tolist()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_folder_that_the_library_wrote_is_read_as_it_was_meant(
    folder: Path, reference: Any, dtype: str, tmp_path: Path
) -> None:
    """Its own config.json, and many files with an index."""
    model = copy.deepcopy(reference).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ours, again = load(folder), load(tmp_path)
    assert again.shape == ours.shape
    if dtype == "float32":
        assert all(np.array_equal(a, b) for a, b in zip(ours._layers[-1][:4], again._layers[-1][:4], strict=True))
    for name, theirs in model.state_dict().items():
        if name != "lm_head.weight" or not ours.shape.is_tied:
            assert np.array_equal(Weights(tmp_path).get_tensor(name), theirs.float().numpy()), name


@pytest.mark.parametrize("family", foreign_model.TEMPLATES)
def test_a_conversation_has_the_tokens_that_the_library_makes_of_it(family: str, tmp_path: Path) -> None:
    folder = foreign_model.write(tmp_path, family)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    config = json.loads((folder / "config.json").read_text())
    ours = ForeignTemplate(folder, ForeignTokenizer(folder, config["vocab_size"]))
    call = {"id": "abc123def", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Hello there, 12 + 3 — déjà vu"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "user", "content": "  so? "},
    ]
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}}
    tool = {"type": "function", "function": {"name": "add", "description": "Adds é", "parameters": parameters}}
    for tools in ([], [tool]):
        expected = theirs.apply_chat_template(messages, tools=tools or None, add_generation_prompt=True, tokenize=False)
        ids = theirs.encode(expected, add_special_tokens=False)
        assert ours.render(messages, tools) == ids
