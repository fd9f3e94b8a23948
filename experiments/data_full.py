"""The data of a large run on Dataflow: web, books, code and papers, to shards. NOT YET RUN.

Crawled text in JSON lines and papers in PDF become deduplicated shards of the 119 languages of the
report, and those a sharded corpus that training reads from gs://. With --check the job graph is
built and its steps are printed; nothing is submitted or read. A test builds the same graph.

Command:   python experiments/data_full.py --bucket BUCKET --project PROJECT \\
               --image europe-docker.pkg.dev/PROJECT/qwen3/beam:1 [--region europe-west4] [--check]
           then, on N machines: qwen3 data tokenize gs://BUCKET/clean --tokenizer TOKENIZER \\
               --out gs://BUCKET/tokens --label language --workers 16 --share I/N
Hardware:  Dataflow, at most 512 workers; by the measured rates of the steps a terabyte of text
           takes 9 core-days in all.
Expected:  not yet run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from qwen3.pipeline.data_recipe import DataRecipe, InputFiles, StepChoice
from qwen3.pipeline.part_files import Part, RunPlan

SHARDS = 4_096  # of some hundred megabytes each, for about a terabyte of what is kept
MOST_WORKERS = 512
FORMATS = {"web": "*.jsonl.gz", "books": "*.jsonl.zst", "code": "*.parquet", "papers": "*.pdf"}


def recipe(bucket: str) -> DataRecipe:
    """All steps, on inputs in gs://BUCKET/raw and the files of steps in gs://BUCKET/tables."""
    tables = f"gs://{bucket}/tables"
    return DataRecipe(
        inputs=tuple(
            InputFiles(name, (f"gs://{bucket}/raw/{name}/{pattern}",))
            for name, pattern in FORMATS.items()
        ),
        steps=(
            StepChoice("normalize"),
            StepChoice("language", {"model": f"{tables}/languages.npz"}),
            StepChoice("quality"),
            StepChoice("personal_data"),
            StepChoice("decontaminate", {"items": f"{tables}/items.jsonl"}),
            StepChoice("duplicates"),
        ),
        shards=SHARDS,
    )


def flags(bucket: str, project: str, region: str, image: str) -> list[str]:
    """Options of the Dataflow job."""
    return [
        f"--project={project}",
        f"--region={region}",
        f"--temp_location=gs://{bucket}/tmp",
        f"--sdk_container_image={image}",
        f"--max_num_workers={MOST_WORKERS}",
    ]


def graph(bucket: str, options: Sequence[str]) -> Any:
    """The job graph (a Beam pipeline proto) with one part for each input."""
    import apache_beam as beam

    from qwen3.pipeline.beam_graph import build
    from qwen3.pipeline.beam_runners import runner_of

    chosen = recipe(bucket)
    plan = RunPlan(chosen.to_json(), f"gs://{bucket}/clean", "check")
    parts = [Part(entry.name, entry.paths[0], 0, 1, entry.name) for entry in chosen.inputs]
    _, settings = runner_of("dataflow", options)
    # Without the runner, which would ask the store for the bucket.
    pipeline = beam.Pipeline(options=settings)
    build(pipeline, parts, plan)
    return pipeline.to_runner_api()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--project", required=True)
    parser.add_argument("--image", required=True, help="launch/Dockerfile.beam, pushed")
    parser.add_argument("--region", default="europe-west4")
    parser.add_argument("--check", action="store_true", help="build the graph and stop")
    args = parser.parse_args()
    options = flags(args.bucket, args.project, args.region, args.image)
    if args.check:
        steps = graph(args.bucket, options).components.transforms.values()
        print(*sorted({step.unique_name.split("/")[0] for step in steps}), sep="\n")
        return
    from qwen3.pipeline.pipeline_run import run

    run(recipe(args.bucket), f"gs://{args.bucket}/clean", runner="dataflow", options=options)


if __name__ == "__main__":
    main()
