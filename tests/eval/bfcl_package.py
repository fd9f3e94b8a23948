"""Files of BFCL's dialogues in their published shape, with a package like the official one."""

from __future__ import annotations

import json
from pathlib import Path

from qwen3.eval import bfcl_multi_turn

CHECKER = """
from bfcl_eval.eval_checker.multi_turn_eval.func_source_code.math_api import MathAPI


def execute_multi_turn_func_call(func_call_list, initial_config, involved_classes, model_name,
                                 test_entry_id, long_context):
    results = []
    for call in func_call_list:
        try:
            results.append(str(eval("MathAPI()." + call)))
        except Exception as error:
            results.append(f"Error during execution: {error}")
    return results, {}


def multi_turn_checker(turns, gold, entry, category, name):
    assert category.startswith("multi_turn_")
    return {"valid": [[c for step in turn for c in step] for turn in turns] == gold}
"""
CLASS = """
import mpmath


class MathAPI:
    def add(self, a, b):
        return {"result": a + b}

    def halve(self, a):
        return {"result": a / 2}
"""
NUMBER = {"type": "float", "description": "A number."}
DOCUMENTS = [
    {
        "name": name,
        "description": name,
        "parameters": {"type": "dict", "properties": dict.fromkeys(names, NUMBER)},
        "response": {"type": "dict"},
    }
    for name, names in (("add", "ab"), ("halve", "a"))
]
GOLD = [["add(a=1, b=2)"], ["halve(a=3)"]]


def write(folder: Path, category: str) -> None:
    """Write the one dialogue of a category, its answer, documents and package below `folder`."""
    name = f"multi_turn_{category}"
    row = {
        "id": f"{name}_0",
        "question": [[{"role": "user", "content": "Add 1 and 2."}], []],
        "initial_config": {},
        "involved_classes": ["MathAPI"],
        "missed_function": {"1": ["halve"]},
    }
    files = {
        f"BFCL_v3_{name}.json": [row],
        f"possible_answer/BFCL_v3_{name}.json": [{"id": row["id"], "ground_truth": GOLD}],
        "multi_turn_func_doc/math_api.json": DOCUMENTS,
    }
    for file, rows in files.items():
        path = folder / "bfcl_v3" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    package = folder / "bfcl_v3" / bfcl_multi_turn.PACKAGE
    (package / "func_source_code").mkdir(parents=True)
    (package / "multi_turn_checker.py").write_text(CHECKER)
    (package / "func_source_code" / "math_api.py").write_text(CLASS)
