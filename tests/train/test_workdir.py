"""The workdir: one writer, one config, small files that a crash may tear, checkpoints that go."""

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import pytest
import toy

from qwen3.config import OptimConfig
from qwen3.data import corpora
from qwen3.data.sources import Document
from qwen3.data.tokenizer import Tokenizer
from qwen3.train import input_digests, optim
from qwen3.train.checkpoint import steps_in
from qwen3.train.cut_back import cut_back
from qwen3.train.manifest import MANIFEST, UNLISTED, read_manifest
from qwen3.train.metrics import MetricsFile
from qwen3.train.run_config import RunConfig
from qwen3.train.state import abstract, create
from qwen3.train.workdir import Workdir
from qwen3.train.workdir_lock import lock, unlock
from qwen3.train.writing import WorkdirError, write_atomically

OPTIM = OptimConfig(peak=0.1, warmup=2, schedule="constant")
TX = optim.build(OPTIM, optim.schedule(OPTIM, 20))
SETTINGS = {"optim": {"peak": 0.1, "betas": (0.9, 0.95)}, "seed": 3}


def template():
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(lambda p: p.update(sharding=device), jax.eval_shape(toy.init))
    return abstract(shapes, TX)


def at_step(number):
    state = create(toy.init(number), TX)
    return state.replace(step=state.step + number)


def begin(path, config=SETTINGS, step=2, **options):
    """A run that recorded five steps and saved one."""
    with Workdir(path, config, **options) as work:
        work.restore(template())
        work.checkpoints.save(at_step(step))
        work.metrics.write_text(records(range(1, 6)))


def records(steps):
    return "".join(f'{{"step": {step}}}\n' for step in steps)


def resumed_step(path, config=SETTINGS, **options):
    with Workdir(path, config, **options) as work:
        restored = work.restore(template())
        return int(restored.state.step) if restored else 0


# Config


def test_a_workdir_of_another_config_is_refused_and_left_as_it_was(tmp_path):
    with Workdir(tmp_path / "run", SETTINGS) as work:
        assert work.samples.is_dir()
    before = (tmp_path / "run" / "config.json").read_text()
    assert json.loads(before)["seed"] == 3
    with pytest.raises(ValueError, match="another config .* seed: 3 -> 4"):
        Workdir(tmp_path / "run", {**SETTINGS, "seed": 4})
    assert (tmp_path / "run" / "config.json").read_text() == before
    Workdir(tmp_path / "run", {**SETTINGS, "mesh": {"data": 2}}).close()


def test_a_run_goes_on_with_more_steps_and_on_another_mesh_and_says_so(tmp_path, caplog):
    begin(tmp_path, {"steps": 2, "mesh": {"data": 1}, "seed": 1})
    with caplog.at_level("INFO", "qwen3"):
        assert resumed_step(tmp_path, {"steps": 9, "mesh": {"data": 2}, "seed": 1}) == 2
    assert "goes on with mesh.data: 1 -> 2; steps: 2 -> 9" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO", "qwen3"):
        resumed_step(tmp_path, {"steps": 9, "mesh": {"data": 2}, "seed": 1})
    assert "goes on" not in caplog.text


@dataclass(frozen=True)
class Stage:
    name: str = "s1"
    steps: int = 5


@dataclass(frozen=True)
class NewerStage(Stage):
    z_loss: float = 0.0


@dataclass(frozen=True)
class Config:
    stages: tuple[Stage, ...] = (Stage("s1"), Stage("s2"))
    seed: int = 3


@dataclass(frozen=True)
class NewerConfig(Config):
    stages: tuple[Stage, ...] = (NewerStage("s1"), NewerStage("s2"))
    optim: OptimConfig = OptimConfig()


def test_a_setting_that_a_newer_release_has_does_not_strand_a_run(tmp_path):
    begin(tmp_path, Config())
    assert resumed_step(tmp_path, NewerConfig()) == 2
    changed = replace(NewerConfig(), stages=(NewerStage("s1"), NewerStage("s2", z_loss=0.1)))
    with pytest.raises(ValueError, match=r"another config .*: stages\.1\.z_loss: 0\.0 -> 0\.1\. "):
        Workdir(tmp_path, changed)
    with pytest.raises(ValueError, match=r"optim\.eps: 1e-08 -> 0\.1"):
        Workdir(tmp_path, replace(NewerConfig(), optim=OptimConfig(eps=0.1)))


