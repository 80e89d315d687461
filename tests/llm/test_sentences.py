"""A core that only embeds: a folder's BERT model on NumPy, against one written out loop by loop."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from aios.abi.calls import LLMEmbed, LLMGenerate
from aios.abi.errors import AiosError, BadRequest, ContextLengthExceeded, ModuleFault, NotFound
from aios.abi.messages import Embeddings, Message
from aios.kernel.config import CoreSection
from aios.kernel.llm.embed import from_base64
from aios.kernel.llm.local.encoder import EncoderShape
from aios.kernel.llm.local.load import load
from aios.kernel.llm.local.sentences import load_sentences
from aios.kernel.llm.local.shape import ModelError
from aios.kernel.llm.sentences import SentenceCore
from aios.testing import ScriptedCore, booted, principal
from aios.testing.models import write_model

pytestmark = pytest.mark.anyio
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sits", "outside", "dog", "runs"]
CONFIG = {
    "architectures": ["BertModel"],
    "vocab_size": 10,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 8,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}
Tensors = dict[str, NDArray[Any]]


def write(folder: Path, *, prefix: str = "", modules: list[str] | None = None, **changes: Any) -> Tensors:
    """A random model in `folder`; its tensors by their plain names."""
    folder.mkdir(exist_ok=True)
    config = CONFIG | changes
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(7)
    sizes = EncoderShape.from_config(config).tensors()
    tensors = {name: rng.normal(0, 0.3, size).astype(np.float32) for name, size in sizes.items()}
    stored = {prefix + name: value for name, value in tensors.items()}
    stored["pooler.dense.weight"] = np.zeros((12, 12), np.float32)
    stored["embeddings.position_ids"] = np.arange(8)[None]
    save_file(stored, folder / "model.safetensors")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.add_special_tokens(["[CLS]", "[SEP]", "[PAD]"])
    words.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    words.enable_truncation(4)
    words.save(str(folder / "tokenizer.json"))
    if modules is not None:
        steps = [
            {"type": f"sentence_transformers.models.{kind}", "path": f"{n}_{kind}"} for n, kind in enumerate(modules)
        ]
        (folder / "modules.json").write_text(json.dumps(steps))
    return tensors


def write_pooling(folder: Path, mode: str) -> None:
    (folder / "1_Pooling").mkdir()
    said = {f"pooling_mode_{name}": name == mode for name in ("mean_tokens", "cls_token", "max_tokens", "lasttoken")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(said))


def states(tensors: Tensors, tokens: list[int]) -> NDArray[np.float64]:
    """BERT as its paper has it, in f64, head by head."""
    get = {name: value.astype(np.float64) for name, value in tensors.items()}

    def linear(x: Any, name: str) -> Any:
        return x @ get[f"{name}.weight"].T + get[f"{name}.bias"]

    def norm(x: Any, name: str) -> Any:
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return scaled * get[f"{name}.weight"] + get[f"{name}.bias"]

    x = get["embeddings.word_embeddings.weight"][tokens] + get["embeddings.token_type_embeddings.weight"][0]
    x = norm(x + get["embeddings.position_embeddings.weight"][: len(tokens)], "embeddings.LayerNorm")
    for index in range(2):
        at = f"encoder.layer.{index}."
        query, key, value = (linear(x, f"{at}attention.self.{name}") for name in ("query", "key", "value"))
        heads = []
        for h in range(3):
            cut = slice(4 * h, 4 * h + 4)
            weights = np.exp(query[:, cut] @ key[:, cut].T / math.sqrt(4))
            heads.append(weights / weights.sum(-1, keepdims=True) @ value[:, cut])
        x = norm(
            x + linear(np.concatenate(heads, -1), f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm"
        )
        raised = linear(x, f"{at}intermediate.dense")
        raised = raised * 0.5 * (1 + np.vectorize(math.erf)(raised / math.sqrt(2)))
        x = norm(x + linear(raised, f"{at}output.dense"), f"{at}output.LayerNorm")
    out: NDArray[np.float64] = x
    return out


def unit(vector: NDArray[Any]) -> NDArray[Any]:
    out: NDArray[Any] = vector / np.linalg.norm(vector)
    return out


async def ask(folder: Path, *others: Any, context_length: int | None = None, **given: Any) -> Embeddings:
    section = CoreSection(name="vectors", kind="embed", path=str(folder), context_length=context_length)
    async with booted(cores=[*others, SentenceCore(section)]) as kernel:
        found: Embeddings = await kernel.call(principal(kernel), "llm_embed", LLMEmbed(**given))
        return found


async def refused(folder: Path, **given: Any) -> AiosError:
    with pytest.raises(AiosError) as caught:
        await ask(folder, **given)
    return caught.value


CAT = [2, 4, 5, 6, 3]  # [CLS] the cat sits [SEP]


@pytest.mark.parametrize("prefix", ["", "bert."])
async def test_vectors_are_those_of_the_model_written_out(tmp_path: Path, prefix: str) -> None:
    tensors = write(tmp_path, prefix=prefix)
    found = await ask(tmp_path, input=["the cat sits", "dog runs"])
    wanted = [unit(states(tensors, tokens).mean(0)) for tokens in (CAT, [2, 8, 9, 3])]
    np.testing.assert_allclose([each.embedding for each in found.data], wanted, atol=2e-6)
    assert (found.model, found.core, found.usage.prompt_tokens) == (tmp_path.name, "vectors", 9)


@pytest.mark.parametrize(("mode", "place"), [("cls_token", 0), ("lasttoken", -1)])
async def test_how_states_become_a_vector_is_what_the_folder_says(tmp_path: Path, mode: str, place: int) -> None:
    tensors = write(tmp_path, modules=["Transformer", "Pooling"])
    write_pooling(tmp_path, mode)
    found = await ask(tmp_path, input="the cat sits")
    np.testing.assert_allclose(found.data[0].embedding, states(tensors, CAT)[place], atol=2e-6)  # not normalised


async def test_a_vector_does_not_depend_on_what_is_embedded_beside_it(tmp_path: Path) -> None:
    write(tmp_path)
    alone = (await ask(tmp_path, input="the cat sits")).data[0].embedding
    beside = await ask(tmp_path, input=["dog", "the cat sits", "the dog runs outside"])
    assert beside.data[1].embedding == alone


async def test_a_core_that_was_closed_may_be_opened_again(tmp_path: Path) -> None:
    write(tmp_path)
    core = SentenceCore(CoreSection(name="e", kind="embed", path=str(tmp_path)))
    await core.close()
    vectors = []
    for _ in range(2):
        await core.open()
        vectors.append((await core.embed(LLMEmbed(input="the cat"))).data[0].embedding)
        await core.close()
    assert vectors[0] == vectors[1]


async def test_tokens_are_taken_as_they_are_and_base64_is_the_same_vector(tmp_path: Path) -> None:
    write(tmp_path)
    as_text = (await ask(tmp_path, input="the cat sits")).data[0].embedding
    packed = (await ask(tmp_path, input=CAT, encoding_format="base64")).data[0].embedding
    assert isinstance(packed, str)
    assert from_base64(packed).tolist() == as_text


async def test_a_prompt_that_the_folder_has_by_default_stands_before_each_text(tmp_path: Path) -> None:
    tensors = write(tmp_path)
    said: dict[str, Any] = {"prompts": {"query": "the "}, "default_prompt_name": {}}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(said))
    assert load_sentences(tmp_path).tokens("cat") == [2, 5, 3]  # a name that is none names nothing
    said["default_prompt_name"] = "query"
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(said))
    found = await ask(tmp_path, input="cat sits")
    np.testing.assert_allclose(found.data[0].embedding, unit(states(tensors, CAT).mean(0)), atol=2e-6)


async def test_a_special_token_in_a_text_is_only_text(tmp_path: Path) -> None:
    write(tmp_path)
    found = load_sentences(tmp_path).tokens("the [SEP] cat")
    assert found.count(3) == 1


async def test_nothing_is_cut_off_in_silence(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 5}')
    error = await refused(tmp_path, input=["cat", "the cat sits outside"])
    assert isinstance(error, ContextLengthExceeded)
    assert error.message == "input[1] has 6 tokens, and core 'vectors' takes 5"
    assert len((await ask(tmp_path, input="the cat sits outside", context_length=8)).data) == 1


async def test_what_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    assert isinstance(error := await refused(tmp_path, input="cat", dimensions=6), BadRequest)
    assert "vectors of 12 dimensions, not 6" in error.message
    assert len((await ask(tmp_path, input="cat", dimensions=12)).data) == 1
    assert "has token 10" in (await refused(tmp_path, input=[4, 10])).message


async def test_a_text_that_comes_to_no_tokens_has_no_vector_least_of_all_somebody_elses(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    error = await refused(tmp_path, input=["the cat", " "])
    assert isinstance(error, BadRequest)
    assert error.message == "input[1] holds nothing that core 'vectors' has a token for"


async def test_weights_that_are_too_large_make_no_vectors(tmp_path: Path) -> None:
    tensors = write(tmp_path)
    name = "encoder.layer.1.output.dense.bias"
    save_file(tensors | {name: np.full_like(tensors[name], 3e38)}, tmp_path / "model.safetensors")
    error = await refused(tmp_path, input="the cat", encoding_format="base64")
    assert (type(error), error.code) == (ModuleFault, "bad_model")
    assert "computes for input[0] what is no number" in error.message


async def test_it_answers_no_messages_and_is_named_by_a_core_that_does_not_embed(tmp_path: Path) -> None:
    write(tmp_path)
    core = SentenceCore(CoreSection(name="vectors", kind="embed", path=str(tmp_path)))
    async with booted(cores=[ScriptedCore(), core]) as kernel:
        who = principal(kernel)
        with pytest.raises(NotFound, match="gives embeddings only"):
            await kernel.call(who, "llm_generate", LLMGenerate(messages=[Message("user", "hi")], model="vectors"))
        with pytest.raises(NotFound, match="core 'scripted' cannot embed; vectors can"):
            await kernel.call(who, "llm_embed", LLMEmbed(input="cat", model="scripted"))
        found = await kernel.call(who, "llm_embed", LLMEmbed(input="cat", model="text-embedding-3-small"))
        assert found.core == "vectors"


@pytest.mark.parametrize("is_bare", [False, True])
async def test_a_decoders_vector_is_the_state_of_the_last_token(tmp_path: Path, is_bare: bool) -> None:
    """The state that gives the logits, when it goes through the output matrix."""
    write_model(tmp_path, "qwen3", tie_word_embeddings=True)
    decoder = load(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    if is_bare:  # as models for embedding are published
        save_file({n.removeprefix("model."): tensor for n, tensor in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Transformer"}]')
    found = await ask(tmp_path, input="hello big world " * 30, context_length=1000)
    tokens = load_sentences(tmp_path).tokens("hello big world " * 30)
    assert found.usage.prompt_tokens == len(tokens) > 64  # more than one chunk
    kv, at = decoder.pool(1 << 26).open(len(tokens)), 0
    while at < len(tokens):
        at = decoder.prefill(kv, tokens, at)
    logits = tensors["model.embed_tokens.weight"].astype(np.float32) @ np.array(found.data[0].embedding, np.float32)
    np.testing.assert_allclose(logits, decoder.last_logits(), atol=1e-4)


async def test_a_decoder_whose_pooling_is_another_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, "qwen3")
    write_pooling(tmp_path, "mean_tokens")
    (tmp_path / "modules.json").write_text('[{"type": "x.Transformer"}, {"type": "x.Pooling", "path": "1_Pooling"}]')
    with pytest.raises(ModelError, match="its pooling is mean"):
        load_sentences(tmp_path)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"architectures": ["MPNetModel"]}, "architectures is \\['MPNetModel'\\]"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"num_attention_heads": 5}, "cannot be shared by 5 heads"),
    ],
)
async def test_a_config_that_we_cannot_compute_is_refused_by_its_key(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | changes))
    with pytest.raises(ModelError, match=why):
        load_sentences(tmp_path)


async def test_a_step_outside_the_folder_is_not_looked_at(tmp_path: Path) -> None:
    write(tmp_path / "model")
    (tmp_path / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (tmp_path / "model" / "modules.json").write_text('[{"type": "x.Transformer"}, {"type": "x.Pooling", "path": ".."}]')
    with pytest.raises(ModelError, match=r"modules.json names '\.\.', which is no folder within"):
        load_sentences(tmp_path / "model")


async def test_steps_that_we_do_not_have_are_refused(tmp_path: Path) -> None:
    write(tmp_path, modules=["Transformer", "Pooling", "Dense"])
    write_pooling(tmp_path, "mean_tokens")
    with pytest.raises(ModelError, match="has a step 'Dense'"):
        load_sentences(tmp_path)
    write(tmp_path, modules=["Transformer", "Pooling"])
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ModelError, match="asks for pooling \\['pooling_mode_max_tokens'\\]"):
        load_sentences(tmp_path)


async def test_a_broken_folder_is_told_when_the_core_opens(tmp_path: Path) -> None:
    for break_it, why in (
        (lambda: None, "there is no folder"),
        (lambda: write(tmp_path / "m"), ""),
        (lambda: (tmp_path / "m" / "tokenizer.json").write_text("{}"), "tokenizer.json cannot be used"),
        (lambda: (tmp_path / "m" / "model.safetensors").write_bytes(b"\0" * 40), "no sound safetensors"),
    ):
        break_it()
        core = SentenceCore(CoreSection(name="vectors", kind="embed", path=str(tmp_path / "m")))
        if why:
            with pytest.raises(ModuleFault, match=why):
                await core.open()
        else:
            await core.open()
        await core.close()


# ── tables of vectors, one a token ──


def write_table(folder: Path, *, layout: str = "model2vec", **more: Any) -> NDArray[Any]:
    """A random table in `folder`, as model2vec or sentence-transformers writes it; `more` are tensors, or "normalize"
    of the configuration. Its vectors."""
    place = folder / "0_StaticEmbedding" if layout == "inner" else folder
    place.mkdir(parents=True, exist_ok=True)
    vectors = more.pop("vectors", np.random.default_rng(3).normal(0, 1, (len(WORDS), 5)).astype(np.float32))
    normalize = more.pop("normalize", True)
    name = "embeddings" if layout == "model2vec" else "embedding.weight"
    save_file({name: vectors, **more}, place / "model.safetensors")
    known = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="[UNK]"))
    known.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    known.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    known.save(str(place / "tokenizer.json"))
    steps = [{"type": "sentence_transformers.models.StaticEmbedding", "path": "."}]
    if normalize:
        steps.append({"type": "sentence_transformers.models.Normalize", "path": "1_Normalize"})
    (folder / "modules.json").write_text(json.dumps(steps))
    if layout == "model2vec":
        config = {"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": normalize}
        (folder / "config.json").write_text(json.dumps(config))
    return vectors


@pytest.mark.parametrize("layout", ["model2vec", "flat", "inner"])
@pytest.mark.parametrize("normalize", [True, False])
async def test_a_table_of_vectors_gives_the_mean_of_its_known_words(
    tmp_path: Path, layout: str, normalize: bool
) -> None:
    vectors = write_table(tmp_path, layout=layout, normalize=normalize)
    found = await ask(tmp_path, input=["the cat sits nowhere", "dog"])
    expected = vectors[[4, 5, 6]].mean(axis=0)
    assert np.allclose(found.data[0].embedding, unit(expected) if normalize else expected, atol=1e-6)
    assert np.allclose(found.data[1].embedding, unit(vectors[8]) if normalize else vectors[8], atol=1e-6)
    assert found.usage.prompt_tokens == 4


async def test_a_table_may_share_rows_among_tokens_weigh_them_and_be_of_few_bits(tmp_path: Path) -> None:
    few = np.array([[1, 0, 100], [-7, 90, 3]], np.int8)
    rows = np.array([0, 1] * 5, np.int64)
    weights = np.linspace(0.1, 1, 10).astype(np.float16)
    write_table(tmp_path, vectors=few, mapping=rows, weights=weights, normalize=False)
    found = await ask(tmp_path, input="the dog")
    expected = (few[0] * np.float32(weights[4]) + few[0] * np.float32(weights[8])) / 2
    assert np.allclose(found.data[0].embedding, expected, atol=1e-3)


async def test_a_text_of_unknown_words_has_a_vector_of_zeros(tmp_path: Path) -> None:
    write_table(tmp_path)
    assert (await ask(tmp_path, input="nobody knows")).data[0].embedding == [0.0] * 5


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"vectors": np.zeros((4, 5), np.float32)}, "more tokens than"),
        ({"vectors": np.zeros(10, np.float32)}, "must have 2 dimensions"),
        ({"vectors": np.zeros((0, 5), np.float32)}, "embeddings is empty"),
        ({"vectors": np.zeros((10, 5), np.uint8)}, "of type U8"),
        ({"mapping": np.array([0, 99] * 5)}, "mapping names rows that embeddings does not have"),
        ({"mapping": np.array([0.0, 1.0] * 5)}, "mapping names rows"),
        ({"weights": np.ones(3, np.float32)}, "there are 3 weights, for 10 tokens"),
    ],
)
async def test_a_table_that_does_not_fit_is_refused_with_what_is_wrong(
    tmp_path: Path, tensors: dict[str, Any], message: str
) -> None:
    write_table(tmp_path, **tensors)
    with pytest.raises(ModelError, match=message):
        load_sentences(tmp_path)
