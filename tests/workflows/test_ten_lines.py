"""The ten lines of docs/own_model_and_data.md: as written, and what they say without the Hub."""

import ast
import http.server
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import qwen3
from qwen3 import cli

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "own_model_and_data.md"
REWARD, TEN_LINES, THREE_LINES, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
HUB = "Qwen/Qwen3-0.6B"


def prepare(folder):
    (folder / "my_reward.py").write_text(REWARD)
    (folder / "ten_lines.py").write_text(TEN_LINES)


def scores(printed):
    """The scores that the ten lines print."""
    return ast.literal_eval(printed.strip().splitlines()[-2])


def test_the_ten_lines_are_ten_statements_and_the_score_rises(
    tmp_path, one_device, monkeypatch, capsys
):
    """Their first five steps, with a smaller model."""
    assert len(ast.parse(TEN_LINES).body) <= 10
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ten_lines.py", "1"])
    smaller = TEN_LINES.replace("steps=20", "steps=5").replace("settings=(", "settings=(*QUIET, ")
    assert smaller.count("QUIET") == 1 and "steps=5" in smaller
    exec(compile(smaller, "ten_lines.py", "exec"), {"QUIET": ("log.display=False",)})
    before, after = scores(capsys.readouterr().out)
    assert after > before + 0.1
    assert qwen3.load(tmp_path / "trained").config.name == "trained"


@pytest.mark.slow
def test_the_ten_lines_run_as_written_in_a_fresh_environment(tmp_path):
    """Nothing but the package is installed; the score rises for each of three seeds."""
    python = tmp_path / "fresh" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "fresh"], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ROOT]
    subprocess.run([*pip, "-c", ROOT / "constraints.txt"], check=True)
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        prepare(folder)
        done = subprocess.run(
            [python, "ten_lines.py", str(seed)], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        before, *_, after = scores(done.stdout)
        assert after > before + 0.2, (seed, done.stdout)
        assert (folder / "trained" / "model.safetensors").is_file()


def one_line(error):
    text = str(error)
    assert "\n" not in text and f"hf download {HUB}" in text
    assert "config.json" in text and "would be downloaded" in text
    return text


def test_three_lines_with_a_hub_name_say_offline_what_they_would_download(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    prepare(tmp_path)
    assert HUB in THREE_LINES
    with pytest.raises(FileNotFoundError) as caught:
        exec(compile(THREE_LINES, "three_lines.py", "exec"), {"qwen3": qwen3})
    one_line(caught.value)
    arguments = ["rl", HUB, "--problems", "problems.jsonl", "--reward", "my_reward.py"]
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("qwen3 rl: ") and one_line(line)


class GatedHub(http.server.BaseHTTPRequestHandler):
    """A Hub whose every repository is gated."""

    def do_GET(self):
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def test_a_gated_model_is_told_from_one_that_cannot_be_reached(tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), GatedHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address)
        with pytest.raises(FileNotFoundError) as caught:
            qwen3.load(HUB)
    finally:
        server.shutdown()
    assert "GatedRepoError" in one_line(caught.value)
    assert "hf auth login" in one_line(caught.value)
