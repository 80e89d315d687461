"""What a file is by its name and its first bytes, and the text in its bytes. Knows no passage and no store."""

from __future__ import annotations

import codecs
import re
from typing import Literal, NamedTuple

Format = Literal["text", "markdown", "code", "csv", "html", "pdf"]

HEAD = 1024
"""Bytes that say what a file is."""
_SUFFIXES: dict[str, Format] = {
    **dict.fromkeys(("md", "markdown", "mdown", "mkd", "mdx", "qmd", "rmd", "rst"), "markdown"),
    **dict.fromkeys(("csv", "tsv"), "csv"),
    **dict.fromkeys(("html", "htm", "xhtml"), "html"),
    "pdf": "pdf",
    **dict.fromkeys(
        (
            *("py", "pyi", "js", "jsx", "mjs", "cjs", "ts", "tsx", "java", "kt", "kts", "scala", "groovy", "c", "h"),
            *("cc", "cpp", "cxx", "hh", "hpp", "cs", "m", "mm", "go", "rs", "rb", "php", "swift", "dart", "lua", "pl"),
            *("pm", "r", "jl", "hs", "ml", "mli", "fs", "clj", "ex", "exs", "erl", "el", "lisp", "scm", "nim", "zig"),
            *("v", "sv", "vhd", "asm", "s", "sh", "bash", "zsh", "fish", "ps1", "bat", "sql", "graphql", "proto", "tf"),
            *("css", "scss", "less", "vue", "svelte", "json", "jsonl", "yaml", "yml", "toml", "ini", "cfg", "conf"),
            *("xml", "xsl", "gradle", "cmake", "mk", "nix"),
        ),
        "code",
    ),
}
_NAMES: dict[str, Format] = dict.fromkeys(("makefile", "dockerfile", "rakefile", "gemfile", "jenkinsfile"), "code")
_HTML = re.compile(rb"\s*(?:<!--.{0,500}?-->\s*)?<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)

_BOMS = (("utf-8", codecs.BOM_UTF8), ("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE))
_STRANGE = bytes(set(range(32)) - set(b"\t\n\v\f\r\b\x1b")) + b"\x7f"
"""Control characters that texts do not hold."""
_HIGH = bytes(range(128, 256))
_DECLARED = re.compile(
    rb"<(?:meta\b[^>]{0,200}?|\?xml\b[^>]{0,200}?en)(?:charset|coding)\s*=\s*[\"']?([\w.:-]{1,40})", re.I
)
_FAMILIES = re.compile(
    r"utf-?8|(?:iso-?)?8859-?\d+|latin-?\d|(?:windows|cp)-?(?:125\d|874|932|936|949|950)|koi8-[ru]|shift_?jis|sjis"
    r"|euc[-_](?:jp|kr)|iso-2022-jp|gb2312|gbk|gb18030|big5(?:-hkscs)?|us-ascii|ascii"
)
"""Encodings that pages are written in. Python knows more under such names, and some of them take long."""


class Text(NamedTuple):
    """`text` is what `encoding` makes of the bytes from `skipped` on; back again, it makes the same bytes."""

    text: str
    encoding: str
    skipped: int = 0


def format_of(path: str, head: bytes) -> Format:
    """`head` is as much of the file as `HEAD`, or all. "text" may turn out to be none."""
    name = path.rpartition("/")[2].lower()
    suffix = suffix_of(path)
    if head.lstrip(b"\0\t\n\f\r ").startswith(b"%PDF-"):
        return "pdf"
    if (known := _SUFFIXES.get(suffix) or _NAMES.get(name)) is not None:
        return known
    return "html" if _HTML.match(head.removeprefix(codecs.BOM_UTF8)) else "text"


def suffix_of(path: str) -> str:
    """Without the dot, in small letters; "" without one."""
    name = path.rpartition("/")[2]
    return name.rpartition(".")[2].lower() if "." in name[1:] else ""


def text_of(data: bytes) -> Text | None:
    """None for what is no text, as far as can be told: it holds bytes that texts do not."""
    for encoding, bom in _BOMS:
        if data.startswith(bom):
            return _decoded(data, encoding, len(bom))
    if b"\0" in data or len(data) - len(data.translate(None, _STRANGE)) > len(data) // 1000:
        return None
    return _decoded(data, "utf-8") or _single_bytes(data)


def text_of_page(data: bytes) -> Text | None:
    """As `text_of`, for HTML, which may say how it is written."""
    found = text_of(data)
    if found is not None and found.encoding.startswith("utf"):
        return found
    declared = _DECLARED.search(data, 0, 2048)
    name = declared[1].decode().lower() if declared is not None else ""
    return (_decoded(data, name) if _FAMILIES.fullmatch(name) else None) or found


def _decoded(data: bytes, encoding: str, skipped: int = 0) -> Text | None:
    try:
        return Text(data[skipped:].decode(encoding), encoding, skipped)
    except (UnicodeDecodeError, LookupError):
        return None


def _single_bytes(data: bytes) -> Text | None:
    """A byte a letter: in languages that are written so most of them are ASCII."""
    num_high = len(data) - len(data.translate(None, _HIGH))
    if num_high > 0.3 * len(data):
        return None
    return _decoded(data, "cp1252") or _decoded(data, "latin-1")


def places(text: Text, at: list[int]) -> list[int]:
    """In which byte of the file each of the characters `at` begins, which are in order."""
    if text.encoding in ("cp1252", "latin-1"):
        return [text.skipped + each for each in at]
    found, last, size = [], 0, text.skipped
    for each in at:
        size += len(text.text[last:each].encode(text.encoding))
        last = each
        found.append(size)
    return found
