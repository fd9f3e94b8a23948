"""On-policy distillation: the student answers, in either mode, and is pulled to its teacher.

The second half of strong-to-weak distillation (report 4.5). The teacher lies in the same mesh and
reads the identical tokens, so it is in the student's mode. Direction and temperature are not
published; full-vocabulary reverse KL at temperature 1 is the default. Off-policy: `stages.sft`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax

from qwen3 import rewards
from qwen3.config import MeshConfig, OptimConfig, to_dict
from qwen3.curate.files import read_problems
from qwen3.data.tokenizer import Tokenizer
from qwen3.losses import distill
from qwen3.losses.distill import Distill
from qwen3.losses.forward import MODES
from qwen3.mesh import make_mesh
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig, flops_per_token
from qwen3.stages import builders, rollouts, teacher
from qwen3.stages.groups import rollout_metrics
from qwen3.stages.prompts import Prompts, Share
from qwen3.stages.rollouts import PhaseMetrics, Rollout, RolloutBatches, RolloutSource, Sampling
from qwen3.stages.start import begin
from qwen3.train import optim
from qwen3.train.checkpoint import Keep
from qwen3.train.loop import train
from qwen3.train.recording import Log, recording_hooks
from qwen3.train.state import TrainState
from qwen3.train.step import make_step
from qwen3.train.workdir import Workdir

SAMPLERS = ("student", "teacher")


@dataclass(frozen=True)
class Config:
    """teacher: workdir, checkpoint or Hugging Face folder. tasks: the prompts (`stages.prompts`),
    whose modes are drawn per prompt; problems: a file for the share named "file", in which
    messages are enough. prompts: of a phase, split into `minibatches` optimizer steps. length: as
    in `stages.grpo`. score: also score the answers that have a scorer, for the record. sampled_by:
    one of SAMPLERS; "teacher" is the off-policy control, all else equal.
    """

    model: ModelConfig
    tokenizer: str
    teacher: str
    tasks: tuple[Share, ...]
    steps: int
    optim: OptimConfig
    name: str = "distill"
    problems: str = ""
    divergence: Distill = Distill()
    sampling: Sampling = Sampling(samples=4)
    prompts: int = 32
    minibatches: int = 1
    microbatches: int = 1
    length: int = 2048
    score: bool = True
    sampled_by: str = "student"
    seed: int = 0
    init_from: str = ""
    save_every: int = 10
    mesh: MeshConfig = MeshConfig()
    execution: dict[str, Any] = field(default_factory=dict)
    keep: Keep = Keep()
    log: Log = Log(every=1)

    def __post_init__(self):
        if self.prompts < 1 or self.prompts % self.minibatches:
            raise ValueError(
                f"{self.prompts} prompts a phase do not divide into {self.minibatches} minibatches"
            )
        if self.sampled_by not in SAMPLERS:
            raise ValueError(f"sampled_by {self.sampled_by!r} is none of {SAMPLERS}")


def run(config: Config, workdir: str) -> TrainState:
    """Train in `workdir`, on from where it stands; returns the last state.

    Writes samples/<step>.jsonl. Raises ValueError for a teacher that cannot be read or has another
    vocabulary, and for prompts as `stages.prompts` does.
    """
    mesh = make_mesh(config.mesh)
    execution = Execution.for_mesh(mesh, **config.execution)
    tokenizer = Tokenizer.load(config.tokenizer)
    tokenizer.check_fits(config.model.vocab)
    master, their_tokenizer = teacher.described(config.teacher)
    cut = teacher.shared_vocabulary(config.model, tokenizer, master, their_tokenizer)
    switches = config.divergence
    if cut is not None and switches.vocab is None:
        switches = replace(switches, vocab=cut)
    problems = read_problems(config.problems) if config.problems else ()
    prompts = Prompts(config.tasks, tokenizer, seed=config.seed, problems=problems)
    rate = optim.schedule(config.optim, config.steps)
    tx = optim.build(config.optim, rate)
    with jax.set_mesh(mesh), Workdir(workdir, to_dict(config), keep=config.keep) as work:
        state, extra = begin(
            work, config.model, tx, mesh, seed=config.seed, init_from=config.init_from
        )
        frozen = {"teacher": teacher.load(config.teacher, mesh, dtype=execution.dtype).params}
        report = PhaseMetrics(distill.report)
        most = config.prompts // config.minibatches * config.sampling.samples
        packer = RolloutBatches(
            mesh, config.length, most=most, microbatches=config.microbatches, pad=tokenizer.pad
        )
        ours = config.sampled_by == "student"
        sample = partial(
            rollouts.sample,
            sampling=config.sampling,
            model=config.model if ours else master,
            tokenizer=tokenizer,
            mesh=mesh,
            execution=execution,
            length=config.length,
            seed=config.seed,
        )
        theirs = frozen["teacher"]
        collect = Collect(
            config,
            prompts,
            tokenizer,
            work,
            report,
            lambda state, *rest, **more: sample(state.params if ours else theirs, *rest, **more),
        )
        source = RolloutSource(
            collect,
            lambda part: packer.batch([rollouts.sequence(each, fields=False) for each in part]),
            extra.get("rollouts"),
        )
        loss = builders.divergence(config.model, master, execution, switches)
        with recording_hooks(
            work,
            config.log,
            stage=config.name,
            step=int(state.step),
            until=config.steps,
            tokens_per_step=most * config.length,
            flops_per_token=flops_per_token(config.model, config.length),
            derived={"learning_rate": rate},
        ) as hooks:
            save = work.checkpoints.hook(
                config.save_every, lambda step: {"rollouts": source.extra()}
            )
            return train(
                state,
                make_step(loss, tx, microbatches=config.microbatches),
                source,
                frozen=frozen,
                until=config.steps,
                hooks=[report.hook(), *hooks, save],
            )


class Collect:
    """(state) -> the minibatches of a phase. memory: the next prompt, for the checkpoint."""

    def __init__(
        self,
        config: Config,
        prompts: Prompts,
        tokenizer: Tokenizer,
        work: Any,
        report: PhaseMetrics,
        sample: Callable,
    ):
        self._config, self._prompts, self._tokenizer = config, prompts, tokenizer
        self._sample, self._work, self._report = sample, work, report
        self.memory: dict = {"next": 0}

    def __call__(self, state: TrainState) -> list[list[Rollout]]:
        config, version, first = self._config, int(state.step), self.memory["next"]
        asked = [self._prompts[number] for number in range(first, first + config.prompts)]
        self.memory = {"next": first + config.prompts}
        found = self._sample(state, asked, version=version)
        texts = [self._tokenizer.decode(each.answer) for each in found]
        self._score(found, texts, {prompt.number: prompt.problem for prompt in asked})
        records = [
            {
                "prompt": each.prompt,
                "sample": each.sample,
                "task": each.task,
                "mode": MODES[each.mode],
                "score": each.reward,
                "finish": each.finish,
                "tokens": len(each.answer),
                "text": text,
            }
            for each, text in zip(found, texts, strict=True)
        ]
        rollouts.write_samples(self._work, version, records)
        self._report.add(
            version + 1, rollout_metrics(found, [each.reward for each in found], texts)
        )
        count, samples = config.minibatches, config.sampling.samples
        groups = [found[i : i + samples] for i in range(0, len(found), samples)]
        return [[each for group in groups[i::count] for each in group] for i in range(count)]

    def _score(self, found: list[Rollout], texts: list[str], problems: dict) -> None:
        scored = [i for i, each in enumerate(found) if each.task and self._config.score]
        pairs = [(problems[found[i].prompt], texts[i]) for i in scored]
        for i, score in zip(scored, rewards.score_all(pairs), strict=True):
            found[i].reward = score
