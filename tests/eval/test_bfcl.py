"""Calls against the possible answers of BFCL v3, by the rules of its checker."""

import pytest

from qwen3.eval import bfcl

FUNCTION = {
    "name": "book",
    "parameters": {
        "type": "dict",
        "properties": {
            "city": {"type": "string"},
            "nights": {"type": "integer"},
            "price": {"type": "float"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "guest": {"type": "dict"},
            "rooms": {"type": "array", "items": {"type": "dict"}},
            "point": {"type": "tuple", "items": {"type": "float"}},
            "paid": {"type": "boolean"},
            "when": {"type": "integer"},
        },
        "required": ["city"],
    },
}
GOLD = {
    "city": ["New York", "NY"],
    "nights": [2, ""],
    "price": [10.0, ""],
    "tags": [["Quiet", "top floor"], ""],
    "guest": [{"name": ["Ann"], "age": [30, ""]}, ""],
    "rooms": [[{"beds": [2]}, {"beds": [1]}], ""],
    "point": [[1.5, 2.5], ""],
    "paid": [True, ""],
    "when": ["today", ""],  # the name of a variable
}
ARGUMENTS = [
    ({"city": "new york"}, True),
    ({"city": "New-York,"}, True),
    ({"city": "N.Y."}, True),
    ({"city": "Boston"}, False),
    ({"city": 5}, False),
    ({}, False),
    ({"city": "NY", "street": "x"}, False),
    ({"city": "NY", "nights": 2}, True),
    ({"city": "NY", "nights": 3}, False),
    ({"city": "NY", "nights": 2.0}, False),
    ({"city": "NY", "nights": "2"}, False),
    ({"city": "NY", "nights": True}, False),
    ({"city": "NY", "price": 10}, True),
    ({"city": "NY", "price": 10.5}, False),
    ({"city": "NY", "tags": ["quiet", "Top Floor"]}, True),
    ({"city": "NY", "tags": ["Top Floor", "quiet"]}, False),
    ({"city": "NY", "tags": [1, 2]}, False),
    ({"city": "NY", "guest": {"name": "ann"}}, True),
    ({"city": "NY", "guest": {"name": "ann", "age": 31}}, False),
    ({"city": "NY", "guest": {"age": 30}}, False),
    ({"city": "NY", "guest": {"name": "ann", "dog": 1}}, False),
    ({"city": "NY", "rooms": [{"beds": 2}, {"beds": 1}]}, True),
    ({"city": "NY", "rooms": [{"beds": 1}, {"beds": 2}]}, False),
    ({"city": "NY", "rooms": [{"beds": 2}]}, False),
    ({"city": "NY", "point": [1.5, 2.5]}, True),
    ({"city": "NY", "point": [2.5, 1.5]}, False),
    ({"city": "NY", "paid": True}, True),
    ({"city": "NY", "paid": False}, False),
    ({"city": "NY", "when": "today"}, True),
    ({"city": "NY", "when": "Today"}, False),  # a variable's name is compared as it is
    ({"city": "NY", "when": 3}, False),
]


@pytest.mark.parametrize("arguments, fits", ARGUMENTS)
def test_arguments(arguments, fits):
    assert bfcl.call_fits(FUNCTION, ("book", arguments), GOLD) == fits
    assert not bfcl.call_fits(FUNCTION, ("cook", arguments), GOLD)
    assert not bfcl.call_fits(FUNCTION, ("book", [arguments]), GOLD)


def test_an_argument_that_may_not_be_left_out():
    gold = {"city": ["NY"], "nights": [2]}
    assert not bfcl.call_fits(FUNCTION, ("book", {"city": "NY"}), gold)
    assert bfcl.call_fits(FUNCTION, ("book", {"city": "NY", "nights": 2}), gold)


def test_parallel_calls_fit_in_any_order_each_once():
    one, other = {"book": {"city": ["NY"]}}, {"book": {"city": ["Rome"]}}
    calls = [("book", {"city": "Rome"}), ("book", {"city": "NY"})]
    assert bfcl.calls_fit([FUNCTION], calls, [one, other])
    assert not bfcl.calls_fit([FUNCTION], calls[:1] * 2, [one, other])
    assert not bfcl.calls_fit([FUNCTION], calls, [one])
    assert not bfcl.calls_fit([FUNCTION], calls[:1], [one, other])
    assert not bfcl.calls_fit([], calls, [one, other])


def test_schemas_become_json_schemas():
    tool = bfcl.as_tool(FUNCTION)
    parameters = tool["function"]["parameters"]
    assert parameters["type"] == "object"
    types = {name: schema["type"] for name, schema in parameters["properties"].items()}
    assert (types["price"], types["guest"], types["point"]) == ("number", "object", "array")
    assert parameters["properties"]["point"]["items"]["type"] == "number"
    assert FUNCTION["parameters"]["type"] == "dict"
