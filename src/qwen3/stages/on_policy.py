"""The common half of GRPO and on-policy distillation: settings, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from qwen3.config import MeshConfig, OptimConfig
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.backend import RolloutBackend
from qwen3.infer.http_backend import HttpBackend, RolloutServer
from qwen3.infer.language_model import LanguageModel
from qwen3.model.execution import Execution
from qwen3.model.lora import LoraConfig
from qwen3.model.sizes import ModelConfig
from qwen3.rewards.answers import Scorer
from qwen3.stages import rollouts, trainable
from qwen3.stages.async_rollouts import StreamingSampler
from qwen3.stages.phases import Sampler
from qwen3.stages.problem_evaluation import ProblemEvaluation, ProblemMeasure
from qwen3.stages.prompts import Band, Prompt, Prompts, Share, fitting_problems
from qwen3.stages.rollout_batches import RolloutBatches
from qwen3.stages.rollout_layout import WeightHandover, rollout_mesh
from qwen3.stages.rollouts import Rollout, Sampling
from qwen3.train.checkpoint import Keep
from qwen3.train.loop import Hook
from qwen3.train.recording import Log
from qwen3.train.save_times import check_minutes
from qwen3.train.state import TrainState
from qwen3.train.workdir import Workdir


@dataclass(frozen=True)
class OnPolicyConfig:
    """Settings of a stage that trains on what its model samples."""

    model: ModelConfig
    tokenizer: str  # folder
    tasks: tuple[Share, ...]  # the mixture of prompts
    steps: int  # optimizer steps
    optim: OptimConfig
    name: str = "on_policy"  # of the stage, in its records
    # Part of the prompts that families of the group "reasoning" give, whatever the weights are, so
    # that RL on other families does not forget them; None leaves it to the weights.
    reasoning: float | None = None
    problems: str = ""  # file of problems for the share of tasks named "file"
    too_long: str = "error"  # problems of the file whose prompt leaves no room: "error" or "drop"
    sampling: Sampling = Sampling()
    server: RolloutServer = RolloutServer()  # whose answers are taken instead of the own engine's
    prompts: int = 32  # groups of a phase
    minibatches: int = 1  # optimizer steps of a phase, among which its groups are divided
    # Optimizer steps between the weights that sample a token and the step that trains on it, at
    # most; the next phases are then sampled while this one trains. 0: phase by phase.
    staleness: int = 0
    microbatches: int = 1  # parts of a batch whose gradients are added up, for less memory
    length: int = 2048  # slots of a row: tokens of prompt and answer together, but the first
    seed: int = 0
    init_from: str = ""  # run, checkpoint or Hugging Face folder (stages.start)
    save_every: int = 10  # optimizer steps
    save_minutes: float = 0.0  # also when so many minutes passed since the last save; 0: not
    mesh: MeshConfig = MeshConfig()
    rollout_mesh: MeshConfig | None = None  # mesh that samples answers; None: the training mesh
    rollout_devices: int = 0  # last devices, which only sample; 0: the training mesh's do
    execution: dict[str, Any] = field(default_factory=dict)  # changes to Execution.for_mesh
    # Further changes for what samples alone, such as {"dtype": "bfloat16"}: numerics that are not
    # the trainer's, for which GRPO corrects.
    rollout_execution: dict[str, Any] = field(default_factory=dict)
    keep: Keep = Keep()
    log: Log = Log(every=1)
    lora: LoraConfig = LoraConfig()  # adapters on `init_from` instead of the whole model
    evaluation: ProblemEvaluation = ProblemEvaluation()  # on held-out problems and suites

    def __post_init__(self) -> None:
        check_minutes(self.save_minutes)
        if self.prompts < 1 or self.prompts % self.minibatches:
            raise ValueError(
                f"{self.prompts} prompts a phase do not divide into {self.minibatches} minibatches"
            )
        if self.server.url and self.sampling.budget is not None:
            raise ValueError(f"sampling.budget {self.sampling.budget} needs the own engine")
        if self.server.url and not self.sampling.default_cache:
            raise ValueError(f"the KV cache of {self.sampling} needs the own engine")
        if self.staleness < 0 or 0 < self.staleness < self.minibatches:
            raise ValueError(
                f"staleness {self.staleness} with {self.minibatches} minibatches: it is 0, or at "
                "least their number, as the last one of a phase is trained on that much later"
            )
        if self.rollout_devices < 0:
            raise ValueError(f"rollout_devices {self.rollout_devices} is a number of devices, or 0")
        if self.server.url and self.own_layout:
            raise ValueError(f"rollout server {self.server.url} has a layout of its own already")
        if self.server.url and self.rollout_execution:
            raise ValueError(f"rollout_execution {self.rollout_execution} needs the own engine")

    @property
    def own_layout(self) -> bool:
        """Whether answers are sampled on another mesh than is trained on."""
        return self.rollout_mesh is not None or self.rollout_devices > 0

    @property
    def hands_over(self) -> bool:
        """Whether weights travel to what samples: to another mesh, or to a server."""
        return self.own_layout or bool(self.server.url)


@dataclass(frozen=True)
class Setup:
    """All that follows from the settings alone, before there is a state."""

    config: OnPolicyConfig
    mesh: Mesh
    execution: Execution
    tokenizer: Tokenizer
    prompts: Prompts
    batches: RolloutBatches
    rollout_mesh: Mesh  # that samples; `mesh` itself where none is set
    rollout_execution: Execution  # with which it samples
    handover: WeightHandover | None  # of weights to it; None where it is the same

    def sampler(
        self,
        model: ModelConfig,
        params: Callable[[TrainState], Any],
        score: Scorer,
        *,
        record_experts: bool = False,
    ) -> Sampler | StreamingSampler:
        """sample(state, prompts) -> scored rollouts of a `model` of weights params(state). For
        asynchronous phases, what samples as they go on.

        record_experts: with the routing of every token of a mixture of experts.
        """
        backend = self.backend(model, params, record_experts=record_experts)
        if self.config.staleness:
            config, weights = self.config, self.weights(model, params)
            overlaps = config.rollout_devices > 0 or bool(config.server.url)
            return StreamingSampler(backend, weights, config.sampling, score, overlaps)

        def sample(state: TrainState, prompts: Sequence[Prompt]) -> list[Rollout]:
            sampling = self.config.sampling
            return rollouts.sample(backend(state), self.tokenizer, prompts, sampling, score=score)

        return sample

    def backend(
        self,
        model: ModelConfig,
        params: Callable[[TrainState], Any],
        *,
        record_experts: bool = False,
    ) -> Callable[[TrainState], RolloutBackend]:
        """backend(state) -> what generates with a `model` of the weights params(state)."""
        config = self.config
        if config.server.url:
            return self._served(model, params, record_experts=record_experts)

        weights = self.weights(model, params)

        def backend(state: TrainState) -> RolloutBackend:
            return rollouts.engine_for(
                weights(state),
                config.sampling,
                model=model,
                tokenizer=self.tokenizer,
                mesh=self.rollout_mesh,
                execution=self.rollout_execution,
                length=config.length,
                seed=config.seed,
                version=state.steps,
                record_experts=record_experts,
            )

        return backend

    def weights(
        self, model: ModelConfig, params: Callable[[TrainState], Any]
    ) -> Callable[[TrainState], Any]:
        """weights(state) -> params(state) of a `model` on the mesh that samples."""
        handover = self.handover
        if handover is None:
            return params
        return lambda state: handover(model, params, state)

    def _served(
        self,
        model: ModelConfig,
        params: Callable[[TrainState], Any],
        *,
        record_experts: bool,
    ) -> Callable[[TrainState], RolloutBackend]:
        """backend(state) -> the server, once it has the weights params(state)."""
        if record_experts or jax.process_count() > 1:
            reason = "tells no routing" if record_experts else "serves one process"
            raise ValueError(f"rollout server {self.config.server.url} {reason}; use the engine")

        def export(weights: Any, folder: str) -> None:
            LanguageModel(model, weights, mesh=self.mesh, tokenizer=self.tokenizer).save(folder)

        config = self.config
        server = HttpBackend(
            config.server,
            self.tokenizer,
            vocab=model.vocab,
            max_length=rollouts.context(model, config.length),
            seed=config.seed,
            export=export,
        )

        def backend(state: TrainState) -> RolloutBackend:
            server.update(params(state), state.steps)
            return server

        return backend

    def begin(self, work: Workdir, tx: optax.GradientTransformation) -> trainable.Prepared:
        """The state that the stage goes on from."""
        config = self.config
        return trainable.begin(
            work,
            config.model,
            tx,
            self.mesh,
            seed=config.seed,
            init_from=config.init_from,
            lora=config.lora,
        )

    def evaluation_hooks(
        self, work: Workdir, state: TrainState, trained: trainable.Trainable
    ) -> tuple[list[Hook], dict[str, float]]:
        """What measures the held-out problems and suites, and the measurement before the first
        step. ([], {}) where there are none.
        """
        config = self.config
        if config.evaluation.off:
            return [], {}
        measure = ProblemMeasure(
            config.evaluation,
            self.backend(config.model, trained.params),
            self.tokenizer,
            work,
            max_tokens=config.sampling.max_tokens,
            max_length=rollouts.context(config.model, config.length),
            seed=config.seed,
        )
        return [measure.hook(config.steps)], measure.before(state, config.steps)


def set_up(
    config: OnPolicyConfig,
    mesh: Mesh,
    *,
    writer: ModelConfig,
    scored: bool,
    band: Band = lambda family, whole: whole,
    also: Mesh | None = None,
) -> Setup:
    """The setup. writer: size of the model that answers. scored: every problem must have a task.
    band: see `stages.prompts.Prompts`. also: another mesh that reads the batches.

    Raises ValueError, before anything is sampled, for a mesh that cannot sample, a tokenizer that
    the model has too few rows for, a mixture that cannot be drawn, and a problem of the file that
    has no task or leaves no room for an answer.
    """
    execution = Execution.for_mesh(mesh, **config.execution)
    sampling_mesh = rollout_mesh(config.rollout_mesh, config.rollout_devices, mesh, writer)
    sampled_with = Execution.for_mesh(
        sampling_mesh, **{**config.execution, **config.rollout_execution}
    )
    tokenizer = Tokenizer.load(config.tokenizer)
    tokenizer.check_fits(config.model.vocab)
    problems = fitting_problems(
        config.problems,
        config.tasks,
        tokenizer,
        most=rollouts.context(writer, config.length) - 1,
        too_long=config.too_long,
        scored=scored,
    )
    return Setup(
        config=config,
        mesh=mesh,
        rollout_mesh=sampling_mesh,
        rollout_execution=sampled_with,
        handover=WeightHandover(sampling_mesh, sampled_with.dtype) if config.own_layout else None,
        execution=execution,
        tokenizer=tokenizer,
        prompts=Prompts(
            config.tasks,
            tokenizer,
            seed=config.seed,
            problems=problems,
            reasoning=config.reasoning,
            band=band,
        ),
        batches=RolloutBatches(
            mesh,
            config.length,
            most=config.prompts // config.minibatches * config.sampling.samples,
            microbatches=config.microbatches,
            pad=tokenizer.pad,
            also=also,
        ),
    )
