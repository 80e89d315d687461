"""`aios demo context`: the paper's figure 4 on a terminal. Knows what is shown; how it comes about is for `eval`."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from aios.eval.figure4 import QUESTION, WIDTH, Node, Shown, Way, show

from .console import print_json

_MARK = "✂"
_FATES = {"chosen": "bold green", "ended": "green", "given up": "dim"}
_FORMS = {
    "logits": ("as logits", "keys and values, all lines and their scores, the grammar's state"),
    "text": ("as text", "what was asked and said; keys and values are computed again"),
}


def play(*, as_json: bool, console: Console | None = None) -> bool:
    """Show it; whether both ways led to what the uninterrupted search says."""
    shown = show()
    if as_json:
        print_json(shown.to_dict())
    else:
        _print(shown, console or Console(highlight=False, soft_wrap=True))
    return all(way.is_equal for way in shown.ways)


def _print(shown: Shown, console: Console) -> None:
    console.print(Text("A beam search, interrupted in its middle", "bold"), Text("(figure 4 of the paper)", "dim"))
    console.print(f"  asked   {QUESTION}")
    console.print(f"  model   the packaged one; {WIDTH} lines at a time; it must call 'lookup' or 'search'")
    console.print()
    console.print(_tree(shown.tree))
    console.print(Text("  each stretch with its probability after what stands before it", "dim"))
    console.print()
    lines = f"{len(shown.lines)} lines under way, {shown.prompt_tokens + shown.after - 1} tokens of context each"
    console.print(Text(f"{_MARK} interrupted after step {shown.after} of {shown.steps}: ", "bold yellow"), lines)
    for text, score in shown.lines:
        console.print(Text(f"    {score:8.3f}  ", "dim").append(text, "cyan"))
    console.print()
    for way in shown.ways:
        console.print(_way(way))
    console.print()
    if all(way.is_equal for way in shown.ways):
        console.print(Text("Both say what the search says that nobody interrupted, bit for bit:", "bold green"))
    else:
        console.print(Text("A resumed search said something else than the one that nobody interrupted.", "bold red"))
    console.print(Text(f"  {shown.answer}", "bold"))


def _tree(root: Node) -> Tree:
    tree = Tree(_label(root), guide_style="dim")
    pending = [(tree, root)]
    while pending:
        branch, node = pending.pop()
        pending += [(branch.add(_label(child)), child) for child in node.children]
    return tree


def _label(node: Node) -> Text:
    """A stretch of text, cyan up to where it was interrupted; its probability after what stands before it."""
    style = _FATES.get(node.fate, "")
    if node.cut is None:
        label = Text(node.text, style)
    else:
        label = (
            Text(node.text[: node.cut], "cyan").append(f" {_MARK} ", "bold yellow").append(node.text[node.cut :], style)
        )
    label.append(f"  {_percent(node.chance)}", "dim")
    return label.append(f"  {node.fate}", style) if node.fate else label


def _percent(chance: float) -> str:
    if chance < 0.001:
        return f"1 in {1 / chance:,.0f}"
    return f"{chance:.0%}" if chance >= 0.1 else f"{chance:.1%}"


def _way(way: Way) -> Text:
    name, what = _FORMS[way.form]
    line = Text(f"  {name:<10}", "bold").append(f"{way.bytes:>10,} bytes", "cyan").append(f"  {what}\n", "dim")
    line.append(f"{'':<12}the engine is thrown away, another agent speaks; {way.ms:.1f} ms later it goes on: ")
    return line.append("equal in each step", "green") if way.is_equal else line.append("NOT EQUAL", "bold red")
