#!/usr/bin/env bash
# On every host, before a run: the Python environment of this commit, the data on the disk.
# A second start does nothing. PYTHON names an interpreter that has it all (containers, loopback).
set -euo pipefail
code="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$HOME/qwen3/venv"
mkdir -p "$HOME/qwen3"

if [[ -z "${PYTHON:-}" ]]; then
  wanted="$(cat "$code"/{setup.cfg,pyproject.toml,constraints.txt} | sha256sum)"
  if [[ ! -f "$venv/installed" || "$(< "$venv/installed")" != "$wanted" ]]; then
    export PATH="$HOME/.local/bin:$PATH"
    # The system's Python is older than jax wants, and apt is often locked on a fresh VM.
    command -v uv > /dev/null || python3 -m pip install --quiet --user uv ||
      curl -LsSf https://astral.sh/uv/install.sh | sh
    uv venv --quiet --clear --python 3.12 "$venv"
    uv pip install --quiet --python "$venv/bin/python" -c "$code/constraints.txt" "${code}[tpu]"
    echo "$wanted" > "$venv/installed"
  fi
  PYTHON="$venv/bin/python"
fi

if [[ -n "${DATA:-}" ]]; then
  read -r from to <<< "$DATA"
  mkdir -p "$to" 2> /dev/null || { sudo mkdir -p "$to" && sudo chown "$USER" "$to"; }
  if [[ ! -f "$to/.copied" || "$(< "$to/.copied")" != "$from" ]]; then
    "$PYTHON" -c 'import fsspec, sys; fs, path = fsspec.url_to_fs(sys.argv[1]); fs.get(
      path.rstrip("/") + "/", sys.argv[2].rstrip("/") + "/", recursive=True)' "$from" "$to"
    echo "$from" > "$to/.copied"
  fi
fi

# JAX asks for transparent huge pages on v5e and later.
pages=/sys/kernel/mm/transparent_hugepage/enabled
if [[ "${BACKEND:-}" == queued_resources && -e "$pages" ]]; then
  echo always | sudo -n tee "$pages" > /dev/null || true
fi
