#!/usr/bin/env bash
# Builds, tests and times fusedlr on a GPU: scripts/gpu_check.sh OUT [build|test|graph|time|triton|sanitize ...]
#
# Uses the interpreter PYTHON (python3) and what is installed in it; needs no network. Writes
# report.json, tables, a picture and a log into the folder OUT. Without parts all of them run, within
# nine minutes; a part that fails does not stop the others. Exits with 0 if all passed, 1 if a part
# failed, 3 if there is no GPU for a part that needs one. --rehearse runs everything on the CPU.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_check/run.py" "$@"
