"""GRPO on GSM8K from Qwen3-1.7B, 100 steps: a run that others have published. NOT YET RUN at size.

Two other stacks report a mean reward of .804 to .820 after 100 steps of this model on this data.
They give neither all of their settings nor their prompts: rate, batch and lengths here are ours.
`tiny` is the same run of a model of a quarter of a million parameters, which is first taught the
form of an answer: it shows that all of it works, not that such a model can reason.

Command:   python experiments/gsm8k_grpo.py full --workdir gs://BUCKET/gsm8k --distributed \\
               --set problems=gsm8k/train.jsonl --set evaluation.problems=gsm8k/test.jsonl
           python experiments/gsm8k_grpo.py tiny --workdir runs/gsm8k --set ... (the same files)
           files: openai/gsm8k as published, {"question", "answer"} a line, .gz or not
Hardware:  TPU v6e, 64 chips (v6e:8x8); tiny: one core, a minute
Expected:  full: not yet run. tiny: a score near .02, that of guessing a usual number.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from qwen3.run import main
from qwen3.config import MeshConfig, OptimConfig
from qwen3.curate.files import read_problems, write_conversations, write_problems
from qwen3.data.jsonl import read_rows
from qwen3.data.tokenizer import Tokenizer
from qwen3.losses.grpo_config import Grpo
from qwen3.model.sizes import size
from qwen3.rewards import maths
from qwen3.stages import grpo, sft
from qwen3.stages.problem_evaluation import ProblemEvaluation
from qwen3.stages.prompts import Share
from qwen3.stages.rollouts import Sampling
from qwen3.train.state import TrainState

CONFIG = grpo.Config(
    model=size("1.7b"),
    tokenizer="Qwen/Qwen3-1.7B",
    tasks=(Share("file"),),
    problems="gsm8k/train.jsonl",
    steps=100,
    optim=OptimConfig(peak=3e-6, schedule="constant", warmup=5, weight_decay=0.0),
    name="gsm8k_grpo",
    policy=Grpo(tis_cap=2.0),  # sampler and trainer are two programs
    sampling=Sampling(samples=16, max_tokens=1024, slots=512),
    prompts=64,
    microbatches=2,
    length=1536,
    too_long="drop",
    init_from="Qwen/Qwen3-1.7B",
    save_every=25,
    mesh=MeshConfig(fsdp=-1),
    execution={"remat": "full"},
    evaluation=ProblemEvaluation(problems="gsm8k/test.jsonl", every=25),
)
TINY = replace(
    CONFIG,
    model=size("tiny"),
    tokenizer="",  # made of the questions in the workdir
    steps=2,
    optim=OptimConfig(peak=1e-3, schedule="constant", warmup=0, weight_decay=0.0),
    sampling=Sampling(samples=8, max_tokens=24, slots=64),
    prompts=16,
    microbatches=1,
    length=384,
    init_from="",  # a model that was taught the form of an answer, made in the workdir
    save_every=2,
    execution={"scan": False},
    evaluation=ProblemEvaluation(problems="gsm8k/test.jsonl", every=2, limit=8),
)
CONFIGS = {"full": CONFIG, "tiny": TINY}
TOPOLOGIES = {"full": "v6e:8x8"}  # for `qwen3 plan`
FORM_STEPS = 120  # of teaching a new model to write a boxed number


def run(config: grpo.Config, workdir: str) -> TrainState:
    """Train on a GSM8K file, and measure another one."""
    data = Path(workdir) / "data"
    asked = config.evaluation
    if not config.tokenizer:
        config = replace(config, tokenizer=tokenizer(config.problems, data / "tokenizer"))
    problems = converted(config.problems, data / "train.jsonl")
    if not config.init_from:
        config = replace(config, init_from=taught_the_form(config, problems, workdir))
    held_out = converted(asked.problems, data / "test.jsonl")
    evaluation = replace(asked, problems=held_out)
    return grpo.run(replace(config, problems=problems, evaluation=evaluation), workdir)


def converted(source: str, path: Path) -> str:
    """The problems of a GSM8K file in a file of problems; made once."""
    return _once(path, lambda: write_problems(path, maths.read_gsm8k(source)))


def taught_the_form(config: grpo.Config, problems: str, workdir: str) -> str:
    """A new model fine-tuned to answer the training problems with a boxed number at once."""
    conversations, folder = Path(workdir) / "data" / "form.jsonl", Path(workdir) / "form"
    reply = "\\boxed{{{gold}}}"
    samples = [
        {
            "messages": [
                *problem.messages,
                {"role": "assistant", "content": reply.format(gold=problem.answer["gold"])},
            ]
        }
        for problem in read_problems(problems)
    ]
    data = _once(conversations, lambda: write_conversations(conversations, samples))
    sft.run(
        sft.Config(
            model=config.model,
            tokenizer=config.tokenizer,
            data=(data,),
            steps=FORM_STEPS,
            optim=OptimConfig("muon", peak=5e-3, final=0.05, warmup=10, weight_decay=0.05),
            batch=4,
            length=config.length,
            too_long="drop",
            execution=config.execution,
            save_every=FORM_STEPS,
        ),
        str(folder),
    )
    return str(folder)


def tokenizer(source: str, folder: Path) -> str:
    """A tokenizer of 512 ids trained on the questions of a GSM8K file; made once."""
    questions = [row["question"] for _, row in read_rows(source, fields=("question",))]
    return _once(folder, lambda: Tokenizer.train(questions, 512).save(folder))


def _once(path: Path, make: Callable[[], object]) -> str:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        make()
    return str(path)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in CONFIGS:
        sys.exit(f"which size? one of {', '.join(CONFIGS)}")
    main(run, CONFIGS[sys.argv[1]], sys.argv[2:])
