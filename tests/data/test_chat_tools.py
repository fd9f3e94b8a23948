"""Tools as files store them: the list, a JSON text of it, columns of Arrow."""

import json

import pytest

from qwen3.data.chat_tools import read_tools

PARAMETERS = {"type": "object", "properties": {"word": {"type": "string", "default": None}}}
TOOL = {"type": "function", "function": {"name": "lookup", "parameters": PARAMETERS}}


def test_all_forms_give_the_list():
    for tools in ([TOOL], (TOOL,), json.dumps([TOOL]), [json.dumps(TOOL)]):
        assert read_tools(tools) == [TOOL]
    assert read_tools(None) is None and read_tools("null") is None and read_tools([]) == []


def test_nulls_that_a_column_filled_in_are_absent_and_null_values_stay():
    properties = {**PARAMETERS["properties"], "path": None}
    parameters = {**PARAMETERS, "properties": properties, "required": None}
    tool = {"type": "function", "function": {**TOOL["function"], "parameters": parameters}}
    assert read_tools([{**tool, "strict": None}]) == [TOOL]


@pytest.mark.parametrize(
    "tools, message",
    [
        (TOOL, "tools are a list"),
        (json.dumps(TOOL), "tools are a list"),
        ("lookup", "tools: a text that is not JSON: 'lookup'"),
        (["lookup"], "tool 0: a text that is not JSON"),
        ([TOOL, {"type": "function"}], "tool 1: .* has no function with a name"),
        ([TOOL, 3], "tool 1: '3' has no function with a name"),
    ],
)
def test_anything_else_is_refused(tools, message):
    with pytest.raises(ValueError, match=message):
        read_tools(tools)
