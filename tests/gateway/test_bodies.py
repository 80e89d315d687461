"""Bodies that cannot be read: each refusal says what is wrong, where, and what to do."""

from __future__ import annotations

import json

import pytest
from served import ask, served

from aios.abi.calls import MemList, MemWrite, ProcSignal
from aios.abi.errors import BadRequest
from aios.gateway import body as bodies
from aios.gateway.body import read_args

pytestmark = pytest.mark.anyio

WRONG = {
    "bad UTF-8": (b'{"content":"a\xffb"}', ["byte 13", "0xff", "UTF-8"]),
    "bad UTF-8 in a name": (b'{"\xff":1}', ["byte 2", "UTF-8"]),
    "a surrogate's bytes": (b'{"content":"\xed\xa0\x80"}', ["byte 12", "UTF-8"]),
    "half a pair at the end": (b'{"content":"ab\\ud800"}', ["\\ud800 at byte 14", "both halves"]),
    "half a pair in the middle": (b'{"content":"\\ud83d\\ude00 \\uDBFFx"}', ["\\uDBFF at byte 25", "both halves"]),
    "the second half alone": (b'{"content":"\\udc00"}', ["\\udc00 at byte 12", "both halves"]),
    "half a pair after a backslash": (b'{"content":"\\\\\\ud800"}', ["\\ud800 at byte 14"]),
    "only a name": (b'{"content"', ["ends at byte 10", "send the whole"]),
    "a text that looks like half a pair": (b'{"content":"\\\\ud800"', ["ends at byte 20"]),
    "a fault before half a pair": (b'{"content":"a",x,"\\ud800"}', ["at byte 15"]),
    "only blanks": (b" \n", ["only blanks", "send a JSON object"]),
    "nothing": (b"", ["body is empty", "`content`", "send a JSON object"]),
    "NaN": (b'{"content":NaN}', ["at byte 11", "NaN"]),
    "a line break in a text": (b'{"content":"a\nb"}', ["at byte 13"]),
    "two documents": (b'{"content":"a"}{}', ["trailing characters at byte"]),
    "a form": (b"content=b&c=d", ["at byte 0", "content=b"]),
    "a byte order mark": (b"\xef\xbb\xbf{}", ["byte order mark"]),
    "UTF-16": ('{"content":"x"}'.encode("utf-16"), ["UTF-16", "UTF-8"]),
    "gzip": (b"\x1f\x8b\x08\x00", ["gzip", "uncompressed"]),
    "deep": (
        b'{"content":"[[","metadata":{"a":' + b"[" * 5000 + b"]" * 5000 + b"}}",
        ["level 501 begins at byte 530", "fewer than 500"],
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_body_that_cannot_be_read_is_told_where_and_what_to_do(what: str) -> None:
    body, words = WRONG[what]
    with pytest.raises(BadRequest) as caught:
        read_args(body, MemWrite)
    for word in words:
        assert word in caught.value.message
    assert "codec" not in caught.value.message
    assert "recursion" not in caught.value.message


def test_an_empty_body_is_no_arguments_where_none_are_needed() -> None:
    assert read_args(b"", MemList) == MemList()


def test_a_word_that_is_none_of_the_allowed_ones_is_told_them() -> None:
    with pytest.raises(BadRequest, match=r"'hup'.*must be 'cont' or 'exit' or 'kill'") as caught:
        read_args(b'{"pid": 1, "signal": "hup"}', ProcSignal)
    assert caught.value.param == "signal"


@pytest.mark.parametrize("shift", range(13))
def test_a_pair_across_the_bound_of_what_is_looked_at_is_not_half_a_character(
    shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MAX_ESCAPES", 100 + shift)
    with pytest.raises(BadRequest, match=r"ends at byte 610.* or holds half of"):
        read_args(b'{"content":' + b'"' + b"\\ud83d\\ude00" * 49 + b"\\ud83d\\u00", MemWrite)
    with pytest.raises(BadRequest, match=r"\\ud800 at byte 12 "):
        read_args(b'{"content":"' + b"\\ud800" * 50, MemWrite)


def test_to_say_where_a_hostile_body_is_deep_does_not_take_long() -> None:
    body = b'{"content":"x","metadata":{"a":[' + b"[]," * 100_000 + b"[" * 5000 + b"]" * 5000 + b"]}}"
    with pytest.raises(BadRequest, match="nested too deep; send fewer than 500 levels"):
        read_args(body, MemWrite)


async def test_what_no_one_knows_in_a_chat_is_read_with_the_same_care() -> None:
    async with served() as at:
        whole = json.dumps(ask()).encode()
        for odd in (b'"\xff"', b'"\\ud800"', b"[" * 5000 + b"]" * 5000):
            status, body, _ = await at.post("/v1/chat/completions", whole[:-1] + b', "odd": ' + odd + b"}")
            assert (status, body["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("levels", [400, 900, 940, 960, 980])
async def test_however_deep_a_body_is_its_depth_is_no_fault_of_the_kernel(levels: int) -> None:
    async with served() as at:
        deep = b"[" * levels + b"]" * levels
        written = b'{"content": "x", "metadata": {"a": ' + deep + b"}}"
        status, _, _ = await at.post("/aios/v1/calls/mem_write", written)
        assert status == 200 or (status == 400 and levels > 400)
        status, _, _ = await at.post("/aios/v1/calls/mem_list", b"{}")
        assert status == 200
        chat = json.dumps(ask()).encode()[:-1] + b', "odd": ' + deep + b"}"
        status, _, _ = await at.post("/v1/chat/completions", chat)
        assert status == 200 or (status == 400 and levels > 400)
