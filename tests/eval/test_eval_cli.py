"""`qwen3 eval` on checkpoints that lack something, and on a disk that is full in the middle."""

import json
import os

import pytest
from broken_disk import Disk

import qwen3
from qwen3 import cli
from qwen3.infer import language_model

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
