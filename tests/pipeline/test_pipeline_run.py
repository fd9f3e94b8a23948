"""The whole pipeline on Beam: the same bytes however it runs, wherever it is cut."""

import gzip
import json
import multiprocessing
import random
import time

import apache_beam as beam
import pytest
from scripted_server import ScriptedServer

from qwen3.cli import main
from qwen3.pipeline.data_recipe import DataRecipe
from qwen3.pipeline.pipeline_run import estimate, run

KINDS = ("documents", "dropped")


def texts(count):
    choose, words = random.Random(5), [f"word{i}" for i in range(900)]
    plain = [" ".join(choose.choices(words, k=80)) for _ in range(count)]
    near = [f"{text} and one more" for text in plain[: count // 4]]
    return plain + near + plain[: count // 8]


def write_inputs(folder, rows, files=3):
    folder.mkdir(exist_ok=True)
    for i in range(files):
        lines = (json.dumps({"text": text}) + "\n" for text in rows[i::files])
        (folder / f"{i}.jsonl").write_text("".join(lines))
    return folder


def recipe_of(folder, **fields):
    steps = [{"step": "normalize"}, {"step": "personal_data"}, {"step": "duplicates"}]
    recipe = {"inputs": [{"name": "web", "paths": str(folder)}], "steps": steps, "shards": 3}
    return DataRecipe.from_json(json.dumps(recipe | fields))


def quiet(line):
    pass


def published(out):
    """{name: bytes} of all shards of documents and dropped rows."""
    return {f"{k}/{p.name}": p.read_bytes() for k in KINDS for p in sorted((out / k).iterdir())}


def rows(out, kind):
    files = sorted((out / kind).iterdir())
    return [json.loads(line) for path in files for line in gzip.open(path)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    inputs = write_inputs(folder / "in", texts(40))
    manifest = run(recipe_of(inputs), str(folder / "out"), say=quiet)
    return folder, manifest


def test_copies_go_and_the_manifest_counts_them(reference):
    folder, manifest = reference
    assert manifest["rows"] == {"documents": 40, "dropped": 10, "failed": 0, "same": 5}
    assert manifest["reasons"] == {"duplicates: near": 10}
    assert len(rows(folder / "out", "documents")) == 40
    kept = {row["id"]: row["text"] for row in rows(folder / "out", "documents")}
    for row in rows(folder / "out", "dropped"):
        assert kept[row["dropped"]["evidence"]["of"]].startswith(row["text"][:200])
    assert not (folder / "out/work").exists()


def test_steps_that_ask_a_model_pay_for_no_answer_twice_in_any_run(tmp_path, capsys):
    labels = {"field": "computing", "domain": "forum", "language": "eng_Latn", "safety": "safe"}
    script = ScriptedServer(
        lambda body: json.dumps(labels | {"value": len(str(body)) % 6}),
        lambda body: (429, "cut") if "word1 " in str(body) else (),
    )
    inputs = write_inputs(tmp_path / "in", texts(24))
    with script.running() as url:
        ask = {"url": url, "model": "m", "store": str(tmp_path / "answers.sqlite"), "slots": 4}
        annotate = {"step": "annotate", "options": {"ask": ask, "least_value": 1}}
        recipe = recipe_of(inputs, steps=[annotate, {"step": "duplicates"}])
        manifest = run(recipe, str(tmp_path / "two"), workers=2, say=quiet)
        asked = script.asked.copy()
        run(recipe_of(inputs, steps=[annotate, {"step": "duplicates"}]), str(tmp_path / "one"))
    assert manifest["rows"]["failed"] == 0 and script.asked == asked
    assert published(tmp_path / "one") == published(tmp_path / "two")
    assert {"value", "model_language"} < set(rows(tmp_path / "two", "documents")[0])
    seeds = ["data", "seeds", str(tmp_path / "two"), "--by", "value", "--count", "1"]
    assert not main([*seeds, "--out", str(tmp_path / "seeds.jsonl")])
    drawn = [json.loads(line) for line in (tmp_path / "seeds.jsonl").open()]
    assert len({row["value"] for row in drawn}) == len(drawn) > 1
    assert not main(["data", "show", str(tmp_path / "two"), "--reason", "annotate: value"])
    heads = ["data", "heads", str(tmp_path / "two"), "--out", str(tmp_path / "heads.npz")]
    assert main([*heads, "--labels", "value"]) == 2  # too few of them
    assert "documents with value" in capsys.readouterr().err


def test_other_files_and_another_order_give_the_same_bytes(reference, tmp_path):
    folder, _ = reference
    shuffled = texts(40)
    random.Random(9).shuffle(shuffled)
    inputs = write_inputs(tmp_path / "in", shuffled, files=1)
    run(recipe_of(inputs, part_bytes=4096), str(tmp_path / "out"), say=quiet)
    assert published(tmp_path / "out") == published(folder / "out")


def test_a_run_that_is_done_returns_at_once_and_another_recipe_is_refused(reference, monkeypatch):
    folder, manifest = reference
    monkeypatch.setattr("qwen3.pipeline.pipeline_run._execute", None)
    assert run(recipe_of(folder / "in"), str(folder / "out"), say=quiet) == manifest
    with pytest.raises(ValueError, match="holds a run of another recipe"):
        run(recipe_of(folder / "in", shards=4), str(folder / "out"), say=quiet)


def test_too_many_failures_publish_nothing(tmp_path):
    inputs = write_inputs(tmp_path / "in", texts(8), files=1)
    with (inputs / "0.jsonl").open("a") as file:
        file.write("broken\n" * 3)
    with pytest.raises(ValueError, match="3 of 14 records failed, more than most_failed"):
        run(recipe_of(inputs), str(tmp_path / "out"), say=quiet)
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_full_disk_is_told_and_the_run_goes_on_afterwards(reference, tmp_path, monkeypatch):
    folder, _ = reference

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("qwen3.pipeline.shard_files.gzip.compress", full)
        with pytest.raises(ValueError, match="the job ended: .*No space left"):
            run(recipe_of(folder / "in"), str(tmp_path / "out"), say=quiet)
    assert not (tmp_path / "out/manifest.json").exists()
    run(recipe_of(folder / "in"), str(tmp_path / "out"), say=quiet)
    assert published(tmp_path / "out") == published(folder / "out")


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("a.jsonl", {"txt": "body"}, "has no option \\['txt'\\]"),
        ("a.jsonl", {"labels": {"id": 1}}, "labels \\['id'\\] are fields of a record"),
        ("a.pdf", {"text": "body"}, "a PDF has no option \\['text'\\]; choose from"),
        ("a.docx", {}, "unknown kind of file"),
    ],
)
def test_options_that_a_reader_does_not_have_are_told_before_the_start(
    name, options, message, tmp_path
):
    (tmp_path / name).write_text('{"text": "x"}\n')
    inputs = [{"name": "web", "paths": str(tmp_path / name), "options": options}]
    recipe = DataRecipe.from_json(json.dumps({"inputs": inputs, "steps": []}))
    with pytest.raises(ValueError, match=message):
        run(recipe, str(tmp_path / "out"), say=quiet)
    assert not (tmp_path / "out").exists()


def test_the_command_runs_a_recipe_and_tells_the_cost_first(tmp_path, capsys):
    inputs = write_inputs(tmp_path / "in", texts(8), files=1)
    (tmp_path / "recipe.json").write_text(recipe_of(inputs).to_json())
    assert main(["data", "run", str(tmp_path / "recipe.json"), "--out", str(tmp_path / "o")]) == 0
    out = capsys.readouterr().out
    assert "core-days" in out.split("\n")[0] and "duplicates: near" in out
    command = ["data", "run", str(tmp_path / "recipe.json"), "--out", str(tmp_path / "p")]
    assert main([*command, "--runner", "ray"]) == 2
    assert "choose from ['local', 'dataflow', 'flink', 'spark']" in capsys.readouterr().err
    assert main([*command, "--runner", "dataflow"]) == 2
    assert "a Dataflow job needs --project, --region" in capsys.readouterr().err


def test_the_estimate_follows_the_steps_and_the_bytes(tmp_path):
    recipe = recipe_of(tmp_path)
    small, large = (estimate(recipe, [("a.jsonl", n)]) for n in (10**6, 10**9))
    assert large.core_seconds == pytest.approx(1000 * small.core_seconds)
    assert estimate(recipe, [("a.jsonl.gz", 10**6)]).text_bytes == 3 * 10**6


def test_the_job_graph_for_dataflow_is_whole(tmp_path):
    from apache_beam.options.pipeline_options import GoogleCloudOptions, WorkerOptions

    from qwen3.pipeline.beam_graph import build
    from qwen3.pipeline.beam_runners import runner_of
    from qwen3.pipeline.part_files import Part, RunPlan

    flags = ["--project=p", "--region=europe-west4", "--temp_location=gs://bucket/tmp"]
    flags += ["--sdk_container_image=europe-docker.pkg.dev/p/r/qwen3:1"]
    runner, options = runner_of("dataflow", flags)
    assert runner == "DataflowRunner"
    worker = options.view_as(WorkerOptions)
    assert worker.max_num_workers == 64 and worker.sdk_container_image.endswith("qwen3:1")
    assert options.view_as(GoogleCloudOptions).region == "europe-west4"
    pipeline = beam.Pipeline(options=options)
    plan = RunPlan(recipe_of(tmp_path).to_json(), "gs://bucket/out", "key")
    build(pipeline, [Part("web", "gs://bucket/in/0.jsonl.gz", 0, 1, "name")], plan)
    graph = pipeline.to_runner_api()
    names = {t.unique_name for t in graph.components.transforms.values()}
    wanted = {"clean", "exact copies", "candidate pairs", "verify", "survivors", "write shards"}
    assert wanted <= {name.split("/")[0].partition("(")[0] for name in names}
    # Whatever a worker gets must be of the package, which its container has.
    assert "test_pipeline_run" not in str(graph)


def start(recipe, out, workers=1):
    """A run in a process of its own, of a server that has imported Beam already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["qwen3.pipeline.beam_graph", "qwen3.pipeline.beam_runners"])
    child = context.Process(target=run_here, args=(recipe.to_json(), str(out), workers))
    child.start()
    return child


def run_here(recipe_json, out, workers):
    run(DataRecipe.from_json(recipe_json), out, workers=workers, say=quiet)


def finish(child):
    child.join()
    assert child.exitcode == 0


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(reference, tmp_path):
    folder, _ = reference
    finish(start(recipe_of(folder / "in"), tmp_path / "out", workers=2))
    assert published(tmp_path / "out") == published(folder / "out")


@pytest.mark.slow
def test_a_run_killed_at_five_moments_gives_the_same_bytes(reference, tmp_path):
    folder, _ = reference
    recipe, moments, cut = recipe_of(folder / "in"), random.Random(3), 0
    finish(start(recipe, tmp_path / "first"))  # the server has imported Beam after this
    began = time.monotonic()
    finish(start(recipe, tmp_path / "timed"))
    duration = time.monotonic() - began
    for i in range(5):
        child = start(recipe, tmp_path / "out")
        child.join(moments.uniform(i / 5, (i + 1) / 5) * duration)
        cut += child.is_alive()
        child.kill()
        child.join()
    assert cut >= 3
    finish(start(recipe, tmp_path / "out"))
    assert published(tmp_path / "out") == published(folder / "out")
    assert not [path for path in (tmp_path / "out").rglob("*.new") if path.parent.name in KINDS]


def test_a_second_run_on_the_same_folder_is_refused(reference, tmp_path):
    import fcntl

    folder, _ = reference
    (tmp_path / "out").mkdir()
    with (tmp_path / "out/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another run writes there"):
            run(recipe_of(folder / "in"), str(tmp_path / "out"), say=quiet)
