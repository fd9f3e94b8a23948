"""Beam's runners by the names of `qwen3 data run --runner`."""

from __future__ import annotations

from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner

RUNNERS = ("local", "dataflow", "flink", "spark")
MOST_WORKERS = 64  # of a Dataflow job, unless the user says another number
NEEDED = ("project", "region", "temp_location", "sdk_container_image")


def runner_of(name: str, options: Sequence[str]) -> tuple[PipelineRunner | str, PipelineOptions]:
    """(runner, options) to construct a pipeline with.

    local is Beam's in-process runner, constructed here: "DirectRunner" would first fetch the binary
    of another runner. options: flags of Beam, such as --project=NAME.
    Raises ValueError for an unknown name or a Dataflow job without what it needs.
    """
    flags = list(options)
    if name not in RUNNERS:
        raise ValueError(f"runner {name!r}: choose from {list(RUNNERS)}")
    if name == "local":
        return FnApiRunner(), PipelineOptions(flags)
    if name == "dataflow":
        given = {flag.partition("=")[0].lstrip("-") for flag in flags}
        if missing := [option for option in NEEDED if option not in given]:
            raise ValueError(f"a Dataflow job needs --{', --'.join(missing)}")
        if "max_num_workers" not in given:
            flags.append(f"--max_num_workers={MOST_WORKERS}")
        return "DataflowRunner", PipelineOptions(flags)
    return f"{name.capitalize()}Runner", PipelineOptions(flags)
