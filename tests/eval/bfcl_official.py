"""Verdicts of BFCL's own checker on gold and perturbed calls, as JSON on standard output.

    PYTHON tests/eval/bfcl_official.py FOLDER

FOLDER holds the benchmark's files; PYTHON is an environment with the package of version 3
(`pip install --no-deps bfcl-eval==2025.6.16`). The modules that the checker imports for other
languages and for other models' names need dozens of packages; they are not used here and left out.
"""

from __future__ import annotations

import copy
import gzip
import json
import random
import sys
import types
from pathlib import Path

CATEGORIES = ("simple", "multiple", "parallel", "parallel_multiple")
PERTURBED = 4  # perturbed calls of each question


def checker():
    models = types.ModuleType("bfcl_eval.constants.model_config")
    plain = types.SimpleNamespace(underscore_to_dot=False)
    models.MODEL_CONFIG_MAPPING = type("Any", (), {"__getitem__": lambda self, name: plain})()
    sys.modules[models.__name__] = models
    for language in ("java", "js"):
        name = f"{language}_type_converter"
        module = types.ModuleType(f"bfcl_eval.eval_checker.ast_eval.type_convertor.{name}")
        setattr(module, name, None)
        sys.modules[module.__name__] = module
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    return ast_checker


def rows(folder: Path, name: str) -> list[dict]:
    path = folder / name
    if path.exists():
        text = path.read_text()
    else:
        text = gzip.open(f"{path}.gz", "rt").read()
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def first(value):
    """A possible answer as a call would have it: the first value of each key of a dictionary."""
    if isinstance(value, dict):
        chosen = {key: [v for v in values if v != ""] for key, values in value.items()}
        return {key: first(values[0]) for key, values in chosen.items() if values}
    if isinstance(value, list):
        return [first(v) if isinstance(v, dict) else v for v in value]
    return value


def call(possible: dict) -> list:
    [(name, arguments)] = possible.items()
    return [name, first(arguments)]


def other_value(value, rng: random.Random):
    if isinstance(value, bool):
        return rng.choice([not value, str(value), int(value), None])
    if isinstance(value, str):
        others = [value + "x", value.upper(), value.replace(" ", "-"), "", value[:-1], 5, [value]]
        return rng.choice([*others, value.lower() + "."])
    if isinstance(value, (int, float)):
        return rng.choice([value + 1, -value, float(value), str(value), [value], int(value), True])
    if isinstance(value, list):
        upper = [v.upper() if isinstance(v, str) else v for v in value]
        others = [value[::-1], value[:-1], value + value[:1], [str(v) for v in value], [], upper]
        return rng.choice(others)
    changed = dict(value or {})
    if changed:
        key = rng.choice(sorted(changed))
        kind = rng.randrange(3)
        if kind == 0:
            changed.pop(key)
        elif kind == 1:
            changed[key] = other_value(changed[key], rng)
        else:
            changed["extra"] = 1
    return changed


def perturbed(calls: list, functions: list, rng: random.Random) -> list:
    calls = copy.deepcopy(calls)
    number, kind = rng.randrange(len(calls)), rng.randrange(10)
    arguments = calls[number][1]
    if kind == 0:
        calls.pop(number)
    elif kind == 1:
        calls.append(copy.deepcopy(calls[number]))
    elif kind == 2:
        rng.shuffle(calls)
    elif kind == 3:
        calls[number][0] = rng.choice([*(f["name"] for f in functions), "nothing"])
    elif kind == 4 and arguments:
        arguments.pop(rng.choice(sorted(arguments)))
    elif kind == 5:
        arguments["extra_argument"] = 1
    elif arguments:
        key = rng.choice(sorted(arguments))
        arguments[key] = other_value(arguments[key], rng)
    return calls


def main(folder: Path) -> None:
    check, rng, records = checker(), random.Random(0), []
    for category in [*CATEGORIES, *(f"live_{name}" for name in CATEGORIES)]:
        file = f"BFCL_v3_{category}.json"
        gold = {r["id"]: r["ground_truth"] for r in rows(folder / "possible_answer", file)}
        for row in rows(folder, file):
            possible = gold[row["id"]]
            calls = [call(answer) for answer in possible]
            for number in range(1 + PERTURBED):
                tried = perturbed(calls, row["function"], rng) if number else calls
                output = [{name: arguments} for name, arguments in tried]
                verdict = check(row["function"], output, possible, "Python", category, "-")
                records.append(
                    {
                        "functions": row["function"],
                        "gold": possible,
                        "calls": tried,
                        "valid": verdict["valid"],
                        "is_gold": not number,
                    }
                )
    json.dump(records, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
