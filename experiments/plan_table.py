"""Steps at the report's sizes, compiled for TPU slices without a TPU: the tables of docs/plan.md.

Each row is written to plan_table.jsonl (--out) as it comes; rows that are there are not compiled
again. The table is printed at the end; --table prints what there is.

Command:   python experiments/plan_table.py                  (ROWS below)
           python experiments/plan_table.py --experiments    (every step of the full-size runs)
Hardware:  any CPU with 8 GB of memory and libtpu (pip install 'qwen3[tpu]'); 1 to 10 minutes a row.
Expected:  every row fits; 30b-a3b on v5p:4x4x4, all recomputed, takes at most 23.9 GB a chip and
           executes at most 1.36 times the analytic FLOPs (17.5 GB, 1.289 times; docs/plan.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Row:
    """One step that is compiled; names differ between rows."""

    model: str
    topology: str  # slice, such as "v5p:4x4x4", or "v5p:4x4x4*2" for two
    mesh: str  # axes, such as "fsdp=64"
    rows: int  # of a device
    length: int = 4096  # tokens of a row
    step: str = "train"  # a kind of step that `qwen3 plan` knows
    teacher: str = ""  # model, for "distill"
    remat: str = "full"  # what the backward pass recomputes
    microbatches: int = 1

    @property
    def name(self) -> str:
        kind = "" if self.step == "train" else f" {self.step}"
        of = f" from {self.teacher}" if self.teacher else ""
        how = f" {self.remat}" if self.remat != "full" else ""
        parts = f" in {self.microbatches}" if self.microbatches > 1 else ""
        long = " long" if self.length > 4096 else ""
        slices = " 2 slices" if "*" in self.topology else ""
        return f"{self.model}{kind}{of}{how}{parts}{long}{slices}"

    @property
    def arguments(self) -> list[str]:
        """What `qwen3 plan` is asked."""
        values = {
            "model": self.model,
            "topology": self.topology,
            "mesh": self.mesh,
            "batch-per-device": self.rows,
            "length": self.length,
            "step": self.step,
            "remat": self.remat,
            "microbatches": self.microbatches,
            **({"teacher": self.teacher} if self.teacher else {}),
        }
        return [word for name, value in values.items() for word in (f"--{name}", str(value))]


ROWS = (
    Row("30b-a3b", "v5p:4x4x4", "fsdp=64", 4),
    Row("30b-a3b", "v5p:4x4x4*2", "data=2,fsdp=64", 4),
    Row("8b", "v5p:2x4x4", "fsdp=32", 2, step="distill", teacher="32b"),
    Row("30b-a3b", "v5p:4x4x8", "fsdp=128", 2, step="distill", teacher="235b-a22b"),
    Row("30b-a3b", "v5p:4x4x4", "fsdp=64", 2, step="grpo"),
    Row("235b-a22b", "v5p:8x8x8", "fsdp=512", 2),
    Row("0.6b", "v5e:4x4", "fsdp=16", 4),
    Row("1.7b", "v5e:4x4", "fsdp=16", 4),
    Row("4b", "v5e:8x8", "fsdp=64", 2),
    Row("8b", "v5p:2x4x4", "fsdp=32", 4),
    Row("14b", "v5p:4x4x4", "fsdp=64", 4),
    Row("32b", "v5p:4x4x4", "fsdp=64", 4),
    Row("8b", "v5p:4x4x4", "fsdp=16,context=4", 1, length=32_768),
    Row("30b-a3b", "v5p:4x4x4", "fsdp=64", 8, remat="feed_forward"),
    Row("235b-a22b", "v5p:8x8x8", "fsdp=512", 2, remat="feed_forward"),
    Row("32b", "v5p:4x4x4", "fsdp=64", 2, remat="feed_forward"),
)
EXPERIMENTS = ("pretrain_full.py", "post_training_full.py", "gsm8k_grpo.py")
HEADER = (
    "| step (train where none is named) | slice | mesh | rows x tokens a chip, microbatches "
    "| remat | HBM a device (of) | FLOPs / analytic | with whole tiles | a device sends "
    "| predicted step | MFU | compile |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="plan_table.jsonl", help="where rows are kept")
    parser.add_argument("--experiments", action="store_true", help="the steps of full-size runs")
    parser.add_argument("--only", nargs="+", help="rows, such as 8b")
    parser.add_argument("--table", action="store_true", help="print what there is")
    options = parser.parse_args()
    rows = experiment_rows() if options.experiments else {row.name: row.arguments for row in ROWS}
    done = read(options.out)
    for name, arguments in rows.items():
        if key(arguments) in done or options.table or name not in (options.only or [name]):
            continue
        plan = compile_step(arguments)
        with open(options.out, "a") as file:
            file.write(json.dumps({"arguments": key(arguments), "plan": plan}) + "\n")
        done[key(arguments)] = plan
        print(line(name, plan), flush=True)
    print("\n".join([HEADER, "|---" * 12 + "|"]))
    for name, arguments in rows.items():
        if key(arguments) in done:
            print(line(name, done[key(arguments)]))


def experiment_rows() -> dict[str, list[str]]:
    """{name: arguments of `qwen3 plan`}: one step of each program of the experiments."""
    from qwen3.plan import from_experiment

    folder = Path(__file__).parent
    programs = from_experiment.distinct([str(folder / name) for name in EXPERIMENTS])
    rows = {}
    for steps in programs.values():
        names: dict[str, list[str]] = {}
        for _, config, part in steps:
            names.setdefault(config, []).append(part)
        title = "; ".join(f"{config} {', '.join(parts)}" for config, parts in names.items())
        rows[title] = list(steps[0])
    return rows


def key(arguments: list[str]) -> str:
    """What a row is known by in the file: the command without the folder of an experiment."""
    return " ".join(Path(word).name if word.endswith(".py") else word for word in arguments)


def read(path: str) -> dict[str, dict]:
    """Rows that an earlier run finished; a torn last line is left out."""
    plans = {}
    if os.path.exists(path):
        with open(path) as file:
            for text in file:
                if text.endswith("\n"):
                    record = json.loads(text)
                    plans[record["arguments"]] = record["plan"]
    return plans


def compile_row(row: Row) -> dict:
    """What `qwen3 plan` says of a row."""
    return compile_step(row.arguments)


def compile_step(arguments: list[str]) -> dict:
    """What `qwen3 plan` says, run in a process of its own, as the compiler keeps its memory."""
    command = [sys.executable, "-m", "qwen3.cli", "plan", "--json", *arguments]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment())
    if finished.returncode not in (0, 1):
        sys.exit(f"{' '.join(command)}: exit code {finished.returncode}")
    return json.loads(finished.stdout)


def environment() -> dict:
    """The environment without glibc's allocator settings, which slow the TPU compiler down.

    See docs/log/2026-11-28-plan-table-compile-times.md.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}


