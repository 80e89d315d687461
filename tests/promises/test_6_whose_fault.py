"""Promise 6, whose fault: every error says whether agent, module, upstream or kernel is at fault, on each surface."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aios.abi import errors
from aios.abi.errors import AiosError
from aios.gateway.errors import native_error, openai_error


def tree(root: type[AiosError] = AiosError) -> Iterator[type[AiosError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from tree(kind)


@pytest.mark.parametrize("kind", sorted(set(tree()), key=lambda k: k.__name__))
def test_every_error_names_who_is_at_fault_in_one_shape_a_surface(kind: type[AiosError]) -> None:
    error = kind("what was wrong", param="x", call_id="c1")
    assert error.fault in ("agent", "module", "upstream", "kernel")
    assert (error.fault == "agent") == (400 <= error.status < 500)
    native, openai = native_error(error)["error"], openai_error(error)["error"]
    assert set(native) >= {"type", "code", "message", "fault", "call_id"}
    assert set(openai) == {"message", "type", "param", "code", "fault"}
    assert native["fault"] == openai["fault"] == error.fault


@pytest.mark.parametrize(
    "kind", sorted({k for k in tree() if k.__module__ == errors.__name__}, key=lambda k: k.__name__)
)
def test_a_client_raises_the_very_error_that_the_kernel_raised(kind: type[AiosError]) -> None:
    error = kind("what was wrong", param="x", retry_after=3, call_id="c1")
    again = errors.from_dict(error.status, error.to_dict())
    assert type(again) is kind
    assert again.to_dict() == error.to_dict()


def test_the_drawing_in_the_docstring_names_every_error_and_its_status_and_fault() -> None:
    drawn = [line.split() for line in (errors.__doc__ or "").splitlines() if "──" in line]
    for kind in tree():
        if kind.__module__ == errors.__name__:
            words = next(words for words in drawn if kind.__name__ in words)
            at = words.index(kind.__name__)
            assert words[at + 1 : at + 3] == [str(kind.status), kind.fault]
