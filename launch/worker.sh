#!/usr/bin/env bash
# On every host of a pod, from a folder with the commit and run.env, which pod.py wrote:
#   worker.sh setup   the Python environment and the data; a second time does nothing
#   worker.sh start   keep the run's process alive (qwen3.supervise), detached from this shell
#   worker.sh run     the same, in this shell (containers)
#   worker.sh stop    have the process save and leave; worker.sh kill: end it at once
# Each prints a line "@pod SLICE.HOST WORDS", by which pod.py counts hosts. One run has a host: a
# second start says "running". PYTHON names an interpreter that has it all (containers, loopback).
# shellcheck disable=SC1091,SC2153,SC2154  # run.env is not here
set -uo pipefail
code="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
set -a
source "$code/run.env"
set +a

metadata() {
  [[ "$BACKEND" == queued_resources ]] && curl -sf -m 3 -H 'Metadata-Flavor: Google' \
    "http://${GCE_METADATA_IP:-metadata.google.internal}/computeMetadata/v1/instance/attributes/$1"
}

tpu_env() { metadata tpu-env | sed -n "s/^$1: *'\{0,1\}\([^']*\)'\{0,1\}$/\1/p"; }

slice="${QWEN3_SLICE:-${MEGASCALE_SLICE_ID:-$(tpu_env MEGASCALE_SLICE_ID)}}"
host="${QWEN3_HOST:-${TPU_WORKER_ID:-$(metadata agent-worker-number)}}"
export QWEN3_NAME="${slice:-0}.${host:-0}" QWEN3_HOST_DIR="$HOME/qwen3/$RUN/host"
export TZ=UTC PYTHONUNBUFFERED=1 PYTHONPATH="$code/src" PATH="$HOME/.local/bin:$PATH"
venv="$HOME/qwen3/venv" lock="$HOME/qwen3/lock"
mkdir -p "$QWEN3_HOST_DIR" && cd "$code" || exit 1

mark() { echo "@pod $QWEN3_NAME ${*//$'\n'/ | }"; }

in_use() { [[ -f "$lock" ]] && ! flock -w 2 "$lock" true; }  # one that ends takes a moment

install() { # the packages of this commit
  local wanted
  wanted="$(cat setup.cfg pyproject.toml constraints.txt | sha256sum)"
  [[ -f "$venv/installed" && "$(< "$venv/installed")" == "$wanted" ]] && return
  # The system's Python is older than jax wants, and apt is often locked on a fresh VM.
  command -v uv > /dev/null || python3 -m pip install --quiet --user uv ||
    curl -LsSf https://astral.sh/uv/install.sh | sh
  uv venv --quiet --clear --python 3.12 "$venv" &&
    uv pip install --quiet --python "$venv/bin/python" -c constraints.txt "${code}[tpu]" &&
    echo "$wanted" > "$venv/installed"
}

copy_data() { # DATA="gs://FROM /TO"
  local to="${DATA#* }"
  mkdir -p "$to" 2> /dev/null || { sudo mkdir -p "$to" && sudo chown "$USER" "$to"; } &&
    "${PYTHON:-$venv/bin/python}" -m qwen3.supervise.copy_data
}

setup() {
  local slices message pages=/sys/kernel/mm/transparent_hugepage/enabled
  slices="$(tpu_env MEGASCALE_NUM_SLICES)"
  # Replacements of preempted hosts have been seen with the metadata of an older pod.
  if [[ -n "$slices" && "$slices" != "$SLICES" ]]; then
    mark "failed: told of $slices slices, not of $SLICES: down, then up"
  elif [[ -z "${PYTHON:-}" ]] && ! message="$(install 2>&1)"; then
    mark "failed: $message"
  elif [[ -n "$DATA" ]] && ! message="$(copy_data 2>&1)"; then
    mark "failed: $message"
  else
    # JAX asks for transparent huge pages on v5e and later.
    [[ "$BACKEND" != queued_resources ]] || echo always | sudo -n tee "$pages" > /dev/null 2>&1
    mark ready
  fi
}

run() {
  exec 9>> "$lock"
  flock -w 3 9 || { mark "running $(< "$lock")"; exit 1; }
  echo "$RUN $START $$" > "$lock"
  rm -f -- "$QWEN3_HOST_DIR"/*
  if [[ "$BACKEND" == gke ]]; then
    setup
    export START="$START.$EPOCHSECONDS" # a container that starts again brings the same START
  fi
  export PYTHON="${PYTHON:-$venv/bin/python}"
  exec "$PYTHON" -m qwen3.supervise.supervisor
}

start() {
  local log="$HOME/qwen3/supervisor.log" _
  flock -n "$lock" truncate -s 0 "$lock" # who gets it writes its name there
  if [[ -d /run/systemd/system && "$BACKEND" == queued_resources ]]; then
    # The process is given time to save when the machine shuts down.
    sudo systemd-run --quiet --collect --unit="qwen3-$RUN-$START" --uid="$(id -u)" \
      --setenv=HOME="$HOME" -p KillMode=mixed -p TimeoutStopSec="$STOP_SECONDS" \
      bash -c "exec bash '$code/launch/worker.sh' run >> '$log' 2>&1"
  else
    setsid nohup bash "$code/launch/worker.sh" run < /dev/null >> "$log" 2>&1 &
  fi
  for _ in {1..200}; do
    [[ -s "$lock" ]] && { mark started; return; } # it may have ended since: a run of seconds
    sleep 0.3
  done
  mark "failed: $(tail -n 1 "$log")"
}

leave() { # SIGNAL
  local owner pid
  read -r owner _ pid 2> /dev/null < "$lock"
  in_use && [[ "${owner:-}" == "$RUN" ]] || return
  echo user > "$QWEN3_HOST_DIR/stop"
  kill "-$1" "$pid"
  [[ "$1" == TERM ]] || kill -KILL -- "-$(< "$QWEN3_HOST_DIR/child")"
}

case "${1:-}" in
  setup | start) if in_use; then mark "running $(< "$lock")"; else "$1"; fi ;;
  run) run ;;
  stop) leave TERM; mark stop ;;
  kill) leave KILL; mark kill ;;
  *) sed -n '2,7s/^# //p' "$0" >&2; exit 2 ;;
esac
