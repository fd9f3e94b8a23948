"""Chat templates of model folders, run in a Jinja sandbox with bounds.

A template is a program of whoever made the folder. What it may use is what transformers offers to
chat templates: Jinja's builtins, `tojson` without escapes, `raise_exception`, `strftime_now`,
`break` and `continue`, and `{% generation %}`, which is rendered as if it were not there. It sees
plain texts, lists and mappings, no attribute that begins with an underscore, no file and no other
template. A rendering has bounds on its steps (loop iterations, calls, filters), its processor time,
the length of every value that it makes and of all of them together, so that an endless or exploding
template ends in a ValueError within seconds. Time is looked at between steps: one comparison of
lists that hold themselves many times is not interrupted.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any, NoReturn

import jinja2
from jinja2 import filters, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import MAX_RANGE, ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MOST_SOURCE = 200_000  # characters of a template; the largest public ones have some 40,000
MOST_STEPS = 300_000  # loop iterations, calls and filters of one rendering
MOST_SECONDS = 2.0  # processor time of one rendering, which usually takes milliseconds
MOST_CHARACTERS = 2**23  # of one text, or items of one list
MOST_PRODUCED = 2**28  # characters and items of all values of one rendering together
MOST_BITS = 4096  # of an integer
MOST_INDENT = 64  # blanks of one level of indented JSON
# Filters that hand on the items of a list; the others make a text of what they are given.
LIST_FILTERS = set(
    "attr batch count d default dictsort first groupby items last length list map max min random "
    "reject rejectattr reverse select selectattr slice sort sum unique".split()
)


class TemplateMeter:
    """What one rendering may still use."""

    def __init__(self) -> None:
        self.steps, self.produced = MOST_STEPS, MOST_PRODUCED
        self.deadline = time.thread_time() + MOST_SECONDS

    def step(self) -> None:
        """Count one step."""
        self.steps -= 1
        if self.steps < 0:
            raise SecurityError(f"it takes more than {MOST_STEPS:,} steps")
        if self.steps % 64 == 0 and time.thread_time() > self.deadline:
            raise SecurityError(f"it takes more than {MOST_SECONDS} seconds")

    def produce(self, value: Any) -> Any:
        """Count a new value; returns it."""
        size = len(value) if isinstance(value, str | list | tuple) else 1
        self.produced -= size
        if size > MOST_CHARACTERS or self.produced < 0:
            raise SecurityError(f"it makes more than {MOST_CHARACTERS:,} characters")
        return value


_METER: ContextVar[TemplateMeter] = ContextVar("meter")


def render(source: str, variables: Mapping[str, Any]) -> str:
    """The text that a chat template makes of `variables`.

    Raises ValueError with the template's own words where it refuses the conversation
    (`raise_exception`), and for a template that is malformed, fails, or exceeds the bounds.
    """
    token = _METER.set(TemplateMeter())
    try:
        return _compiled(source).render(variables)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(
            f"the chat template has an error in line {error.lineno}: {error}"
        ) from error
    except Exception as error:  # whatever a stranger's program may run into
        reason = str(error) or type(error).__name__
        raise ValueError(f"the chat template cannot render the conversation: {reason}") from error
    finally:
        _METER.reset(token)


@lru_cache(maxsize=32)
def _compiled(source: str) -> jinja2.Template:
    if len(source) > MOST_SOURCE:
        raise SecurityError(f"it has {len(source):,} characters, more than {MOST_SOURCE:,}")
    return _Environment().from_string(source)


class _Environment(ImmutableSandboxedEnvironment):
    """transformers' environment of chat templates, metered."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # constant expressions too are computed by the metered rendering
            finalize=_printed,
            extensions=[LoopControlExtension, _GenerationTag],
        )
        self.filters |= {"tojson": tojson, "join": _join, "format": _format}
        self.filters = {name: _metered(name, function) for name, function in self.filters.items()}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        del self.globals["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Meters().visit(super()._parse(source, name, filename))

    @property  # the code that Jinja generates reads it as a name, without the cost of a call
    def step(self) -> bool:
        """Read in each body of a loop or macro, and before each condition of a loop."""
        _METER.get().step()
        return True

    def concat(self, pieces: Iterable[str]) -> str:
        """The text of printed pieces: a whole rendering, a macro's or a `set` block's."""
        meter, collected, length = _METER.get(), list[str](), 0
        for piece in pieces:
            collected.append(piece)
            length += len(piece)
            if length > MOST_CHARACTERS:
                break
        if length > MOST_CHARACTERS:
            raise SecurityError(f"it makes more than {MOST_CHARACTERS:,} characters")
        return meter.produce("".join(collected))

    def join_texts(self, *values: Any) -> str:
        """The operator `~`."""
        return self.concat(str(_printed(value)) for value in values)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_operands(operator, left, right)
        return _METER.get().produce(super().call_binop(context, operator, left, right))

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        _METER.get().step()
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str | list | tuple):
            _check_sizes(owner, *args, *kwargs.values())
            if isinstance(owner, str) and function.__name__ == "join":
                args = tuple(_joinable(items, owner) for items in args)
        return _METER.get().produce(super().call(context, function, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapper = super().wrap_str_format(value)
        if wrapper is None:
            return None

        @wraps(wrapper)
        def checked(*args: Any, **kwargs: Any) -> str:
            _check_format("{", value.__self__, *args, *kwargs.values())
            return wrapper(*args, **kwargs)

        return checked


class _GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}`, by which templates mark an assistant's text."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)  # what it sets is not seen behind it


_STEP = nodes.EnvironmentAttribute("step")


class _Meters(NodeTransformer):
    """Puts a step into the body of every loop and macro, and meters the operator `~`."""

    def _stepped(self, node: Any) -> nodes.Node:
        node = self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_STEP).set_lineno(node.lineno))
        return node

    visit_Macro = visit_CallBlock = _stepped

    def visit_For(self, node: nodes.For) -> nodes.Node:
        node.test = node.test and nodes.And(_STEP, node.test).set_lineno(node.lineno)
        return self._stepped(node)

    def visit_Concat(self, node: Any) -> nodes.Node:
        node = self.generic_visit(node)
        join = nodes.EnvironmentAttribute("join_texts")
        return nodes.Call(join, node.nodes, [], None, None).set_lineno(node.lineno)


# --- what a template may call ---------------------------------------------------------------------
def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers writes it for chat templates: nothing escaped for HTML or ASCII."""
    if indent is not None and int(indent) > MOST_INDENT:
        raise SecurityError(f"tojson with indent={indent}, more than {MOST_INDENT}")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    if re.search(r"%[-_0^#+]*\d", form):
        raise SecurityError(f"strftime_now({form!r:.40}): a width is not supported")
    return datetime.now().strftime(form)


def _metered(name: str, function: Callable) -> Callable:
    """A filter that counts its step, its arguments' sizes and its result."""
    check = (lambda value: None) if name in LIST_FILTERS else _printed

    @wraps(function)  # keeps the marks by which Jinja passes the environment
    def filtered(*args: Any, **kwargs: Any) -> Any:
        _METER.get().step()
        for value in (*args, *kwargs.values()):
            check(value)
        _check_sizes(*args, *kwargs.values())
        return _METER.get().produce(function(*args, **kwargs))

    return filtered


@jinja2.pass_eval_context
def _join(context: Any, items: Iterable, d: str = "", attribute: Any = None) -> str:
    """Jinja's filter `join`."""
    if attribute is not None:
        items = map(filters.make_attrgetter(context.environment, attribute), items)
    return filters.FILTERS["join"](context, _joinable(items, d), d)


def _format(form: str, *args: Any, **kwargs: Any) -> str:
    """Jinja's filter `format`."""
    _check_format("%", str(form), *args, *kwargs.values())
    return filters.FILTERS["format"](form, *args, **kwargs)


# --- bounds ---------------------------------------------------------------------------------------
def _printed(value: Any) -> Any:
    """A value that is about to be made a text, its nesting checked."""
    if isinstance(value, list | tuple | dict):
        _check_nesting(value)
    return value


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else 1


def _check_nesting(value: Any) -> None:
    """Count every member of nested lists and mappings: a list may hold itself a million times."""
    _METER.get().step()
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_nesting(key)
            _check_nesting(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_nesting(item)
    elif isinstance(value, str):
        _METER.get().produce(value)


def _joinable(items: Iterable, separator: Any) -> list:
    """Items as a list. Refuses those whose texts with separators between them would be too long."""
    listed = [_printed(item) for item in items]
    if sum(map(_size, listed)) + len(listed) * _size(separator) > MOST_CHARACTERS:
        raise SecurityError(f"it joins more than {MOST_CHARACTERS:,} characters")
    return listed


def _check_sizes(*values: Any) -> None:
    """Refuse arguments that could give a result of more than their two largest sizes' product."""
    counts = [abs(value) for value in values if isinstance(value, int)]
    if any(count > MAX_RANGE for count in counts):
        raise SecurityError(f"it counts to more than {MAX_RANGE:,}")
    *_, second, first = (1, 1, *sorted([*counts, *map(_size, values)]))
    if first * second > 4 * MOST_CHARACTERS:
        raise SecurityError(f"it makes more than {MOST_CHARACTERS:,} characters")


def _check_operands(operator: str, left: Any, right: Any) -> None:
    """Refuse an operation whose result would be too large, before it is computed."""
    if operator == "%" and isinstance(left, str):
        _check_format("%", left, *(right if isinstance(right, tuple) else (right,)))
    elif operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        if (bits * abs(right) if operator == "**" else bits + right.bit_length()) > MOST_BITS:
            raise SecurityError(f"it makes an integer of more than {MOST_BITS} bits")
    elif operator == "*":
        count, value = (left, right) if isinstance(left, int) else (right, left)
        if isinstance(count, int) and _size(value) * count > MOST_CHARACTERS:
            raise SecurityError(f"it makes more than {MOST_CHARACTERS:,} characters")


# Widths of four digits or more, or taken from an argument, in the two ways of formatting.
_WIDE = {"%": re.compile(r"%[-+ #0.\d]*(\d{4}|\*)"), "{": re.compile(r"[:.][^{}]*(\d{4}|\{)")}


def _check_format(mark: str, form: str, *values: Any) -> None:
    """Refuse wide fields, and texts that are put in too often. mark: what opens a field."""
    if _WIDE[mark].search(form):
        raise SecurityError(f"the format {form!r:.40} has a width of four digits or an argument's")
    longest = max((_size(_printed(value)) for value in values), default=0)
    if form.count(mark) * longest > MOST_CHARACTERS:
        raise SecurityError(f"it makes more than {MOST_CHARACTERS:,} characters")
