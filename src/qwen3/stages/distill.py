"""On-policy distillation: the student answers, in either mode, and is pulled to its teacher.

The second half of strong-to-weak distillation (report 4.5). The teacher lies in the same mesh and
reads the identical tokens, so it is in the student's mode. Direction and temperature are not
published; full-vocabulary reverse KL at temperature 1 is the default. Off-policy: `stages.sft`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from qwen3.losses import distill
from qwen3.losses.distill import Distill
from qwen3.mesh import make_mesh
from qwen3.stages import builders, on_policy, teacher
from qwen3.stages.groups import Refill
from qwen3.stages.on_policy import OnPolicyConfig
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampled_by not in SAMPLERS:
            raise ValueError(f"sampled_by {self.sampled_by!r} is none of {SAMPLERS}")


def run(config: Config, workdir: str) -> TrainState:
    """Train in `workdir`, on from where it stands; returns the last state.

    Writes samples/<step>.jsonl. Raises ValueError for a teacher that cannot be read or has another
    vocabulary, and for what `on_policy.set_up` refuses.
    """
    mesh = make_mesh(config.mesh, training_devices(config.rollout_devices))
    master, other_tokenizer = teacher.described(config.teacher)
    by_student = config.sampled_by == "student"
    writer = config.model if by_student else master
    setup = on_policy.set_up(config, mesh, writer=writer, scored=False)
    cut = teacher.shared_vocabulary(config.model, setup.tokenizer, master, other_tokenizer)
    divergence = config.divergence
    if cut is not None and divergence.vocab is None:
        divergence = replace(divergence, vocab=cut)
    rate = optim.schedule(config.optim, config.steps)
    tx = optim.build(config.optim, rate)
    with jax.set_mesh(mesh), Workdir(workdir, config, keep=config.keep) as work:
        state, stored, trained = setup.begin(work, tx)
        dtype = setup.execution.dtype
        frozen = {"teacher": teacher.load(config.teacher, mesh, dtype=dtype).params}
        return on_policy.train_in_phases(
            setup,
            work,
            state,
            tx,
            builders.divergence(config.model, master, setup.execution, divergence),
            WholePhase(setup.batches, config.minibatches),
            setup.sampler(
                writer,
                trained.params if by_student else lambda state: frozen["teacher"],
                shared_score if config.score else unscored,
            ),
            trained=trained,
            report=distill.report,
            stored=stored,
            frozen=frozen,
            derived={"learning_rate": rate},
        )


class WholePhase:
    """Distillation's method: every answer has something to teach, so all are trained on."""

    refill = Refill(oversample=1.0, rounds=1)

    def __init__(self, batches: RolloutBatches, parts: int):
        self._batches, self._parts = batches, parts

    def select(self, rollouts: Sequence[Rollout]) -> tuple[list[Group], Counter[str]]:
        return by_prompt(rollouts), Counter()

    def batch(self, part: Sequence[Rollout]) -> dict:
        return self._batches.batch([token_sequence(rollout, policy=False) for rollout in part])

    def columns(self, rollout: Rollout) -> dict[str, Any]:
        return {}

    def prepare(self, phase: Phase, state: TrainState) -> tuple[list[Group], dict[str, float]]:
        return minibatches(phase.groups, self._parts), {}
