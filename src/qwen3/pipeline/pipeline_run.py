"""A run of the pipeline from its recipe to the manifest, which is written last."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import math
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from qwen3.data.atomic import write_atomically
from qwen3.data.unpacked import chunks, filesystem, find
from qwen3.pipeline.data_recipe import DataRecipe
from qwen3.pipeline.model_steps import ModelChoice
from qwen3.pipeline.part_files import PDF, Part, RunPlan, check_input, ensure, exists
from qwen3.pipeline.shard_files import facts_path
from qwen3.pipeline.step_table import STEPS

VERSION = 1  # raised when the same recipe would give other bytes
MOST_STRIPES = 16  # of a file, each of which reads the whole file
PRICE = 0.07  # dollars an hour of a core with its memory, of the order of Dataflow's batch rates
RECORD_BYTES = 3_000  # of text, where only the bytes of a file are known
READ_RATE = 60.0  # MB of text a second and core, to read, and to write at the end


@dataclass(frozen=True)
class CostEstimate:
    """What a run will take, from the measured rates of `STEPS`."""

    bytes: int  # of the input files, as they lie
    text_bytes: int  # of what they hold, where compressed files count threefold
    core_seconds: float
    model_tokens: float = 0.0  # that models write
    model_seconds: float = 0.0  # at the rates that the recipe gives

    def line(self) -> str:
        hours = self.core_seconds / 3600
        cores = (
            f"{self.bytes / 1e6:,.1f} MB of files, about {self.text_bytes / 1e6:,.1f} MB of text: "
            f"{hours * 60:,.1f} core-minutes ({hours / 24:,.2g} core-days), "
            f"about ${hours * PRICE:,.2f} at ${PRICE} a core-hour"
        )
        if not self.model_tokens:
            return cores
        return (
            f"{cores}; besides, if nothing is stored yet, the model writes about "
            f"{self.model_tokens:,.0f} tokens: {self.model_seconds / 3600:,.2g} hours at "
            f"{self.model_tokens / self.model_seconds:,.0f} a second (ask: tokens_per_second)"
        )


def run(
    recipe: DataRecipe,
    out: str,
    *,
    runner: str = "local",
    workers: int = 1,
    options: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run a recipe into the folder or URL `out` and return the manifest.

    A run that is done returns at once; one that was cut goes on with the parts and shards that are
    missing. Raises ValueError if `out` holds another recipe's run, or if more records failed than
    the recipe allows; nothing is published then.
    """
    for choice in recipe.steps:
        STEPS[choice.step].build(**choice.options)  # a bad option or file is told before the start
        store = str(choice.options.get("ask", {}).get("store", "://"))
        if runner != "local" and "://" not in store:
            raise ValueError(
                f"{choice.step}: the workers of {runner} do not share the file {store!r} and would "
                "pay for answers twice: give ask a store that all reach, such as gs://BUCKET/NAME"
            )
    parts, inputs, size = _parts(recipe)
    plan = RunPlan(recipe.to_json(), out.rstrip("/"), _digest(recipe.to_json(), inputs))
    with _owned(plan):
        if exists(f"{plan.out}/manifest.json"):
            say(f"{out}: done already")
            return _read(f"{plan.out}/manifest.json")
        say(estimate(recipe, size).line())
        _execute(parts, plan, runner, workers, options)
        manifest = _manifest(plan, inputs)
        write_atomically(f"{plan.out}/manifest.json", json.dumps(manifest, indent=1))
        system, path = filesystem(plan.out)
        system.rm(f"{path}/work", recursive=True)
    return manifest


def estimate(recipe: DataRecipe, sizes: Sequence[tuple[str, int]]) -> CostEstimate:
    """What a run over files of (url, bytes) takes."""
    text = sum(3 * n if url.endswith((".gz", ".zst", ".parquet")) else n for url, n in sizes)
    seconds = sum(1 / STEPS[choice.step].rate for choice in recipe.steps) + 2 / READ_RATE
    model_tokens = model_seconds = 0.0
    for choice in recipe.steps:
        if (work := STEPS[choice.step].model) is not None:
            tokens = text * work.of_byte + math.ceil(text / RECORD_BYTES) * work.of_record
            model_tokens += tokens
            model_seconds += tokens / ModelChoice.of(choice.options["ask"]).tokens_per_second
    size = sum(n for _, n in sizes)
    return CostEstimate(size, text, seconds * text / 1e6, model_tokens, model_seconds)


