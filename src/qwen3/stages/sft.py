"""Supervised fine-tuning on conversations: cold start, mode fusion, off-policy distillation.

The report's stages 1 and 3 and the first half of strong-to-weak distillation (4.1, 4.3, 4.5) are
this stage with other data. With `stored` the teacher's top-k logits are the target, not its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import optax
from etils import epath
from jax.sharding import Mesh

from qwen3.config import MeshConfig, OptimConfig
from qwen3.curate import stored_logits
from qwen3.data.rows import TokenSequence
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.backend import RolloutBackend
from qwen3.losses.distill import Distill
from qwen3.mesh import make_mesh
from qwen3.model.execution import Execution
from qwen3.model.lora import LoraConfig
from qwen3.model.sizes import ModelConfig, flops_per_token
from qwen3.stages import builders, conversations, rollouts
from qwen3.stages import trainable as trainables
from qwen3.stages.modes import ModeWeights, Weighting
from qwen3.stages.problem_evaluation import ProblemEvaluation, ProblemMeasure
from qwen3.stages.rollouts import Sampling
from qwen3.stages.trainable import WHOLE_MODEL, Trainable
from qwen3.train import optim
from qwen3.train.checkpoint import Keep
from qwen3.train.loop import Hook, train
from qwen3.train.placement import place_whole
from qwen3.train.recording import Log, recording_hooks
from qwen3.train.save_times import check_minutes
from qwen3.train.state import TrainState
from qwen3.train.step import Step, make_step
from qwen3.train.workdir import Workdir


@dataclass(frozen=True)
class Config:
    """Settings of supervised fine-tuning."""

    model: ModelConfig
    tokenizer: str  # folder
    # Files of stages.conversations; with `stored`, of curate.stored_logits or folders of them.
    data: tuple[str, ...]
    steps: int  # optimizer steps
    optim: OptimConfig
    name: str = "sft"  # of the stage, in its records
    batch: int = 16  # batch size: rows of a step
    length: int = 1024  # slots of a row, into which conversations are packed
    microbatches: int = 1  # parts of a batch whose gradients are added up, for less memory
    # Whether the model writes the empty thinking block of an answer without thinking ("target",
    # for the soft switch) or is given it ("prompt").
    empty_think: str = "target"
    too_long: str = "error"  # conversations that do not fit into a row: "error" or "drop"
    modes: ModeWeights = ModeWeights()  # loss weights of the thinking modes
    stored: Distill | None = None  # divergence from the teacher's stored logits; None: their tokens
    balance: str = "global"  # load-balancing loss of a mixture of experts (ops.balance)
    seed: int = 0
    init_from: str = ""  # run, checkpoint or Hugging Face folder (stages.start)
    save_every: int = 100  # optimizer steps
    save_minutes: float = 0.0  # also when so many minutes passed since the last save; 0: not
    mesh: MeshConfig = MeshConfig()
    execution: dict[str, Any] = field(default_factory=dict)  # changes to Execution.for_mesh
    keep: Keep = Keep()
    log: Log = Log()
    lora: LoraConfig = LoraConfig()  # adapters on `init_from` instead of the whole model
    evaluation: ProblemEvaluation = ProblemEvaluation()  # on held-out problems and suites

    def __post_init__(self) -> None:
        check_minutes(self.save_minutes)


def run(config: Config, workdir: str) -> TrainState:
    """Train in `workdir`, on from where it stands; returns the last state.

    Raises ValueError for malformed conversations (file, line), data that do not fit the loss, the
    model or the length, and data other than the checkpoint's.
    """
    mesh = make_mesh(config.mesh)
    execution = Execution.for_mesh(mesh, **config.execution)
    tokenizer = Tokenizer.load(config.tokenizer)
    tokenizer.check_fits(config.model.vocab)
    packed = source(config, tokenizer)
    rate = optim.schedule(config.optim, config.steps)
    tx = builders.balanced(optim.build(config.optim, rate), config.model, _balance(config))
    with jax.set_mesh(mesh), Workdir(workdir, config, keep=config.keep) as work:
        state, stored, trainable = trainables.begin(
            work,
            config.model,
            tx,
            mesh,
            seed=config.seed,
            init_from=config.init_from,
            lora=config.lora,
        )
        if stored and stored["data"] != packed.hash:
            raise ValueError(f"the data {config.data} are not what {work.path} was trained on")
        weighting = Weighting(config.modes, stored.get("modes"))
        batches = WeightedBatches(packed, weighting, mesh)
        adaptive = config.modes.adapt != 0
        measures, initial = evaluation_hooks(
            config, work, state, trainable, tokenizer, mesh, execution
        )
        with recording_hooks(
            work,
            config.log,
            stage=config.name,
            step=state.steps,
            until=config.steps,
            tokens_per_step=config.batch * config.length,
            flops_per_token=flops_per_token(config.model, config.length),
            derived={"learning_rate": rate},
            initial=initial,
        ) as hooks:
            save = work.checkpoints.hook(
                config.save_every,
                lambda step: {"data": packed.hash, "modes": weighting.state()},
                minutes=config.save_minutes,
            )
            return train(
                state,
                train_step(config, execution, tx, trainable),
                # Adaptive mode weights depend on the previous step's losses, so batches are built
                # on demand instead of prefetched.
                (lambda state: batches[state.steps]) if adaptive else batches,
                frozen=trainable.frozen(()),
                until=config.steps,
                hooks=[*measures, *hooks, *([weighting.hook()] if adaptive else []), save],
            )


def source(config: Config, tokenizer: Tokenizer) -> conversations.Packed:
    """The batches, f(seed, step), of all files."""
    files = [file for path in config.data for file in _files(path)]
    sequences = [sequence for file in files for sequence in _read(file, config, tokenizer)]
    fit = conversations.fitting(sequences, config.length, config.too_long)
    return conversations.Packed(
        fit, batch=config.batch, length=config.length, seed=config.seed, pad=tokenizer.pad
    )


def _files(path: str) -> list[str]:
    """The path itself, or the files of a folder that stages.teacher_logits wrote."""
    parts = sorted(epath.Path(path).glob("logits-*.npz"))
    return [str(part) for part in parts] or [path]


def _read(path: str, config: Config, tokenizer: Tokenizer) -> list[TokenSequence]:
    """The sequences of a file, which must be of the kind that the loss needs."""
    has_logits, stored = str(path).endswith(".npz"), config.stored
    if stored is None:
        if has_logits:
            raise ValueError(f"{path} holds stored logits; set `stored` to train on them")
        return conversations.read(path, tokenizer, empty_think=config.empty_think)
    if not has_logits:
        raise ValueError(f"{path} lacks the stored logits (.npz) that `stored` asks for")
    vocab = config.model.vocab if stored.vocab is None else stored.vocab
    return stored_logits.read(path, temperature=stored.temperature, vocab=vocab)


def train_step(
    config: Config,
    execution: Execution,
    tx: optax.GradientTransformation,
    trainable: Trainable = WHOLE_MODEL,
) -> Step:
    """Cross-entropy on the tokens, or divergence from stored logits."""
    prepass = None
    if config.stored is not None:
        loss = builders.stored(config.model, execution, config.stored)
    else:
        loss, prepass = builders.next_token(config.model, execution, balance=config.balance)
    return make_step(
        trainable.loss(loss),
        tx,
        microbatches=config.microbatches,
        prepass=prepass and trainable.loss(prepass),
        carry=builders.carry(config.model, _balance(config)),
    )


def _balance(config: Config) -> str:
    """The form of the load-balancing loss, "" for stored logits, which train without one."""
    return config.balance if config.stored is None else ""


def evaluation_hooks(
    config: Config,
    work: Workdir,
    state: TrainState,
    trainable: Trainable,
    tokenizer: Tokenizer,
    mesh: Mesh,
    execution: Execution,
) -> tuple[list[Hook], dict[str, float]]:
    """What measures the held-out problems and suites, and the measurement before the first step.

    ([], {}) where there are none.
    """
    if config.evaluation.off:
        return [], {}
    most = config.evaluation.max_tokens or config.length

    def backend(state: TrainState) -> RolloutBackend:
        return rollouts.engine_for(
            trainable.params(state),
            Sampling(max_tokens=most),
            model=config.model,
            tokenizer=tokenizer,
            mesh=mesh,
            execution=execution,
            length=config.length + most,
            seed=config.seed,
            version=state.steps,
        )

    measure = ProblemMeasure(
        config.evaluation,
        backend,
        tokenizer,
        work,
        max_tokens=most,
        max_length=rollouts.context(config.model, config.length + most),
        seed=config.seed,
    )
    return [measure.hook(config.steps)], measure.before(state, config.steps)


class WeightedBatches:
    """`batches[step]`: weighted by mode, this process's rows, on the mesh."""

    def __init__(self, packed: conversations.Packed, weighting: Weighting, mesh: Mesh):
        self._packed, self._weighting, self._mesh = packed, weighting, mesh

    def __getitem__(self, number: int) -> dict:
        return place_whole(self._weighting.apply(self._packed[number]), self._mesh)
