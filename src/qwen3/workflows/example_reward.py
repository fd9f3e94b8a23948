"""A reward to begin with: change `reward`, or add functions beside it.

A reward may take any of these, by name: answer (what follows the thought), thought, prompt (the
last user text), reference (the problem's answer) and row (the whole row of your file). It returns
any finite number; more is better. RL learns from differences between answers to the same problem,
so a reward that tells nearly right from quite wrong teaches more than one of right or wrong.
"""

import difflib


def reward(answer: str, reference: object) -> float:
    """1 for the reference itself, less the more letters differ, 0 for nothing in common."""
    return difflib.SequenceMatcher(None, answer.strip(), str(reference)).ratio()
