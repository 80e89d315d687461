"""The paper's figure 4 on the packaged model: what it shows is so, and it would say if it were not."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from aios.cli import demo_context
from aios.eval import figure4
from aios.eval.figure4 import Node, Shown, show


@pytest.fixture(scope="module")
def shown() -> Shown:
    return show()


def nodes(root: Node) -> list[Node]:
    return [root, *(each for child in root.children for each in nodes(child))]


def test_a_search_interrupted_in_its_middle_says_the_same_from_either_form(shown: Shown) -> None:
    assert [(way.form, way.is_equal) for way in shown.ways] == [("logits", True), ("text", True)]
    assert 2 < shown.after < shown.steps - 2
    assert len({text for text, _ in shown.lines}) == figure4.WIDTH
    assert shown.ways[0].bytes > 100 * shown.ways[1].bytes


def test_the_tree_holds_all_that_was_said_and_where_it_was_interrupted(shown: Shown) -> None:
    all_nodes = nodes(shown.tree)
    assert sum(node.cut is not None for node in all_nodes) == figure4.WIDTH
    assert sum(node.fate == "chosen" for node in all_nodes) == 1
    assert {"ended", "given up"} <= {node.fate for node in all_nodes}
    assert all(sum(child.chance for child in node.children) <= 1.0 + 1e-6 for node in all_nodes)

    def lines(node: Node, said: str = "") -> list[str]:
        said += node.text
        return [said] if not node.children else [each for child in node.children for each in lines(child, said)]

    assert shown.answer in lines(shown.tree)


def test_it_is_drawn_and_told(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_context, "show", lambda: shown)
    screen = Console(file=io.StringIO(), width=100)
    with screen.capture() as captured:
        assert demo_context.play(as_json=False, console=screen)
    said = captured.get()
    for part in ("├──", "✂", "chosen", "given up", "as logits", "as text", "bit for bit", shown.answer):
        assert part in said


def test_a_search_that_goes_on_with_other_numbers_is_found_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = figure4.read

    def damaged(data: bytes) -> object:
        found = real(data)
        if found.arrays is None:
            return found
        return replace(found, arrays=[np.nextafter(array, np.float32(9)) for array in found.arrays])

    monkeypatch.setattr(figure4, "read", damaged)
    assert not demo_context.play(as_json=True)
    assert '"is_equal": false' in capsys.readouterr().out
