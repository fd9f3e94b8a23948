"""`qwen3 recipe` with made-up scores that waits once in the middle of each stage, for a test.

It makes the file PLACES/<stage>.begun and waits for PLACES/<stage>.go, where PLACES is a variable
of the environment. In stages that train, that is when what they train on is ready; REPORT is the
place before the report.

python tests/recipe/waiting_recipe.py ARGUMENTS
"""

import dataclasses
import os
import sys
import time
from pathlib import Path

import nano  # its scores hold from here on

from qwen3.recipe import run_recipe, seed_run
from qwen3.recipe.stage_table import ROWS

REPORT = "report"
UNTRAINED = (
    "documents tokenizer corpora base_exam exam student_exam leaderboard export budgets".split()
)


def wait_once(place):
    folder = Path(os.environ["PLACES"])
    (folder / f"{place}.begun").touch()
    while not (folder / f"{place}.go").exists():
        time.sleep(0.01)


def waiting(row):
    """The stage, waiting at its beginning or, where it trains, when it begins to train."""

    def run(seed):
        if row.name in UNTRAINED:
            wait_once(row.name)
        at_work.append(row.name)
        return row.run(seed)

    return dataclasses.replace(row, run=run)


def train_and_wait(*arguments):
    wait_once(at_work[-1])
    return train(*arguments)


def report_and_wait(*arguments):
    wait_once(REPORT)
    return report(*arguments)


# At import, so that it holds in worker processes too.
at_work, train, report = [], seed_run.SeedRun.train, run_recipe.report
seed_run.SeedRun.train = train_and_wait
run_recipe.report = report_and_wait
ROWS.update({name: waiting(row) for name, row in ROWS.items()})

if __name__ == "__main__":
    sys.exit(nano.main("--made-up", *sys.argv[1:]))
