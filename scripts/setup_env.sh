#!/usr/bin/env bash
# Brings .venv to where a command can run: scripts/setup_env.sh build|test|demo|bench|lint
#
# A torch that PYTHON can already import is reused, together with the other packages beside it; only
# what is missing is installed. Where nothing is missing, nothing is downloaded.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly purpose=$1
readonly base=${PYTHON:-python3}
readonly torch=${TORCH:-torch==2.13.0}
readonly python=.venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { echo "== $*"; }

# Prints the version of the torch that interpreter $1 imports; fails unless fusedlr supports it.
supported_torch() {
  "$1" -c '
import torch
release = tuple(int(part) for part in torch.__version__.split(".")[:2])
if not (2, 11) <= release <= (2, 13):
    raise SystemExit(1)
print(torch.__version__)
' 2>/dev/null
}

# Prints a .pth file with the directories that interpreter $1 imports packages from. `venv
# --system-site-packages` would give those of the base interpreter only, not those of a virtual
# environment that `python3` may be in.
package_directories() {
  "$1" -c '
import sys
from pathlib import Path
import torch
found = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
for directory in dict.fromkeys([str(Path(torch.__file__).parents[1]), *found]):
    print(f"import site; site.addsitedir({directory!r})")
'
}

# The requirements of $purpose in pyproject.toml, one per line.
requirements() {
  "$python" - "$purpose" <<'PYTHON'
import sys

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)
if sys.argv[1] == "build":
    print(*project["build-system"]["requires"], sep="\n")
else:
    print(*project["project"]["optional-dependencies"][sys.argv[1]], sep="\n")
PYTHON
}

if [ ! -x "$python" ]; then
  "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "fusedlr needs Python 3.10 or newer; $base is $("$base" --version 2>&1)." \
      "Choose another: make PYTHON=python3.12 ..." >&2
    exit 1
  }
  say "Creating .venv with $("$base" --version)"
  trap 'rm -rf .venv' EXIT # if interrupted: half an environment would pass for a whole one
  "$base" -m venv .venv
  if version=$(supported_torch "$base"); then
    say "Reusing torch $version and the packages beside it"
    # venv brings a setuptools of its own that would hide the one beside that torch.
    "$python" -m pip uninstall --quiet --yes setuptools 2>/dev/null
    purelib=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    package_directories "$base" >"$purelib/_reused_packages.pth"
    # The commands of reused packages stay where those are installed.
    scripts=$("$base" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
    for command in ninja ruff clang-format; do
      if [ -x "$scripts/$command" ]; then ln -s "$scripts/$command" .venv/bin/; fi
    done
  fi
  trap - EXIT
fi

if ! supported_torch "$python" >/dev/null; then
  say "Installing $torch, which can be a large download"
  "$python" -m pip install "$torch"
fi

say "Making sure that .venv has what \`$purpose\` needs"
# torch is named again so that pip keeps to versions that this torch can work with.
requirements | xargs "$python" -m pip install --quiet torch
