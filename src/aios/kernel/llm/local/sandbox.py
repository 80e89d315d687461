"""Chat templates in Jinja, run where they can do no harm. Knows no tokens, messages or tools.

A template comes with a model's files, so it is a stranger's program. Jinja's sandbox keeps it from attributes that are
not its business; what is added here is that it comes to an end: each turn of a loop, each filter, test, operator and
call is counted, none of them takes long, since no text and no list with all that is in it may grow past a limit, and
what is built altogether is bounded too. All that can be written in a template is built of these.
"""

from __future__ import annotations

import datetime
import functools
import json
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from .allowance import MAX_BITS, Allowance, TemplateFault

MAX_SOURCE = 200_000
_UNWANTED_FILTERS = (
    "batch",
    "center",
    "filesizeformat",
    "forceescape",
    "format",
    "pprint",
    "random",
    "round",
    "slice",
    "striptags",
    "sum",
    "truncate",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
)
_UNWANTED_METHODS = frozenset(
    {"center", "encode", "expandtabs", "format", "format_map", "ljust", "rjust", "to_bytes", "translate", "zfill"}
)


class TemplateRefusal(ValueError):
    """The template says that this conversation is none it was made for."""


class Program:
    """One template. Several threads may call `render`."""

    def __init__(self, source: str, *, now: Callable[[], float] = time.thread_time) -> None:
        """`now` is the time that the thread has computed. Raises TemplateFault when it cannot be compiled."""
        self._now = now
        if len(source) > MAX_SOURCE:
            raise TemplateFault(f"it has {len(source)} characters; at most {MAX_SOURCE} are allowed")
        self._environment = _Environment()
        self._environment.begin(Allowance(now))  # constants are worked out while it is compiled
        try:
            self._template = self._environment.from_string(source)
        except (TemplateError, RecursionError, SyntaxError) as error:
            raise TemplateFault(
                f"it cannot be read{_line(error)}: {str(error)[:200] or type(error).__name__}"
            ) from None

    def render(self, **variables: Any) -> str:
        """Raises TemplateFault, and TemplateRefusal with the template's own words."""
        limits = self._environment.begin(Allowance(self._now))
        try:
            pieces, size = [], 0
            for piece in self._template.generate(**variables):
                size += len(piece)
                limits.check_size(size)
                pieces.append(piece)
            return "".join(pieces)
        except SecurityError as error:
            raise TemplateFault(f"it reaches for what it may not have{_line(error)}: {str(error)[:200]}") from None
        except RecursionError:
            raise TemplateFault("it calls itself without end") from None
        except (TemplateError, TypeError, ValueError, KeyError, ArithmeticError, AttributeError, LookupError) as error:
            if isinstance(error, TemplateFault | TemplateRefusal):
                raise
            raise TemplateFault(f"it failed{_line(error)}: {type(error).__name__}: {str(error)[:200]}") from None


