#!/usr/bin/env bash
# Prints the folder of a CUDA toolkit that can compile: that of CUDA_HOME, else the one whose nvcc is
# on PATH, else the newest in /usr/local. Fails, and says why, if there is none.
set -euo pipefail

candidates() {
  if [ -n "${CUDA_HOME:-}" ]; then echo "$CUDA_HOME"; fi
  if nvcc=$(command -v nvcc); then dirname "$(dirname "$(readlink -f "$nvcc")")"; fi
  printf '%s\n' /usr/local/cuda* | sort --reverse --version-sort
}

while read -r home; do
  if [ -x "$home/bin/nvcc" ] && [ -e "$home/include/cuda_runtime.h" ]; then
    echo "$home"
    exit 0
  fi
done < <(candidates)
echo "no CUDA toolkit (bin/nvcc and include/cuda_runtime.h) in CUDA_HOME, on PATH or in /usr/local" >&2
exit 1
