"""Runs that train adapters are killed with signal 9 and go on bitwise."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kill_harness as harness
import post
import pytest

from qwen3.train.checkpoint import load_params

PROGRAM = Path(__file__).with_name("lora_run.py")


def check(stage, moments, tmp_path):
    """A whole run and a killed one end with the same adapters, metrics and, in RL, samples."""
    for name in ("base", "teacher"):
        post.save_hf(tmp_path / name, post.model())
    environment = {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=1 {os.environ['QUICK_COMPILE']}",
        "POST_TOKENIZER": post.tokenizer_folder(),
    }

    def command(workdir):
        folders = (str(tmp_path / name) for name in ("base", "teacher"))
        return [sys.executable, str(PROGRAM), stage, str(workdir), *folders]

    works = tmp_path / "whole", tmp_path / "killed"
    options = {"env": environment, "timeout": 1500}
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(harness.run, command(works[0]), works[0], **options)
        kills = harness.run(command(works[1]), works[1], moments, **options)
        whole.result()
    harness.assert_same_run(*works)
    assert set(load_params(works[1])["mlp"]["down"]) == {"a", "b"}  # adapters and nothing else
    samples = [
        {file.name: file.read_text() for file in sorted((work / "samples").glob("*.jsonl"))}
        for work in works
    ]
    assert samples[0] == samples[1]
    assert stage == "sft" or all(json.loads(text.splitlines()[-1]) for text in samples[0].values())
    return kills


def test_adapters_killed_in_a_checkpoint_write_go_on_bitwise(tmp_path):
    (kill,) = check("sft", [harness.while_writing()], tmp_path)
    assert kill["half_written"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "grpo", "distill"])
def test_adapters_killed_anywhere_go_on_bitwise(stage, tmp_path):
    """In a write, within a phase, at the border of one with a checkpoint, and anywhere."""
    moments = [harness.while_writing(), harness.at_step(7), harness.at_step(12), harness.after(0.3)]
    kills = check(stage, moments, tmp_path)
    assert len(kills) == 4 and kills[0]["half_written"]
