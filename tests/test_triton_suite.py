"""The tests of other engines, on the kernels of Triton: interpreted on the CPU, in other processes.

``TRITON_INTERPRET`` must be set before Triton is imported. Interpreted kernels take a tenth of a
second each, so these are the tests that give the most for their time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

import fusedlr

TESTS = Path(__file__).parent
#: Where this process has found the package.
PACKAGE = Path(fusedlr.__file__).parents[1]

#: What is run in a process of its own: files, and which of their tests.
PARTS: dict[str, tuple[list[str], str]] = {
    "every variant": (["gpu/test_device_step.py"], "every_variant and -float32 and not tensor_lr"),
    "storages and sizes": (["gpu/test_device_step.py"], "edges or another_dtype"),
    "layouts": (
        ["gpu/test_device_step.py"],
        "(layouts and -float32) or (layouts and SGD-bfloat16) or state_of_any or expanded",
    ),
    "edits": (
        ["gpu/test_device_step.py"],
        "(infinities and (AdamW-float32 or SGD-float16)) or overflow or sparse"
        " or (SGD and (edits or stays_live or change))",
    ),
    "every schedule and operation": (["interpreted_schedules.py"], ""),
    "copies": (["gpu/test_device_step.py"], "(SGD and (copy or checkpoint)) or history"),
    "metrics": (["gpu/test_device_schedulers.py"], "metric_on_the_device"),
    "graphs": (
        ["test_walked_graphs.py"],
        "not every_replay or (SGD and not decay and not maximize and not tensor_lr)",
    ),
    "waiting": (["test_device_waits.py"], "not no_step_of"),
}


def run(files: list[str], chosen: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *files],
        cwd=TESTS,
        env={
            **os.environ,
            "FUSEDLR_BACKEND": "triton",
            "TRITON_INTERPRET": "1",
            "PYTHONPATH": os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest,
) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        of_tests = (getattr(item, "callspec", None) for item in request.session.items)
        wanted = {spec.params.get("part") for spec in of_tests if spec is not None}
        started = {name: pool.submit(run, *part) for name, part in PARTS.items() if name in wanted}
        yield started
        for one in started.values():
            one.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_the_tests_of_other_engines_pass_on_interpreted_kernels(part, runs):
    result = runs[part].result()
    assert result.returncode == 0, result.stdout[-5000:]
    assert " passed" in result.stdout
    print(part, result.stdout.splitlines()[-1])
