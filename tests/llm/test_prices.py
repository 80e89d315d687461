"""What a call cost: only where that is known, with cached input at its own price, added up by process and core."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError
from aios.abi.messages import Generation, Message, PromptDetails, Usage
from aios.kernel.config import CoreSection, Price, PriceSection, parse
from aios.kernel.llm.prices import Prices, bundled, worth

ASK = LLMGenerate(messages=[Message("user", "hi")])


def section(**more: Any) -> CoreSection:
    return CoreSection(**{"name": "far", "kind": "openai", "base_url": "https://api.openai.com/v1", **more})


def said(model: str, usage: Usage) -> Generation:
    return Generation(Message("assistant", "ok"), "stop", usage, model, "far")


def cost(model: str, usage: Usage, args: LLMGenerate = ASK, own: list[PriceSection] | None = None, **more: Any) -> Any:
    prices = Prices(own or [])
    prices.know(section(**more))
    return prices.cost(args, said(model, usage))


def test_the_bundled_table_is_dated_and_sound() -> None:
    table = bundled()
    assert date.fromisoformat(table.date)
    assert len({(row.host, row.model, row.above) for row in table.price}) == len(table.price)
    for row in table.price:
        assert row.host
        assert row.cached is not None
        assert 0 < row.cached < row.input < row.output


def test_input_cached_input_and_output_have_prices_of_their_own() -> None:
    usage = Usage.of(1_000_000, 100_000, 400_000)
    assert worth(Price(input=2.0, output=10.0, cached=0.5), usage) == pytest.approx(1.2 + 0.2 + 1.0)
    assert worth(Price(input=2.0, output=10.0), usage) == pytest.approx(2.0 + 1.0)  # cached input as any other
    assert worth(Price(input=2.0, output=10.0), Usage.of(1_000_000, 0)) == pytest.approx(2.0)
    written = Usage(10, 0, 10, PromptDetails(0, 4))
    assert worth(Price(input=1.0, output=1.0, cache_write=2.0), written) == pytest.approx(14e-6)
    assert worth(Price(input=1.0, output=1.0), written) is None


def test_a_model_is_priced_where_it_is_sold_and_nowhere_else() -> None:
    usage = Usage.of(1000, 1000)
    assert cost("gpt-6.2-sol", usage) == pytest.approx(0.012)
    assert cost("gpt-6.2-sol-2026-11-01", usage) == pytest.approx(0.012)
    assert cost("gpt-6.2-sol-fast", usage) is None
    assert cost("grok-4.7", usage, base_url="https://api.x.ai/v1") == pytest.approx(0.008)
    google = "https://generativelanguage.googleapis.com/v1beta/openai"
    assert cost("gemini-4-neon", usage, base_url=google) == pytest.approx(0.018)
    assert cost("gpt-6.2-sol", usage, base_url="https://somebody.example/v1") is None
    assert cost("claude-opus-5-5", usage, kind="openai") is None
    assert cost("claude-opus-5-5", usage, base_url="https://api.anthropic.com/v1") == pytest.approx(0.024)


def test_long_prompts_have_the_price_of_long_prompts() -> None:
    short, long = Usage.of(272_000, 1000), Usage.of(272_001, 1000)
    assert cost("gpt-6.2-sol", short) == pytest.approx(0.544 + 0.010)
    assert cost("gpt-6.2-sol", long) == pytest.approx(1.088004 + 0.015)


def test_what_is_not_known_is_none_and_never_a_guess() -> None:
    assert cost("gpt-6.2-sol", Usage.of(0, 50)) is None  # the server told no usage
    assert cost("gpt-99", Usage.of(10, 10)) is None
    flex = LLMGenerate(messages=ASK.messages, extra={"service_tier": "flex"})
    assert cost("gpt-6.2-sol", Usage.of(10, 10), flex) is None
    assert Prices().cost(ASK, said("gpt-6.2-sol", Usage.of(10, 10))) is None


def test_the_configuration_overrules_the_table_and_a_cores_own_price_both() -> None:
    usage = Usage.of(1_000_000, 0)
    own = [PriceSection(model="gpt-6.2-sol", input=1.0, output=1.0), PriceSection(model="mine", input=3.0, output=3.0)]
    assert cost("gpt-6.2-sol", usage, own=own) == pytest.approx(1.0)
    assert cost("mine", usage, own=own, base_url="http://127.0.0.1:1/v1") == pytest.approx(3.0)
    assert cost("mine", usage, own=own, price=Price(input=7.0, output=7.0)) == pytest.approx(7.0)


def test_prices_are_read_from_the_configuration_and_a_wrong_one_is_named() -> None:
    config = parse('[[price]]\nmodel = "m"\ninput = 1\noutput = 2.5\nabove = 1000\n')
    assert config.price == [PriceSection(model="m", input=1.0, output=2.5, above=1000)]
    core = '[[core]]\nname = "a"\nkind = "openai"\nbase_url = "http://127.0.0.1/v1"\nprice = {input = 1, output = 2}\n'
    assert parse(core).core[0].price == Price(input=1.0, output=2.0)
    with pytest.raises(AiosError, match="price"):
        parse('[[price]]\nmodel = "m"\ninput = -1\noutput = 2\n')
