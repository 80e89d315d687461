"""The configuration: checked whole, errors that help."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aios.kernel.config import Config, ConfigError, load, parse


def test_an_empty_configuration_is_the_packaged_model_on_loopback() -> None:
    config = parse("")
    assert [c.kind for c in config.core] == ["nano"]
    assert (config.server.host, config.server.port, config.router.default) == ("127.0.0.1", 8420, "nano")


CORE_AT = '[[core]]\nname = "x"\nkind = "openai"\nbase_url = "{}"'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[serve]\nport = 1", "unknown key 'serve'; did you mean 'server'"),
        ("[server]\nprot = 1", "unknown key 'prot'; did you mean 'port'"),
        ('[[core]]\nname = "a"\nkind = "nano"\nslotz = 3', "unknown key 'slotz'; did you mean 'slots'"),
        ("port = 1", "unknown key 'port'; it belongs under [server]"),
        ('[[core]]\nname = "a"\nkind = "local"\npath = "~nobody-here/x"', "there is no user of path '~nobody-here/x'"),
        ('[[core]]\nname = "a"\nkind = "gguf"\npath = "a\\u0000"', r"path holds a character that cannot be printed"),
        ('[[price]]\nmodel = "a"\ninput = inf\noutput = 1', r"price[0].input: expected a number <= 1000000.0"),
        ('[core]\nname = "x"', "core: expected a list, got a section; write its header as [[core]]"),
        ("[router]\nslots = 1", "unknown key 'slots'; it belongs under [[core]] (at router)"),
        ("[server]\nport = 99999", "server.port: expected a whole number <= 65535"),
        (
            '[scheduler]\npolicy = "lifo"',
            """scheduler.policy is 'lifo', and must be "fifo" or "rr"; did you mean 'fifo'?""",
        ),
        ("[scheduler]\npolicy = 3", 'scheduler.policy is no text, and must be "fifo" or "rr"'),
        ('[journal]\nmode = "durabel"', "did you mean 'durable'"),
        (
            '[[core]]\nname = "a"\nkind = "vllm"',
            """kind is 'vllm', and must be "anthropic" or "embed" or "gguf" or "local" or "nano" or "openai\"""",
        ),
        ("[server", "not valid TOML"),
        ('[router]\ndefault = "nanu"\n[[core]]\nname = "nano"\nkind = "nano"', "did you mean 'nano'"),
        ('[[core]]\nname = "x"\nkind = "openai"', "needs base_url"),
        (
            CORE_AT.format("http://h/v1") + '\napi_key = "sk-1"',
            "a key does not belong in the configuration: put it into",
        ),
        (CORE_AT.format("http://h/v1") + '\napi_key_env = "sk-1234-abcd"', "api_key_env is no name of a variable"),
        (CORE_AT.format("http://me:sk-1@h/v1"), "has a name or password in its base_url"),
        (CORE_AT.format("http://h/v1?api_key=sk-1"), "has a key in the query of its base_url"),
        (
            '[context]\nsummarise_with = "nan"',
            "[context] summarise_with names no core and no model: 'nan'; did you mean",
        ),
        (
            '[search]\nembed_with = "minilm"\n[[core]]\nname = "mini-lm"\nkind = "embed"\npath = "/m"',
            "[search] embed_with names no core and no model: 'minilm'; did you mean 'mini-lm'?",
        ),
        (
            '[search]\nembed_with = "nano"\n[[core]]\nname = "nano"\nkind = "nano"',
            "embed_with names core 'nano', which makes no vectors; a [[core]] of kind \"embed\" can",
        ),
        (CORE_AT.format("http://h/v1") + '\nserver = "vlm"', "did you mean 'vllm'"),
        (CORE_AT.format("http://h/v1") + '\nresume = "kv_exact"', "resume is"),
        ('[[core]]\nname = "x"\nkind = "nano"\ntimeout = 5', "kind nano, which takes no timeout"),
        ('[[core]]\nname = "x"\nkind = "openai"\nbase_url = "http://h"\nkv_bytes = 1048576', "takes no kv_bytes"),
        ('[[core]]\nname = "x"\nkind = "gguf"\npath = "/m"\nprefix_bytes = 0', "takes no prefix_bytes"),
        ('[[core]]\nname = "x"\nkind = "anthropic"\nmodel = "m"\nprobe = false', "takes no probe"),
        ('[[core]]\nname = "x"\nkind = "nano"\nmodel = "m"', "kind nano, which takes no model"),
        ('[[core]]\nname = "x"\nkind = "local"', "core 'x' is of kind local, and needs path"),
        ('[[core]]\nname = "x"\nkind = "local"\npath = "/m"\nbase_url = "http://h"', "local, which takes no base_url"),
        (CORE_AT.format("http://h:80800/v1"), "core 'x' needs base_url"),
        (CORE_AT.format("http://h:http/v1"), "core 'x' needs base_url"),
        (CORE_AT.format("http://[::1/v1"), "core 'x' needs base_url"),
        (CORE_AT.format("http:///v1"), "core 'x' needs base_url"),
        (CORE_AT.format("http://h/v 1"), "no blanks"),
        ('[[model]]\nname = "fast"\ncores = ["nanu"]', "model 'fast' names no core: 'nanu'; did you mean 'nano'?"),
        ('[[model]]\nname = "fast"\ncores = {nano = 0}', "model[0].cores[...]: expected a number > 0"),
        ('[[model]]\nname = "fast"\ncores = []', "model 'fast' names no cores"),
        ('[[model]]\nname = "nano"\ncores = ["nano"]', "a [[model]] and a [[core]] are both called 'nano'"),
        ('[[model]]\nname = "m"\ncores = ["nano"]\nfallback = ["x"]', "model 'm' names no core: 'x'"),
        (
            '[router]\naliases = {"gpt-4o" = "nanu"}',
            "the alias 'gpt-4o' names no core and no model: 'nanu'; did you mean",
        ),
        ('[router]\naliases = {nano = "nano"}', "the alias 'nano' is the name of a core"),
        (
            '[[core]]\nname = "x"\nkind = "nano"\n[[core]]\nname = "x"\nkind = "nano"',
            "two cores are called 'x'",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place_and_the_nearest_known_key(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "my.toml")
    assert says in caught.value.message
    assert "my.toml" in caught.value.message


def test_a_default_and_an_alias_may_name_a_core_a_model_of_cores_or_a_model_of_several() -> None:
    text = (
        '[[core]]\nname = "a"\nkind = "openai"\nbase_url = "http://h/v1"\nmodel = "m"\n'
        '[[core]]\nname = "b"\nkind = "local"\npath = "models/tiny"\n'
        '[[model]]\nname = "fast"\ncores = {a = 3, b = 1}\nfallback = ["b"]\n'
        '[router]\ndefault = "gpt"\naliases = {gpt = "fast", old = "m", small = "tiny", a1 = "a"}\n'
    )
    config = parse(text)
    assert (config.model[0].cores, config.router.default) == ({"a": 3, "b": 1}, "gpt")


def test_a_missing_file_that_was_named_is_an_error_and_an_unnamed_one_is_not(tmp_path: Path) -> None:
    assert load(home=tmp_path).core
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "nowhere.toml")
    assert caught.value.message == f"cannot read the configuration {tmp_path}/nowhere.toml: No such file or directory"


def test_a_file_that_is_no_text_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "noise.toml"
    path.write_bytes(b"# \xa4")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.message == f"cannot read the configuration {path}: it is not UTF-8 at byte 2"


def test_the_example_of_the_documentation_is_accepted() -> None:
    config = parse(
        '[scheduler]\npolicy = "rr"\nquantum = 32\n'
        '[router]\ndefault = "nano"\n'
        '[[core]]\nname = "nano"\nkind = "nano"\nslots = 8\n'
        '[[core]]\nname = "gpu"\nkind = "openai"\nbase_url = "http://127.0.0.1:8000/v1"\nmodel = "qwen3"\n'
        'slots = 64\ntimeout = 120\napi_key_env = "VLLM_KEY"\n'
        '[[tool]]\nmodule = "tools/weather.py"\nmax_instances = 2\ntimeout = 10\n'
    )
    assert config.core[1].slots == 64
    assert config.tool[0].max_instances == 2


def test_what_the_configuration_tells_of_itself_are_fields_it_has() -> None:
    told = re.findall(r"`(\w+)`", str(Config.__doc__))
    assert set(told) <= set(Config.__struct_fields__)