def test_a_checkpoint_of_an_older_release_is_taken_with_defaults_and_no_others(tmp_path):
    begin(tmp_path, Config())
    (tmp_path / "config.json").unlink()  # so that the manifest decides
    assert resumed_step(tmp_path, NewerConfig()) == 2
    assert "schema" in read_manifest(tmp_path / "checkpoints" / "2")
    with pytest.raises(ValueError, match="seed: 3 -> 4"):
        Workdir(tmp_path, NewerConfig(seed=4))


def test_settings_stored_by_a_newer_release_are_refused():
    stored = {**RunConfig(Config()).stored(), "schema": 99}
    assert RunConfig(Config()).changes(stored) == [
        "schema: 99 -> 1, stored by a newer qwen3: update to go on"
    ]


INPUTS = {"data": ["d", "e"], "problems": "d", "init_from": "i", "seed": 1}


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """A folder with all inputs, at once here and on another mount."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("d").write_text("one")
    Path("e").write_text("two")
    begin("i")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    return tmp_path / "run"


def moved(names, folder="../there/"):
    """INPUTS with some of them named by another path."""
    elsewhere = {
        name: [folder + file for file in value] if isinstance(value, list) else f"{folder}{value}"
        for name, value in INPUTS.items()
        if name in names
    }
    return INPUTS | elsewhere


@pytest.mark.parametrize("lost", [(), ("resume.json",), ("resume.json", "config.json")])
def test_a_run_goes_on_with_its_inputs_behind_other_paths(inputs, lost):
    begin(inputs, INPUTS)
    for name in lost:
        (inputs / name).unlink()
    assert resumed_step(inputs, moved(["data", "problems", "init_from"])) == 2
    assert json.loads((inputs / "config.json").read_text())["init_from"] == "../there/i"
    with pytest.raises(ValueError, match="another config .*: seed: 1 -> 2. Take"):
        Workdir(inputs, {**moved(["data"]), "seed": 2})


def go_on(folder):
    with Workdir(folder, SETTINGS) as work:
        work.checkpoints.save(at_step(4))


@pytest.mark.parametrize(
    ("change", "names", "refused"),
    [
        (lambda: Path("e").write_text("2"), [], r"data: .* whose content differs"),
        (lambda: Path("../there/e").write_text("2"), ["data"], r"data: .* whose content differs"),
        (lambda: Path("../there/d").unlink(), ["data"], r"data: \['d', 'e'\] -> \['../there/d'"),
        (lambda: go_on("i"), [], ""),  # the run that it began from has gone on since
        (lambda: go_on("../there/i"), ["init_from"], "init_from: 'i' -> '../there/i', whose"),
        (lambda: shutil.rmtree("i"), [], ""),
        (lambda: shutil.rmtree("../there/i"), ["init_from"], "init_from: 'i' -> '../there/i'"),
    ],
)
def test_an_input_that_is_another_one_is_refused(inputs, change, names, refused):
    begin(inputs, INPUTS)
    change()
    if refused:
        with pytest.raises(ValueError, match=refused):
            Workdir(inputs, moved(names))
    else:
        assert resumed_step(inputs, moved(names)) == 2


def test_a_run_that_trains_adapters_needs_the_model_it_began_with(inputs):
    begin(inputs, {**INPUTS, "lora": {"rank": 8}})
    go_on("i")
    with pytest.raises(ValueError, match="init_from: 'i' -> 'i', whose content differs"):
        Workdir(inputs, {**INPUTS, "lora": {"rank": 8}})


def test_a_workdir_without_digests_compares_words(inputs):
    begin(inputs, INPUTS)
    (inputs / "resume.json").unlink()
    shutil.rmtree(inputs / "checkpoints")
    (inputs / "metrics.jsonl").unlink()
    Workdir(inputs, INPUTS).close()
    (inputs / "resume.json").unlink()
    with pytest.raises(ValueError, match=r"data: \['d', 'e'\] -> "):
        Workdir(inputs, moved(["data"]))


def test_tokenizers_and_corpora_are_known_by_content(tmp_path):
    for name, size in (("a", 282), ("b", 282), ("c", 283)):
        Tokenizer.train(["plain text, plain text"], size).save(tmp_path / name)
    a, b, c = (input_digests.tokenizer_digest(tmp_path / name) for name in "abc")
    assert a == b != c != "" == input_digests.tokenizer_digest(tmp_path)
    tokenizer, source = Tokenizer.load(tmp_path / "a"), Rows(["one", "two"])
    for name in ("x", "y"):
        corpora.prepare(source, tokenizer, tmp_path / name)
    corpora.prepare(Rows(["one", "three"]), tokenizer, tmp_path / "z")
    x, y, z = (input_digests.corpora_digest({"name": tmp_path / name}) for name in "xyz")
    assert x == y != z != "" == input_digests.corpora_digest({"name": tmp_path / "nowhere"})


class Rows:
    """Documents of a text each."""

    skipped = ()

    def __init__(self, texts):
        self._texts = texts

    def __iter__(self):
        return (Document(text, {}) for text in self._texts)

    def describe(self):
        return self._texts


def test_digests_of_files_depend_on_bytes_and_order_alone(tmp_path):
    for name, text in (("a", "one"), ("b", "two"), ("c", "one")):
        (tmp_path / name).write_text(text)
    a, b, c = (tmp_path / name for name in "abc")
    assert input_digests.files_digest([a, b]) == input_digests.files_digest([c, b])
    assert input_digests.files_digest(str(a)) == input_digests.files_digest([c])
    assert len({input_digests.files_digest(paths) for paths in ([a], [b], [a, b], [b, a])}) == 4


def test_a_setting_that_is_no_input_is_known_by_its_words():
    assert input_digests.digests({"held_out": 64, "problems": 1.5, "data": None}) == {}


def test_weights_are_known_by_their_manifest_or_by_samples(tmp_path):
    begin(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "moved")
    known = input_digests.weights_digest(tmp_path / "run")
    assert known == input_digests.weights_digest(tmp_path / "moved" / "checkpoints" / "2") != ""
    with Workdir(tmp_path / "moved", SETTINGS) as work:
        work.checkpoints.save(at_step(4))
    assert input_digests.weights_digest(tmp_path / "moved") != known
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "model.safetensors").write_bytes(bytes(9_000_000))
    before = input_digests.weights_digest(hub)
    (hub / "README.md").write_text("no weights")
    assert input_digests.weights_digest(hub) == before
    (hub / "model.safetensors").write_bytes(bytes(9_000_000 - 1) + b"\1")
    assert input_digests.weights_digest(hub) == before, "one byte between two samples"
    (hub / "model.safetensors").write_bytes(b"\1" * 9_000_000)
    assert input_digests.weights_digest(hub) != before
    assert input_digests.weights_digest(tmp_path / "nowhere") == ""


# One writer


LOCKED = """
import fcntl, sys
stream = open(sys.argv[1], "a+")
try:
    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit("refused")
