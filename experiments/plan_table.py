"""The train step of all eight sizes, compiled for TPU slices without a TPU: the README's table.

Command:   python experiments/plan_table.py
Hardware:  any CPU with 8 GB of memory and libtpu (pip install 'qwen3[tpu]'); 2 to 10 minutes a row.
Expected:  every row fits; 30b-a3b on v5p:4x4x4 takes at most 23.9 GB a chip and executes at most
           1.36 times the analytic FLOPs.

Each row is written to plan_table.jsonl (--out) as it comes; rows that are there are not compiled
again. The table is printed at the end; --table prints what there is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

# model, topology, mesh, rows of 4,096 tokens a device, remat, microbatches
ROWS = (
    ("30b-a3b", "v5p:4x4x4", "fsdp=64", 4, "full", 1),
    ("235b-a22b", "v5p:8x8x8", "fsdp=512", 2, "full", 1),
    ("0.6b", "v5e:4x4", "fsdp=16", 4, "full", 1),
    ("1.7b", "v5e:4x4", "fsdp=16", 4, "full", 1),
    ("4b", "v5e:8x8", "fsdp=64", 2, "full", 1),
    ("8b", "v5p:2x4x4", "fsdp=32", 4, "full", 1),
    ("14b", "v5p:4x4x4", "fsdp=64", 4, "full", 1),
    ("32b", "v5p:4x4x4", "fsdp=64", 4, "full", 1),
)
HEADER = (
    "| model | slice | mesh | rows x 4,096 | remat | HBM a device (of) | FLOPs / analytic | "
    "with whole tiles | a device sends | predicted step | MFU | compile |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="plan_table.jsonl", help="where rows are kept")
    parser.add_argument("--only", nargs="+", help="models")
    parser.add_argument("--table", action="store_true", help="print what there is")
    arguments = parser.parse_args()
    done = read(arguments.out)
    for row in ROWS:
        if key(row) in done or arguments.table or row[0] not in (arguments.only or [row[0]]):
            continue
        plan = compile_row(row)
        with open(arguments.out, "a") as file:
            file.write(json.dumps({"row": row, "plan": plan}) + "\n")
        done[key(row)] = plan
        print(line(row, plan), flush=True)
    print("\n".join([HEADER, "|---" * 12 + "|"]))
    print("\n".join(line(row, done[key(row)]) for row in ROWS if key(row) in done))


def key(row: tuple | list) -> str:
    return json.dumps(list(row))


def read(path: str) -> dict:
    """Rows that an earlier run finished; a torn last line is left out."""
    found = {}
    if os.path.exists(path):
        with open(path) as file:
            for text in file:
                if text.endswith("\n"):
                    record = json.loads(text)
                    found[key(record["row"])] = record["plan"]
    return found


def compile_row(row: tuple) -> dict:
    """In a process of its own: the compiler keeps its memory."""
    model, topology, mesh, rows, remat, microbatches = row
    command = [
        sys.executable, "-m", "qwen3.cli", "plan", "--json", "--model", model, "--topology",
        topology, "--mesh", mesh, "--batch-per-device", str(rows), "--length", "4096",
        "--remat", remat, "--microbatches", str(microbatches),
    ]  # fmt: skip
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if finished.returncode not in (0, 1):
        sys.exit(f"{' '.join(command)}: exit code {finished.returncode}")
    return json.loads(finished.stdout)


def line(row: tuple, plan: dict) -> str:
    model, topology, mesh, rows, remat, microbatches = row
    micro = f" in {microbatches}" if microbatches > 1 else ""
    cells = [model, topology, mesh, f"{rows}{micro}", remat]
    cells.append(f"{plan['used'] / 1e9:.1f} GB ({plan['limit'] / 1e9:.0f})")
    prediction = plan["prediction"]
    if prediction is None:
        cells += ["does not fit"] * 6
    else:
        sent = sum(each["bytes"] for each in plan["collectives"])
        cells += [
            f"{plan['flops_ratio']:.3f}",
            f"{plan['flops_ratio_with_tiles']:.3f}",
            f"{sent / 1e9:.0f} GB",
            f"{prediction['seconds']:.2f} s ({prediction['bound']})",
            f"{prediction['mfu']:.0%}",
            f"{plan['compile_seconds']:.0f} s",
        ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
