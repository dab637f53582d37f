"""Runs of pytest in processes of their own: they begin with the session, beside its other tests.

A test module with such runs has a function ``begin(item)``, which is called for each of its tests
that was collected; the test then waits for the run. The other tests are mostly on one core.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import fusedlr

TESTS = Path(__file__).parent
PACKAGE = Path(fusedlr.__file__).parents[1]

_pool = ThreadPoolExecutor(max_workers=1)
_runs: dict[str, Future[subprocess.CompletedProcess[str]]] = {}


def begin_run(name: str, files: Sequence[str], chosen: str, environment: Mapping[str, str]) -> None:
    """Lets the tests of these files whose names fit `chosen` (as in ``-k``) run soon."""
    _runs[name] = _pool.submit(_run, files, chosen, environment)


def _run(
    files: Sequence[str], chosen: str, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    # The package of this process, wherever it was found.
    path = os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *files],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def check_run(name: str) -> None:
    """Waits for a run, and fails if one of its tests has failed, or if it had none."""
    result = _runs[name].result()
    assert result.returncode == 0, result.stdout[-5000:]
    assert " passed" in result.stdout


def end_runs() -> None:
    """Takes back what has not begun: the session is over."""
    _pool.shutdown(wait=False, cancel_futures=True)
