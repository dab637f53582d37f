"""The tests fail on a faulty optimizer: tests of this suite, run on one with an injected fault."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from faults import FAULTS

TESTS = Path(__file__).parent

UPDATES = "test_update_values.py::test_fifty_steps_are_as_accurate_as_torch"
EDITS = "test_param_group.py::test_augmented_assignment_to_the_lr_is_seen_by_the_next_step"
GROUPS = "test_param_group.py::test_an_lr_of_zero_freezes_a_group_and_only_that"
SCHEDULES = "test_scheduler_values.py::test_parameters_move_by_the_scheduled_lr"
VALUES = "test_group_schedules.py::test_the_value_of_a_schedule_decides_how_far_a_step_goes"
SUBSET = (UPDATES, EDITS, GROUPS, SCHEDULES, VALUES)

#: The tests of the subset that find each fault.
FOUND_BY = {
    "no_op_step": {UPDATES, EDITS, GROUPS, SCHEDULES, VALUES},
    "step_with_the_first_lr": {EDITS, GROUPS, SCHEDULES, VALUES},
    "ignored_lr_edits": {EDITS, GROUPS},
    "ignored_schedules": {SCHEDULES},
    "ignored_group_schedules": {VALUES},
    "hurried_group_schedules": {VALUES},
    "swapped_groups": {GROUPS, SCHEDULES},
    "wrong_bias_correction": {UPDATES, SCHEDULES},
}


def run_subset(fault, tmp_path):
    """The exit code of pytest, the tests that found wrong values, and what it printed."""
    report = tmp_path / "report.xml"
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--tb=no"),
            *("-p", "faults", "-p", "no:cacheprovider"),
            f"--junitxml={report}",
            *(os.fspath(TESTS / test) for test in SUBSET),
        ],
        cwd=TESTS.parent,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([os.fspath(TESTS), *sys.path]),
            "FUSEDLR_TEST_FAULT": fault,
        },
        capture_output=True,
        text=True,
    )
    ran, found_wrong_values = set(), set()
    for case in ElementTree.parse(report).iter("testcase"):
        file = case.get("classname").split(".")[-1]
        test = f"{file}.py::{case.get('name').split('[')[0]}"
        ran.add(test)
        failure = case.find("failure")
        if failure is not None and failure.get("message").startswith(("AssertionError", "assert")):
            found_wrong_values.add(test)
    printed = finished.stdout + finished.stderr
    assert ran == set(SUBSET), printed
    return finished.returncode, found_wrong_values, printed


def test_the_subset_passes_without_a_fault(tmp_path):
    exit_code, found_by, printed = run_subset("", tmp_path)

    assert (exit_code, found_by) == (0, set()), printed


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault, tmp_path):
    exit_code, found_by, printed = run_subset(fault, tmp_path)

    assert exit_code == 1, printed
    assert found_by >= FOUND_BY[fault], printed
