"""The recipe at a size that teaches nothing, for processes of one device (pytest's has eight).

python tests/recipe/nano.py WORKDIR [--stop]     the whole of it; --stop: GRPO is interrupted
python tests/recipe/nano.py --notebook FILE      the notebook's cells, its budget replaced by this
python tests/recipe/nano.py --made-up ARGUMENTS  `qwen3 recipe` with made-up scores
"""

import json
import sys
import types
import zlib
from pathlib import Path

from qwen3 import cli, rewards
from qwen3.recipe.budgets import BUDGETS
from qwen3.recipe.run_recipe import recipe
from qwen3.recipe.stages import post_training
from qwen3.train.preemption import STOPPED, Stopped


def made_up(pairs, threads=None):
    """One step teaches nothing: scores that differ, so that RL has something to go by."""
    return [float(zlib.crc32(text.encode()) % 2) for _, text in pairs]


def stopped(config, workdir):
    raise Stopped(1)


def notebook(path):
    """Runs the code cells, but for installations."""
    shown = types.SimpleNamespace(HTML=str, display=print)
    sys.modules["IPython"] = types.SimpleNamespace(
        display=shown,
        get_ipython=lambda: None,  # this and the version: matplotlib looks at them
        version_info=(9, 0),
    )
    sys.modules["IPython.display"] = shown
    names = {}
    for cell in json.loads(Path(path).read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and "%pip" not in source:
            exec(compile(source, "cell", "exec"), names)


# At import, so that it holds in worker processes too.
rewards.score_all = made_up
if "--stop" in sys.argv:
    post_training.grpo.run = stopped


def main(first, *rest):
    if first == "--made-up":
        return cli.main(["recipe", *rest])
    if first == "--notebook":
        BUDGETS[5] = BUDGETS[0]
        return notebook(*rest)
    try:
        print(json.dumps(recipe(BUDGETS[0], first, workers=2)))
    except Stopped:
        return STOPPED


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