print("71 on moon", file=stream, flush=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_workdir_in_use_by_another_process_is_refused(tmp_path):
    Workdir(tmp_path, SETTINGS).close()
    command = [sys.executable, "-c", LOCKED, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(WorkdirError, match=f"{tmp_path} is in use by process 71 on moon"):
            Workdir(tmp_path, SETTINGS)
        other.stdin.close()
    Workdir(tmp_path, SETTINGS).close()


def test_the_lock_survives_a_second_opening_and_a_reading_of_its_file(tmp_path):
    first = Workdir(tmp_path, SETTINGS)
    with pytest.raises(WorkdirError, match="open in this process already .*: close the first"):
        Workdir(tmp_path, SETTINGS)
    assert (tmp_path / "lock").read_text().startswith(f"{os.getpid()} on ")
    command = [sys.executable, "-c", LOCKED, str(tmp_path / "lock")]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 1
    first.close()
    assert subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def test_a_refused_opening_holds_no_lock(tmp_path):
    Workdir(tmp_path, SETTINGS).close()
    with pytest.raises(ValueError, match="another config"):
        Workdir(tmp_path, {**SETTINGS, "seed": 4})
    Workdir(tmp_path, SETTINGS).close()


# Checkpoints that are gone


@pytest.mark.parametrize(
    ("mounted", "resume"),
    [(True, True), (False, True), (False, False)],
    ids=["emptied", "removed", "removed, of an older release"],
)
def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(tmp_path, mounted, resume):
    begin(tmp_path)
    metrics = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")
    if mounted:
        (tmp_path / "checkpoints").mkdir()
    if not resume:
        (tmp_path / "resume.json").unlink()
    for _ in range(2):
        with pytest.raises(WorkdirError, match="holds no checkpoint, but .*: bring .* back"):
            Workdir(tmp_path, SETTINGS)
    assert (tmp_path / "metrics.jsonl").read_text() == metrics != ""
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    (tmp_path / "elsewhere").rename(tmp_path / "checkpoints")
    assert resumed_step(tmp_path) == 2


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path):
    with Workdir(tmp_path, SETTINGS) as work:
        work.metrics.write_text(records([1, 2]))
    assert resumed_step(tmp_path) == 0
    assert (tmp_path / "metrics.jsonl").read_text() == ""


# Small files that a crash tore


@pytest.mark.parametrize("text", ["", '{"seed"', "[" * 100_000, "[1]", None])
@pytest.mark.parametrize("name", ["config.json", "resume.json"])
def test_a_torn_small_file_is_written_anew_from_the_checkpoint(tmp_path, name, text, caplog):
    begin(tmp_path)
    before = json.loads((tmp_path / name).read_text())
    (tmp_path / name).unlink() if text is None else (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="seed: 3 -> 4"):
        Workdir(tmp_path, {**SETTINGS, "seed": 4})
    assert resumed_step(tmp_path) == 2
    assert (f"{name} is damaged" in caplog.text) == (text is not None)
    again = json.loads((tmp_path / name).read_text())
    assert {k: v for k, v in again.items() if k != "checkpoint"} == {
        k: v for k, v in before.items() if k != "checkpoint"
    }


@pytest.mark.parametrize(
    "damage",
    [b'{"step": 2, "lo\n', b'{"step": 2, "note": "\xff"}\n', b"\0" * 64 + b"\n", b"[" * 100_000],
    ids=["torn", "no text", "zeros", "deep"],
)
def test_lines_of_metrics_that_are_no_records_are_cut_with_a_warning(tmp_path, damage, caplog):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1, "loss": 3}\n' + damage)
    cut_back(file, 9)
    assert file.read_text() == '{"step": 1, "loss": 3}\n'
    assert "cut lines [2]" in caplog.text


