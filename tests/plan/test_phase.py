"""The wall time of a phase of RL: its parts add up, and each follows the settings it depends on."""

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("libtpu")

from qwen3.cli import main
from qwen3.config import MeshConfig
from qwen3.mesh import make_mesh
from qwen3.model import sizes
from qwen3.plan import phase, reshard, target
from qwen3.plan.compiling import CompiledStep
from qwen3.plan.predict import Prediction

EXPERIMENT = """
import dataclasses
from qwen3.config import MeshConfig, OptimConfig
from qwen3.losses.grpo_config import Grpo
from qwen3.model.sizes import size
from qwen3.stages import distill, grpo, sft
from qwen3.stages.prompts import Share
from qwen3.stages.rollouts import Sampling

OPTIM = OptimConfig(peak=1e-3, warmup=0)
COMMON = dict(
    model=size("small-phase"), tokenizer="/t", tasks=(Share("lock"),), steps=4, optim=OPTIM,
    prompts=8, minibatches=2, length=512, mesh=MeshConfig(fsdp=2, tensor=2),
)
RL = grpo.Config(
    sampling=Sampling(samples=4, max_tokens=256, slots=8),
    rollout_mesh=MeshConfig(data=2, fsdp=1, tensor=2), **COMMON,
)
def sampling(**changes):
    return dataclasses.replace(RL, sampling=dataclasses.replace(RL.sampling, **changes))
CONFIGS = {
    "rl": RL,
    "more slots": sampling(slots=16),
    "more samples": sampling(samples=8),
    "more prompts": dataclasses.replace(RL, prompts=16),
    "one batch": dataclasses.replace(RL, minibatches=1),
    "own": dataclasses.replace(RL, policy=Grpo(old="rollout"), rollout_mesh=None),
    "checked": dataclasses.replace(RL, policy=Grpo(old="rollout")),
    "distill": distill.Config(
        teacher="/t", sampling=Sampling(samples=4, max_tokens=256, slots=8), **COMMON
    ),
    "sft": sft.Config(size("small-phase"), "/t", ("/d",), 10, OPTIM, length=256),
}
TOPOLOGIES = dict.fromkeys(CONFIGS, "v5e:2x2")
TEACHERS = {"distill": "small-phase"}
"""
SMALL = sizes.ModelConfig("small-phase", 1, 256, 512, 4, 2, vocab=1024)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "phases.py"
    path.write_text(EXPERIMENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sizes.SIZES, SMALL.name, SMALL)
        yield str(path)


@pytest.fixture
def counted(experiment, monkeypatch):
    """phase(name, ...): a PhasePlan whose programs take 1 s a row and 1 ms a token of a row."""

    def compiled(setting):
        rows = setting.batch_per_device * 4
        seconds = rows + setting.length / 1000
        return CompiledStep(
            setting=setting,
            devices=4,
            devices_per_chip=1,
            parameters=0,
            limit=1.0,
            fits=True,
            used=0.5,
            memory={"arguments": 819e9},
            prediction=Prediction(seconds, 0.0, 0.0, "compute", seconds, 0.5, 1.0),
        )

    monkeypatch.setattr(phase, "plan", compiled)

    def planned(name, **lengths):
        lengths = {"answer_tokens": 256, "prompt_tokens": 128} | lengths
        plan = phase.plan_phase([experiment, name], **lengths)
        return plan, {part.name: part for part in plan.parts}

    return planned


def test_parts_are_the_programs_of_a_phase_and_add_up(counted):
    plan, parts = counted("rl")
    assert list(parts) == ["prefill", "decode", "reshard", "old log-probs", "update"]
    assert plan.seconds == pytest.approx(sum(part.total for part in plan.parts))
    assert parts["prefill"].total == pytest.approx(8 + 0.128)
    # 32 answers of 256 tokens through 8 slots, with caches of a prompt and half an answer.
    assert (parts["decode"].times, plan.cache_length) == (32 * 256 / 8, 256)
    assert parts["decode"].total == pytest.approx(1024 * (8 + 0.256))
    # 16 answers a minibatch, one in each row of 512.
    assert parts["update"].total == pytest.approx(2 * (16 + 0.512))
    assert parts["old log-probs"].total == parts["update"].total
    assert plan.decode_over_reading == pytest.approx(8.256), "819 GB at the 819 GB/s of a v5e"


