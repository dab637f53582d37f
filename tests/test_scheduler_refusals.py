"""A scheduler and a schedule that is a value cannot both move a number."""

import re

import pytest
import torch

import fusedlr
from fusedlr import lr_scheduler, schedules

pytestmark = pytest.mark.usefixtures("compiled_engine")


def optimizer_with(**hypers):
    param = torch.nn.Parameter(torch.ones(2))
    return fusedlr.SGD([{"params": [param], **hypers}], lr=0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda optimizer: lr_scheduler.StepLR(optimizer, 3), "lr"),
        (lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3), "lr"),
        (lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch), "lr"),
        (lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer), "lr"),
        (lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.1, 1.0), "lr"),
        (lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9), "lr"),
        (lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.1, 1.0), "momentum"),
        (lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9), "momentum"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_scheduler_refuses_what_follows_a_schedule(build, name):
    optimizer = optimizer_with(**{name: schedules.linear(0.5, 0.1, steps=10)})
    expected = f"{name!r} of param_groups[0] follows the schedule linear(0.5, 0.1, steps=10)"
    if name == "lr":
        with pytest.raises(ValueError, match=re.escape(expected)):
            build(optimizer)
        assert optimizer.param_groups[0].schedules.keys() == {name}
        # After the repair that the message proposes, a scheduler starts from that number.
        optimizer.param_groups[0]["lr"] = 0.25
        assert lr_scheduler.LambdaLR(optimizer, lambda epoch: 2.0).get_last_lr() == [0.5]
    else:  # torch writes the first momentum as a number, which ends the schedule
        build(optimizer)
        assert not optimizer.param_groups[0].schedules


def test_a_scheduler_may_move_what_stands_beside_a_schedule():
    optimizer = optimizer_with(weight_decay=schedules.linear(0.5, 0.1, steps=10))
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.42)


def test_a_number_that_takes_the_place_of_a_schedule_can_be_moved():
    optimizer = optimizer_with(lr=schedules.cosine(1.0, steps=10))
    optimizer.param_groups[0]["lr"] = 0.5
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
