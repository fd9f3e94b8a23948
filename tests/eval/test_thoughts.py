"""On every suite of chats, only what follows the thought is scored: with judges, in dialogues, on
generated problems. A row that is added to the table is covered at once."""

from itertools import cycle
from typing import NamedTuple

import bfcl_package
import pytest
import suite_files

from qwen3 import rewards
from qwen3.eval import judged
from qwen3.eval.items import Item
from qwen3.eval.suite import Generation
from qwen3.eval.suite_answers import Asked, outcome
from qwen3.eval.suite_records import Arm, SuiteRun
from qwen3.eval.suites import SUITES
from qwen3.infer.requests import Completion, Request
from qwen3.rewards.judge import Judge

CHATS = [name for name, suite in SUITES.items() if suite.kind == "chat"]
CALLS = [
    '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>',
    "Done.",
    '<tool_call>\n{"name": "halve", "arguments": {"a": 3}}\n</tool_call>',
    "Done.",
]


class Case(NamedTuple):
    """An item, and the answers of a model that is right or wrong in each of its turns."""

    item: Item
    right: list[str]
    wrong: str


def cases(name, folder, tokenizer):
    """Of a generated suite one of each family, of the others the first item of their example."""
    suite = SUITES[name]
    if suite.group == "ruler":  # the scorer is the same for all lengths
        suite_files.write_books(folder)
        items = SUITES["ruler_4k"].generate(Generation(2, folder, tokenizer))
        return [Case(item, [" and ".join(item["gold"])], "I cannot tell.") for item in items]
    if suite.generate is not None:
        by_family = {item["problem"].task: item for item in suite.items(None, 8)}
        return [
            Case(item, [rewards.get(task).solve(item["problem"])[1]], "I cannot tell.")
            for task, item in by_family.items()
        ]
    if suite.follow is not None and name.startswith("bfcl"):
        bfcl_package.write(folder, name.removeprefix("bfcl_multi_turn_"))
        return [Case(suite.items(folder)[0], CALLS, "Done.")]
    example = suite_files.EXAMPLES[name]
    suite_files.write(folder, example)
    item = suite.items(folder)[0]
    if suite.needs == "judge":
        return [Case(item, ["oh yes"], "well no")]
    if not example.right:
        letters = [f'"answer": "{letter}"' for letter in "ABCD"]
        right = f'"answer": "{item["gold"]}"'
        return [Case(item, [right], next(letter for letter in letters if letter != right))]
    return [Case(item, [example.right], example.wrong)]


@pytest.fixture(autouse=True)
def judge():
    """A judge that calls an answer excellent, and the better one of two, where it says yes."""

    def reply(text):
        code = text.rpartition("Verdict ")[2][:6]
        if "[[A>>B]]" in text:
            parts = [text.split(f'<answer of="{name}">')[1] for name in "AB"]
            first, second = (part.split("</answer>")[0] for part in parts)
            is_first = "yes" in first or ("yes" not in second and "Red and blue." in first)
            return f"Verdict {code}: [[{'A>>B' if is_first else 'B>>A'}]]"
        answer = text.split("<answer>\n")[1].split("\n</answer>")[0]
        word = "excellent" if "yes" in answer else "bad"
        return f"Quote {code}: {answer}\nVerdict {code}: {word}"

    judged.use(Judge(lambda conversations: [reply(m["content"]) for [m] in conversations]))
    yield
    judged.use(None)


@pytest.mark.parametrize("name", CHATS)
def test_an_answer_that_stands_only_in_the_thought_scores_0(name, model, tmp_path):
    suite, tokenizer = SUITES[name], model.tokenizer

    def score(item, answers, finish="stop"):
        """The score of a model whose answers come by turns."""
        run = SuiteRun(suite, Arm("think", "think"), [item], [], tmp_path / "x.jsonl")
        asked = Asked(item, 0, list(suite.ask(item)))
        for answer in cycle(answers):
            completion = Completion(Request([1]), tokenizer.encode(answer), finish=finish)
            asked = outcome(tokenizer, run, asked, completion)
            if isinstance(asked, dict):
                return asked["score"]

    for item, right, wrong in cases(name, tmp_path, tokenizer):
        assert score(item, [f"<think>\nHm.\n</think>\n\n{text}" for text in right]) == 1.0
        thought = "\n".join(right)
        assert score(item, [f"<think>\n{thought}\n</think>\n\n{wrong}"]) == 0.0
        assert score(item, [f"<think>\n{thought}"], "length") == 0.0
        assert score(item, [f"<think>\n{thought}"]) == 0.0
