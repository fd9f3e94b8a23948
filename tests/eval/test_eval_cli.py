"""`qwen3 eval` on checkpoints that lack something, and on a disk that is full in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from random import Random

import pytest
import suite_files
from broken_disk import Disk

import qwen3
from qwen3 import cli
from qwen3.eval import judged
from qwen3.eval.suite_answers import Asked, scored
from qwen3.eval.suite_records import Arm, SuiteRun
from qwen3.eval.suites import SUITES
from qwen3.infer import language_model
from qwen3.infer.requests import Completion, Request
from qwen3.rewards.judge_backends import JudgeSettings
from qwen3.train.writing import WorkdirError

SUITE = ["--suites", "locks", "--mode", "no_think", "--max-tokens", "6", "--slots", "4"]
FLAGS = [*SUITE, "--limit", "6"]
SAMPLES = "samples/locks.no_think.jsonl"


@pytest.fixture
def loaded(model, monkeypatch):
    """The shared model is what every folder holds, so that nothing is compiled again."""
    monkeypatch.setattr(language_model, "load", lambda name: model)


def evaluate(folder, out, *flags):
    return cli.main(["eval", str(folder), *FLAGS, "--out", str(out), *flags])


def test_a_checkpoint_without_a_tokenizer_is_named_in_one_line(model, tmp_path, capsys):
    qwen3.create(model.config).save(tmp_path / "model")
    assert evaluate(tmp_path / "model", tmp_path / "out") == 2
    said = capsys.readouterr().err.strip()
    assert said == f"qwen3 eval: {tmp_path / 'model'} has no tokenizer to ask with"
    assert not (tmp_path / "out" / SAMPLES).exists()


def test_a_checkpoint_without_a_template_is_asked_in_qwen3s_own(model, tmp_path):
    model.save(tmp_path / "model")
    config = tmp_path / "model" / "tokenizer_config.json"
    fields = json.loads(config.read_text())
    assert fields.pop("chat_template")
    config.write_text(json.dumps(fields))
    assert [path.name for path in (tmp_path / "model").glob("*template*")] == []
    assert evaluate(tmp_path / "model", tmp_path / "out", "--limit", "2") == 0
    for line in (tmp_path / "out" / SAMPLES).read_text().splitlines():
        prompt = json.loads(line)["prompt"]
        assert prompt.startswith("<|im_start|>user\n")
        assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_on_a_full_disk_what_was_done_is_kept_and_the_rerun_is_the_same(loaded, tmp_path, capsys):
    whole, disk = tmp_path / "whole", Disk(tmp_path, size=1 << 23)
    assert evaluate("toy", whole) == 0
    try:
        disk.fill(leaving=1 << 12)
        capsys.readouterr()
        assert evaluate("toy", disk.path / "out") == 1
        [said] = capsys.readouterr().err.strip().splitlines()
        path = disk.path / "out" / SAMPLES
        assert said.startswith(f"qwen3 eval: cannot write {path}: No space left on device; free")
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith(b"\n")]
        assert 0 < len(kept) < len((whole / SAMPLES).read_bytes().splitlines())
        assert evaluate("toy", disk.path / "out") == 1  # still full: nothing is lost
        assert path.read_bytes().startswith(b"".join(kept))
        disk.mend()
        assert evaluate("toy", disk.path / "out") == 0
        for name in (SAMPLES, "settings.json", "results.json", "report.md", "report.html"):
            assert (disk.path / "out" / name).read_bytes() == (whole / name).read_bytes()
    finally:
        disk.close()


def test_what_a_judge_says_on_a_full_disk_is_no_missing_verdict(model, tmp_path, monkeypatch):
    """The run ends, and does not go on to keep answers without a verdict."""
    monkeypatch.setattr(judged, "check_judge", lambda judge: None)
    monkeypatch.setattr(judged, "of_url", lambda settings: lambda asked: ["x" * 9999] * len(asked))
    suite_files.write(tmp_path, suite_files.EXAMPLES["writing_bench"])
    suite = SUITES["writing_bench"]
    [item] = suite.items(tmp_path)
    disk = Disk(tmp_path, size=1 << 23)
    try:
        judged.use(judged.opened(JudgeSettings("http://localhost/v1", "kind"), disk.path))
        disk.fill()
        run = SuiteRun(suite, Arm("no_think", "no_think"), [item], [], tmp_path / "x.jsonl")
        completion = Completion(Request([1]), model.tokenizer.encode("A line."), finish="stop")
        with pytest.raises(WorkdirError, match="cannot write .*judge.sqlite: .* free space"):
            scored(model.tokenizer, run, Asked(item, 0), completion)
    finally:
        judged.use(None)
        disk.close()


def test_a_folder_that_cannot_be_written_is_one_line(loaded, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert evaluate("toy", tmp_path / "file" / "out") == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"qwen3 eval: cannot write {tmp_path / 'file' / 'out'}: Not a directory")


def test_several_samples_are_shown_by_their_number(loaded, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert evaluate("toy", tmp_path, "--limit", "2", "--samples", "3") == 0
    said = capsys.readouterr().out
    assert "mean@k" in said and "pass@k" in said
    [row] = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [at["k"] for at in row["by_samples"]] == [1, 2, 3]
    assert len(os.listdir(tmp_path / "samples")) == 1


def test_mean_at_k_is_what_k_samples_give(loaded, tmp_path):
    for samples in ("4", "2"):
        assert evaluate("toy", tmp_path / samples, "--limit", "3", "--samples", samples) == 0
    lines = {
        samples: set((tmp_path / samples / SAMPLES).read_bytes().splitlines())
        for samples in ("4", "2")
    }
    assert lines["2"] < lines["4"]


@pytest.mark.slow
def test_an_evaluation_killed_at_random_moments_ends_with_the_same_bytes(model, tmp_path):
    model.save(tmp_path / "model")
    flags = [*SUITE, "--mode", "both", "--limit", "60", "--samples", "2"]

    def start(out):
        command = [sys.executable, "-m", "qwen3.cli", "eval", str(tmp_path / "model"), *flags]
        return subprocess.Popen([*command, "--out", str(out)], start_new_session=True)

    assert start(tmp_path / "whole").wait() == 0
    whole, again, random = tmp_path / "whole", tmp_path / "again", Random(1)
    total = sum(len(path.read_bytes().splitlines()) for path in (whole / "samples").iterdir())
    assert total == 60 * 2 * 2

    def written():
        texts = [path.read_bytes() for path in (again / "samples").glob("*.jsonl")]
        return sum(text.count(b"\n") for text in texts)

    for _ in range(4):
        kept, process = written(), start(again)
        moment = kept + random.randint(1, total // 6)
        while written() < moment and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
        assert written() >= moment
    assert start(again).wait() == 0
    for path in (whole / "samples").iterdir():
        assert (again / "samples" / path.name).read_bytes() == path.read_bytes()
