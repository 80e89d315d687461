"""A folder's `tokenizer.json`, through the library that made the format. Knows no template and no model.

The library cuts text into tokens; what bytes a token stands for is read from the file, since it may be half a
character. Special tokens are never made from what people write: see `encode_parts`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .dialect import Dialect, Reasoning
from .grammar import Vocabulary
from .shape import ModelError
from .weights import read_json

MARK = "\ufdd0"
"""A character that no text may hold (Unicode says so), put into what people wrote that looks like a special token."""
TOOL_MARKS = frozenset({"<tool_call>", "</tool_call>", "[ARGS]", "[CALL_ID]"})
"""Many files call these special; yet they stand within an answer, where its calls are, as text does."""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def tokenizer_of(folder: Path) -> Any:
    """The folder's tokenizer as its library has it; it cuts nothing off and fills nothing up. Raises ModelError, and
    ModuleNotFoundError without the `tokenizers` package."""
    from tokenizers import Tokenizer  # an extra: our own model does without it

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing narrower
        if type(error) is not Exception:
            raise
        raise ModelError(f"tokenizer.json cannot be used: {str(error)[:200]}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class ForeignTokenizer:
    """`size` is the model's vocabulary: what the file has fewer is filled with tokens that nobody may say."""

    def __init__(self, folder: Path, size: int) -> None:
        """Raises ModelError that names the file, and ModuleNotFoundError without the `tokenizers` package."""
        said = read_json(folder / "tokenizer.json")
        self._whole, self._plain = tokenizer_of(folder), tokenizer_of(folder)
        self._plain.encode_special_tokens = True  # as text, that is
        added = self._whole.get_added_tokens_decoder()
        self.tokens, self.drops_first_space = _bytes_of(self._whole, said, added, size)
        self.special: dict[str, int] = {each.content: index for index, each in added.items() if each.special}
        self.tokens += [b""] * (size - len(self.tokens))
        self._unused = [index for index, token in enumerate(self.tokens) if not token]
        contents = sorted((c for c in self.special if c), key=len, reverse=True)
        self._specials = re.compile("|".join(map(re.escape, contents)) or r"(?!)")

    def id_of(self, text: str) -> int | None:
        """The token that is called just so."""
        found: int | None = self._whole.token_to_id(text)
        return found

    def encode(self, text: str) -> list[int]:
        """Tokens of text in which nothing is special."""
        ids: list[int] = self._plain.encode(_sound(text), add_special_tokens=False).ids
        return ids

    def encode_rendered(self, text: str) -> list[int]:
        """Tokens of what a template gave: specials are special, but for those that `defused` has marked."""
        if MARK not in text:
            ids: list[int] = self._whole.encode(_sound(text), add_special_tokens=False).ids
            return ids
        found: list[int] = []
        at = 0
        for match in self._specials.finditer(text):
            found += self._part(text[at : match.start()])
            found.append(self.special[match.group()])
            at = match.end()
        return found + self._part(text[at:])

    def _part(self, text: str) -> list[int]:
        return self.encode(text.replace(MARK, "")) if text else []

    def defused(self, text: str) -> str:
        """`text` that `encode_rendered` will not take for special tokens, wherever a template puts it."""
        text = text.replace(MARK, "\ufffd")
        return self._specials.sub(lambda match: match.group()[0] + MARK + match.group()[1:], text)

    def vocabulary(
        self, *, ends: Sequence[int], dialect: Dialect | None, reasoning: Reasoning | None = None
    ) -> Vocabulary:
        """As the engine needs it; the first of `ends` is the usual one."""
        call = self.id_of(dialect.opening) if dialect is not None else None
        thinks = () if reasoning is None else (self.id_of(reasoning.opening), self.id_of(reasoning.closing))
        marks = frozenset(index for text, index in self.special.items() if text in TOOL_MARKS)
        return Vocabulary(
            self.tokens,
            end=ends[0],
            call=call,
            bos=ends[0],
            special=frozenset([*self.special.values(), *self._unused]) - marks - set(thinks),
            encode=self.encode,
            dialect=dialect,
            ends=frozenset(ends),
            marks=marks,
            drops_first_space=self.drops_first_space,
            reasoning=reasoning,
            think=thinks[0] if thinks else None,
        )


def _bytes_of(tokenizer: Any, said: Mapping[str, Any], added: Mapping[int, Any], size: int) -> tuple[list[bytes], bool]:
    """The bytes of each token by its id, below `size`, and whether the first one of an answer loses its space."""
    kinds = set(_decoders(said.get("decoder")))
    read: Callable[[str], bytes]
    if "ByteLevel" in kinds:
        read = functools.partial(_lettered, _byte_letters())
    elif kinds & {"ByteFallback", "Metaspace", "Replace"}:
        read = _spaced
    else:
        names = ", ".join(sorted(kinds)) or "none"
        raise ModelError(f"tokenizer.json has a decoder of kind {names}; supported are ByteLevel and Metaspace")
    tokens: list[bytes] = []
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)  # some ids may be left out
    if largest >= size:
        raise ModelError(f"tokenizer.json has a token number {largest}, and config.json says vocab_size {size}")
    for index in range(largest + 1):
        token = tokenizer.id_to_token(index)
        if index in added:
            tokens.append(added[index].content.encode())
        else:
            tokens.append(read(token) if token is not None else b"")
    return tokens, "ByteLevel" not in kinds and bool(kinds & {"Strip", "Metaspace"})


def _sound(text: str) -> str:
    """`text` without halves of surrogate pairs, which no UTF-8 can hold; a template can write them."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _decoders(said: Any) -> list[str]:
    if not isinstance(said, Mapping):
        return []
    inner = said.get("decoders")
    return [name for each in inner for name in _decoders(each)] if inner else [str(said.get("type"))]


def _lettered(table: Mapping[str, bytes], token: str) -> bytes:
    return b"".join(table.get(letter) or letter.encode() for letter in token)


def _spaced(token: str) -> bytes:
    if match := _BYTE.fullmatch(token):
        return bytes([int(match[1], 16)])
    return token.replace("\u2581", " ").encode()


def _byte_letters() -> dict[str, bytes]:
    """The letter that stands for each byte in a byte-level vocabulary: printable ones for themselves, the others from
    256 on (GPT-2's table)."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    letters = {chr(byte): bytes([byte]) for byte in own}
    return letters | {chr(256 + n): bytes([byte]) for n, byte in enumerate(others)}
