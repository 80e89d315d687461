"""A model in a folder, as Hugging Face keeps them, as a core. Knows its files; how it runs is `own.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aios.abi.home import home_path

from ..config import HUB_NAME, CoreSection
from .hub import Progress, fetch, share
from .local.backend import AS_EVER, Compute
from .local.foreign_tokenizer import ForeignTokenizer
from .local.load import load
from .local.shape import ModelError
from .local.weights import read_json
from .own import Model, OwnCore


class FolderCore(OwnCore):
    """Of a `[[core]]` section of kind "local": `path` is the folder, or `hub` names a model that is fetched into one of
    `home`; `context_length` makes the window smaller."""

    kind = "local"

    def __init__(self, section: CoreSection, home: Path | None = None) -> None:
        self._folder = Path(section.path or "").expanduser()
        self._section = section
        self._home = home
        self._progress = Progress()
        compute = Compute(section.backend or "numpy", section.dtype or "f32", section.device or "cpu")
        super().__init__(
            section.name,
            section.model or section.hub or self._folder.name or section.name,
            lambda: read(self._folder, section.context_length, section.kv_bytes, compute),
            slots=section.slots,
            kv_bytes=section.kv_bytes,
            prefix_bytes=section.prefix_bytes,
            is_quick=False,
            snapshot=section.snapshot or "logits",
        )

    async def open(self) -> None:
        """Fetch the model if it is one of the hub's, then load it. Raises ModuleFault."""
        if self._section.hub is not None:
            home, revision = self._home or home_path(), self._section.revision or "main"
            self._folder = await fetch(home, self._section.hub, revision, self._note)
            self._progress = Progress()
        await super().open()

    def _note(self, progress: Progress) -> None:
        self._progress = progress

    def statistics(self) -> dict[str, Any]:
        progress = self._progress
        if not progress.total:
            return super().statistics()
        return {"progress": share(progress), "fetched_bytes": progress.done, "fetch_bytes": progress.total}


def read(folder: Path, context: int | None = None, kv_bytes: int = 0, compute: Compute = AS_EVER) -> Model:
    """The model in `folder`. Raises ModelError: what is wrong, in which file, and what to do."""
    if not folder.is_dir():
        is_name = re.fullmatch(HUB_NAME, str(folder)) is not None
        hint = f'; a model of the hub is written hub = "{folder}"' if is_name else ""
        raise ModelError(f"there is no folder {folder}{hint}")
    try:
        return _read(folder, context, kv_bytes, compute)
    except ModuleNotFoundError as error:
        raise ModelError(f"{error.name} is not installed; pip install 'aios-kernel[local]' brings it") from None
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from None


def _read(folder: Path, context: int | None, kv_bytes: int, compute: Compute) -> Model:
    from .local.foreign_chat import ForeignTemplate  # needs jinja2, which may not be here: that is told with the rest

    decoder = load(folder, context=context, kv_bytes=kv_bytes, compute=compute)
    tokenizer = ForeignTokenizer(folder, decoder.shape.vocabulary)
    template = ForeignTemplate(folder, tokenizer)
    ends = list(dict.fromkeys(_ends(folder, tokenizer)))
    if not ends:
        raise ModelError("neither generation_config.json nor config.json says eos_token_id: no answer would end")
    return Model(
        decoder, tokenizer.vocabulary(ends=ends, dialect=template.dialect, reasoning=template.reasoning), template
    )


def _ends(folder: Path, tokenizer: ForeignTokenizer) -> Iterator[int]:
    """The tokens that end an answer, the usual one first: what the tokenizer calls its end, then what configs say."""
    names = ("tokenizer_config.json", "generation_config.json", "config.json")
    said = [read_json(folder / name) for name in names if (folder / name).exists()]
    for config in said:
        token = config.get("eos_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and (index := tokenizer.id_of(token)) is not None:
            yield index
    for config in said:
        found = config.get("eos_token_id")
        for index in found if isinstance(found, list) else [found]:
            if isinstance(index, int) and 0 <= index < len(tokenizer.tokens):
                yield index
