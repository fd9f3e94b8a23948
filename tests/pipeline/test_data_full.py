"""The job of experiments/data_full.py, built as it would be submitted."""

import importlib.util
import sys
from pathlib import Path


def load():
    path = Path(__file__).parents[2] / "experiments" / "data_full.py"
    spec = importlib.util.spec_from_file_location("experiment_data_full", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_job_has_every_stage_and_nothing_that_a_worker_lacks():
    from apache_beam.options.pipeline_options import WorkerOptions

    from qwen3.pipeline.beam_runners import runner_of

    module = load()
    flags = module.flags("bucket", "p", "europe-west4", "europe-docker.pkg.dev/p/qwen3/beam:1")
    graph = module.graph("bucket", flags)
    steps = {step.unique_name.split("/")[0] for step in graph.components.transforms.values()}
    wanted = {"parts", "clean", "group bands", "candidate pairs", "gather pairs", "write shards"}
    assert wanted <= {step.partition("(")[0] for step in steps}
    assert "experiment_data_full" not in str(graph)  # a container has the package alone
    worker = runner_of("dataflow", flags)[1].view_as(WorkerOptions)
    assert worker.max_num_workers == 512 and worker.sdk_container_image.endswith("qwen3/beam:1")
    assert module.recipe("bucket").shards == 4096
