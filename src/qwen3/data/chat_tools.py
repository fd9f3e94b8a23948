"""Tools of a conversation in the forms in which files store them -> the list that is rendered.

Columns of Arrow and Parquet have one type, so that tools, whose schemas differ, are often stored as
a JSON text; and a struct column fills what a tool does not have with null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qwen3.data.chat_check import check_depth

# Keys of a JSON schema under which null is a value, not an absence.
NULLABLE = ("default", "const", "examples", "enum")


def read_tools(tools: Any) -> list[dict] | None:
    """The list of tools: itself, or read from a JSON text of it or of its members, without nulls.

    None for none. Raises ValueError for anything else, such as one tool without a list, and for a
    schema nested deeper than `chat_check.DEEPEST`.
    """
    if isinstance(tools, str):
        tools = _loads(tools, "tools")
    if tools is None:
        return None
    check_depth(tools, "tools")
    if not isinstance(tools, (list, tuple)):
        raise ValueError(f"tools are a list, or a JSON text of one, not {str(tools)[:80]!r}")
    return [_read_tool(number, tool) for number, tool in enumerate(tools)]


def _read_tool(number: int, tool: Any) -> dict:
    if isinstance(tool, str):
        tool = _loads(tool, f"tool {number}")
        check_depth(tool, f"tool {number}")
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"tool {number}: {str(tool)[:80]!r} has no function with a name")
    return _without_nulls(tool)


def _loads(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{what}: a text that is not JSON: {text[:80]!r}") from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        items = ((k, v if k in NULLABLE else _without_nulls(v)) for k, v in value.items())
        return {k: v for k, v in items if v is not None or k in NULLABLE}
    if isinstance(value, (list, tuple)):
        return [_without_nulls(item) for item in value]
    return value
