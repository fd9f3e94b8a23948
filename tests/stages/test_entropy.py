"""The entropy controller: its targets, its steps, its place in a checkpoint."""

import json

import numpy as np
import pytest

from qwen3.stages.entropy import EntropyControl, EntropyTarget


@pytest.mark.parametrize("natural", [0.3, 1.4])
def test_the_controller_brings_a_toy_policy_to_its_target_from_below_and_above(natural):
    """Entropy drifts to `natural`; a bonus pushes up, and so does it drift down without."""
    control = EntropyControl(
        EntropyTarget(0.8, 1.0, relative=False, change=0.01, most=1.0), steps=400
    )
    entropy, seen = natural, []
    for step in range(1, 401):
        entropy += 0.3 * control.coefficient - 0.02 * (entropy - 0.3)
        control.update(step, entropy)
        seen.append(entropy)
        if step == 200:
            control = EntropyControl(control._config, 400, json.loads(json.dumps(control.state())))
    assert np.mean(seen[-50:]) == pytest.approx(1.0, abs=0.1)
    assert np.mean(seen[150:200]) == pytest.approx(0.89, abs=0.1)


def test_a_relative_target_is_a_multiple_of_the_first_entropy_and_the_bonus_stops_above():
    control = EntropyControl(EntropyTarget(1.0, 1.5, change=0.1), steps=10)
    control.update(1, 2.0)
    assert control.target(10) == 3.0 and control.coefficient == 0.05  # its upper end
    control.update(2, 9.0)
    assert control.coefficient == 0.0
    with pytest.raises(ValueError, match="must be above 0"):
        EntropyTarget(change=0.0)


def test_an_absolute_target_runs_in_a_line_from_start_to_end():
    control = EntropyControl(EntropyTarget(1.0, 2.0, relative=False), steps=10)
    control.update(1, 0.5)
    assert [control.target(step) for step in (0, 5, 10, 20)] == [1.0, 1.5, 2.0, 2.0]


def test_the_hook_takes_entropy_per_trained_token_and_skips_empty_steps():
    control = EntropyControl(EntropyTarget(1.0, 1.0, relative=False, change=0.01), steps=10)
    hook = control.hook()
    hook.call(1, None, {"tokens": 0.0, "entropy": 0.0})
    assert control.state()["first"] is None
    hook.call(2, None, {"tokens": 0.5, "entropy": 0.4})  # 0.8 nats a token, below 1
    assert control.state() == {"coefficient": 0.01, "first": 0.8, "below": True}
