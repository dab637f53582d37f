"""The tests of the optimizers and of what goes by their steps, on the kernels of a GPU: walked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FILES = sorted(
    path.name
    for pattern in (
        "test_optimizer*.py",
        "test_scheduler_[cps]*.py",
        "test_history.py",
        "test_resume.py",
    )
    for path in TESTS.glob(pattern)
)


@pytest.mark.slow
def test_the_tests_of_the_cpu_engine_pass_on_walked_kernels():
    environment = {**os.environ, "FUSEDLR_BACKEND": "walked"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *FILES]
    run = subprocess.run(
        command, cwd=TESTS, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-5000:]
    assert len(FILES) > 10
