"""What a GGUF file says, and files that end too soon or claim too much. No llama.cpp is needed."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from aios.kernel.llm.gguf import file as gguf
from aios.kernel.llm.gguf.file import read_info
from aios.kernel.llm.local.shape import ModelError

UINT32, STRING, ARRAY = 4, 8, 9


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def header(*entries: tuple[str, int, bytes]) -> bytes:
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries) + 1)
    for name, kind, value in (("general.architecture", STRING, text("llama")), *entries):
        data += text(name) + struct.pack("<I", kind) + value
    return data


def numbers(*values: int) -> bytes:
    return struct.pack(f"<IQ{len(values)}I", UINT32, len(values), *values)


HEADS = ("llama.attention.head_count_kv", ARRAY, numbers(2, 2, 4, 4))
LONG = ("tokenizer.ggml.token_type", ARRAY, numbers(*range(2000)))


@pytest.mark.parametrize("last", [HEADS, LONG], ids=["a short list", "a long one"])
@pytest.mark.parametrize("missing", [1, 4, 6])
def test_a_file_that_ends_within_a_list_is_told_to_be_truncated(
    last: tuple[str, int, bytes], missing: int, tmp_path: Path
) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(header(last))
    assert read_info(path).architecture == "llama"
    path.write_bytes(header(last)[:-missing])
    with pytest.raises(ModelError, match="truncated"):
        read_info(path)


@pytest.mark.parametrize("value", [(STRING, text("x" * 2001)), (ARRAY, numbers(*range(501)))], ids=["a text", "a list"])
def test_a_value_that_would_fill_the_memory_is_not_read(
    value: tuple[int, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "MAX_VALUE", 2000, raising=False)
    path = tmp_path / "huge.gguf"
    path.write_bytes(header(("general.name", *value)))
    with pytest.raises(ModelError, match=r"is corrupt: a .* of 200\d bytes"):
        read_info(path)
