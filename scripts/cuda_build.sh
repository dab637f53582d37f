#!/usr/bin/env bash
# Builds the whole extension with its CUDA engine, and imports it: the part `build` of gpu_check.sh,
# with a CUDA build of torch. Needs nvcc, but no GPU.
#
# Nothing of the checkout changes but build/: the CPU build stays. The environment is made once and
# used again:
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
readonly out=build/cuda-build
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

say "Building as on a machine with a GPU, with $("$base" -c 'import os; print(os.cpu_count())') cores: minutes when all of it is compiled"
FUSEDLR_WERROR=${FUSEDLR_WERROR:-1} PYTHON=$python scripts/gpu_check.sh "$out" build
