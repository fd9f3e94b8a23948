"""Steps at the report's sizes, compiled for TPU slices without a TPU: the table of docs/plan.md.

Each row is written to plan_table.jsonl (--out) as it comes; rows that are there are not compiled
again. The table is printed at the end; --table prints what there is.

Command:   python experiments/plan_table.py
Hardware:  any CPU with 8 GB of memory and libtpu (pip install 'qwen3[tpu]'); 1 to 10 minutes a row.
Expected:  every row fits; 30b-a3b on v5p:4x4x4 takes at most 23.9 GB a chip and executes at most
           1.36 times the analytic FLOPs (17.5 GB, 1.289 times; docs/plan.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys


@dataclasses.dataclass(frozen=True)
class Row:
    """One step that is compiled."""

    model: str
    topology: str  # slice, such as "v5p:4x4x4", or "v5p:4x4x4*2" for two
    mesh: str  # axes, such as "fsdp=64"
    rows: int  # of a device
    length: int = 4096  # tokens of a row
    step: str = "train"  # a kind of step that `qwen3 plan` knows
    teacher: str = ""  # model, for "distill"

    @property
    def name(self) -> str:
        kind = "" if self.step == "train" else f" {self.step}"
        return f"{self.model}{kind}" + (f" from {self.teacher}" if self.teacher else "")


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
)
HEADER = (
    "| step (train where none is named) | slice | mesh | rows x tokens | HBM a device (of) | "
    "FLOPs / analytic | with whole tiles | a device sends | predicted step | MFU | compile |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="plan_table.jsonl", help="where rows are kept")
    parser.add_argument("--only", nargs="+", help="rows, such as 8b")
    parser.add_argument("--table", action="store_true", help="print what there is")
    arguments = parser.parse_args()
    done = read(arguments.out)
    for row in ROWS:
        if key(row) in done or arguments.table or row.name not in (arguments.only or [row.name]):
            continue
        plan = compile_row(row)
        with open(arguments.out, "a") as file:
            file.write(json.dumps({"row": dataclasses.asdict(row), "plan": plan}) + "\n")
        done[key(row)] = plan
        print(line(row, plan), flush=True)
    print("\n".join([HEADER, "|---" * 11 + "|"]))
    print("\n".join(line(row, done[key(row)]) for row in ROWS if key(row) in done))


def key(row: Row) -> str:
    """What a row is known by in the file."""
    return json.dumps(dataclasses.asdict(row))


def read(path: str) -> dict:
    """Rows that an earlier run finished; a torn last line is left out."""
    plans = {}
    if os.path.exists(path):
        with open(path) as file:
            for text in file:
                if text.endswith("\n"):
                    record = json.loads(text)
                    plans[json.dumps(record["row"])] = record["plan"]
    return plans


def compile_row(row: Row) -> dict:
    """What `qwen3 plan` says, run in a process of its own, as the compiler keeps its memory."""
    command = [
        sys.executable,
        "-m",
        "qwen3.cli",
        "plan",
        "--json",
        "--model",
        row.model,
        "--topology",
        row.topology,
        "--mesh",
        row.mesh,
        "--batch-per-device",
        str(row.rows),
        "--length",
        str(row.length),
        "--step",
        row.step,
        *(["--teacher", row.teacher] if row.teacher else []),
    ]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment())
    if finished.returncode not in (0, 1):
        sys.exit(f"{' '.join(command)}: exit code {finished.returncode}")
    return json.loads(finished.stdout)


def environment() -> dict:
    """The environment without glibc's allocator settings, which slow the TPU compiler down.

    See docs/log/2026-11-28-plan-table-compile-times.md.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}


def line(row: Row, plan: dict) -> str:
    """A row of the table."""
    cells = [row.name, row.topology, row.mesh, f"{row.rows} x {row.length:,}"]
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
