"""What a run looks like from outside, without JAX: steps, heartbeats, checkpoints, faults.

Hosts go their own ways; only the first one saves. A file FAULTS/HOST says what goes wrong there,
once, two steps after the first checkpoint that this process made or found.
"""

import argparse
import faulthandler
import json
import os
import signal
import sys
import time
from pathlib import Path

from etils import epath

parser = argparse.ArgumentParser()
parser.add_argument("--workdir", type=epath.Path)
parser.add_argument("--distributed", action="store_true")
parser.add_argument("--steps", type=int, default=40)
parser.add_argument("--every", type=int, default=5)
parser.add_argument("--pause", type=float, default=0.1)
parser.add_argument("--faults", type=Path, default=Path("/nonexistent"))
options = parser.parse_args()

faulthandler.register(signal.SIGUSR2, all_threads=True)
HOST, NAME = Path(os.environ["QWEN3_HOST_DIR"]), os.environ["QWEN3_NAME"]
work, told = options.workdir, []
signal.signal(signal.SIGTERM, lambda *_: told.append(True))
work.mkdir(parents=True, exist_ok=True)


def newest():
    seals = work.glob("checkpoints/*/checkpoint.json")
    return max((int(seal.parent.name) for seal in seals), default=0)


def step_with_faults():
    file = options.faults / NAME
    if not file.exists() or newest() == 0 or step < newest() + 2:
        return
    kind = file.read_text().strip()
    file.unlink()
    if kind == "crash":
        raise ValueError("a bad row in shard 17")
    if kind == "settings":
        sys.exit(2)
    if kind == "hang":
        time.sleep(600)
    os.kill(os.getpid(), int(kind))


step, begun = newest(), time.time()
print("resumed at", step, flush=True)
while step < options.steps:
    time.sleep(options.pause)
    step += 1
    step_with_faults()
    spent = {"restore": 0.01, "compile": 0.02, "step": time.time() - begun}
    (HOST / "heartbeat.json").write_text(json.dumps({"step": step, "spent": spent}))
    if NAME == "0.0":
        record = {
            "step": step,
            "loss": 5 / step,
            "seconds": options.pause,
            "tokens_per_second": 1e3,
        }
        with (work / "metrics.jsonl").open("a") as lines:
            lines.write(json.dumps(record) + "\n")
        if step % options.every == 0 or told or step == options.steps:
            folder = work / "checkpoints" / str(step)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "checkpoint.json").write_text("{}")
    if told:
        sys.exit(42)
