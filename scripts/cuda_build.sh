#!/usr/bin/env bash
# Builds the whole extension with its CUDA engine, and imports it. Needs nvcc, but no GPU.
#
# Nothing of the checkout changes but build/cuda: the CPU build stays. The environment, with a CUDA
# build of torch, is made once and used again:
#   FUSEDLR_CUDA_ENV  where it is           (fusedlr/cuda-env in the user's folder of caches)
#   CUDA_TORCH        what is installed there, for the CUDA of the toolkit       (torch==2.11.0)
#   PYTHON            the interpreter to make it with                                 (python3)
set -euo pipefail
cd "$(dirname "$0")/.."

readonly base=${PYTHON:-python3}
readonly torch=${CUDA_TORCH:-torch==2.11.0}
readonly environment=${FUSEDLR_CUDA_ENV:-${XDG_CACHE_HOME:-$HOME/.cache}/fusedlr/cuda-env}
readonly python=$environment/bin/python
readonly packages=("$torch" pybind11 ninja "setuptools>=77.0.3" wheel numpy pytest hypothesis)
readonly copy=build/cuda
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { echo "== $*"; }

CUDA_HOME=$(scripts/cuda_toolkit.sh)
export CUDA_HOME
say "Toolkit: $("$CUDA_HOME/bin/nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/CUDA \1/p') in $CUDA_HOME"

# The stamp says what the environment holds; without it, or with another one, it is made anew.
make_environment() {
  local stamp=$environment/.ready
  if [ "$(cat "$stamp" 2>/dev/null)" = "${packages[*]}" ]; then
    say "Reusing the environment $environment"
    return
  fi
  say "Making the environment $environment with $torch: gigabytes to download"
  rm -rf "$environment"
  "$base" -m venv "$environment"
  "$python" -m pip install --progress-bar off "${packages[@]}"
  echo "${packages[*]}" >"$stamp"
}

mkdir -p "$(dirname "$environment")"
( # one at a time, whichever checkout asks
  if command -v flock >/dev/null; then flock 9; fi
  make_environment
) 9>"$environment.lock"

# A copy with the times of the sources: objects of an earlier build stay good.
say "Copying the sources to $copy"
mkdir -p "$copy"
rm -rf "$copy/csrc" "$copy/fusedlr"
cp -a csrc fusedlr setup.py pyproject.toml README.md LICENSE "$copy/"
rm -f "$copy"/fusedlr/_C*.so

say "Compiling with nvcc and $("$base" -c 'import os; print(os.cpu_count())') cores: minutes when all of it is compiled"
cd "$copy"
PATH=$environment/bin:$PATH FUSEDLR_CUDA=1 FUSEDLR_WERROR=${FUSEDLR_WERROR:-1} \
  "$python" setup.py --quiet build_ext --inplace

say "Importing it"
"$python" - <<'PYTHON'
import pathlib

import torch

import fusedlr

info = fusedlr.backend_info()
library = pathlib.Path(info["extension"])
size = library.stat().st_size / 2**20
print(f"fusedlr {info['fusedlr']}, torch {info['torch']}, {library.name}: {size:.1f} MiB")
print(f"kernels for: {', '.join(info['built_for'])}")
if library.parent != pathlib.Path("fusedlr").resolve():
    raise SystemExit(f"imported {library}, which is not the one that was built")
if "cuda" not in info["built_for"] or "cuda" in info["not_built"]:
    raise SystemExit(f"the extension has no CUDA engine: {info}")
print(f"GPUs here: {torch.cuda.device_count()}")
PYTHON
say "The CUDA engine is built in $copy"
