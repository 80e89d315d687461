"""Promise 1 on the engine: company, order and interruptions change no byte of what a sequence says."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import tiny_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_model import TOKENIZER, engine

from aios.kernel.context.base import About
from aios.kernel.context.logits import LogitsSnapshot, read
from aios.kernel.llm.local.decoder import CHUNK
from aios.kernel.llm.local.dialect import HERMES, LLAMA3, MISTRAL3, Dialect
from aios.kernel.llm.local.engine import Engine
from aios.kernel.llm.local.grammar import call_schema, response_schema
from aios.kernel.llm.local.sampler import Sampling
from aios.kernel.llm.local.sequence import Sequence, Spec
from aios.kernel.llm.local.snapshot import sequence_of, state_of

ANSWER = response_schema({"type": "json_object"})
ADD = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CALL = call_schema([("add", ADD, True)])


@pytest.fixture(scope="module")
def shared() -> Engine:
    return engine()


def specs(rng: random.Random, count: int) -> list[Spec]:
    """Requests of all kinds, with prompts that end on both sides of chunk borders."""
    return [searching(rng, spec) if rng.random() < 0.3 else spec for spec in drawn(rng, count)]


def searching(rng: random.Random, spec: Spec) -> Spec:
    """The same asked of a beam search."""
    sampling = Sampling(logprobs=spec.sampling.logprobs)
    width, penalty = rng.randint(2, 4), rng.choice([0.0, 1.0, 2.0])
    return replace(spec, sampling=sampling, beam_width=width, length_penalty=penalty)


def drawn(rng: random.Random, count: int) -> list[Spec]:
    return [
        Spec(
            prompt=tuple(rng.randrange(TOKENIZER.vocab_size) for _ in range(rng.choice([1, 5, 63, 64, 65, 130]))),
            max_tokens=rng.randrange(1, 40),
            min_tokens=rng.randrange(0, 30),
            stops=rng.choice([(), ("e", "zq")]),
            answer=rng.choice([None, None, ANSWER]),
            call=CALL,
            may_call=rng.random() < 0.5,
            must_call=rng.random() < 0.2,
            sampling=Sampling(
                temperature=rng.choice([0.0, 0.8, 1.5]),
                top_p=rng.choice([1.0, 0.9]),
                top_k=rng.choice([0, 20]),
                seed=rng.randrange(1 << 40),
                frequency_penalty=rng.choice([0.0, 0.5]),
                logprobs=rng.choice([None, 2]),
            ),
        )
        for _ in range(count)
    ]


def story(sequence: Sequence) -> tuple[object, ...]:
    return (sequence.output, sequence.text.text, sequence.call_bytes, sequence.logprobs, sequence.finish)


def alone(engine: Engine, spec: Spec) -> tuple[object, ...]:
    sequence = engine.new("alone", spec)
    engine.add(sequence)
    while sequence.finish is None:
        engine.step()
    return story(sequence)


def saved(sequence: Sequence, engine: Engine) -> bytes:
    """All of `sequence`, which leaves the pool."""
    about = About(sequence.id, "core", engine.fingerprint, "")
    return b"".join(LogitsSnapshot(about, state_of(sequence), sequence.leave()).parts())


def restored(engine: Engine, data: bytes, *, with_kv: bool) -> Sequence:
    snapshot = read(data)
    sequence = sequence_of(snapshot.about.key, snapshot.state, engine.grammars)
    sequence.enter(engine.pool, snapshot.arrays if with_kv else None)
    return sequence


def interleaved(engine: Engine, wanted: list[Spec], rng: random.Random, slots: int) -> dict[str, tuple[object, ...]]:
    """Random arrivals and quanta on few slots; each preempted one goes through bytes, loses all that was computed, or
    waits as it is."""
    waiting: list[Sequence | bytes] = []
    coming = [engine.new(str(index), spec) for index, spec in enumerate(wanted)]
    left: dict[str, int] = {}
    done: dict[str, tuple[object, ...]] = {}
    while coming or waiting or left:
        if coming and (rng.random() < 0.4 or not (waiting or left)):
            waiting.append(coming.pop())
        while waiting and len(left) < slots:
            item = waiting.pop(rng.randrange(len(waiting)))
            if isinstance(item, bytes):
                item = restored(engine, item, with_kv=rng.random() < 0.7)
            engine.add(item)
            left[item.id] = rng.randint(1, 16)
        for sequence in engine.step():
            left[sequence.id] -= 1
            if sequence.finish is not None:
                done[sequence.id] = story(sequence)
                del left[sequence.id]
            elif left[sequence.id] == 0:
                del left[sequence.id]
                assert engine.remove(sequence.id) is sequence
                if rng.random() < 0.5:
                    waiting.append(sequence)
                else:
                    waiting.append(saved(sequence, engine))
    return done


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), slots=st.integers(1, 8))
def test_interrupted_sequences_in_any_company_say_what_they_say_alone(shared: Engine, seed: int, slots: int) -> None:
    rng = random.Random(seed)
    wanted = specs(rng, 8)
    expected = {str(index): alone(shared, spec) for index, spec in enumerate(wanted)}
    assert interleaved(shared, wanted, rng, slots) == expected
    assert shared.is_idle
    assert shared.pool.statistics()["reserved_bytes"] == shared.pool.statistics()["held_bytes"] == 0


@pytest.mark.parametrize("family", [name for name in tiny_model.FAMILIES if name != "llama"])
def test_each_architecture_says_the_same_interrupted_and_in_company(family: str) -> None:
    own = engine(prefix_bytes=1 << 20, **tiny_model.FAMILIES[family])
    for seed in (1, 2):
        rng = random.Random(seed)
        wanted = specs(rng, 8)
        expected = {str(index): alone(own, spec) for index, spec in enumerate(wanted)}
        assert interleaved(own, wanted, rng, slots=4 * seed) == expected
    assert own.pool.statistics()["reserved_bytes"] == 0


@pytest.mark.parametrize("dialect", [HERMES, LLAMA3, MISTRAL3], ids=lambda dialect: dialect.name)
def test_calls_of_each_dialect_are_the_same_interrupted_and_in_company(dialect: Dialect) -> None:
    """Calls that open with text, with JSON alone, with a name."""
    words = replace(tiny_model.vocabulary(), dialect=dialect, call=None, ends=frozenset({7}), drops_first_space=True)
    own, rng = engine(words=words), random.Random(11)
    call = call_schema([("add", ADD, True)], dialect, is_forced=True)
    wanted = [replace(spec, call=call, may_call=True, max_tokens=90, min_tokens=0) for spec in specs(rng, 10)]
    expected = {str(index): alone(own, spec) for index, spec in enumerate(wanted)}
    assert interleaved(own, wanted, rng, slots=5) == expected
    forced = [found for spec, found in zip(wanted, expected.values(), strict=True) if spec.must_call]
    assert forced
    assert all(found[2] for found in forced), "what must be a call is one"


def test_without_constant_rows_company_changes_the_numbers() -> None:
    """The proof that the test above can fail: the same comparison on an engine that pads nothing."""
    bare = engine(is_padded=False)
    rng = random.Random(7)
    wanted = [
        replace(spec, max_tokens=40, min_tokens=40, sampling=replace(spec.sampling, temperature=1.5, logprobs=2))
        for spec in specs(rng, 8)
    ]
    expected = {str(index): alone(bare, spec) for index, spec in enumerate(wanted)}
    assert interleaved(bare, wanted, rng, 8) != expected


def test_more_sequences_than_rows_of_a_block_run_together(shared: Engine) -> None:
    wanted = [replace(spec, max_tokens=6) for spec in specs(random.Random(3), 40)]
    sequences = [shared.new(str(index), spec) for index, spec in enumerate(wanted)]
    for sequence in sequences:
        shared.add(sequence)
    while not shared.is_idle:
        shared.step()
    assert [story(s) for s in sequences] == [alone(shared, spec) for spec in wanted]


def test_a_long_prompt_does_not_hold_up_those_who_speak(shared: Engine) -> None:
    speaker = shared.new("speaker", Spec((1, 2, 3), 40, min_tokens=40))
    shared.add(speaker)
    shared.step()
    shared.add(shared.new("reader", Spec((5,) * 400, 4)))
    said = len(speaker.output)
    shared.step()
    assert len(speaker.output) == said + 1
    assert not shared._prefilling["reader"].is_prefilled
    assert shared.remove("speaker") is speaker
    while not shared.is_idle:
        shared.step()
    shared.release(speaker)


def test_a_short_prompt_waits_for_no_long_one_and_a_long_one_goes_on(shared: Engine) -> None:
    reader = shared.new("reader", Spec((5,) * 7 * CHUNK, 1))
    shared.add(reader)
    for number in range(2):
        short = shared.new("short", Spec((1, 2, number), 1))
        shared.add(short)
        read = reader.computed
        shared.step()
        assert short.finish is not None
        assert reader.computed >= read + CHUNK
    assert reader.finish is None
    while not shared.is_idle:
        shared.step()


def test_a_step_computes_the_less_of_a_prompt_the_further_that_looks_back(
    shared: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios.kernel.llm.local.engine.LOOK_BACK", 2 * CHUNK)
    reader = shared.new("reader", Spec((5,) * 7 * CHUNK, 1))
    shared.add(reader)
    computed = []
    while reader.finish is None:
        shared.step()
        computed.append(reader.computed // CHUNK)
    assert computed == [3, 5, 6, 7]
    short, reader = (shared.new(name, Spec((5, 6) * size, 1)) for name, size in (("a", 1), ("b", 3 * CHUNK)))
    shared.add(reader)
    while reader.computed < 5 * CHUNK:
        shared.step()
    shared.add(short)
    shared.step()
    shared.step()
    assert short.finish is not None
    assert reader.finish is not None


def test_a_removed_sequence_frees_its_memory_at_once(shared: Engine) -> None:
    shared.add(shared.new("a", Spec((1, 2, 3), 40, min_tokens=40)))
    shared.step()
    sequence = shared.remove("a")
    assert sequence is not None
    assert shared.is_idle
    shared.release(sequence)
    assert shared.pool.statistics()["sequences"] == 0


def test_a_sequence_is_admitted_only_if_it_can_be_finished() -> None:
    small = engine(kv_bytes=400_000)
    spec = Spec((1,) * 100, 400)
    first = small.new("a", spec)
    with pytest.raises(MemoryError):
        small.new("b", spec)
    small.add(first)
    while first.finish is None:
        small.step()
    small.release(small.new("b", spec))


def test_a_grammar_that_breaks_fails_its_own_sequence_only(shared: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    good = shared.new("good", Spec((1, 2), 5, min_tokens=5))
    bad = shared.new("bad", Spec((1, 2), 5, answer=ANSWER))
    assert bad.guide._matcher is not None
    bad.guide._matcher.consume_token(TOKENIZER.encode("x")[0])  # llguidance's error state, as its limits set it
    shared.add(good)
    shared.add(bad)
    while not shared.is_idle:
        shared.step()
    assert "too complex" in str(bad.error)
    assert good.finish == "length"
    assert bad.line.kv is None


def test_what_comes_back_from_bytes_tells_all_its_text_also_what_another_core_had_said(shared: Engine) -> None:
    prompt = tuple(TOKENIZER.encode("hello the"))
    sequence = shared.new("s", Spec(prompt, 40, min_tokens=40, said=" the", num_said=1))
    shared.add(sequence)
    for _ in range(10):
        shared.step()
    shared.remove("s")
    said = sequence.text.text
    assert said.startswith(" the")
    again = restored(shared, saved(sequence, shared), with_kv=True)
    assert again.take_text() == again.text.text == said
    shared.release(again)


def test_engines_with_other_weights_or_sizes_have_other_fingerprints(shared: Engine) -> None:
    assert shared.fingerprint == engine().fingerprint
    assert shared.fingerprint != engine(num_hidden_layers=1).fingerprint
    assert shared.fingerprint != engine(is_padded=False).fingerprint
