"""Rollouts in a checkpoint: what is one value a token as NumPy arrays, all else as JSON.

The lists of all answers that have one name are one array, in the order in which the JSON names
them, with a reference in the place of each list. Everything comes back exactly.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from typing import Any

import numpy as np

from qwen3.infer.requests import Completion, Request, SamplingParams
from qwen3.rewards import Problem
from qwen3.rewards.answers import ScoredAnswer, Transcript
from qwen3.stages.rollouts import Rollout

# Fields of Request, Completion and Rollout with a value for each token. Log-probabilities are those
# of float32 arrays, which `_narrow` sees.
COLUMNS: dict[str, Any] = {
    "prompt": np.int32,
    "tokens": np.int32,
    "log_probs": np.float64,
    "forced": np.bool_,
    "versions": np.int32,
    "old_log_probs": np.float64,
    "experts": np.uint8,
}
NOT_STORED = ("sampling_log_probs",)  # training does not read them
REFERENCE = "qwen3.array"  # key of {REFERENCE: [column, shape]}
ARRAYS = "npz:"  # begins a packed text; older ones are compressed JSON alone


def pack(record: Any) -> str:
    """JSON with rollouts in it and their arrays, compressed, as text."""
    columns: dict[str, list[np.ndarray]] = {}

    def fields(value: Any) -> dict[str, Any]:
        return {
            name: _refer(name, item, columns) for name, item in vars(value).items() if _stored(name)
        }

    text = json.dumps(record, default=fields)
    arrays: dict[str, Any] = {
        name: _narrow(np.concatenate(parts)) for name, parts in columns.items()
    }
    file = io.BytesIO()
    np.savez(file, json=np.frombuffer(text.encode(), np.uint8), **arrays)
    return ARRAYS + base64.b64encode(zlib.compress(file.getbuffer(), 1)).decode()


def unpack(text: str) -> Any:
    """The record that `pack` took, its rollouts as dicts: see `restore`."""
    if not text.startswith(ARRAYS):
        return json.loads(zlib.decompress(base64.b64decode(text)))
    data = zlib.decompress(base64.b64decode(text[len(ARRAYS) :]))
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        columns = dict(arrays)
    taken = dict.fromkeys(columns, 0)

    def fill(value: dict[str, Any]) -> Any:
        if value.keys() != {REFERENCE}:
            return value
        name, shape = value[REFERENCE]
        start = taken[name]
        taken[name] = end = start + int(np.prod(shape))
        part = columns[name][start:end]
        return part.reshape(shape) if name == "experts" else part.tolist()

    return json.loads(columns["json"].tobytes(), object_hook=fill)


def _stored(name: str) -> bool:
    return name not in NOT_STORED


def _refer(name: str, value: Any, columns: dict[str, list[np.ndarray]]) -> Any:
    """The value, or a reference to what is added to the columns for it."""
    if name not in COLUMNS or value is None:
        return value
    array = np.asarray(value, COLUMNS[name])
    columns.setdefault(name, []).append(array.reshape(-1))
    return {REFERENCE: [name, array.shape]}


def _narrow(array: np.ndarray) -> np.ndarray:
    """Float64 as float32 where nothing is lost by it."""
    if array.dtype != np.float64:
        return array
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    return single if np.array_equal(single, array, equal_nan=True) else array


def restore(record: dict[str, Any]) -> Rollout:
    """The rollout of an unpacked dict."""
    answer = record["answer"]
    completion = answer["completion"]
    request = completion["request"]
    request |= {
        "sampling": SamplingParams(**request["sampling"]),
        "stop_strings": tuple(request["stop_strings"]),
    }
    completion |= {"request": Request(**request), "experts": _experts(completion.get("experts"))}
    answer |= {"problem": Problem(**answer["problem"]), "completion": Completion(**completion)}
    if answer.get("transcript"):
        answer["transcript"] = Transcript(**answer["transcript"])
    return Rollout(**{**record, "answer": ScoredAnswer(**answer)})


def restore_flat(record: dict[str, Any], problem: Problem) -> Rollout:
    """The rollout of a dict of an older checkpoint, which held tokens without their problem."""
    ids, start = record["ids"], record["start"]
    request = Request(ids[:start], prompt_id=record["prompt"], sample=record["sample"])
    completion = Completion(
        request,
        ids[start:],
        log_probs=record["logp"],
        forced=record["forced"],
        versions=[record["version"]] * (len(ids) - start),
        finish=record["finish"],
    )
    answer = ScoredAnswer(problem, completion, text="")
    return Rollout(answer, record["reward"], record["advantage"], record["old"])


def _experts(stored: Any) -> np.ndarray | None:
    """The routing; older checkpoints hold its bytes in base64."""
    if not isinstance(stored, dict):
        return stored
    flat = np.frombuffer(base64.b64decode(stored["uint8"]), np.uint8)
    return flat.reshape(stored["shape"])