class _Space(Namespace):
    """What `namespace` gives. Shown it would show all that is in it, which nobody has weighed."""

    def __repr__(self) -> str:
        return "<namespace>"


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks what a model is trained to say; here it is its content."""

    tags = {"generation"}  # noqa: RUF012 - as the base class declares it

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


class _Environment(ImmutableSandboxedEnvironment):
    """As the chat templates of models expect it, with limits."""

    intercepted_binops = frozenset({"+", "*", "**", "%", "//"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation], autoescape=False, cache_size=0
        )
        self._here = threading.local()
        for name in _UNWANTED_FILTERS:
            self.filters.pop(name, None)
        for name in ("lipsum", "cycler", "joiner"):
            self.globals.pop(name, None)
        self.filters |= {
            "tojson": _to_json,
            "joined": self._joined,
            "indent": self._indent,
            "join": self._join,
            "replace": self._replace,
            "round": _rounded,
            "sum": _sum,
        }
        self.filters = {name: self._counted(made) for name, made in self.filters.items()} | {
            "step": self._step,
            "built": self._built,
        }
        self.tests = {name: self._counted(made) for name, made in self.tests.items()}
        self.globals |= {
            "raise_exception": _refuse,
            "strftime_now": _now_as,
            "range": self._range,
            "namespace": _Space,
        }

    def _counted(self, made: Any) -> Callable[..., Any]:
        @functools.wraps(made)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.limits.step()
            return self.limits.built(made(*args, **kwargs))

        return counted

    def begin(self, limits: Allowance) -> Allowance:
        """What this thread renders from here on is held to `limits`."""
        self._here.limits = limits
        return limits

    @property
    def limits(self) -> Allowance:
        found: Allowance = self._here.limits
        return found

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """The tree, with a step counted wherever something may run again, and lists and joined texts weighed."""
        tree: nodes.Template = _Weighed(self).visit(super()._parse(source, name, filename))
        for body in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)):
            counted: Any = body  # all of these have a body
            step = nodes.Filter(nodes.Const(True), "step", [], [], None, None)
            counted.body.insert(0, nodes.ExprStmt(step).set_lineno(body.lineno).set_environment(self))
        for loop in tree.find_all(nodes.For):
            if loop.test is not None:  # turns that it leaves out are turns as well
                step = nodes.Filter(nodes.Const(True), "step", [], [], None, None)
                loop.test = nodes.And(step, loop.test).set_lineno(loop.lineno).set_environment(self)
        for text in tree.find_all(nodes.Concat):
            joined: Any = nodes.Filter(nodes.List(text.nodes[:]), "joined", [], [], None, None)
            text.nodes = [joined.set_environment(self)]
        return tree

    @pass_context  # or else it would be worked out beforehand, once
    def _step(self, context: Any, value: Any) -> Any:
        self.limits.step()
        return value

    @pass_context
    def _built(self, context: Any, value: Any) -> Any:
        self.limits.step()
        return self.limits.built(value)

    def concat(self, parts: Iterable[str]) -> str:
        # Of what blocks and macros give.
        pieces, size = [], 0
        for piece in parts:
            size += len(piece)
            self.limits.check_size(size)
            pieces.append(piece)
        whole: str = self.limits.built("".join(pieces))
        return whole

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str | int) and attr in _UNWANTED_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"the attribute {attribute!r:.60} of {type(obj).__name__!r} is unsafe")

    def wrap_str_format(self, value: Any) -> Any:
        if super().wrap_str_format(value) is not None:
            raise SecurityError("texts may not be formatted")
        return None

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.limits.step()
        if operator == "**":
            raise SecurityError("the operator ** is not allowed")
        if operator == "%" and isinstance(left, str):
            raise SecurityError("texts may not be formatted")
        if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            self.limits.check_size(len(left) + len(right))
        if operator == "*":
            self._check_product(left, right)
        return self.limits.built(super().call_binop(context, operator, left, right))

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.limits.step()
        self.limits.weight((args, kwargs))
        # A text's own methods that make longer ones: only these are left.
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str) and name == "replace":
            return self._replace(owner, *args, **kwargs)
        if isinstance(owner, str) and name == "join" and args:
            return self._parts_joined(owner, args[0])
        return self.limits.built(super().call(context, obj, *args, **kwargs), is_all_new=True)

    def _check_product(self, left: Any, right: Any) -> None:
        for text, count in ((left, right), (right, left)):
            if hasattr(text, "__len__") and isinstance(count, int):
                self.limits.check_size(len(text) * max(count, 0))
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > MAX_BITS:
            raise TemplateFault(f"it makes a number of more than {MAX_BITS} bits")

    def _parts_joined(self, glue: str, parts: Any) -> str:
        texts = [str(part) for part in parts]
        self.limits.check_size(sum(map(len, texts)) + len(glue) * len(texts))
        return glue.join(texts)

    def _join(self, parts: Any, d: str = "", attribute: str | int | None = None) -> str:
        if attribute is not None:
            parts = [self.getitem(part, attribute) for part in parts]
        return self._parts_joined(str(d), parts)

    def _joined(self, parts: list[Any]) -> str:
        return self._parts_joined("", parts)

    def _replace(self, text: Any, old: str, new: str, count: int = -1) -> str:
        text, old, new = str(text), str(old), str(new)
        times = text.count(old) if count is None or count < 0 else min(count, text.count(old))
        self.limits.check_size(len(text) + times * max(0, len(new) - len(old)))
        made: str = text.replace(old, new, times)
        return made

    def _indent(self, text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        margin = " " * min(width, 100) if isinstance(width, int) else str(width)[:100]
        lines = str(text).splitlines() or [""]
        self.limits.check_size(len(str(text)) + len(margin) * len(lines))
        rest = [margin + line if line or blank else line for line in lines[1:]]
        return "\n".join([margin + lines[0] if first else lines[0], *rest])

    def _range(self, *bounds: int) -> range:
        found = range(*bounds)
        self.limits.check_size(len(found) * 100)
        return found


class _Weighed(NodeTransformer):
    """Puts a filter around each list, tuple, dict and slice that is written in a template, so that it is weighed."""

    def __init__(self, environment: _Environment) -> None:
        self._environment = environment

    def visit_List(self, node: Any) -> Any:
        self.generic_visit(node)
        if all(isinstance(item, nodes.Const) for item in node.items) or getattr(node, "ctx", "load") != "load":
            return node
        return self._weighed(node)

    visit_Tuple = visit_Dict = visit_List

    def visit_Getitem(self, node: Any) -> Any:
        self.generic_visit(node)
        return self._weighed(node) if isinstance(node.arg, nodes.Slice) else node

    def _weighed(self, node: Any) -> nodes.Node:
        weighed = nodes.Filter(node, "built", [], [], None, None).set_lineno(node.lineno)
        return weighed.set_environment(self._environment)


def _sum(items: Any, attribute: str | int | None = None, start: float = 0) -> float:
    """Of numbers: lists would be copied once for each that is added."""
    total = start
    for item in items:
        total += item if attribute is None else item[attribute]
        if not isinstance(total, int | float):
            raise TypeError("only numbers can be summed up")
    return total


def _rounded(value: float, precision: int = 0, method: str = "common") -> float:
    if method not in ("common", "ceil", "floor"):
        raise ValueError("round takes common, ceil or floor")
    unit: float = 10.0 ** min(max(precision, -300), 300)
    return round(value, precision) if method == "common" else getattr(math, method)(value * unit) / unit


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    indent = min(indent, 8) if isinstance(indent, int) else None
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: Any = "") -> NoReturn:
    raise TemplateRefusal(str(message)[:300])


def _now_as(form: str) -> str:
    """Today's date, the same all day: a prompt that changed with each second could share no prefix."""
    today = datetime.datetime.now().replace(hour=0, minute=0, second=0, microsecond=0)
    return today.strftime(str(form)[:100])


def _line(error: BaseException) -> str:
    number = getattr(error, "lineno", None)
    if number is None:
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == "<template>":
                number = trace.tb_lineno
            trace = trace.tb_next
    return f" (line {number})" if number else ""
