"""The step that `qwen3 plan FILE NAME STAGE` compiles is the one that the experiment runs."""

import json
from pathlib import Path

import pytest

pytest.importorskip("libtpu")

from qwen3.cli import main
from qwen3.config import MeshConfig
from qwen3.losses.grpo_config import Grpo
from qwen3.model import sizes
from qwen3.plan import compiling, from_experiment

ROOT = Path(__file__).parents[2]
FILES = [
    str(ROOT / "experiments" / f"{name}.py")
    for name in ("pretrain_full", "post_training_full", "gsm8k_grpo")
]
PRETRAIN, POST = FILES[:2]

TINY = """
import dataclasses
from qwen3.config import MeshConfig, OptimConfig
from qwen3.data.mixture import Stage
from qwen3.losses.grpo_config import Grpo
from qwen3.losses.distill import Distill
from qwen3.model.lora import LoraConfig
from qwen3.model.sizes import size
from qwen3.stages import distill, grpo, pretrain, reward_model, sft
from qwen3.stages.prompts import Share
from qwen3.stages.rollouts import Sampling

OPTIM = OptimConfig(peak=1e-3, warmup=0, moments="bfloat16")
def stage(name, length, batch):
    return pretrain.StageConfig(
        Stage(name, {"text": 1.0}, length, batch), 10, OPTIM, 1e4, microbatches=2
    )
CONFIGS = {
    "pre": pretrain.Config(
        size("tiny"),
        (stage("s1", 256, 16), stage("s2", 512, 8)),
        {"text": "/data"},
        mesh=MeshConfig(fsdp=2, tensor=2),
        execution={"remat": "dots"},
    ),
    "rl": grpo.Config(
        model=size("tiny"), tokenizer="/t", tasks=(Share("lock"),), steps=4, optim=OPTIM,
        sampling=Sampling(samples=4, max_tokens=64, slots=8), prompts=8, minibatches=2, length=256,
        policy=Grpo(kl="k2", kl_coef=0.1), reference="/r",
    ),
    "adapters": sft.Config(
        size("tiny"), "/t", ("/d",), 10, OPTIM, length=256, lora=LoraConfig(rank=4),
        balance="previous",
    ),
    "stored": sft.Config(
        size("tiny"), "/t", ("/d",), 10, OPTIM, length=256, stored=Distill(),
    ),
    "pairs": reward_model.Config(
        size("tiny").replace(scalar_head=True), "/t", ("/d",), 10, OPTIM, length=512,
    ),
    "other": sft.Config(size("tiny").replace(layers=3), "/t", ("/d",), 10, OPTIM, length=256),
}
CONFIGS["laid_out"] = dataclasses.replace(
    CONFIGS["rl"], rollout_mesh=MeshConfig(fsdp=1, tensor=4), execution={"attention": "splash"},
    rollout_execution={"dtype": "float32"},
)
CONFIGS["paged"] = dataclasses.replace(
    CONFIGS["rl"], sampling=Sampling(4, 64, slots=8, cache="paged", cache_tokens=1024)
)
CONFIGS["tight"] = dataclasses.replace(
    CONFIGS["rl"], sampling=Sampling(4, 64, slots=8, cache_tokens=1100)
)
CONFIGS["apart"] = dataclasses.replace(CONFIGS["rl"], rollout_devices=2)
CONFIGS["taught"] = distill.Config(
    model=size("tiny"), tokenizer="/t", teacher="/m", tasks=(Share("lock"),), steps=4, optim=OPTIM,
    sampling=Sampling(samples=4, max_tokens=64, slots=8), prompts=8, microbatches=2, length=256,
    teacher_devices=4, teacher_mesh=MeshConfig(fsdp=2, tensor=2), divergence=Distill(top=8),
)
TEACHERS = {"taught": "0.6b"}
CONFIG = CONFIGS["pre"]
TOPOLOGIES = {"pre": "v5e:2x2"}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "tiny.py"
    path.write_text(TINY)
    return str(path)


def test_a_stage_of_pretraining_is_planned_as_it_runs(tiny):
    setting = from_experiment.setting([tiny, "pre", "s2"])
    assert (setting.model, setting.topology, setting.step) == ("tiny", "v5e:2x2", "train")
    assert setting.mesh == MeshConfig(fsdp=2, tensor=2) and setting.microbatches == 2
    assert (setting.length, setting.batch_per_device) == (512, 2.0)
    assert (setting.remat, setting.chunk) == ("dots", None) and not setting.execution
    assert setting.optim.moments == "bfloat16"
    assert from_experiment.setting([tiny]).length == 256  # CONFIG and its first stage


def test_rl_is_planned_with_its_objective_and_its_rollouts(tiny):
    update = from_experiment.setting([tiny, "rl"], "v5e:2x2")
    assert (
        update.step == "grpo" and update.reference and update.policy == Grpo(kl="k2", kl_coef=0.1)
    )
    assert update.batch_per_device * 4 == 8 // 2 * 4
    rollout = from_experiment.setting([tiny, "rl", "rollout"], "v5e:2x2")
    assert (rollout.step, rollout.length, rollout.batch_per_device) == ("decode", 257, 2.0)
    assert rollout.mesh == MeshConfig()
    laid_out = from_experiment.setting([tiny, "laid_out", "rollout"], "v5e:2x2")
    assert laid_out.mesh.tensor == 4 and laid_out.step == "decode"
    assert laid_out.execution == (("attention", "splash"), ("dtype", "float32"))
    update = from_experiment.setting([tiny, "laid_out"], "v5e:2x2")
    assert update.mesh == MeshConfig() and update.execution == (("attention", "splash"),)
    paged = from_experiment.setting([tiny, "paged", "rollout"], "v5e:2x2")
    assert (paged.cache, paged.cache_tokens, paged.batch_per_device) == ("paged", 1024, 2.0)
    tight = from_experiment.setting([tiny, "tight", "rollout"], "v5e:2x2")
    assert (tight.cache, tight.cache_tokens, tight.batch_per_device * 4) == ("rows", None, 4)
    with pytest.raises(ValueError, match="samples on 2 devices of their own"):
        from_experiment.setting([tiny, "apart", "rollout"], "v5e:2x2")


def test_a_teacher_on_devices_of_its_own_is_a_step_beside_the_students(tiny):
    update = from_experiment.setting([tiny, "taught"], "v5e:2x2")
    assert (update.step, update.model, update.teacher) == ("distill", "tiny", "0.6b")
    assert update.teacher_apart and update.divergence.top == 8 and update.mesh == MeshConfig()
    teacher = from_experiment.setting([tiny, "taught", "teacher"], "v5e:2x2")
    assert (teacher.step, teacher.model, teacher.mesh.tensor) == ("teacher", "0.6b", 2)
    for setting in (update, teacher):
        assert (setting.batch_per_device, setting.microbatches, setting.length) == (8.0, 2, 256)
    with pytest.raises(ValueError, match="has its teacher on 4 devices of their own"):
        from_experiment.setting([tiny, "taught", "teacher"], "v5e:4x4")
    with pytest.raises(ValueError, match="grpo has no part 'teacher'; it has update, rollout"):
        from_experiment.setting([tiny, "rl", "teacher"], "v5e:2x2")


def test_adapters_and_pairs_are_planned_as_they_run(tiny):
    adapters = from_experiment.setting([tiny, "adapters"], "v5e:2x2")
    assert adapters.lora.rank == 4 and adapters.balance == "previous"
    pairs = from_experiment.setting([tiny, "pairs"], "v5e:2x2")
    assert (pairs.step, pairs.model, pairs.length) == ("reward_model", "tiny", 512)
    with pytest.raises(ValueError, match="sft trains on stored logits"):
        from_experiment.setting([tiny, "stored"], "v5e:2x2")


def test_the_full_experiments_name_their_slices():
    setting = from_experiment.setting([PRETRAIN, "30b-a3b", "s3"])
    assert setting.topology == "v5p:4x8x8" and setting.mesh.expert == 4 and not setting.lora.rank
    assert setting.length == 32_768 and setting.batch_per_device * 256 == 256
    setting = from_experiment.setting([PRETRAIN, "235b-a22b", "s3"])
    assert setting.mesh.context == 4 and setting.topology == "v5p:8x16x16"
    assert from_experiment.setting([POST, "reasoning_rl", "rollout"]).mesh.tensor == 8
    setting = from_experiment.setting([POST, "on_policy"])
    assert (setting.step, setting.teacher, setting.mesh.tensor) == ("distill", "32b", 4)
    assert from_experiment.setting([POST, "reward_model"]).step == "reward_model"
    for name in ("cold_start", "reasoning_rl", "fusion", "general_rl", "off_policy"):
        assert from_experiment.setting([POST, name]).length == 40_960
    assert from_experiment.setting([POST, "reasoning_rl"]).policy.entropy


def test_what_cannot_be_planned_is_named(tiny, tmp_path):
    with pytest.raises(ValueError, match="no config 'past'; it has pre, rl, adapters"):
        from_experiment.setting([tiny, "past"])
    with pytest.raises(ValueError, match="no stage 's9'; there are s1, s2"):
        from_experiment.setting([tiny, "pre", "s9"])
    with pytest.raises(ValueError, match="no part 's1'; it has update, rollout"):
        from_experiment.setting([tiny, "rl", "s1"], "v5e:2x2")
    with pytest.raises(ValueError, match="names no slice for rl: give --topology"):
        from_experiment.setting([tiny, "rl"])
    with pytest.raises(ValueError, match="tiny is not one of the sizes 0.6b"):
        from_experiment.setting([tiny, "other"], "v5e:2x2")
    with pytest.raises(ValueError, match="is no file of an experiment"):
        from_experiment.setting([str(tmp_path / "none.py")])


def test_the_command_compiles_the_experiments_step(tmp_path, capsys, monkeypatch):
    small = sizes.ModelConfig("small", 2, 256, 512, 4, 2, vocab=1024)  # heads as kernels want them
    monkeypatch.setitem(sizes.SIZES, "small", small)
    path = tmp_path / "small.py"
    path.write_text(TINY.replace('size("tiny")', 'size("small")'))
    code = main(["plan", str(path), "pre", "s1", "--json"])
    plan = json.loads(capsys.readouterr().out)
    assert code == 0 and plan["fits"] and plan["devices"] == 4
    assert plan["setting"]["microbatches"] == 2 and plan["setting"]["mesh"]["tensor"] == 2
    assert main(["plan", "--model", "small"]) == 2
    assert "plan wants --model and --topology" in capsys.readouterr().err


@pytest.mark.parametrize(
    "message, gigabytes",
    [
        ("RESOURCE_EXHAUSTED: ... Used 120.50G of 95.74G hbm. Exceeded by 24.8G.", 120.5),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (671.91G) exceeds available HBM (95.74G).",
            671.91,
        ),
    ],
)
def test_a_compiler_that_is_out_of_memory_says_how_much_is_wanted(message, gigabytes):
    used, reason = compiling.out_of_memory(message)
    assert used == gigabytes * 2**30 and reason in message
    with pytest.raises(RuntimeError, match="the TPU compiler failed: INTERNAL"):
        compiling.out_of_memory("INTERNAL: something else")


def test_the_full_experiments_are_as_many_programs():
    programs = from_experiment.distinct(FILES)
    assert sum(len(steps) for steps in programs.values()) == 8 * 3 + 5 * 2 + 4 + 2
    named = [tuple(step[1:] for step in steps) for steps in programs.values()]
    assert (("32b", "s1"), ("32b", "s2")) in named and (("32b", "s3"),) in named
    assert (("cold_start", "update"), ("fusion", "update")) in named


def full_steps():
    """(file, config, part) of one step of each program of the experiments at full size."""
    return [steps[0] for steps in from_experiment.distinct(FILES).values()]


@pytest.mark.slow  # a minute or two each
@pytest.mark.parametrize("step", full_steps(), ids=lambda step: "-".join(step[1:]))
def test_every_step_at_full_size_compiles_and_fits(step, capsys):
    code = main(["plan", *step, "--json"])
    plan = json.loads(capsys.readouterr().out)
    assert code == 0 and plan["fits"], plan
    assert plan["used"] < 0.9 * plan["limit"]