def test_each_part_follows_its_settings(counted):
    base = {name: part.total for name, part in counted("rl")[1].items()}

    def change(name, **lengths):
        parts = counted(name, **lengths)[1]
        return {part: parts[part].total - base[part] for part in base}

    slots = change("more slots")
    assert slots.pop("decode") == pytest.approx(512 * 16.256 - 1024 * 8.256)
    assert set(slots.values()) == {0}
    samples = change("more samples")
    assert samples["decode"] == pytest.approx(base["decode"])
    assert samples["update"] == samples["old log-probs"] == pytest.approx(2 * 16)
    assert samples["prefill"] == samples["reshard"] == 0, "samples share their prompt's prefill"
    prompts = change("more prompts")
    assert prompts["prefill"] == pytest.approx(8)
    assert prompts["decode"] == pytest.approx(base["decode"])
    assert prompts["update"] == pytest.approx(2 * 16)
    one = change("one batch")
    assert one.pop("update") == one.pop("old log-probs") == pytest.approx(-0.512)
    assert set(one.values()) == {0}
    shorter = change("rl", answer_tokens=128)
    assert shorter["decode"] == pytest.approx(512 * (8 + 0.256) - base["decode"])
    assert shorter["update"] == pytest.approx(2 * -8), "two answers fit in a row"
    assert change("rl", prompt_tokens=64)["prefill"] == 0, "padded to 128"
    assert change("rl", prompt_tokens=256)["prefill"] == pytest.approx(0.128)


def test_old_log_probs_are_part_of_a_phase_that_computes_them(counted):
    assert "old log-probs" not in counted("own")[1], "the sampler's own are trained on"
    assert "old log-probs" in counted("checked")[1], "a sampler of another layout is checked"
    assert list(counted("distill")[1]) == ["prefill", "decode", "reshard", "update"]
    assert counted("own")[1]["reshard"].bound == "memory", "the weights stay on their devices"
    assert counted("rl")[1]["reshard"].bound == "links"


def test_what_has_no_phase_is_named(counted):
    with pytest.raises(ValueError, match="sft is a qwen3.stages.sft stage: it has no phase"):
        counted("sft")
    with pytest.raises(ValueError, match="answers of 257 tokens: grpo samples 1 to 256"):
        counted("rl", answer_tokens=257)
    with pytest.raises(ValueError, match="prompts of 257 tokens: grpo has room for 1 to 256"):
        counted("rl", prompt_tokens=257)


def test_the_command_prints_the_split(counted, experiment, capsys):
    words = ["plan", experiment, "rl", "phase", "--answer-tokens", "256", "--prompt-tokens", "128"]
    assert main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    plan, parts = counted("rl")
    assert record["seconds"] == plan.seconds and len(record["parts"]) == 5
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "8 prompts x 4 answers of 256 tokens (prompts of 128), 8 slots" in lines[0]
    decode = next(line for line in lines if line.startswith("decode"))
    assert f"{parts['decode'].total:,.0f} s" in decode and "1,024" in decode
    assert any("takes 8.26 times the 1.0000 s of reading" in line for line in lines)
    assert main(words[:-4]) == 2, "the default is longer than this config samples"
    assert "answers of 16384 tokens: grpo samples 1 to 256" in capsys.readouterr().err


@pytest.mark.slow  # four programs
def test_a_phase_is_compiled(experiment):
    plan = phase.plan_phase([experiment, "rl"], answer_tokens=256, prompt_tokens=128)
    assert plan.fits and 1.25 < plan.decode_over_reading < 100 and plan.sent > 0
    assert all(0 < part.used < 16e9 for part in plan.parts)


def test_a_handover_receives_what_a_device_has_not():
    devices = target.devices("v5e:2x2")
    model = dataclasses.replace(SMALL, name="handed-over")
    total = sizes.count_parameters(model).total
    spread = make_mesh(MeshConfig(fsdp=4), devices)
    copies = make_mesh(MeshConfig(data=4, fsdp=1), devices)
    gathered = reshard.handover(model, "bfloat16", spread, copies)
    norms = 2 * model.hidden + 2 * model.head_dim + model.hidden
    assert gathered.placed == 2 * total
    assert gathered.stored == pytest.approx(4 * (total - norms) / 4 + 4 * norms)
    assert gathered.received == pytest.approx(2 * (total - norms) * 3 / 4)
    assert reshard.handover(model, "bfloat16", copies, spread).received == 0
    assert reshard.handover(model, "bfloat16", spread, spread).received == 0


def test_parts_of_arrays_have_in_common_what_their_slices_have():
    array = np.zeros((8, 6))
    cases = [((slice(0, 4), slice(None)), (slice(2, 8), slice(0, 3))), ((slice(0, 2),) * 2,) * 2]
    for a, b in cases:
        marked = array.copy()
        marked[a] += 1
        marked[b] += 1
        assert reshard._elements(a, b, array.shape) == (marked == 2).sum()
