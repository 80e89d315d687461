"""HTML as a text: what a reader sees of it, with headings as Markdown writes them.

Runs in a process of its own (`host.py`), which knows nothing of ours.
"""

from __future__ import annotations

from html.parser import HTMLParser

UNSEEN = frozenset(
    ("script", "style", "template", "svg", "math", "iframe", "object", "canvas", "select", "datalist", "audio", "video")
)
"""Elements that are left out with all that is in them."""
HEADINGS = {f"h{level}": level for level in range(1, 7)}
BLOCKS = frozenset(
    (
        *("p", "div", "section", "article", "main", "header", "footer", "nav", "aside", "figure", "figcaption", "form"),
        *("blockquote", "address", "ul", "ol", "dl", "dt", "dd", "table", "caption", "hr", "body", "html", "head"),
        *("fieldset", "details", "summary", "center", "menu", "thead", "tbody", "tfoot"),
    )
)
LINES = frozenset(("li", "tr", "br", "option"))
"""A line of its own, but no paragraph."""


def convert(data: bytes, limit: int) -> tuple[str, str]:
    """The text of a document in UTF-8, at most `limit` characters, and what of it was not read, or ""."""
    page = _Page(limit)
    page.feed(data.decode())
    page.close()
    return page.text(), "" if page.has_room else f"only the first {limit:,} characters of its text were read"


class _Page(HTMLParser):
    def __init__(self, limit: int) -> None:
        super().__init__(convert_charrefs=True)
        self._left = limit
        self.has_room = True
        self._written: list[str] = []
        self._flow: list[str] = []
        """What was read of the block at hand."""
        self._prefix = ""
        self._gap = ""
        """Between what was written last and what comes."""
        self._unseen: list[str] = []
        self._num_pre = 0
        """In how many `pre` it is, where blanks and line breaks count."""

    def text(self) -> str:
        return "".join(self._written)

    def close(self) -> None:
        super().close()
        self._end_block("")

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if self._unseen:
            if tag == self._unseen[0]:
                self._unseen.append(tag)
            return
        if tag in UNSEEN:
            self._unseen.append(tag)
        elif tag in HEADINGS or tag == "title":
            self._end_block("\n\n")
            self._prefix = "#" * HEADINGS.get(tag, 1) + " "
        elif tag == "pre":
            self._end_block("\n\n")
            self._num_pre += 1
        elif tag in BLOCKS:
            self._end_block("\n\n")
        elif tag in LINES:
            self._end_block("\n")
            self._prefix = "- " if tag == "li" else ""
        elif tag in ("td", "th") and any(piece.strip() for piece in self._flow):
            self._flow.append(" | ")

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        if tag not in UNSEEN:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._unseen:
            if tag == self._unseen[0]:
                self._unseen.pop()
        elif tag in HEADINGS or tag in ("title", "pre") or tag in BLOCKS:
            self._end_block("\n\n")
            if tag == "pre" and self._num_pre:
                self._num_pre -= 1
        elif tag in LINES:
            self._end_block("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self._flow.append(data)

    def _end_block(self, gap: str) -> None:
        """Write what was read, if anything; what comes is so far from it."""
        flow = "".join(self._flow)
        self._flow.clear()
        if self._num_pre:
            # Deeper than headings and fences of Markdown may be.
            text = "\n".join("    " + line.rstrip() for line in flow.strip("\r\n").splitlines()) if flow.strip() else ""
        else:
            text = " ".join(flow.split())
            if text and not self._prefix and text.startswith(("#", "```", "~~~")):
                text = "\\" + text
        if text:
            self._write((self._gap if self._written else "") + self._prefix + text)
            self._gap = ""
            self._prefix = ""
        elif gap == "\n\n":
            self._prefix = ""
        self._gap = max(self._gap, gap, key=len)

    def _write(self, text: str) -> None:
        if self.has_room:
            self._written.append(text[: self._left])
            self._left -= len(text)
            self.has_room = self._left >= 0
