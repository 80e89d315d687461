"""A sequence as bytes, and back: a plain header, raw arrays, a checksum. Knows no pool, engine or file.

Good for an engine of the same fingerprint only: another one's numbers would not be continued exactly.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict
from typing import Any

import numpy as np

from .branch import Branch, Spec
from .grammar import Grammars
from .linear import F32
from .sampler import Logprob, Sampling
from .sequence import Sequence

_MAGIC = b"AIOSSEQ2"


class SnapshotError(ValueError):
    """Bytes that are no snapshot, are damaged, or belong to another engine."""


def to_bytes(sequence: Sequence, fingerprint: str) -> bytes:
    """All of an unfinished sequence. `fingerprint` is the engine's."""
    arrays = sequence.saved()
    if arrays is None:
        raise SnapshotError("a sequence without KV has nothing to save: it has not begun, or it is over")
    header = {
        "fingerprint": fingerprint,
        "id": sequence.id,
        "spec": asdict(sequence.spec),
        "computed": sequence.computed,
        "num_cached": sequence.num_cached,
        "num_chosen": sequence.num_chosen,
        "sampler": sequence.sampler.state(),
        "branches": [_branch(branch) for branch in sequence.branches],
        "ended": [_branch(branch) for branch in sequence.ended],
        "kv": arrays[0].shape,
        "kv_type": arrays[0].dtype.str,
    }
    text = json.dumps(header).encode()
    body = b"".join([_MAGIC, struct.pack("<Q", len(text)), text, *(array.tobytes() for array in arrays)])
    return body + hashlib.sha256(body).digest()


def from_bytes(data: bytes, fingerprint: str, grammars: Grammars) -> Sequence:
    """The sequence that `to_bytes` saved, moved aside: `move_back` gives it its memory. Raises SnapshotError."""
    header, arrays = _unpack(data)
    if header["fingerprint"] != fingerprint:
        raise SnapshotError(
            f"this snapshot was made by engine {header['fingerprint']}, and this is {fingerprint}: "
            "its numbers would not be continued exactly; generate anew from the prompt"
        )
    sequence = Sequence(header["id"], _spec(header["spec"]), grammars)
    sequence.branches = [_restored(saved, sequence.spec, grammars) for saved in header["branches"]]
    sequence.ended = [_restored(saved, sequence.spec, grammars) for saved in header["ended"]]
    sequence.computed, sequence.num_cached = header["computed"], header["num_cached"]
    sequence.num_chosen = header["num_chosen"]
    sequence.sampler.restore(header["sampler"], sequence.output)
    sequence.aside = arrays
    return sequence


def _branch(branch: Branch) -> dict[str, Any]:
    fresh = "".join(branch.fresh)
    return {"output": branch.output, "score": branch.score, "logprobs": branch.logprobs, "fresh": fresh}


def _restored(saved: dict[str, Any], spec: Spec, grammars: Grammars) -> Branch:
    branch = Branch(spec, grammars)
    for token in saved["output"]:
        branch.accept(token)
    branch.fresh = [saved["fresh"]] if saved["fresh"] else []
    branch.score = saved["score"]
    branch.logprobs = [Logprob(token, logprob, tuple(map(tuple, top))) for token, logprob, top in saved["logprobs"]]
    return branch


def _unpack(data: bytes) -> tuple[dict[str, Any], list[F32]]:
    body, checksum = data[:-32], data[-32:]
    if data[:8] != _MAGIC or len(data) < 48:
        raise SnapshotError("these bytes are not a snapshot of a sequence")
    if hashlib.sha256(body).digest() != checksum:
        raise SnapshotError("the snapshot is damaged: its checksum does not match")
    (length,) = struct.unpack_from("<Q", body, 8)
    header = json.loads(body[16 : 16 + length])
    keys = np.frombuffer(body, header["kv_type"], offset=16 + length)
    return header, list(keys.reshape(len(header["branches"]), *header["kv"]))


def _spec(saved: dict[str, Any]) -> Spec:
    sampling = saved.pop("sampling")
    sampling["logit_bias"] = {int(token): bias for token, bias in sampling["logit_bias"].items()}
    saved["prompt"] = tuple(saved["prompt"])
    saved["stops"] = tuple(saved["stops"])
    return Spec(**saved, sampling=Sampling(**sampling))
