"""The tests of other engines, on the kernels of Triton: interpreted on the CPU, in other processes.

``TRITON_INTERPRET`` must be set before Triton is imported. Interpreted kernels take a tenth of a
second each, so these are the tests that give the most for their time.
"""

from __future__ import annotations

import pytest

import own_process

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


def begin(item: pytest.Function) -> None:
    part = item.callspec.params["part"]
    files, chosen = PARTS[part]
    environment = {"FUSEDLR_BACKEND": "triton", "TRITON_INTERPRET": "1"}
    own_process.begin_run(f"triton: {part}", files, chosen, environment)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_the_tests_of_other_engines_pass_on_interpreted_kernels(part):
    own_process.check_run(f"triton: {part}")
