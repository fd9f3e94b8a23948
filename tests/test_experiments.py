"""Every experiment imports, its CONFIG builds, survives JSON, and says how it is run.

Its docstring has the exact command, the hardware, and what is expected or that it was not yet run.
"""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from qwen3.config import from_json, to_json

FOLDER = Path(__file__).parent.parent / "experiments"
EXPERIMENTS = sorted(path for path in FOLDER.glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_it_imports_and_its_config_builds(path):
    module = load(path)
    lines = module.__doc__.splitlines()
    (command,) = (number for number, line in enumerate(lines) if line.startswith("Command:   "))
    commands = "\n".join(lines[command:])
    assert f"python experiments/{path.name}" in commands, "no exact command"
    for part in ("Hardware:  ", "Expected:  "):
        assert any(line.startswith(part) for line in lines[command:]), f"no {part.strip()}"
    configs = {"CONFIG": module.CONFIG} if hasattr(module, "CONFIG") else {}
    for name, config in {**configs, **getattr(module, "CONFIGS", {})}.items():
        again = to_json(from_json(type(config), to_json(config)))
        assert again == to_json(config), name
    if "from qwen3.run import main" in path.read_text():
        assert configs, "a run of one stage has its CONFIG"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_pages_that_it_cites_exist(path):
    for name in re.findall(r"docs/[\w/.-]+\.md", path.read_text()):
        assert (FOLDER.parent / name).exists(), name


def test_full_pretraining_has_all_eight_models_and_the_reports_stages():
    module = load(FOLDER / "pretrain_full.py")
    assert set(module.CONFIGS) == {"0.6b", "1.7b", "4b", "8b", "14b", "32b", "30b-a3b", "235b-a22b"}
    for name, config in module.CONFIGS.items():
        one, two, three = config.stages
        tokens = [s.steps * s.data.batch * s.data.length for s in config.stages]
        assert tokens == pytest.approx([30e12, 5e12, 0.3e12], rel=1e-4)
        assert [s.rope_theta for s in config.stages] == [1e4, 1e4, 1e6]
        assert [s.data.length for s in config.stages] == [4096, 4096, 32768]
        assert three.data.lengths.bands == ((16384, 32768, 0.75), (4096, 16384, 0.25))
        chips = module.SLICES[name].chips
        for stage in config.stages:
            ways = chips // stage.mesh.context
            assert stage.data.batch // stage.microbatches % ways == 0, (name, stage.name)