def _execute(
    parts: list[Part], plan: RunPlan, runner: str, workers: int, options: Sequence[str]
) -> None:
    import apache_beam as beam  # seconds, which a run that is done need not wait for

    from qwen3.pipeline.beam_graph import build
    from qwen3.pipeline.beam_runners import runner_of

    chosen, flags = runner_of(runner, options)
    if runner == "local" and workers > 1:
        _clean_ahead(parts, plan, workers)
    pipeline = beam.Pipeline(runner=chosen, options=flags)
    build(pipeline, parts, plan)
    try:
        pipeline.run().wait_until_finish()
    except RuntimeError as error:  # with the traceback of a worker as its message
        reason = str(error).strip().split("\n")[-1]
        raise ValueError(f"the job ended: {reason}; run it again to go on") from error


def _clean_ahead(parts: list[Part], plan: RunPlan, workers: int) -> None:
    """Clean the parts in processes; the graph then finds them done.

    They need no Beam, so a process starts in a fraction of the time that Beam's own workers take.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for _ in pool.map(ensure, parts, itertools.repeat(plan)):
            pass


def _parts(recipe: DataRecipe) -> tuple[list[Part], list[dict[str, Any]], list[tuple[str, int]]]:
    """(parts, what is known of each input file, their sizes)."""
    # What happens to a text depends on the steps that look at one, and on the shards.
    cleaning = json.loads(recipe.to_json()) | {"inputs": []}
    resources = [_content(path) for path in recipe.files]
    parts, inputs, sizes = [], [], []
    for entry in recipe.inputs:
        for url in sorted({url for path in entry.paths for url in find(path)}):
            check_input(entry, url)
            system, path = filesystem(url)
            size, content = int(system.size(path)), _content(url)
            stripes = 1 if url.endswith(PDF) else _stripes(size, recipe)
            options = dict(entry.options)
            for stripe in range(stripes):
                name = _digest(cleaning, resources, entry.name, options, content, stripe, stripes)
                parts.append(Part(entry.name, url, stripe, stripes, name))
            inputs.append({"input": entry.name, "url": url, "bytes": size, "digest": content})
            sizes.append((url, size))
    inputs += [{"resource": p, "digest": d} for p, d in zip(recipe.files, resources, strict=True)]
    return parts, inputs, sizes


def _stripes(size: int, recipe: DataRecipe) -> int:
    return min(max(math.ceil(size / recipe.part_bytes), 1), MOST_STRIPES)


def _content(url: str) -> str:
    """A digest of a file: of its bytes where it is local, of its version where it is not."""
    system, path = filesystem(url)
    if "://" in url and not url.startswith("file://"):
        return _digest(system.checksum(path))
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _digest(*values: Any) -> str:
    text = json.dumps([VERSION, *values], sort_keys=True, default=str)
    return xxhash.xxh3_128_hexdigest(text.encode())


@contextlib.contextmanager
def _owned(plan: RunPlan) -> Iterator[None]:
    """The output folder, claimed for this recipe and, where it is local, for this process."""
    if "://" not in plan.out:
        Path(plan.out).mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if "://" not in plan.out:
            lock = stack.enter_context(open(f"{plan.out}/lock", "w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ValueError(f"{plan.out}: another run writes there") from error
        claim = f"{plan.out}/recipe.json"
        if exists(claim):
            if _read(claim)["key"] != plan.key:
                raise ValueError(
                    f"{plan.out} holds a run of another recipe or of other files; "
                    "choose another folder, or delete it"
                )
        else:
            facts = {"key": plan.key, "recipe": json.loads(plan.recipe_json)}
            write_atomically(claim, json.dumps(facts, indent=1))
        yield


def _read(path: str) -> dict[str, Any]:
    return json.loads(b"".join(chunks(path)))


def _manifest(plan: RunPlan, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of the whole run and the digest of every file. ValueError for too many failures."""
    shards = [_read(facts_path(shard, plan)) for shard in range(plan.recipe.shards)]
    rows: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for facts in shards:
        rows.update({kind: file["rows"] for kind, file in facts["files"].items()})
        rows["same"] += facts["same"]
        reasons.update(facts["reasons"])
    if rows["failed"] > plan.recipe.most_failed * rows.total():
        raise ValueError(
            f"{rows['failed']:,} of {rows.total():,} records failed, more than most_failed "
            f"({plan.recipe.most_failed:.0%}); look at {plan.out}/failed"
        )
    return {
        "version": VERSION,
        "key": plan.key,
        "recipe": json.loads(plan.recipe_json),
        "inputs": inputs,
        "rows": dict(sorted(rows.items())),
        "reasons": dict(sorted(reasons.items())),
        "shards": [facts["files"] for facts in shards],
    }
