"""Killed anywhere and started again, a three-stage run ends where the uninterrupted one ends."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kill_harness as harness
import pytest
import toy_pretraining as toy

SCRIPT = Path(__file__).with_name("toy_pretraining.py")


def both(tmp_path, moments, count, *settings):
    """The run without and, at the same time, with kills, on `count` devices."""
    toy.prepare(tmp_path / "corpora")
    flags = f"--xla_force_host_platform_device_count={count} {os.environ['QUICK_COMPILE']}"
    env = {"XLA_FLAGS": flags, "PAUSE": "0.02"}

    options = {"env": env, "timeout": 1500}

    def command(name):
        sets = [word for each in settings for word in ("--set", each)]
        return [
            sys.executable,
            str(SCRIPT),
            str(tmp_path / "corpora"),
            "--workdir",
            str(tmp_path / name),
            *sets,
        ]

    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(harness.run, command("whole"), tmp_path / "whole", **options)
        kills = harness.run(command("killed"), tmp_path / "killed", moments, **options)
        whole.result()
    harness.assert_same_run(tmp_path / "whole", tmp_path / "killed")
    one, other = ((tmp_path / name / "evaluation.json").read_text() for name in ("whole", "killed"))
    assert one == other
    return kills


@pytest.mark.slow  # tests/train/test_kill.py does the same to a toy model by default
def test_killed_in_a_write_and_just_after_a_border(tmp_path):
    kills = both(tmp_path, [harness.while_writing(), harness.at_step(13)], 1)
    assert kills[0]["half_written"] and 13 <= kills[1]["step"] < 36


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 8])
def test_killed_twenty_times_anywhere(tmp_path, count):
    steps = [f"stages.{name}.steps=100" for name in ("s1", "s2", "s3")]
    moments = harness.random_moments(19, longest=0.5, border=100, seed=count)
    # The other border too; moments at steps come in their order.
    moments.append(harness.at_step(200))
    kills = both(tmp_path, moments, count, *steps)
    assert len(kills) == 20 and sum(kill["half_written"] for kill in kills) >= 3
