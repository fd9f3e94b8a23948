"""The step that an experiment's config runs, as a Setting: what is planned is what runs.

    qwen3 plan experiments/pretrain_full.py 30b-a3b s2
    qwen3 plan experiments/post_training_full.py reasoning_rl rollout --topology v5p:4x4x4

Mesh, batch, length, microbatches, recomputation, kernels and objective are the config's. The slice
is --topology, or the file's own `TOPOLOGIES[NAME]`. A stage of pretraining is named; of RL and
distillation, "update" is the optimizer step and "rollout" the decode step of its engine, on the
mesh that samples; "teacher" is the forward pass of a teacher on devices of its own. Devices apart
are a slice of their own: --topology or the file's names that of the part.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from qwen3.config import MeshConfig, OptimConfig
from qwen3.model import sizes
from qwen3.model.execution import Execution
from qwen3.plan.chips import device_count
from qwen3.plan.steps import Setting
from qwen3.stages import distill, grpo, pretrain, reward_model, sft
from qwen3.stages.on_policy import OnPolicyConfig
from qwen3.stages.rollouts import context

PARTS = ("update", "rollout")  # of a stage that trains on what its model samples
TEACHER = "teacher"  # a part more, where the teacher is on devices of its own


def setting(words: Sequence[str], topology: str | None = None) -> Setting:
    """The Setting of (file, name, stage), of which the last two may be missing.

    Raises ValueError naming the choices.
    """
    module = load_experiment(words[0])
    name, config = config_of(module, words[1] if len(words) > 1 else None)
    place = topology or getattr(module, "TOPOLOGIES", {}).get(name)
    if place is None:
        raise ValueError(f"{words[0]} names no slice for {name}: give --topology or --type")
    part = words[2] if len(words) > 2 else None
    teachers: Mapping[str, str] = getattr(module, "TEACHERS", {})
    base = Setting(
        model=_size(config.model.replace(scalar_head=False)),
        topology=place,
        chunk=None,
        teacher=teachers.get(name, "32b"),
    )
    build = next((row for kind, row in SETTINGS.items() if isinstance(config, kind)), None)
    if build is None:
        raise ValueError(f"{words[0]} {name} is a {type(config).__name__}, which has no step")
    return build(config, base, part, device_count(place))


def parts(config: Any) -> tuple[str, ...]:
    """The steps of a config that can be planned: stages of pretraining, update and rollout."""
    if isinstance(config, pretrain.Config):
        return tuple(stage.name for stage in config.stages)
    if isinstance(config, distill.Config) and config.teacher_devices:
        return (*PARTS, TEACHER)
    return PARTS if isinstance(config, OnPolicyConfig) else PARTS[:1]


def distinct(paths: Sequence[str]) -> dict[Setting, list[tuple[str, str, str]]]:
    """The different programs of experiments that name their slices: Setting -> (file, name, stage).

    S1 and S2 of pretraining, say, are one program, as only their rates and data differ.
    """
    programs: dict[Setting, list[tuple[str, str, str]]] = {}
    for path in paths:
        module = load_experiment(path)
        for name in module.TOPOLOGIES:
            for part in parts(module.CONFIGS[name]):
                step = setting((path, name, part))
                optim = OptimConfig(step.optim.optimizer, moments=step.optim.moments)
                programs.setdefault(step.replace(optim=optim), []).append((path, name, part))
    return programs


def load_experiment(path: str) -> ModuleType:
    """The module of an experiment's file. ValueError if there is none."""
    if not Path(path).is_file():
        raise ValueError(f"{path} is no file of an experiment")
    spec = importlib.util.spec_from_file_location(f"experiment_{Path(path).stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def config_of(module: ModuleType, name: str | None) -> tuple[str, Any]:
    configs = dict(getattr(module, "CONFIGS", {}))
    if name is None and hasattr(module, "CONFIG"):
        named = (key for key, value in configs.items() if value is module.CONFIG)
        return next(named, "CONFIG"), module.CONFIG
    if name is None or name not in configs:
        raise ValueError(f"{module.__file__} has no config {name!r}; it has {', '.join(configs)}")
    return name, configs[name]


def _size(model: sizes.ModelConfig) -> str:
    """The name of a published size. Raises ValueError for another model."""
    if model.name not in sizes.SIZES or sizes.size(model.name) != model:
        raise ValueError(f"{model.name} is not one of the sizes {', '.join(sizes.SIZES)}")
    return model.name


def _common(config: Any, base: Setting, rows: float, devices: int, **changes: Any) -> Setting:
    """What all stages have in common: mesh, rows and kernels."""
    kernels = dict(getattr(config, "execution", {}))
    return base.replace(
        batch_per_device=rows / devices,
        remat=kernels.pop("remat", Execution().remat),
        execution=tuple(kernels.items()),
        **{"mesh": config.mesh, **changes},
    )


def _pretraining(config: pretrain.Config, base: Setting, part: str | None, devices: int) -> Setting:
    stages = {stage.name: stage for stage in config.stages}
    if (part or next(iter(stages))) not in stages:
        raise ValueError(f"there is no stage {part!r}; there are {', '.join(stages)}")
    stage = stages[part or next(iter(stages))]
    return _common(
        config,
        base,
        stage.data.batch,
        devices,
        mesh=config.mesh if stage.mesh is None else stage.mesh,
        microbatches=stage.microbatches,
        length=stage.data.length,
        optim=stage.optim,
        balance=config.balance,
    )


def _fine_tuning(config: sft.Config, base: Setting, part: str | None, devices: int) -> Setting:
    if config.stored is not None:
        raise ValueError(f"{config.name} trains on stored logits; of that there is no step to plan")
    changes = {"lora": config.lora, "balance": config.balance}
    return _packed_rows(config, base, devices, **changes)


def _reward_model(
    config: reward_model.Config, base: Setting, part: str | None, devices: int
) -> Setting:
    return _packed_rows(config, base, devices, step="reward_model")


def _packed_rows(config: Any, base: Setting, devices: int, **changes: Any) -> Setting:
    """An optimizer step on a batch of rows, into which data are packed."""
    changes |= {"length": config.length, "optim": config.optim}
    return _common(config, base, config.batch, devices, microbatches=config.microbatches, **changes)


def _on_policy(
    config: OnPolicyConfig, base: Setting, part: str | None, devices: int, **changes: Any
) -> Setting:
    if (part or "update") not in parts(config):
        raise ValueError(f"{config.name} has no part {part!r}; it has {', '.join(parts(config))}")
    if part == "rollout":
        own = config.rollout_devices
        _require_own(config, "samples", own, devices)
        default = MeshConfig(data=-1, fsdp=1) if own else config.mesh
        sampling, length = config.sampling, context(config.model, config.length)
        slots, tokens = sampling.slots, sampling.cache_tokens
        if sampling.cache == "rows" and tokens is not None:  # as many as have room for the longest
            slots, tokens = min(slots, tokens // length), None
        kernels = {**config.execution, **config.rollout_execution}
        return _common(
            dataclasses.replace(config, execution=kernels),
            base,
            slots,
            devices,
            mesh=config.rollout_mesh or default,
            step="decode",
            length=length,
            cache=sampling.cache,
            cache_tokens=tokens,
        )
    # At most one answer a row: what must fit is the phase whose answers are all long.
    rows = config.prompts // config.minibatches * config.sampling.samples
    changes |= {"length": config.length, "optim": config.optim, "lora": config.lora}
    changes["microbatches"] = config.microbatches
    return _common(config, base, rows, devices, **changes)


def _require_own(config: OnPolicyConfig, does: str, own: int, devices: int) -> None:
    """Raise ValueError where a part has `own` devices, and the slice is another number."""
    if own not in (0, devices):
        raise ValueError(
            f"{config.name} {does} on {own} devices of their own: give --topology with {own}"
        )


def _grpo(config: grpo.Config, base: Setting, part: str | None, devices: int) -> Setting:
    changes = {"step": "grpo", "policy": config.policy, "reference": bool(config.reference)}
    return _on_policy(config, base, part, devices, **changes)


def _distill(config: distill.Config, base: Setting, part: str | None, devices: int) -> Setting:
    changes: dict[str, Any] = {"step": "distill", "divergence": config.divergence}
    changes["teacher_apart"] = config.teacher_devices > 0
    if part != TEACHER:
        return _on_policy(config, base, part, devices, **changes)
    update = _on_policy(config, base, None, devices)
    _require_own(config, "has its teacher", config.teacher_devices, devices)
    mesh = config.teacher_mesh or MeshConfig()
    return update.replace(step="teacher", model=base.teacher, mesh=mesh, lora=base.lora)


# kind of config -> (config, base, part, devices) -> Setting
SETTINGS: dict[type, Callable[..., Setting]] = {
    pretrain.Config: _pretraining,
    sft.Config: _fine_tuning,
    reward_model.Config: _reward_model,
    grpo.Config: _grpo,
    distill.Config: _distill,
}
