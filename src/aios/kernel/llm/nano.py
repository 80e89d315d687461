"""The packaged model as a core. Knows its files and its tokenizer; how it runs is `own.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from .local.chat import ChatTemplate
from .local.grammar import Vocabulary
from .local.load import load
from .local.shape import ModelError
from .local.tokenizer import Tokenizer
from .own import Model, OwnCore

WEIGHTS = Path(__file__).parent / "local" / "weights"


class NanoCore(OwnCore):
    """`folder` holds config.json, model.safetensors and tokenizer.json; None means the packaged model."""

    kind = "nano"

    def __init__(
        self,
        name: str = "nano",
        *,
        slots: int = 8,
        kv_bytes: int = 512 << 20,
        prefix_bytes: int = 64 << 20,
        folder: Path | None = None,
        model: str = "aios-nano",
        snapshot: Literal["logits", "text"] = "logits",
    ) -> None:
        super().__init__(
            name,
            model,
            lambda: _read(folder or WEIGHTS),
            slots=slots,
            kv_bytes=kv_bytes,
            prefix_bytes=prefix_bytes,
            is_quick=True,
            snapshot=snapshot,
        )


def _read(folder: Path) -> Model:
    try:
        tokenizer = Tokenizer.load(folder / "tokenizer.json")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} holds no tokenizer.json of the packaged kind: {error!r:.200}") from None
    try:
        decoder = load(folder)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from None
    return Model(decoder, vocabulary_of(tokenizer), ChatTemplate(tokenizer))


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    special = tokenizer.special
    return Vocabulary(
        tokenizer.tokens,
        end=special["<|end|>"],
        call=special["<|call|>"],
        bos=special["<|bos|>"],
        special=frozenset(special.values()),
        encode=tokenizer.encode,
    )
