"""`qwen3 recipe` with its first two stages alone: results.json, and no report.

python tests/recipe/first_stages.py ARGUMENTS
"""

import sys

from qwen3 import cli
from qwen3.recipe import run_recipe, seed_run
from qwen3.recipe.stage_table import STAGES

FIRST = STAGES[:2]


def results_of(run):
    return {stage.name: run.result(stage.name)["result"] for stage in FIRST}


def report(workdir, results, facts, console):
    seed_run.write(workdir / "results.json", {"seeds": results})


def main(arguments):
    run_recipe.STAGES, run_recipe.results_of, run_recipe.report = FIRST, results_of, report
    sys.argv[1:] = ["recipe", *arguments]
    return cli.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
