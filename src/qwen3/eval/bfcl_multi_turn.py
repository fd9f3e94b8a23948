"""BFCL v3, several turns: the benchmark's own classes and its own checker, in our sandbox.

The package of version 3 (`bfcl-eval==2025.6.16`, unpacked beside the questions) executes calls with
`eval`, and so never in this process: its sources go into the sandbox as data, and calls reach it by
name, with arguments that are written as literals. Every step replays the dialogue so far, so that
no state outlives a job. Departure: the rows' order of tools is that of the function documents.
"""

from __future__ import annotations

import importlib.util
import keyword
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from qwen3 import sandbox
from qwen3.data.jsonl import read_rows
from qwen3.eval.bfcl import as_tool
from qwen3.eval.eval_sandbox import AMPLE, sandbox_with
from qwen3.eval.item_readers import found, stem
from qwen3.eval.items import Item, Verdict
from qwen3.eval.suite_prompts import Messages, user
from qwen3.rewards import NoVerdict

PACKAGE = "bfcl_eval/eval_checker/multi_turn_eval"  # below the folder of the questions
WANTED = "the wheel bfcl-eval==2025.6.16 (pip download --no-deps), unpacked there"
MOST_STEPS = 20  # steps with calls in a turn; a model that takes more has failed
NEW_FUNCTIONS = "I have updated some more functions you can choose from. What about now?"
DOCUMENTS = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TwitterAPI": "posting_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}
# What runs in the sandbox: the sources become modules, and the official functions are called.
PROGRAM = '''
import importlib.abc
import importlib.util
import sys


class Sources(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, texts):
        self.texts = texts

    def find_spec(self, name, path=None, target=None):
        package = name + ".__init__"
        if name in self.texts or package in self.texts:
            return importlib.util.spec_from_loader(name, self, is_package=package in self.texts)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        name = module.__name__
        text = self.texts.get(name + ".__init__", self.texts.get(name))
        exec(compile(text, name, "exec"), module.__dict__)


def play(texts, entry, turns, gold):
    """Texts that the last step's calls gave; with `gold` whether the checker accepts all turns."""
    sys.meta_path.insert(0, Sources(texts))
    root = "bfcl_eval.eval_checker.multi_turn_eval."
    checker = importlib.import_module(root + "multi_turn_checker")
    if gold is not None:
        category = entry["id"].rsplit("_", 1)[0]
        return checker.multi_turn_checker(turns, gold, entry, category, "model")["valid"]
    results = []
    for step in (step for turn in turns for step in turn):
        results, _ = checker.execute_multi_turn_func_call(
            func_call_list=step,
            initial_config=entry["initial_config"],
            involved_classes=entry["involved_classes"],
            model_name="model",
            test_entry_id=entry["id"],
            long_context="long_context" in entry["id"],
        )
    return results
'''


# --- items


def reader(files: Sequence[Path]) -> list[Item]:
    """The items of BFCL_v3_multi_turn_*.json, with answers, documents and package beside them."""
    items = []
    for file in files:
        folder = file.parent
        if not (folder / PACKAGE / "multi_turn_checker.py").is_file():
            raise ValueError(f"{folder / PACKAGE} is missing: wanted is {WANTED}")
        [answers, *_] = [*found(folder / "possible_answer", (f"{stem(file)}.json",)), None]
        if answers is None:
            raise ValueError(f"{folder / 'possible_answer' / file.name} is missing")
        rows = read_rows(answers, fields=("id", "ground_truth"))
        gold = {row["id"]: row["ground_truth"] for _, row in rows}
        fields = ("id", "question", "initial_config", "involved_classes")
        for _, row in read_rows(file, fields=fields):
            if row["id"] not in gold:
                raise ValueError(f"{file}: no possible answer of {row['id']!r} is in {answers}")
            documents = [
                document
                for name in row["involved_classes"]
                for document in _documents(folder, name)
            ]
            more = {"gold": gold[row["id"]], "documents": documents, "folder": folder}
            items.append(Item(row["id"], {**row, **more}))
    return items


@cache
def _documents(folder: Path, name: str) -> list[Mapping[str, Any]]:
    """Descriptions of the functions of a class."""
    if name not in DOCUMENTS:
        raise ValueError(f"class {name!r} is none of {', '.join(DOCUMENTS)}")
    files = found(folder / "multi_turn_func_doc", (f"{DOCUMENTS[name]}.json",))
    if not files:
        raise ValueError(f"{folder}/multi_turn_func_doc/{DOCUMENTS[name]}.json is missing")
    return [row for _, row in read_rows(files[0], fields=("name", "parameters"))]


# --- the dialogue


def first(item: Item) -> Messages:
    return list(item["question"][0])