def test_metrics_are_cut_back_to_the_resumed_step(tmp_path, caplog):
    file = tmp_path / "metrics.jsonl"
    file.write_text(records([1, 2, 3]))
    cut_back(file, 2)
    assert file.read_text() == records([1, 2]) and not caplog.text
    begin(tmp_path / "run")
    assert resumed_step(tmp_path / "run") == 2
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == records([1, 2])


def test_a_lock_is_freed_on_a_disk_that_went_read_only(tmp_path):
    lock(tmp_path).close()
    with open(tmp_path / "lock") as stream:  # as it cannot be written any more
        unlock(stream)
    assert stream.closed
    unlock(lock(tmp_path))


def test_folders_that_are_no_step_are_passed_over(tmp_path):
    begin(tmp_path)
    for name in ("²", "٣", "007", "-1", "2.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert steps_in(tmp_path / "checkpoints") == [2]
    assert resumed_step(tmp_path) == 2


# Writing


def test_config_and_manifest_are_on_the_disk_before_a_run_relies_on_them(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def note(number):
        synced.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
        fsync(number)

    monkeypatch.setattr(os, "fsync", note)
    begin(tmp_path / "run")
    for name in ("config.json.new", f"{MANIFEST}.new", "resume.json.new", "run", "checkpoints"):
        assert name in synced
    # And all of a checkpoint before the file that says so.
    checkpoint = tmp_path / "run" / "checkpoints" / "2"
    before = synced[: synced.index(f"{MANIFEST}.new")]
    for path in checkpoint.rglob("*"):
        assert path.name in (before if path.name not in UNLISTED else synced), path


def test_a_reader_sees_the_old_file_or_the_new_one_never_half(tmp_path):
    write_atomically(tmp_path / "file", "old")
    with open(tmp_path / "file") as reader:
        write_atomically(tmp_path / "file", "new")
        assert reader.read() == "old" and (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error):
    write_atomically(tmp_path / "file", "old")

    def interrupt(number):
        raise error

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises((KeyboardInterrupt, WorkdirError)):
        write_atomically(tmp_path / "file", "new")
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device; free space on that disk"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "Read-only file system; .* remount"),
        (errno.EACCES, "Permission denied; get the right"),
        (errno.EIO, "Input/output error; mend that"),
    ],
)
def test_a_failed_write_is_one_line_with_the_path_and_what_to_do(
    tmp_path, monkeypatch, number, words
):
    def fail(file):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WorkdirError, match=f"cannot write {tmp_path}/run/config.json: .*{words}"):
        Workdir(tmp_path / "run", SETTINGS)


