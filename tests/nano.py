"""The recipe at a size that teaches nothing, for processes of one device (pytest's has eight).

    python tests/nano.py WORKDIR [--stop]     the whole of it; --stop: GRPO is interrupted
    python tests/nano.py --notebook FILE      the notebook's cells, its budget replaced by this
"""

import json
import sys
import types
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))

import tiny_recipe
from recipe.plan import PLANS, Plan

from qwen3 import rewards
from qwen3.train.stop import STOPPED, Stopped

NANO = Plan(
    0.1, documents=200, general=3, reasoning=3, long=2, cold_start=3, cold_problems=24,
    grpo=1, expert_rl=1, group=4, prompts=4, fusion=3, rejection=12, general_rl=1,
    student_general=2, student_reasoning=2, off_policy=2, on_policy=1, student_rl=1, experts=2,
    cold_sizes=(5,), tests=6, dialogues=4, needles=2, hard=2, samples=2,
    budgets=(0, 8, 16, 24, 32), lengths=(128, 640),
)  # fmt: skip


def made_up(pairs, threads=None):
    """Three steps teach nothing: scores that differ, so that RL has something to go by."""
    return [float(zlib.crc32(text.encode()) % 2) for _, text in pairs]


def stopped(config, workdir):
    raise Stopped(1)


def notebook(path):
    """Runs the code cells, but for installations."""
    shown = types.SimpleNamespace(HTML=str, display=print)
    sys.modules["IPython"] = types.SimpleNamespace(display=shown)
    sys.modules["IPython.display"] = shown
    names = {}
    for cell in json.loads(Path(path).read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and not source.startswith(("!", "%")):
            exec(compile(source, "cell", "exec"), names)


def main(first, *rest):
    rewards.score_all = made_up
    if first == "--notebook":
        PLANS[5] = NANO
        return notebook(*rest)
    if rest == ("--stop",):
        tiny_recipe.post_training.grpo.run = stopped
    try:
        print(json.dumps(tiny_recipe.recipe(NANO, first)))
    except Stopped:
        return STOPPED


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
