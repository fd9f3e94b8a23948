"""On-policy distillation: the student answers, in either mode, and is pulled to its teacher.

The second half of strong-to-weak distillation (report 4.5). The teacher lies in the same mesh, or
on devices of its own (`teacher_layout`), and reads the identical tokens, so it is in the student's
mode. Direction and temperature are not published; full-vocabulary reverse KL at temperature 1 is
the default. Off-policy: `stages.sft`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from qwen3.config import MeshConfig
from qwen3.losses import distill
from qwen3.losses.distill import Distill
from qwen3.mesh import make_mesh
from qwen3.stages import on_policy, teacher
from qwen3.stages.groups import Refill
from qwen3.stages.on_policy import OnPolicyConfig
from qwen3.stages.phase_training import train_in_phases
from qwen3.stages.phases import Group, Phase, minibatches
from qwen3.stages.rollout_batches import RolloutBatches
from qwen3.stages.rollout_layout import training_devices
from qwen3.stages.rollouts import (
    Rollout,
    Sampling,
    by_prompt,
    shared_score,
    token_sequence,
    unscored,
)
from qwen3.stages.teacher_layout import place, teacher_mesh
from qwen3.train import optim
from qwen3.train.state import TrainState
from qwen3.train.workdir import Workdir

SAMPLERS = ("student", "teacher")


@dataclass(frozen=True)
class Config(OnPolicyConfig):
    """Settings of on-policy distillation. `model` is the student."""

    name: str = "distill"
    sampling: Sampling = Sampling(samples=4)
    teacher: str = field(kw_only=True)  # workdir, checkpoint or Hugging Face folder
    divergence: Distill = Distill()  # kind, direction and temperature
    score: bool = True  # also score the answers that have a scorer, for the record
    # Whose answers are trained on, of SAMPLERS; "teacher" is the off-policy control, all else
    # equal.
    sampled_by: str = "student"
    # Devices, the last but those of rollout_devices, that hold the teacher alone, for one that is
    # too large for the training mesh; 0: it lies on the training mesh.
    teacher_devices: int = 0
    teacher_mesh: MeshConfig | None = None  # their layout; None: weights divided over all (fsdp)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher_devices < 0:
            raise ValueError(f"teacher_devices {self.teacher_devices} is a number of devices, or 0")
        if self.teacher_mesh is not None and not self.teacher_devices:
            raise ValueError(
                f"teacher_mesh {self.teacher_mesh} is for devices: set teacher_devices"
            )
        if self.sampled_by not in SAMPLERS:
            raise ValueError(f"sampled_by {self.sampled_by!r} is none of {SAMPLERS}")


def run(config: Config, workdir: str) -> TrainState:
    """Train in `workdir`, on from where it stands; returns the last state.

    Writes samples/<step>.jsonl. Raises ValueError for a teacher that cannot be read or has another
    vocabulary, and for what `on_policy.set_up` refuses.
    """
    devices = training_devices(config.rollout_devices, config.teacher_devices)
    mesh = make_mesh(config.mesh, devices)
    master, other_tokenizer = teacher.described(config.teacher)
    apart = teacher_mesh(
        config.teacher_mesh, config.teacher_devices, config.rollout_devices, master, config.length
    )
    by_student = config.sampled_by == "student"
    writer = config.model if by_student else master
    setup = on_policy.set_up(config, mesh, writer=writer, scored=False, also=apart)
    if apart is not None and not by_student and not config.own_layout:
        setup = replace(setup, rollout_mesh=apart)  # the teacher samples where it lies
    cut = teacher.shared_vocabulary(config.model, setup.tokenizer, master, other_tokenizer)
    divergence = config.divergence
    if cut is not None and divergence.vocab is None:
        divergence = replace(divergence, vocab=cut)
    rate = optim.schedule(config.optim, config.steps)
    tx = optim.build(config.optim, rate)
    with jax.set_mesh(mesh), Workdir(workdir, config, keep=config.keep) as work:
        state, stored, trained = setup.begin(work, tx)
        placed = place(config.teacher, apart, setup, divergence)
        return train_in_phases(
            setup,
            work,
            state,
            tx,
            placed.loss,
            WholePhase(setup.batches, config.minibatches, placed.batch),
            setup.sampler(
                writer,
                trained.params if by_student else lambda state: placed.params,
                shared_score if config.score else unscored,
            ),
            trained=trained,
            report=lambda metrics: {**distill.report(metrics), **placed.metrics()},
            stored=stored,
            frozen=placed.frozen,
            derived={"learning_rate": rate},
        )


class WholePhase:
    """Distillation's method: every answer has something to teach, so all are trained on."""

    refill = Refill(oversample=1.0, rounds=1)

    def __init__(self, batches: RolloutBatches, parts: int, taught: Callable[[dict], dict]):
        self._batches, self._parts, self._taught = batches, parts, taught

    def select(self, rollouts: Sequence[Rollout]) -> tuple[list[Group], Counter[str]]:
        return by_prompt(rollouts), Counter()

    def batch(self, part: Sequence[Rollout]) -> dict:
        sequences = [token_sequence(rollout, policy=False) for rollout in part]
        return self._taught(self._batches.batch(sequences))

    def columns(self, rollout: Rollout) -> dict[str, Any]:
        return {}

    def prepare(self, phase: Phase, state: TrainState) -> tuple[list[Group], dict[str, float]]:
        return minibatches(phase.groups, self._parts), {}
