"""Prompts of suites: text for base models, messages for chat models.

A prompt function takes an item and the suite's exemplars, which may be none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from qwen3.eval.item_readers import LETTERS
from qwen3.eval.items import Item

Messages: TypeAlias = list[dict[str, Any]]
TextPrompt: TypeAlias = Callable[[Item, Sequence[Item]], str]
ChatPrompt: TypeAlias = Callable[[Item], Messages]

# How the released models' documentation asks for the form of an answer.
BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
LETTER = (
    "Please show your choice in the `answer` field with only the choice letter, "
    'e.g., `"answer": "C"`.'
)


def user(content: str) -> Messages:
    return [{"role": "user", "content": content}]


def chat(template: str) -> ChatPrompt:
    """One user turn: a template over the item's fields."""
    return lambda item: user(template.format_map(item.fields))


def chat_problem(item: Item) -> Messages:
    """The messages of an item that holds a Problem."""
    return item["problem"].messages


def chat_choice(item: Item) -> Messages:
    """A multiple-choice question whose answer is asked for as a letter in JSON."""
    head = f"{item['passage']}\n\n" if item["passage"] else ""
    return user(f"{head}{item['question']}\n\n{options(item)}\n\n{LETTER}")


def options(item: Item) -> str:
    lines = zip(LETTERS, item["options"], strict=False)
    return "\n".join(f"{letter}. {text}" for letter, text in lines)


def text_choice(item: Item, exemplars: Sequence[Item]) -> str:
    """MMLU's form: a line that names the subject, questions with answers, the question."""
    subject = item["subject"].replace("_", " ")
    head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    asked = [f"{_question(shot)} {shot['gold']}\n\n" for shot in exemplars]
    return head + "".join(asked) + _question(item)


def _question(item: Item) -> str:
    passage = f"{item['passage']}\n" if item["passage"] else ""
    return f"{passage}{item['question'].strip()}\n{options(item)}\nAnswer:"


def text_gsm8k(item: Item, exemplars: Sequence[Item]) -> str:
    """Questions with worked answers, the mark "####" before each final number."""
    shots = [f"Question: {shot['question']}\nAnswer: {shot['answer']}\n\n" for shot in exemplars]
    return "".join(shots) + f"Question: {item['question']}\nAnswer:"


def text_math(item: Item, exemplars: Sequence[Item]) -> str:
    """Problems with worked solutions (arXiv 2206.14858, appendix D)."""
    shots = [
        f"Problem:\n{shot['problem']}\n\nSolution: {shot['solution']}\n\n" for shot in exemplars
    ]
    return "".join(shots) + f"Problem:\n{item['problem']}\n\nSolution:"


def text_bbh(item: Item, exemplars: Sequence[Item]) -> str:
    """The task's exemplars with chains of thought, then the question (arXiv 2210.09261)."""
    return f"{item['exemplars']}\n\nQ: {item['input']}\nA: Let's think step by step.\n"


def text_mbpp(item: Item, exemplars: Sequence[Item]) -> str:
    """The task, its tests and the program between marks (arXiv 2108.07732)."""

    def asked(shot: Item) -> str:
        tests = "\n".join(shot["test_list"])
        return (
            f"You are an expert Python programmer, and here is your task: {shot['text']} "
            f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
        )

    shots = [asked(shot) + shot["code"].replace("\r", "") + "\n[DONE]\n\n" for shot in exemplars]
    return "".join(shots) + asked(item)


def text_program(item: Item, exemplars: Sequence[Item]) -> str:
    """The head of a function, to be continued."""
    return item["prompt"].strip() + "\n"


def text_crux(item: Item, exemplars: Sequence[Item]) -> str:
    """A function and a call, whose value is asked for after a chain of thought."""
    shots = "".join(f"{_crux(shot)}\n{shot['thought']}\n\n" for shot in exemplars)
    return shots + _crux(item)


def _crux(item: Item) -> str:
    return (
        f"Function:\n{item['code']}\n\nWhat does f({item['input']}) return? Reason step by step, "
        "then write the value as a Python literal after 'The answer is'.\nReasoning:"
    )