def test_a_workdir_below_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match=f"cannot write {tmp_path}/file/run: Not a directory; "):
        Workdir(tmp_path / "file" / "run", SETTINGS)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("")
    with pytest.raises(WorkdirError, match="run/checkpoints: File exists; a file stands where"):
        Workdir(tmp_path / "run", SETTINGS)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_metrics_on_a_full_disk_are_one_line():
    writer = MetricsFile("/dev/full")
    with pytest.raises(WorkdirError, match="cannot write /dev/full: No space left on device; free"):
        writer.write(1, {"loss": 1.0})


SAVE_WITHOUT_THE_RIGHT = """
import os, tempfile, threading
import toy
from qwen3.config import OptimConfig
from qwen3.data import corpora
from qwen3.data.sources import Document
from qwen3.data.tokenizer import Tokenizer
from qwen3.train import optim
from qwen3.train.state import create
from qwen3.train.workdir import Workdir, WorkdirError
config = OptimConfig(warmup=0)
state = create(toy.init(), optim.build(config, optim.schedule(config, 9)))
with tempfile.TemporaryDirectory() as folder, Workdir(folder, {}) as work:
    work.checkpoints.save(state)
    work.checkpoints.wait()
    if os.getuid() == 0:  # for whom there is no file that cannot be written
        for path, _, files in os.walk(folder):
            for name in (".", *files):
                os.chown(os.path.join(path, name), 65534, -1)
        os.setuid(65534)
    os.chmod(folder + "/checkpoints", 0o555)
    try:
        work.checkpoints.save(state.replace(step=state.step + 1))
        work.checkpoints.wait()
    except WorkdirError as error:
        print(error, work.checkpoints.steps(), flush=True)
    os.chmod(folder + "/checkpoints", 0o755)
    work.checkpoints.save(state.replace(step=state.step + 2))
    work.checkpoints.wait()
    print(work.checkpoints.steps(), [t.name for t in threading.enumerate()], flush=True)
    work.metrics.write_text("")
"""


def test_after_a_save_that_failed_the_next_one_works_and_the_process_leaves(tmp_path):
    command = [sys.executable, "-c", SAVE_WITHOUT_THE_RIGHT]
    folders = [str(Path(toy.__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    with subprocess.Popen(
        command, stdout=-1, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        failed, saved = process.stdout.readline(), process.stdout.readline()
        try:
            assert process.wait(10) == 0
        finally:
            process.kill()
    assert "checkpoint 1 was not written to" in failed and "get the right to write" in failed
    assert failed.endswith("untouched: [0]. [0]\n") and saved.startswith("[0, 2] ")
    assert "write_metadata_after_commits" not in saved
