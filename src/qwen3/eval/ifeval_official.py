"""IFEval by its authors' checkers, strict and loose (arXiv 2311.07911).

They come with lm-eval (extra `[eval]`). One instruction, the number of sentences, reads a table of
nltk's that must be on the machine (`python -m nltk.downloader punkt_tab`); without it its answers
have no verdict.
"""

from __future__ import annotations

import importlib
import logging
import threading
from functools import lru_cache
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock

from qwen3.eval.items import Item, Verdict

log = logging.getLogger("qwen3")

_LOCK = threading.Lock()  # of the classes' module, whose random numbers are replaced


@lru_cache(maxsize=1)
def checkers() -> Any:
    """lm-eval's module of them. Raises ModuleNotFoundError saying which extra brings it."""
    try:
        importlib.import_module("langdetect").DetectorFactory.seed = 0  # else verdicts vary
        nltk = importlib.import_module("nltk")
        with mock.patch.object(nltk, "download"):  # which the import would try for its table
            return importlib.import_module("lm_eval.tasks.ifeval.utils")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: pip install 'qwen3[eval]'", name=error.name) from error


def follows(item: Item, answer: str, *, loose: bool = False) -> list[bool] | None:
    """Whether each instruction is followed; None where a checker lacks its table.

    loose: also when the first or last line or the asterisks of the answer are left out.
    """
    name = "loose" if loose else "strict"
    check = getattr(checkers(), f"test_instruction_following_{name}")
    example = SimpleNamespace(
        key=item["key"],
        prompt=item["prompt"],
        instruction_id_list=item["instruction_id_list"],
        kwargs=item["kwargs"],
    )
    try:
        with _LOCK:
            # The classes draw what they are not given, a letter that is none included: of an item
            # the same every time, else its verdict would vary.
            instructions = importlib.import_module("lm_eval.tasks.ifeval.instructions")
            with mock.patch.object(instructions, "random", Random(str(item["key"]))):
                return list(check(example, answer).follow_instruction_list)
    except LookupError as error:
        log.warning("IFEval: no verdict, a table is missing: %s", _missing(error))
        return None


def _missing(error: LookupError) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line.startswith("Resource")), repr(error))


def strict_prompt(item: Item, answer: str) -> Verdict:
    """1 where all instructions of the prompt are followed strictly."""
    followed = follows(item, answer)
    return Verdict(None) if followed is None else Verdict(float(all(followed)), answer or None)


def loose_prompt(item: Item, answer: str) -> Verdict:
    """1 where all instructions of the prompt are followed loosely."""
    followed = follows(item, answer, loose=True)
    return Verdict(None) if followed is None else Verdict(float(all(followed)), answer or None)
