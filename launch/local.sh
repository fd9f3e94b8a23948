#!/usr/bin/env bash
# This machine: set up .venv, then run. Usage: launch/local.sh recipe|test|docs|setup [arguments...]
#   test    the test suite; arguments go to pytest (`-m slow` for the long runs)
#   recipe  the whole recipe at tiny size, with a report; arguments go to `qwen3 recipe`
#   docs    the documentation site, into build/docs
# PYTHON names the interpreter (3.11 or newer); CONSTRAINTS a file of versions, empty for the newest
# releases (default: constraints.txt, the tested set). A second start installs nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
CONSTRAINTS="${CONSTRAINTS-constraints.txt}"

find_python() {
  for candidate in ${PYTHON:-} python3.12 python3.11 python3.13 python3; do
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
      command -v "$candidate" && return
  done
  echo "launch/local.sh: no Python 3.11 or newer found; set PYTHON=/path/to/python3" >&2
  return 1
}

set_up() {
  local wanted
  wanted="$(cat setup.cfg pyproject.toml constraints.txt | sha256sum) ${PYTHON:-} $CONSTRAINTS"
  if [[ -x .venv/bin/python && -f .venv/installed && "$(cat .venv/installed)" == "$wanted" ]]; then
    return
  fi
  echo "setting up .venv (once; about two minutes)" >&2
  local python
  python="$(find_python)"
  [[ -x .venv/bin/python ]] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]' \
    ${CONSTRAINTS:+-c "$CONSTRAINTS"}
  echo "$wanted" > .venv/installed
}

# XLA:CPU maps and unmaps its temporaries at every step; keeping them halves step times. These are
# read when a process starts, so they cannot be set from Python (WORKSPACE.md, "Speed on a CPU").
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_ARENA_MAX=1 \
  MALLOC_TOP_PAD_=268435456
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.3
# Where libtpu is installed, jax would look for a TPU first.
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"

command="${1:-}"
[[ $# -gt 0 ]] && shift
case "$command" in
  setup) set_up ;;
  test) set_up && exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@" ;;
  recipe) set_up && exec .venv/bin/qwen3 recipe "$@" ;;
  docs)
    set_up && .venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[docs]' &&
      exec .venv/bin/sphinx-build -W docs build/docs ;;
  *) sed -n '2,8s/^# //p' "$0" >&2; exit 2 ;;
esac
