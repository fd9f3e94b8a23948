"""The suite runs on eight emulated CPU devices; the flag must be set before jax starts.

Experiments import their neighbours, as they can when they are run, and tests their helpers: this
is the one place that adds folders to the search path.
"""

import gc
import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FOLDERS = [TESTS.parent / "experiments", TESTS.parent / "launch"]
FOLDERS += [TESTS / "train", TESTS / "stages", TESTS / "hosts", TESTS / "fuzz"]
FOLDERS += [TESTS / "sandbox" / "attacks", TESTS / "environments", TESTS / "recipe"]
sys.path[:0] = map(str, FOLDERS)
# Programs that tests start find the same helpers.
inherited = os.environ.get("PYTHONPATH")
os.environ["PYTHONPATH"] = os.pathsep.join(
    [*map(str, FOLDERS), *([inherited] if inherited else [])]
)

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
# Tests compile much and compute little: LLVM without its optimisations takes a third less time.
# Programs that tests start with flags of their own add these.
os.environ["QUICK_COMPILE"] = "--xla_backend_optimization_level=0"
flags = os.environ.get("XLA_FLAGS", "")
if "host_platform_device_count" not in flags:
    flags = f"{flags} --xla_force_host_platform_device_count=8 {os.environ['QUICK_COMPILE']}"
    os.environ["XLA_FLAGS"] = flags.strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.abspath(".cache/jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def pytest_configure(config):
    """A worker that crashes ends the run: with `--dist loadfile` others would wait for ever."""
    if hasattr(config.option, "maxworkerrestart"):  # where pytest-xdist is there
        config.option.maxworkerrestart = "0"


@pytest.fixture(autouse=True)
def no_folder_of_a_url():
    """Nothing that was meant for an object store may be written beside the program."""
    places = {Path.cwd(), TESTS.parent}
    yield
    for place in {*places, Path.cwd()}:
        written = [name for name in ("gs:", "gcs:", "s3:") if (place / name).exists()]
        assert not written, f"{place} has a folder {written[0]}: a URL was taken for a path"


@pytest.fixture(autouse=True, scope="module")
def room_for_programs():
    """Linux gives a process so many maps of memory (65,530 unless set otherwise), a compiled
    program takes three, and a worker compiles more than all of them hold: XLA then dies of it.
    """
    yield
    maps, limit = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
    if maps.exists() and maps.read_bytes().count(b"\n") > int(limit.read_text()) // 2:
        import jax

        jax.clear_caches()
        gc.collect()


# Files of few tests that take long: two workers that met these last would wait for each other.
FIRST = (
    "hosts/test_stages.py",
    "hosts/test_failing.py",
    "launch/test_queued_resources.py",
    "launch/test_loopback.py",
    "stages/test_pretrain_kill.py",
    "train/test_lora_kill.py",
    "train/test_kill.py",
    "stages/test_stop_in_phases.py",
    "infer/test_engine_mesh.py",
    "stages/test_episodes.py",
    "workflows/test_ten_lines.py",
    "workflows/test_tiny_families.py",
)


def pytest_collection_modifyitems(items):
    """The longest files first, all others in their order (`--no-loadscope-reorder` keeps it)."""

    def place(item):
        name = item.path.relative_to(TESTS).as_posix()
        return FIRST.index(name) if name in FIRST else len(FIRST)

    items.sort(key=place)


def pytest_collection_finish():
    """What is there by now stays until the end; the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()
