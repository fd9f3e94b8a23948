"""Parts, the units of work: a stripe of an input file, cleaned and published as a whole.

A part leaves three files in the work folder: NAME.gz, one gzip member of JSON lines for each output
shard; NAME.npz, what the search for duplicates needs; NAME.json, where the members are and what
was counted, written last. A part whose NAME.json is there is not done again.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xxhash

from qwen3.data.atomic import replacing, write_atomically
from qwen3.data.jsonl import line
from qwen3.data.sources import open_source
from qwen3.data.unpacked import BadData, chunks, filesystem
from qwen3.pipeline import near_duplicates
from qwen3.pipeline.data_recipe import LAST, DataRecipe, InputFiles
from qwen3.pipeline.near_duplicates import DuplicateSettings, Rank
from qwen3.pipeline.pdf_text import read_pdf
from qwen3.pipeline.text_record import RESERVED, TextRecord, record_id, shard_of

PDF = ".pdf"
PDF_OPTIONS = ("labels", "ocr", "dpi")
WINDOW = 512  # records that a step with a model sees at once


@dataclasses.dataclass(frozen=True)
class Part:
    """Documents number `stripe`, `stripe + stripes`, ... of a file."""

    source: str  # name of the input
    url: str  # the file
    stripe: int
    stripes: int
    name: str  # of its files in the work folder: a digest of the content and what is done with it


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """What every worker needs to know of a run; small and picklable."""

    recipe_json: str
    out: str  # folder or URL
    key: str  # digest of recipe and inputs

    @property
    def recipe(self) -> DataRecipe:
        return _recipe(self.recipe_json)

    @property
    def duplicates(self) -> DuplicateSettings | None:
        """How duplicates are told, None where the recipe does not look for them."""
        last = self.recipe.steps[-1:]
        return DuplicateSettings(**last[0].options) if last and last[0].step == LAST else None

    def work(self, name: str) -> str:
        return f"{self.out}/work/{name}"


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What the search for duplicates sees of a record."""

    exact: bytes  # equal for copies
    rank: Rank
    bands: bytes  # uint64 keys; empty where near duplicates are not looked for


@functools.lru_cache(4)
def _recipe(text: str) -> DataRecipe:
    return DataRecipe.from_json(text)


@functools.lru_cache(4)
def _functions(text: str) -> list[Any]:
    return [
        (c.step, f) for c, f in zip(_recipe(text).steps, _recipe(text).functions(), strict=False)
    ]


def exists(path: str) -> bool:
    system, target = filesystem(path)
    return bool(system.exists(target))


def ensure(part: Part, plan: RunPlan) -> dict[str, Any]:
    """The facts of a part, which is cleaned and published first if it is not there."""
    path = plan.work(f"{part.name}.json")
    if not exists(path):
        _publish(part, plan)
    return json.loads(b"".join(chunks(path)))


def _publish(part: Part, plan: RunPlan) -> None:
    recipe, settings = plan.recipe, plan.duplicates
    members: list[list[str]] = [[] for _ in range(recipe.shards)]
    failures: list[list[str]] = [[] for _ in range(recipe.shards)]
    prints: list[Fingerprint] = []
    counts: Counter[str] = Counter()
    for outcome in cleaned(part, plan):
        if isinstance(outcome, TextRecord):
            members[shard_of(outcome.id, recipe.shards)].append(line(outcome.row()))
            counts["records"] += 1
            counts["bytes"] += len(outcome.text.encode())
            if settings and not outcome.dropped:
                prints.append(fingerprint(outcome, settings))
        else:
            place = xxhash.xxh3_128_hexdigest(outcome["place"].encode())
            failures[shard_of(place, recipe.shards)].append(line(outcome))
            counts["failed"] += 1
    spans: dict[str, list[list[int]]] = {"records": [], "failed": []}
    with replacing(plan.work(f"{part.name}.gz")) as file:
        offset = 0
        for kind, groups in (("records", members), ("failed", failures)):
            for lines in groups:
                packed = gzip.compress("".join(lines).encode(), 3, mtime=0) if lines else b""
                file.write(packed)
                spans[kind].append([offset, offset + len(packed)])
                offset += len(packed)
    with replacing(plan.work(f"{part.name}.npz")) as file:
        np.savez(
            file,
            exact=np.array([p.exact for p in prints], "S16").view("u1"),
            lengths=np.array([p.rank[0] for p in prints], np.int64),
            ids=np.array([p.rank[1] for p in prints], "S32"),
            bands=np.array([np.frombuffer(p.bands, np.uint64) for p in prints], np.uint64),
        )
    facts = {"source": part.source, "counts": counts, "spans": spans}
    write_atomically(plan.work(f"{part.name}.json"), json.dumps(facts))


def fingerprint(record: TextRecord, settings: DuplicateSettings) -> Fingerprint:
    """The exact key, rank and bands of a record."""
    bands = b""
    if settings.near:
        hashes = near_duplicates.word_runs(record.text, settings.shingle)
        bands = near_duplicates.band_keys(hashes, settings).tobytes()
    rank = (-len(record.text), record.id)
    return Fingerprint(near_duplicates.exact_key(record.text), rank, bands)


