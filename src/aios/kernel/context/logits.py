"""The logits-based snapshot: keys and values beside what was decided. Knows no engine or file.

It goes on with the next token at once, in an engine whose numbers are the same to the bit; any other one's would
deviate, and gets the text-based form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .base import About, Array, Buffer, Form, Snapshot, SnapshotError
from .pack import pack, unpack
from .text import TextSnapshot


@dataclass(frozen=True, slots=True)
class LogitsSnapshot:
    """A `Snapshot`. `arrays` are one for each line of tokens that goes on."""

    about: About
    state: bytes
    arrays: Sequence[Array]

    @property
    def form(self) -> Form:
        return "logits"

    @property
    def nbytes(self) -> int:
        return len(self.state) + sum(array.nbytes for array in self.arrays)

    def parts(self) -> list[Buffer]:
        return pack("logits", self.about, self.state, self.arrays)

    def as_text(self) -> TextSnapshot:
        return TextSnapshot(self.about, self.state)


def read(data: Buffer) -> Snapshot:
    """The snapshot that `parts` made, of either form. Raises SnapshotError, with what is left of a damaged one."""
    header, arrays, why = unpack(data)
    text = TextSnapshot(header.about, bytes(header.state))
    if arrays is None:
        raise SnapshotError(why or "the snapshot is damaged", text)
    if header.form == "text":
        return text
    return LogitsSnapshot(text.about, text.state, arrays)
