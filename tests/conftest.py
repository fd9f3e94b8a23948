"""The suite runs on eight emulated CPU devices; the flag must be set before jax starts.

Experiments import their neighbours, as they can when they are run, and tests their helpers: this
is the one place that adds folders to the search path.
"""

import os
import sys
from pathlib import Path

TESTS = Path(__file__).parent
FOLDERS = [TESTS.parent / "experiments", TESTS.parent / "launch"]
FOLDERS += [TESTS / "train", TESTS / "stages", TESTS / "hosts"]
sys.path[:0] = map(str, FOLDERS)
# Programs that tests start find the same helpers.
inherited = os.environ.get("PYTHONPATH")
os.environ["PYTHONPATH"] = os.pathsep.join(
    [*map(str, FOLDERS), *([inherited] if inherited else [])]
)

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
flags = os.environ.get("XLA_FLAGS", "")
if "host_platform_device_count" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.abspath(".cache/jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
