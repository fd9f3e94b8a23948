"""The recipe at a size that teaches nothing, for processes of one device (pytest's has eight).

python tests/nano.py WORKDIR [--stop]     the whole of it; --stop: GRPO is interrupted
python tests/nano.py --notebook FILE      the notebook's cells, its budget replaced by this
python tests/nano.py --made-up ARGUMENTS  tiny_recipe.py, but for the scores: they are made up
"""

import json
import sys
import types
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))

import tiny_recipe
from recipe.plan import PLANS

from qwen3 import rewards
from qwen3.train.stop import STOPPED, Stopped


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
        if cell["cell_type"] == "code" and not source.startswith(("!", "%")):
            exec(compile(source, "cell", "exec"), names)


# At import, so that it holds in worker processes too.
rewards.score_all = made_up
if "--stop" in sys.argv:
    tiny_recipe.post_training.grpo.run = stopped


def main(first, *rest):
    if first == "--made-up":
        return tiny_recipe.main(list(rest))
    if first == "--notebook":
        PLANS[5] = PLANS[0]
        return notebook(*rest)
    try:
        print(json.dumps(tiny_recipe.recipe(PLANS[0], first, workers=2)))
    except Stopped:
        return STOPPED


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
