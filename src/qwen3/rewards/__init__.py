"""Verifiable tasks: adding a family is adding a file and a row here.

    task = rewards.get("countdown")
    problem = task.generate(seed, difficulty=0.5, split="train", mode="think")
    reward = task.score(problem, text)

`text` is all that follows <|im_start|>assistant; a reward of None is no verdict, not zero.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from qwen3 import sandbox
from qwen3.rewards import (
    coding,
    constraints,
    countdown,
    ifeval,
    length_control,
    logic_puzzles,
    maths,
    parallel_calls,
    structured_output,
    tool_call,
    tool_choice,
)
from qwen3.rewards.format import edit_record, exact_stop, templates
from qwen3.rewards.grounding import altered_facts, sourced_answers
from qwen3.rewards.instruction import (
    answer_language,
    compositions,
    planted_style,
    several_questions,
    toy_lexicon,
)
from qwen3.rewards.locks import dialogues, lock_tasks
from qwen3.rewards.reasoning import grid_puzzles, letter_puzzles, number_puzzles, programs
from qwen3.rewards.task import NoVerdict, Problem, Task

__all__ = ["TASKS", "NoVerdict", "Problem", "Task", "get", "sandbox", "score_all"]

TASKS = {
    task.name: task
    for task in (
        lock_tasks.one_lock,
        lock_tasks.lock_digits,
        lock_tasks.locks_and_languages,
        maths.final_answer,
        countdown.expression,
        coding.unit_tests,
        dialogues.last_flag_wins,
        structured_output.document,
        length_control.bounded,
        constraints.stacked,
        ifeval.instructions,
        tool_call.single_call,
        logic_puzzles.assignment,
        tool_choice.irrelevant_tool,
        tool_choice.missing_argument,
        parallel_calls.several_calls,
        sourced_answers.grounded_answer,
        sourced_answers.abstention,
        sourced_answers.conflicting_sources,
        altered_facts.counterfactual_context,
        altered_facts.false_premise,
        compositions.composed,
        several_questions.numbered,
        answer_language.other_language,
        toy_lexicon.lexicon,
        planted_style.planted_style,
        templates.filled,
        exact_stop.exact_stop,
        edit_record.edit_record,
        letter_puzzles.spell_backward,
        letter_puzzles.letter_counting,
        letter_puzzles.caesar_cipher,
        letter_puzzles.word_sorting,
        letter_puzzles.bracket_completion,
        number_puzzles.number_sorting,
        number_puzzles.base_conversion,
        number_puzzles.roman_numerals,
        number_puzzles.number_sequence,
        number_puzzles.calendar,
        number_puzzles.time_intervals,
        grid_puzzles.shortest_path,
        grid_puzzles.mini_sudoku,
        programs.output_prediction,
        programs.repair,
    )
}


def get(name: str) -> Task:
    """The task of that name; ValueError naming the choices."""
    if name not in TASKS:
        raise ValueError(f"task {name!r} does not exist; there are {sorted(TASKS)}")
    return TASKS[name]


def score_all(
    pairs: Iterable[tuple[Problem, str]], *, threads: int | None = None
) -> list[float | None]:
    """The score of each (problem, text), in order, on `threads` threads (default: cores)."""
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        return list(pool.map(lambda pair: get(pair[0].task).score(*pair), pairs))
