"""What a file is, and the text in its bytes, whatever they are: text only where it looks like one, each letter in its
place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.kernel.storage.knowledge.formats import format_of, places, suffix_of, text_of, text_of_page


@pytest.mark.parametrize(
    ("path", "head", "format"),
    [
        ("a.md", b"", "markdown"),
        ("notes.v2/a.TXT", b"", "text"),
        ("src/x.PY", b"", "code"),
        ("Makefile", b"", "code"),
        ("table.tsv", b"", "csv"),
        ("page.htm", b"", "html"),
        ("page", b"\xef\xbb\xbf\n <!DOCTYPE html><p>", "html"),
        ("page", b"<!-- saved --> <html lang=en>", "html"),
        ("x.txt", b"%PDF-1.7\n", "pdf"),
        ("x.pdf", b"no", "pdf"),
        (".md", b"", "text"),
        ("noname", b"a < b", "text"),
    ],
)
def test_a_file_is_what_its_name_says_unless_its_first_bytes_know_better(path: str, head: bytes, format: str) -> None:
    assert format_of(path, head) == format


def test_a_suffix_is_what_follows_the_last_dot_of_a_name() -> None:
    assert [suffix_of(path) for path in ("a.b/c.Md", "a.b/c", ".profile", "x.tar.gz", "")] == ["md", "", "", "gz", ""]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("Grüße, 世界".encode(), "Grüße, 世界"),
        ("Grüße".encode("utf-8-sig"), "Grüße"),
        ("Grüße 世界".encode("utf-16"), "Grüße 世界"),
        (b"\xfe\xff" + "Grüße".encode("utf-16-be"), "Grüße"),
        ("Grüße aus Köln".encode("latin-1"), "Grüße aus Köln"),
        ("“quoted” – and more".encode("cp1252"), "“quoted” – and more"),
        (b"", ""),
    ],
)
def test_texts_are_read_in_the_encodings_that_they_are_written_in(data: bytes, text: str) -> None:
    found = text_of(data)
    assert found is not None
    assert found.text == text


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"\x7fELF\x02\x01\x01" + bytes(9),
        bytes(range(1, 256)) * 10,
        "Привет, как дела".encode("cp1251"),
        b"\xff\xfe\x00\xd8",
        b"\xef\xbb\xbf\xff",
        b"text and \0 more",
    ],
)
def test_what_is_no_text_is_left_out(data: bytes) -> None:
    assert text_of(data) is None


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ('<meta charset="shift_jis"><p>日本語'.encode("shift_jis"), "日本語"),
        ("<?xml version='1.0' encoding='windows-1251'?><p>Привет".encode("cp1251"), "Привет"),
        ('<meta http-equiv=x content="text/html; charset=koi8-r"><p>Привет'.encode("koi8-r"), "Привет"),
        (b'<meta charset="idna"><p>plain', "plain"),
        ('<meta charset="latin-1"><p>世'.encode(), "世"),
    ],
)
def test_a_page_may_say_how_it_is_written(data: bytes, text: str) -> None:
    found = text_of_page(data)
    assert found is not None
    assert found.text.endswith(text)


@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=80).filter(lambda t: t.isprintable()),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252"]),
    cuts=st.lists(st.integers(0, 80), max_size=6),
)
def test_every_place_in_a_text_is_a_place_in_its_bytes(text: str, encoding: str, cuts: list[int]) -> None:
    try:
        data = text.encode(encoding)
    except UnicodeEncodeError:
        return
    data = b"\xfe\xff" + data if encoding == "utf-16-be" else data
    found = text_of(data)
    if found is None:
        return
    at = sorted(min(cut, len(found.text)) for cut in [0, *cuts, len(found.text)])
    begins = places(found, at)
    assert begins[-1] == len(data)
    for start, end, begin, stop in zip(at, at[1:], begins, begins[1:], strict=False):
        assert data[begin:stop].decode(found.encoding) == found.text[start:end]