def fingerprints(part: Part, plan: RunPlan) -> Iterator[Fingerprint]:
    """What a published part holds for the search for duplicates."""
    data = b"".join(chunks(plan.work(f"{part.name}.npz")))
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        exact = stored["exact"].reshape(-1, 16)
        lengths, ids, bands = stored["lengths"].tolist(), stored["ids"].tolist(), stored["bands"]
    for i, identifier in enumerate(ids):
        yield Fingerprint(exact[i].tobytes(), (lengths[i], identifier.decode()), bands[i].tobytes())


def member(name: str, kind: str, shard: int, plan: RunPlan) -> Iterator[dict[str, Any]]:
    """Rows of a published part for one shard. kind: "records" or "failed"."""
    facts = json.loads(b"".join(chunks(plan.work(f"{name}.json"))))
    begin, end = facts["spans"][kind][shard]
    if begin == end:
        return
    system, path = filesystem(plan.work(f"{name}.gz"))
    text = gzip.decompress(system.cat_file(path, start=begin, end=end)).decode()
    for row in text.split("\n")[:-1]:
        yield json.loads(row)


def cleaned(part: Part, plan: RunPlan) -> Iterator[TextRecord | dict[str, str]]:
    """The records of a part after the recipe's steps; a failure is {place, step, reason}."""
    documents = _documents(part, plan.recipe)
    functions = _functions(plan.recipe_json)
    # A model is asked about many records at once.
    size = WINDOW if any(hasattr(function, "many") for _, function in functions) else 1
    while window := list(itertools.islice(documents, size)):
        yield from _through(window, plan.recipe, functions)


def _through(
    window: Sequence[tuple[str, TextRecord | BadData]], recipe: DataRecipe, functions: Any
) -> list[TextRecord | dict[str, str]]:
    """Records after the steps that look at one alone, or what went wrong in which of them."""
    outcomes = [_readable(place, outcome, recipe) for place, outcome in window]
    for step, function in functions:
        live = {
            i: record
            for i, record in enumerate(outcomes)
            if isinstance(record, TextRecord) and not record.dropped
        }
        records = list(live.values())
        if hasattr(function, "many"):
            results = function.many(records)
        else:
            results = [_attempt(function, record) for record in records]
        for (i, record), result in zip(live.items(), results, strict=True):
            outcomes[i] = (
                result
                if isinstance(result, TextRecord)
                else _failure(window[i][0], step, result, record.id)
            )
    return outcomes


def _readable(
    place: str, outcome: TextRecord | BadData, recipe: DataRecipe
) -> TextRecord | dict[str, str]:
    if isinstance(outcome, BadData):
        return {"place": place, "step": "read", "reason": str(outcome)}
    if len(outcome.text) > recipe.longest_text:
        reason = f"{len(outcome.text):,} characters; see longest_text"
        return {"place": place, "step": "read", "reason": reason, "id": outcome.id}
    return outcome


def _attempt(function: Any, record: TextRecord) -> TextRecord | Exception:
    try:
        return function(record)
    except MemoryError:
        raise
    except Exception as error:  # whatever a text does to a step, the run goes on without it
        return error


def _failure(place: str, step: str, error: Exception, identifier: str) -> dict[str, str]:
    reason = f"{type(error).__name__}: {error}"
    return {"place": place, "step": step, "reason": reason, "id": identifier}


def _documents(part: Part, recipe: DataRecipe) -> Iterator[tuple[str, TextRecord | BadData]]:
    """(place for messages, record as it was read or why it could not be)."""
    options = dict(next(e.options for e in recipe.inputs if e.name == part.source))
    if part.url.endswith(PDF):
        yield part.url, _pdf(part, options)
        return
    source = open_source(part.url, skip_broken=True, **options)
    count = len(source)
    for message in source.skipped:  # the file as a whole cannot be opened
        yield part.url, BadData(message)
    for i in range(part.stripe, count, part.stripes):
        try:
            document = source[i]
            if not isinstance(document.content, str):
                raise BadData(f"{document.place}: tokens, not text")
            document.content.encode()  # a lone surrogate is no text
        except (BadData, UnicodeEncodeError) as error:
            yield f"{part.url}, document {i}", BadData(str(error))
        else:
            labels = dict(document.labels)
            identifier = record_id(document.content, part.source, labels)
            yield document.place, TextRecord(identifier, document.content, part.source, labels)


def _pdf(part: Part, options: dict[str, Any]) -> TextRecord | BadData:
    labels = options.get("labels", {})
    try:
        text, history = read_pdf(part.url, **{k: v for k, v in options.items() if k != "labels"})
    except BadData as error:
        return error
    identifier = record_id(text, part.source, labels)
    return TextRecord(identifier, text, part.source, labels, tuple(history))


def check_input(entry: InputFiles, url: str) -> None:
    """Raise ValueError for options that the reader of a file does not have, and for labels that
    would hide fields of a record."""
    for option in ("labels", "label_fields"):
        if taken := sorted(RESERVED & set(entry.options.get(option, {}))):
            raise ValueError(f"input {entry.name!r}: {option} {taken} are fields of a record")
    if not url.endswith(PDF):
        open_source(url, skip_broken=True, **entry.options)
    elif unknown := sorted(set(entry.options) - set(PDF_OPTIONS)):
        raise ValueError(f"{url}: a PDF has no option {unknown}; choose from {list(PDF_OPTIONS)}")
