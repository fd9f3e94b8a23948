"""Pretraining a released base model on: one stage on a corpus of your own. NOT YET RUN at size.

The size and the RoPE base are the folder's. A stage with another base is refused, since it would
change what every position means; longer contexts are S3's work (pretrain_full.py). A tenth of the
tokens are general text, so that what the model knows is not lost; the shares are ours.

Command:   python experiments/continue_pretraining.py --workdir gs://BUCKET/continued \\
               --distributed --set corpora.own=/data/own --set corpora.general=/data/general
           corpora: folders of `qwen3 corpus prepare` or URLs of `qwen3 data tokenize`, made with
           the model's tokenizer; with --set mixture=FILE of `qwen3 data mixture propose`, the
           cells of that file share what "own" has
           on a laptop: --set init_from=FOLDER of a tiny model --set stages.0.data.length=128
               --set stages.0.data.batch=4 --set stages.0.steps=20
Hardware:  TPU v5p, 64 chips (v5p:4x4x4); of a tiny model one core.
Expected:  not yet run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from qwen3.run import main
from qwen3.config import MeshConfig, OptimConfig
from qwen3.data.mixture import Stage
from qwen3.model.sizes import size
from qwen3.pipeline.mixture_search import read_mixture
from qwen3.stages import pretrain
from qwen3.stages.pretrain import StageConfig
from qwen3.train import model_source
from qwen3.train.state import TrainState


@dataclass(frozen=True)
class Config(pretrain.Config):
    """Pretraining whose mixture may come from a search."""

    mixture: str = ""  # file of `qwen3 data mixture propose`, whose cells replace the part "own"


CONFIG = Config(
    model=size("8b"),
    stages=(
        StageConfig(
            Stage("continued", {"own": 0.9, "general": 0.1}, 4_096, 512, repeat_small=True),
            steps=5_000,  # 10.5 billion tokens
            optim=OptimConfig(peak=3e-5, final=0.1, warmup=200),
            rope_theta=1e6,  # of the released base models, after their own S3
            microbatches=2,
            mesh=MeshConfig(fsdp=-1),
        ),
    ),
    corpora={"own": "/data/own", "general": "/data/general"},
    tokenizer="Qwen/Qwen3-8B-Base",
    init_from="Qwen/Qwen3-8B-Base",
    save_every=500,
    execution={"remat": "full"},
)


def run(config: Config, workdir: str) -> TrainState:
    """Train the folder's model on. Raises ValueError for a stage with another RoPE base."""
    folder = model_source.find(config.init_from).config
    for stage in config.stages:
        if stage.rope_theta != folder.rope_theta:
            raise ValueError(
                f"stage {stage.name!r} has RoPE base {stage.rope_theta:g}, {config.init_from} "
                f"{folder.rope_theta:g}: --set stages.0.rope_theta={folder.rope_theta:g}"
            )
    if config.mixture:
        config = replace(config, stages=tuple(by_mixture(s, config) for s in config.stages))
    return pretrain.run(replace(config, model=folder), workdir)


def by_mixture(stage: StageConfig, config: Config) -> StageConfig:
    """The stage with the cells of the searched mixture in the place of "own"."""
    parts = stage.data.parts()
    own = parts.pop("own").weight
    cells = {
        name: replace(part, weight=own * part.weight)
        for name, part in read_mixture(config.mixture).items()
    }
    return replace(stage, data=replace(stage.data, mixture={**parts, **cells}))


if __name__ == "__main__":
    main(run, CONFIG)