def tools(item: Item, messages: Messages) -> list[dict[str, Any]]:
    """The functions that the model may call in this turn: held-out ones come when they are due."""
    turn = _count_turns(messages) - 1
    held_out = {
        name
        for due, names in item.fields.get("missed_function", {}).items()
        if int(due) > turn
        for name in names
    }
    shown = [document for document in item["documents"] if document["name"] not in held_out]
    return [as_tool({k: v for k, v in one.items() if k != "response"}) for one in shown]


def follow(item: Item, messages: Messages) -> Messages | None:
    """The results of the last calls or, where there are none, the next turn of the user.

    Raises NoVerdict where the calls could not be executed.
    """
    calls, turn = messages[-1].get("tool_calls", []), _count_turns(messages)
    if calls:
        turns = steps_of(item, messages)
        if len(turns[-1]) > MOST_STEPS:
            return None
        results = _play(item, turns, None)
        return [{"role": "tool", "content": str(result)} for result in results]
    if turn == len(item["question"]):
        return None
    return list(item["question"][turn]) or user(NEW_FUNCTIONS)


def score(item: Item, messages: Messages) -> Verdict:
    """1 where the official checker accepts the calls of all turns."""
    turns = steps_of(item, messages)
    text = str(turns)
    if len(turns) != len(item["gold"]) or len(turns[-1]) > MOST_STEPS:
        return Verdict(0.0, text)
    try:
        return Verdict(float(_play(item, turns, item["gold"])), text)
    except NoVerdict:
        return Verdict(None, text)


def _count_turns(messages: Messages) -> int:
    """Turns of the user so far. One may bring several messages, all before the model's first."""
    roles = [message["role"] for message in messages]
    return sum(
        role == "user" and (i == 0 or roles[i - 1] != "user") for i, role in enumerate(roles)
    )


def steps_of(item: Item, messages: Messages) -> list[list[list[str]]]:
    """By turn, by step, the calls as the official functions take them.

    A call may stand in OpenAI's wrapping {"function": {...}} or, as a model's turn is parsed, bare.
    """
    names = {document["name"] for document in item["documents"]}
    turns: list[list[list[str]]] = []
    previous = ""
    for message in messages:
        if message["role"] == "user" and previous != "user":
            turns.append([])
        calls = [call.get("function", call) for call in message.get("tool_calls", [])]
        if calls:
            turns[-1].append([as_text(call, names) for call in calls])
        previous = message["role"]
    return turns


def as_text(call: Mapping[str, Any], names: set[str]) -> str:
    """A call as source: a known name and arguments that are literals.

    The official code evaluates it, so any other name becomes one that nothing is called.
    """
    name, arguments = call["name"], call["arguments"]
    fits = isinstance(arguments, Mapping) and all(
        isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key)
        for key in arguments
    )
    if not isinstance(name, str) or name not in names or not fits:
        return "no_such_function()"
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


# --- the sandbox


def _play(item: Item, turns: Sequence, gold: Sequence | None) -> Any:
    """What `play` returns. Raises NoVerdict where the sandbox or the official code failed."""
    needs_mpmath = "logarithm(" in str((turns, gold))
    texts = _sources(item["folder"]) | (_package("mpmath") if needs_mpmath else _no_mpmath())
    entry = {name: item[name] for name in ("id", "initial_config", "involved_classes")}
    try:
        box = sandbox_with(AMPLE)
        run = box.run(PROGRAM, "play", [(texts, entry, list(turns), gold)], cached=False)
    except sandbox.SandboxError as error:
        raise NoVerdict(str(error)) from error
    [*calls] = run.calls
    if [kind for kind, _ in calls] != ["value"]:
        raise NoVerdict(f"{item.id}: the official code ended with {calls or run.end}")
    return calls[0][1]


@cache
def _sources(folder: Path) -> dict[str, str]:
    """{module: source} of the official classes and checker."""
    base = "bfcl_eval.eval_checker.multi_turn_eval"
    texts = {f"{base}.func_source_code.__init__": "", f"{base}.__init__": ""}
    texts |= {"bfcl_eval.__init__": "", "bfcl_eval.eval_checker.__init__": ""}
    for path in sorted((folder / PACKAGE).rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        texts[".".join(parts)] = path.read_text(encoding="utf-8")
    return texts


def _no_mpmath() -> dict[str, str]:
    """The maths class imports mpmath, which one of its functions alone uses."""
    return {"mpmath": ""}


@cache
def _package(name: str) -> dict[str, str]:
    """{module: source} of a pure Python package that is installed here."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise NoVerdict(f"{name} is not installed")
    root = Path(spec.origin).parent
    return {
        ".".join((name, *path.relative_to(root).with_suffix("").parts)): path.read_text()
        for path in sorted(root.rglob("*.py"))
        if "tests" not in path.parts
    }
