"""Models in folders behind a core: every family answers, calls tools, is interrupted; bad folders are refused."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")

import foreign_model
import msgspec
import numpy as np
from safetensors.numpy import load_file, save_file

from aios.abi.calls import LLMGenerate
from aios.abi.errors import BadRequest, ModuleFault
from aios.abi.messages import Chunk, FunctionSpec, Generation, Message, ToolSpec, Usage
from aios.kernel.config import ConfigError, CoreSection, parse
from aios.kernel.llm.base import Request
from aios.kernel.llm.cores import make_core
from aios.kernel.llm.folder import FolderCore, read
from aios.kernel.llm.local import load as loading
from aios.kernel.llm.local.attention import Scores
from aios.kernel.llm.local.backend import Compute
from aios.kernel.llm.local.kv import KVPool, KVShape
from aios.kernel.llm.local.numpy_backend import NumPyBackend
from aios.kernel.llm.local.shape import ModelError
from aios.kernel.syscall import Suspended
from aios.testing import booted, principal

pytestmark = pytest.mark.anyio

NUMBERS = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
ADD = ToolSpec(FunctionSpec("add", "Adds", NUMBERS))


@pytest.fixture(scope="module", params=foreign_model.TEMPLATES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign_model.write(tmp_path_factory.mktemp("model"), request.param)


def core_of(folder: Path, **more: Any) -> FolderCore:
    core = make_core(CoreSection(name="m", kind="local", path=str(folder), kv_bytes=1 << 26, **more))
    assert isinstance(core, FolderCore)
    return core


@pytest.fixture
async def core(folder: Path) -> AsyncIterator[FolderCore]:
    core = core_of(folder)
    await core.open()
    yield core
    assert core.statistics()["kv_sequences"] == 0
    await core.close()


def ask(text: str = "Hello", **more: Any) -> LLMGenerate:
    return LLMGenerate(messages=[Message("user", text)], **{"seed": 1, "max_tokens": 60, **more})


async def finish(core: FolderCore, args: LLMGenerate, quantum: int | None = None, id: str = "c") -> Generation:
    chunks: list[Chunk] = []
    snapshot = None
    while True:
        outcome = await core.run(Request(id, args, chunks.append, snapshot, is_streamed=True), quantum)
        if isinstance(outcome, Generation):
            assert "".join(chunk.text for chunk in chunks) == (outcome.message.content or "")
            return outcome
        assert isinstance(outcome, Suspended)
        snapshot = outcome.snapshot


def lasting(answer: Generation) -> Generation:
    """All of it but how much of the prompt was computed for an earlier one."""
    return msgspec.structs.replace(answer, usage=Usage.of(answer.usage.prompt_tokens, answer.usage.completion_tokens))


async def test_interrupted_answers_in_company_are_those_given_alone(core: FolderCore) -> None:
    wanted = [ask("Hello " * n, seed=n, temperature=0.8, min_tokens=30, beam_width=None) for n in range(1, 6)]
    alone = [lasting(await finish(core, args)) for args in wanted]
    together = await asyncio.gather(*(finish(core, args, 3, str(n)) for n, args in enumerate(wanted)))
    assert list(map(lasting, together)) == alone
    assert all(answer.usage.completion_tokens >= 30 for answer in alone)


async def test_a_tool_that_must_be_called_is_called_with_arguments_that_fit(core: FolderCore) -> None:
    more = {"tools": [ADD], "tool_choice": "required", "parallel_tool_calls": False}
    answer = await finish(core, ask(temperature=1.0, max_tokens=200, **more))
    assert answer.finish_reason == "tool_calls"
    calls = answer.message.tool_calls
    assert calls is not None
    assert [call.function.name for call in calls] == ["add"]
    assert json.loads(calls[0].function.arguments)["a"] in (1, 2)


@pytest.mark.parametrize(
    "more",
    [
        {"max_tokens": 1},
        {"max_tokens": 1, "tools": [ADD], "tool_choice": "required"},
        {"max_tokens": 8, "stop": ["e", " ", "x" * 1000]},
        {"max_tokens": 40, "tools": [ADD], "tool_choice": "required"},
        {"max_tokens": 12, "response_format": {"type": "json_object"}},
        {"max_tokens": 4, "logprobs": True, "top_logprobs": 20},
        {"max_tokens": 8, "length_penalty": -4.0},
        {"max_tokens": 8, "length_penalty": 4.0, "min_tokens": 8},
    ],
    ids=lambda more: "-".join(more),
)
async def test_the_widest_search_comes_to_the_same_whatever_is_asked_and_however_often_it_is_interrupted(
    core: FolderCore, more: dict[str, Any]
) -> None:
    whole = await finish(core, ask(beam_width=16, **more))
    assert whole.usage.completion_tokens <= more["max_tokens"]
    assert lasting(await finish(core, ask(beam_width=16, **more), quantum=1)) == lasting(whole)
    if more.get("logprobs"):
        assert len(whole.logprobs or ()) == whole.usage.completion_tokens


async def test_the_widest_search_in_the_smallest_window_is_answered_or_refused(tmp_path: Path) -> None:
    core = core_of(foreign_model.write(tmp_path, "qwen2"), context_length=64)
    await core.open()
    assert (await finish(core, ask(beam_width=16, max_tokens=None))).usage.total_tokens <= 64
    with pytest.raises(BadRequest, match="window is 64 tokens"):
        await finish(core, ask("Hello " * 60, beam_width=16, max_tokens=None))
    assert core.statistics()["kv_sequences"] == 0
    await core.close()


async def test_an_answer_in_json_has_the_schemas_form(core: FolderCore) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"schema": schema, "strict": True}}
    answer = await finish(core, ask(response_format=form, tools=[ADD], tool_choice="none"))
    assert json.loads(answer.message.text())["n"] in (1, 2)


async def test_no_special_token_is_ever_said(core: FolderCore, folder: Path) -> None:
    specials = [each["content"] for each in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]]
    answer = await finish(core, ask(temperature=2.0, min_tokens=300, max_tokens=300))
    assert [
        each for each in specials if each in answer.message.text() and each not in ("<tool_call>", "</tool_call>")
    ] == []


async def test_a_kernel_serves_it_by_the_folders_name(tmp_path: Path) -> None:
    core = core_of(foreign_model.write(tmp_path / "tiny-qwen", "qwen3"), context_length=256)
    async with booted(cores={"m": core}) as kernel:
        answer = await kernel.call(principal(kernel), "llm_generate", ask(model="tiny-qwen", temperature=1.0))
        assert (answer.model, answer.core) == ("tiny-qwen", "m")
        assert core.context_length == 256


async def test_tools_are_refused_where_the_template_tells_of_none(tmp_path: Path) -> None:
    folder = foreign_model.write(tmp_path, "qwen2")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    core = core_of(folder)
    await core.open()
    with pytest.raises(BadRequest, match="no tools"):
        core.check(ask(tools=[ADD]))
    await core.close()


@pytest.mark.parametrize(("kind", "shards"), [("F32", 3), ("F16", 1), ("BF16", 2)])
def test_weights_are_read_from_several_files_and_of_each_kind(tmp_path: Path, kind: str, shards: int) -> None:
    whole = read(foreign_model.write(tmp_path / "a", "qwen3")).decoder
    other = read(foreign_model.write(tmp_path / "b", "qwen3", kind=kind, shards=shards)).decoder
    close = {"F32": 0, "F16": 2**-11, "BF16": 2**-7}[kind]  # of a number's own size
    for ours, theirs in ((whole._layers[1].down, other._layers[1].down), (whole._embedding, other._embedding)):
        assert (np.abs(ours - theirs) <= np.abs(ours) * close).all()
    assert whole.fingerprint != other.fingerprint


# ── bad input ──


def changed(path: Path, **more: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def refused(folder: Path, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        read(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architectures": ["Qwen3MoeForCausalLM"]}, "'Qwen3MoeFor.* is not among Llama.*; did you mean 'Qwen3For"),
        ({"architectures": None}, "architectures is None"),
        ({"hidden_size": "64"}, "hidden_size is '64', and must be a whole number"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_hidden_layers": 3}, "the weights have no model.layers.2"),
        ({"num_hidden_layers": 1}, "hold model.layers.1.*does not have"),
        ({"intermediate_size": 175}, r"\[176, 64\]; by config.json it must be \[175, 64\]"),
        ({"num_key_value_heads": 3}, "4 attention heads cannot share 3"),
        ({"head_dim": 15}, "head_dim is 15, and must be even"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": "yes"}, "attention_bias is 'yes', and must be true or false"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1"),
        ({"rope_scaling": {"rope_type": "yarm"}}, "'yarm', which is not supported; did you mean 'yarn'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "beta": 1}}, "takes no 'beta'"),
        ({"rope_scaling": []}, r"rope_scaling is \[\], and must be an object"),
        ({"use_sliding_window": True, "layer_types": ["full_attention"]}, "layer_types"),
        ({"quantization_config": {"bits": 4}}, "quantization_config, which changes what is computed"),
        ({"vocab_size": 100}, "vocab_size|must be"),
    ],
)
def test_a_config_that_is_wrong_or_foreign_is_refused_by_its_key(tmp_path: Path, change: Any, says: str) -> None:
    folder = foreign_model.write(tmp_path, "qwen3")
    changed(folder / "config.json", **change)
    refused(folder, says)


def test_weights_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    folder = foreign_model.write(tmp_path, "qwen2")
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for damage in (data[:-1], data[:100], b"", b"\xff" * 64, data + b"x"):
        path.write_bytes(damage)
        refused(folder, "model.safetensors is no sound safetensors file")


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ({}, "no weight_map"),
        ({"weight_map": {"a": "../secret.safetensors"}}, "no file of this folder"),
        ({"weight_map": {"a": "gone.safetensors"}}, "no such file"),
        ({"weight_map": {"a": 3}}, "no weight_map"),
    ],
)
def test_an_index_of_files_that_are_not_there_is_refused(tmp_path: Path, index: Any, says: str) -> None:
    folder = foreign_model.write(tmp_path, "qwen2")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, says)


@pytest.mark.parametrize(
    "more",
    [{}, {"temperature": 1.0}, {"beam_width": 4}, {"logprobs": True}, {"tools": [ADD], "tool_choice": "required"}],
)
async def test_a_generation_that_weights_make_no_numbers_of_ends_and_the_others_go_on(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    core = core_of(foreign_model.write(tmp_path, "qwen3"))  # its output matrix is another
    await core.open()
    assert core._engine is not None
    ill = ord("~") - ord("!")  # in its byte-level order
    core._engine.decoder._embedding[ill] = np.nan
    good = ask("Hello", min_tokens=40, logit_bias={str(ill): -100.0}, **more)
    alone = lasting(await finish(core, good))
    beside = asyncio.create_task(finish(core, good, id="beside"))
    for number in range(3):
        with pytest.raises(ModuleFault, match="core 'm': the model computed what is no number; its weights") as caught:
            await finish(core, ask("Hello ~" + "~" * number, **more), id="ill")
        assert caught.value.code == "bad_model"
        assert lasting(await finish(core, good, id="after")) == alone
    assert lasting(await beside) == alone
    assert core.statistics()["kv_sequences"] == 0
    await core.close()


def test_memory_that_somebody_left_with_what_is_no_number_harms_nobody() -> None:
    pool = KVShape(1, 1, 4, 64)
    memory = KVPool(pool, pool.bytes(64) * 2)
    left = memory.open(20, now=20)
    left.data[...] = np.nan
    left.free()
    taken = memory.open(20, now=20)
    assert taken.data is left.data
    (view,) = taken.views(3)
    assert np.isnan(view.values[:, :3]).all()  # to be written
    assert not view.values[:, 3:].any()
    taken.data[:, :, 3:5] = 1.0
    (view,) = taken.views(5)
    assert view.values[:, 3:5].all()


def test_what_one_step_left_in_the_room_for_scores_is_not_in_the_next() -> None:
    scores = Scores()
    scores.of(2, 2, 32)[...] = np.nan
    assert not scores.of(1, 2, 48).any()


def test_weights_that_hold_what_is_no_number_are_refused(tmp_path: Path) -> None:
    folder = foreign_model.write(tmp_path, "qwen2", kind="F16")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = np.inf
    save_file(tensors, path, metadata={"format": "pt"})
    refused(folder, "the weights' model.layers.1.mlp.up_proj.weight holds what is no number: the file is damaged")


def test_weights_of_another_kind_of_file_are_told_apart(tmp_path: Path) -> None:
    folder = foreign_model.write(tmp_path, "qwen2")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, r"pytorch_model.bin it cannot be read, only of safetensors")


def test_a_tokenizer_with_a_number_beyond_all_bounds_is_refused_before_room_is_made_for_it(tmp_path: Path) -> None:
    folder = foreign_model.write(tmp_path, "qwen2")
    said = json.loads((folder / "tokenizer.json").read_text())
    said["model"]["vocab"]["far"] = 2**31
    (folder / "tokenizer.json").write_text(json.dumps(said))
    refused(folder, "tokenizer.json has a token number 2147483648, and config.json says vocab_size")


def test_half_a_character_in_a_file_is_told_with_the_file(tmp_path: Path) -> None:
    folder = foreign_model.write(tmp_path, "qwen2")
    changed(folder / "tokenizer_config.json", eos_token="\ud800", pad_token="\U0001f600")
    refused(folder, "tokenizer_config.json is not valid JSON: .*surrogates not allowed")


async def test_half_a_character_that_a_template_writes_is_replaced(tmp_path: Path) -> None:
    folder = foreign_model.write(tmp_path, "qwen2")
    (folder / "chat_template.jinja").write_text("{{ '\\ud800' }}{{ messages[0].content }}")
    core = core_of(folder)
    await core.open()
    assert (await finish(core, ask())).usage.prompt_tokens == core.count(ask("\ufffdHello")) - len("\ufffd".encode())
    await core.close()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "there is no folder")


def test_a_model_that_nothing_ends_is_refused(tmp_path: Path) -> None:
    folder = foreign_model.write(tmp_path, "qwen2", eos_token_id=None)
    (folder / "generation_config.json").unlink()
    names = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, "eos_token": None}))
    refused(folder, "eos_token_id")


def test_a_model_too_large_for_the_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = foreign_model.write(tmp_path, "qwen2")
    monkeypatch.setattr(NumPyBackend, "free_bytes", lambda self: 100_000)
    monkeypatch.setattr(loading, "Decoder", lambda *_, **__: pytest.fail("read all the same"))
    refused(folder, r"takes [\d.]+ KiB of memory .*97.7 KiB are free")


async def test_a_core_that_cannot_be_loaded_says_why_and_which(tmp_path: Path) -> None:
    with pytest.raises(ModuleFault, match="core 'm' cannot be loaded: there is no folder"):
        await core_of(tmp_path / "nowhere").open()


def test_a_window_longer_than_the_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"context_length is 5000, and config\.json says max_position_embeddings 1024"):
        read(foreign_model.write(tmp_path, "qwen2"), 5000)


async def test_a_window_that_kv_bytes_cannot_hold_is_refused_with_both_numbers(tmp_path: Path) -> None:
    folder = foreign_model.write(tmp_path, "qwen2", max_position_embeddings=100_000)
    core = make_core(CoreSection(name="m", kind="local", path=str(folder), kv_bytes=1 << 20))
    with pytest.raises(ModuleFault, match=r"kv_bytes = 1048576, and one sequence of 100000 tokens takes \d+; give"):
        await core.open()


@pytest.mark.parametrize("package", ["tokenizers", "jinja2"])
async def test_without_the_packages_the_command_that_brings_them_is_named(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = foreign_model.write(tmp_path, "qwen2")
    for module in ("folder", "local.foreign_chat", "local.sandbox"):
        monkeypatch.delitem(sys.modules, f"aios.kernel.llm.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    core = make_core(CoreSection(name="m", kind="local", path=str(folder)))
    says = rf"core 'm' cannot be loaded: {package} is not installed; pip install 'aios-kernel\[local\]' brings it"
    with pytest.raises(ModuleFault, match=says):
        await core.open()


def test_without_torch_the_command_that_brings_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = foreign_model.write(tmp_path, "qwen2")
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "aios.kernel.llm.local.torch_backend", raising=False)
    with pytest.raises(ModelError, match=r"torch is not installed; pip install 'aios-kernel\[torch\]' brings it"):
        read(folder, compute=Compute("torch"))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ('dtype = "bf16"', r'computes on NumPy, in f32 on the cpu only; .* take backend = "torch"'),
        ('device = "cuda"', r'computes on NumPy, in f32 on the cpu only; .* take backend = "torch"'),
        ('backend = "torch"\ndtype = "fp8"', r'dtype is \'fp8\', and must be "bf16" or "f16" or "f32"'),
        ('backend = "torch"\ndevice = "gpu"', r'core \'m\' has device = \'gpu\', and it must be "cpu" or "cuda"'),
        ('backend = "jax"', r'backend is \'jax\', and must be "numpy" or "torch"'),
    ],
)
def test_what_cannot_compute_a_model_is_told_by_the_configuration(said: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse(f'[[core]]\nname = "m"\nkind = "local"\npath = "m"\n{said}')
