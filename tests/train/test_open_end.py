"""A run may be given more steps: in all or in the last of its stages, not in an earlier one."""

import pytest

from qwen3.train.run_config import RunConfig

STAGES = [{"name": "S1", "steps": 3, "length": 8}, {"name": "S2", "steps": 5, "length": 16}]
STORED = {"schema": 1, "config": {"seed": 0, "steps": 9, "save_every": 2, "stages": STAGES}}


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({"steps": 20, "save_every": 7}, []),
        ({"stages": [STAGES[0], {**STAGES[1], "steps": 50}]}, []),
        ({"stages": [{**STAGES[0], "steps": 4}, STAGES[1]]}, ["stages.0.steps: 3 -> 4"]),
        ({"stages": [STAGES[0], {**STAGES[1], "length": 32}]}, ["stages.1.length: 16 -> 32"]),
        ({"seed": 1}, ["seed: 0 -> 1"]),
    ],
)
def test_only_the_end_is_open(change, lines):
    assert RunConfig({**STORED["config"], **change}).changes(STORED) == lines


def test_a_run_whose_steps_are_fixed_has_no_open_end():
    longer = {**STORED["config"], "stages": [STAGES[0], {**STAGES[1], "steps": 50}]}
    assert RunConfig(longer, free=()).changes(STORED) == ["stages.1.steps: 5 -> 50"]
