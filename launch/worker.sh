#!/usr/bin/env bash
# On every host of a pod, from a folder with the commit and run.env, which pod.py wrote:
#   worker.sh setup   the Python environment and the data (setup.sh)
#   worker.sh start   keep the run's process alive (supervise.py), detached from this shell
#   worker.sh run     the same, in this shell (containers)
#   worker.sh stop    have the process save and leave; worker.sh kill: end it at once
# Each prints a line "@pod SLICE.HOST WORDS", by which pod.py counts hosts. One run has a host: a
# second start says "running". The heartbeat that the watchdog goes by, and what else the process
# owes, is at the head of supervise.py.
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
export PYTHON="${PYTHON:-$HOME/qwen3/venv/bin/python}"
lock="$HOME/qwen3/lock"
mkdir -p "$QWEN3_HOST_DIR" && cd "$code" || exit 1

mark() { echo "@pod $QWEN3_NAME ${*//$'\n'/ | }"; }

in_use() { [[ -f "$lock" ]] && ! flock -n "$lock" true; }

setup() {
  local slices message
  slices="$(tpu_env MEGASCALE_NUM_SLICES)"
  # Replacements of preempted hosts have been seen with the metadata of an older pod.
  if [[ -n "$slices" && "$slices" != "$SLICES" ]]; then
    mark "failed: told of $slices slices, not of $SLICES: down, then up"
  elif message="$(bash launch/setup.sh 2>&1)"; then
    mark ready
  else
    mark "failed: $message"
  fi
}

run() {
  local pair
  exec 9>> "$lock"
  # `start` holds it for a moment when it looks.
  flock -w 3 9 || { mark "running $(< "$lock")"; exit 1; }
  echo "$RUN $START $$" > "$lock"
  rm -f -- "$QWEN3_HOST_DIR"/*
  if [[ "$BACKEND" == gke ]]; then
    setup
    export START="$START.$EPOCHSECONDS" # a container that starts again brings the same START
  fi
  for pair in $SECRETS; do
    export "${pair%%=*}=$(gcloud secrets versions access latest --secret="${pair#*=}")"
  done
  exec "$PYTHON" launch/supervise.py "${COMMAND[@]}"
}

start() {
  local log="$HOME/qwen3/supervisor.log" _
  if [[ -d /run/systemd/system && "$BACKEND" == queued_resources ]]; then
    # The process is given time to save when the machine shuts down.
    sudo systemd-run --quiet --collect --unit="qwen3-$RUN-$START" --uid="$(id -u)" \
      --setenv=HOME="$HOME" -p KillMode=mixed -p TimeoutStopSec="$STOP_SECONDS" \
      bash -c "exec bash '$code/launch/worker.sh' run >> '$log' 2>&1"
  else
    setsid nohup bash "$code/launch/worker.sh" run < /dev/null >> "$log" 2>&1 &
  fi
  for _ in {1..200}; do
    in_use && { mark started; return; }
    sleep 0.3
  done
  mark "failed: $(tail -n 1 "$log")"
}

leave() { # SIGNAL
  local owner pid
  read -r owner _ pid 2> /dev/null < "$lock"
  if in_use && [[ "${owner:-}" == "$RUN" ]]; then
    echo user > "$QWEN3_HOST_DIR/stop"
    kill "-$1" "$pid"
    [[ "$1" == TERM ]] || kill -KILL -- "-$(< "$QWEN3_HOST_DIR/child")"
  fi
}

case "${1:-}" in
  setup | start) if in_use; then mark "running $(< "$lock")"; else "$1"; fi ;;
  run) run ;;
  stop) leave TERM; mark stop ;;
  kill) leave KILL; mark kill ;;
  *) sed -n '2,7s/^# //p' "$0" >&2; exit 2 ;;
esac
