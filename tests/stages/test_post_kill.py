"""Kill -9 at ten random moments of a GRPO run, of one with episodes, and of a distillation run."""

import importlib.util
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import post
import pytest

HERE = Path(__file__).parent


def load_harness():
    spec = importlib.util.spec_from_file_location(
        "kill_harness", HERE.parent / "train" / "kill_harness.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


harness = load_harness()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["grpo", "episodes", "distill", "grpo-paged", "episodes-paged"])
def test_ten_random_kills_change_nothing(stage, tmp_path):
    folder = tmp_path / "teacher"
    post.save_hf(folder, post.model())
    environment = {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=1 {os.environ['QUICK_COMPILE']}",
        "POST_TOKENIZER": post.tokenizer_folder(),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
    }

    def command(workdir):
        return [sys.executable, str(HERE / "post_run.py"), stage, str(workdir), str(folder)]

    works = tmp_path / "whole", tmp_path / "killed"
    moments = harness.random_moments(10, longest=0.8, border=12, seed=len(stage))
    options = {"env": environment, "timeout": 1500}
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(harness.run, command(works[0]), works[0], **options)
        kills = harness.run(command(works[1]), works[1], moments, **options)
        whole.result()
    assert len(kills) == 10 and sum(kill["half_written"] for kill in kills) >= 2
    harness.assert_same_run(*works)
    samples = [
        {file.name: file.read_text() for file in sorted((work / "samples").iterdir())}
        for work in works
    ]
    assert samples[0] == samples[1]
    numbers = [
        number
        for text in samples[1].values()
        for number in json.loads(text.splitlines()[-1])["trained"]
    ]
    assert len(numbers) == len(set(numbers)) >= 4 * 30