def line(name: str, plan: dict) -> str:
    """A row of the table."""
    setting = plan["setting"]
    axes = {axis: size for axis, size in setting["mesh"].items() if size != 1}
    cells = [name, setting["topology"]]
    cells.append(",".join(f"{a}={'rest' if n == -1 else n}" for a, n in axes.items()))
    tokens = f"{setting['batch_per_device']:g} x {setting['length']:,}"
    cells.append(f"{tokens}, {setting['microbatches']}")
    cells.append(setting["remat"])
    cells.append(f"{plan['used'] / 1e9:.1f} GB ({plan['limit'] / 1e9:.0f})")
    prediction = plan["prediction"]
    if prediction is None:
        cells += ["does not fit"] * 6
    else:
        sent = {operation["kind"]: operation["bytes"] for operation in plan["collectives"]}
        between = sent.pop("between slices", 0.0)
        across = f", {between / 1e9:.2f} GB between slices" if between else ""
        cells += [
            f"{plan['flops_ratio']:.3f}",
            f"{plan['flops_ratio_with_tiles']:.3f}",
            f"{sum(sent.values()) / 1e9:.0f} GB{across}",
            f"{prediction['seconds']:.2f} s ({prediction['bound']})",
            f"{prediction['mfu']:.0%}",
            f"{plan['compile_seconds']:.0f} s",
        ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
