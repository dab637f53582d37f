"""The tests of the optimizers and of what goes by their steps, on the kernels of a GPU: walked."""

import pytest

import own_process

TESTS = own_process.TESTS
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


def begin(item: pytest.Function) -> None:
    own_process.begin_run("walked", FILES, "", {"FUSEDLR_BACKEND": "walked"})


@pytest.mark.slow
def test_the_tests_of_the_cpu_engine_pass_on_walked_kernels():
    own_process.check_run("walked")
    assert len(FILES) > 10
