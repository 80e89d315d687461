"""One generation with all its state: tokens, KV, sampler, guide and text. Knows no batch, thread or request format.

It may be taken out of the engine after any token and put back later, as it is or through bytes: what it says is the
same. The bytes are a plain header and raw arrays with a checksum, good for an engine of the same fingerprint only.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from .grammar import Grammars, Guide
from .kv import KV, KVPool
from .linear import F32
from .sampler import Logprob, Sampler, Sampling
from .text import TextStream

Finish = Literal["stop", "length", "tool_calls"]
_MAGIC = b"AIOSSEQ1"


class SnapshotError(ValueError):
    """Bytes that are no snapshot, are damaged, or belong to another engine."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What is to be generated. `answer` and `call` are schemas of `grammar`; `max_tokens` is at least 1."""

    prompt: tuple[int, ...]
    max_tokens: int
    min_tokens: int = 0
    stops: tuple[str, ...] = ()
    answer: str | None = None
    call: str | None = None
    may_call: bool = False
    must_call: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    group: str = ""
    """Whose prefixes it may share."""

    @property
    def longest(self) -> int:
        """Tokens of the finished sequence, at most. The last one is never computed."""
        return len(self.prompt) + self.max_tokens


class Sequence:
    """`kv` is None until the engine admits it, while it is moved aside, and after its end."""

    def __init__(self, id: str, spec: Spec, grammars: Grammars) -> None:
        vocabulary = grammars.vocabulary
        may_call = spec.may_call or spec.must_call
        self.id = id
        self.spec = spec
        self.output: list[int] = []
        self.computed = 0
        """Positions whose keys and values are in `kv`."""
        self.num_cached = 0
        """Those of them that an earlier prompt had computed."""
        self.kv: KV | None = None
        self.aside: F32 | None = None
        """What `kv` held, while it is moved aside."""
        self.sampler = Sampler(spec.sampling, len(vocabulary.tokens), vocabulary.banned(may_call=may_call))
        self.guide = Guide(
            grammars, answer=spec.answer, call=spec.call, may_call=spec.may_call, must_call=spec.must_call
        )
        self.text = TextStream(spec.stops)
        self.call_bytes = b""
        """What followed the call token."""
        self.logprobs: list[Logprob] = []
        """Of the text's tokens, when asked for."""
        self.finish: Finish | None = None
        self.error: ValueError | None = None
        self._fresh: list[str] = []
        self._vocabulary = vocabulary

    @property
    def is_prefilled(self) -> bool:
        return bool(self.output)

    def choose(self, logits: F32) -> None:
        """Take the next token from `logits` and draw its consequences."""
        allowed = self.guide.allowed()
        if len(self.output) < self.spec.min_tokens:
            go_on = self._vocabulary.not_end if allowed is None else allowed & self._vocabulary.not_end
            allowed = go_on if go_on.any() else allowed  # a grammar that is at its end wins over min_tokens
        token = self.sampler.choose(logits, allowed)
        if self.spec.sampling.logprobs is not None and token != self._vocabulary.end and not self._is_call(token):
            self.logprobs.append(self.sampler.logprob(logits, token))
        self._accept(token)

    @property
    def has_text(self) -> bool:
        """Whether `take_text` would give any."""
        return any(self._fresh)

    def take_text(self) -> str:
        """The text that became certain since the last time."""
        text = "".join(self._fresh)
        self._fresh.clear()
        return text

    def _is_call(self, token: int) -> bool:
        return self.guide.in_call or token == self._vocabulary.call

    def _accept(self, token: int) -> None:
        self.output.append(token)
        is_text = not self._is_call(token)
        self.guide.accept(token)
        if token == self._vocabulary.end or self.guide.is_complete:
            self.finish = "tool_calls" if self.guide.in_call else "stop"
        if token == self._vocabulary.end:
            pass
        elif is_text:
            self._fresh.append(
                self.text.feed(self._vocabulary.tokens[token], may_stop=len(self.output) >= self.spec.min_tokens)
            )
            if self.text.is_stopped:
                self.finish = "stop"
        elif token != self._vocabulary.call:
            self.call_bytes += self._vocabulary.tokens[token]
        if self.finish is None and len(self.output) >= self.spec.max_tokens:
            self.finish = "length"
        if self.finish is not None:
            self._fresh.append(self.text.finish())

    # ── out of the pool, to bytes, and back ──

    def move_aside(self) -> int | None:
        """Take the keys and values out of their pool; returns the bytes that were reserved there, None without any."""
        if self.kv is None:
            return None
        reserved, self.aside = self.kv.reserved, self.kv.export(self.computed)
        self.release()
        return reserved

    def move_back(self, pool: KVPool) -> None:
        """Undo `move_aside`. Raises MemoryError when `pool` is full."""
        if self.aside is not None:
            self._load(pool, self.aside)
            self.aside = None

    def release(self) -> None:
        """Give the KV back to its pool."""
        if self.kv is not None:
            self.kv.free()
            self.kv = None

    def _load(self, pool: KVPool, keys: F32) -> None:
        self.kv = pool.open(self.spec.longest, now=self.computed + 1)
        self.kv.load(keys)

    def to_bytes(self, fingerprint: str) -> bytes:
        """All of an unfinished sequence. `fingerprint` is the engine's."""
        keys = self.kv.export(self.computed) if self.kv is not None else self.aside
        if keys is None:
            raise SnapshotError("a sequence without KV has nothing to save: it has not begun, or it is over")
        header = {
            "fingerprint": fingerprint,
            "id": self.id,
            "spec": asdict(self.spec),
            "output": self.output,
            "computed": self.computed,
            "sampler": self.sampler.state(),
            "logprobs": self.logprobs,
            "kv": keys.shape,
        }
        text = json.dumps(header).encode()
        body = _MAGIC + struct.pack("<Q", len(text)) + text + keys.tobytes()
        return body + hashlib.sha256(body).digest()

    @classmethod
    def from_bytes(cls, data: bytes, fingerprint: str, grammars: Grammars, pool: KVPool) -> Sequence:
        """The sequence that `to_bytes` saved, with KV from `pool`. Raises SnapshotError, or MemoryError if full."""
        header, keys = _unpack(data)
        if header["fingerprint"] != fingerprint:
            raise SnapshotError(
                f"this snapshot was made by engine {header['fingerprint']}, and this is {fingerprint}: "
                "its numbers would not be continued exactly; generate anew from the prompt"
            )
        sequence = cls(header["id"], _spec(header["spec"]), grammars)
        for token in header["output"]:
            sequence._accept(token)
        sequence._fresh.clear()
        sequence.sampler.restore(header["sampler"], sequence.output)
        sequence.logprobs = [Logprob(t, p, tuple(map(tuple, top))) for t, p, top in header["logprobs"]]
        sequence.computed = header["computed"]
        sequence._load(pool, keys)
        return sequence


def _unpack(data: bytes) -> tuple[dict[str, Any], F32]:
    body, checksum = data[:-32], data[-32:]
    if data[:8] != _MAGIC or len(data) < 48:
        raise SnapshotError("these bytes are not a snapshot of a sequence")
    if hashlib.sha256(body).digest() != checksum:
        raise SnapshotError("the snapshot is damaged: its checksum does not match")
    (length,) = struct.unpack_from("<Q", body, 8)
    header = json.loads(body[16 : 16 + length])
    keys = np.frombuffer(body, np.float32, offset=16 + length).reshape(header["kv"])
    return header, keys


def _spec(saved: dict[str, Any]) -> Spec:
    sampling = saved.pop("sampling")
    sampling["logit_bias"] = {int(token): bias for token, bias in sampling["logit_bias"].items()}
    saved["prompt"] = tuple(saved["prompt"])
    saved["stops"] = tuple(saved["stops"])
    return Spec(**saved, sampling=Sampling(**sampling))
