"""Every scheduler moves the numbers of a device as torch's moves those of the host."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from places import Place

import fusedlr
from schedule_cases import each_case, each_representative, each_schedule
from schedule_lockstep import LR_KINDS, Lockstep, lrs, make_optimizer

#: What the smallest errors are measured by: about the largest lr of the tables.
_LARGEST_LR = 0.1


class DeviceLockstep(Lockstep):
    """A lockstep whose numbers may differ in their last digits, by some ulps of the largest lr.

    A device has other cosines and powers than the host. After each comparison our optimizer takes
    torch's numbers over, so that what is compared is one step at a time.
    """

    def __init__(self, place: Place, *cases: Any, lr_kind: str = "float", **options: Any) -> None:
        self.ulps = place.ulps
        super().__init__(*cases, lr_kind=lr_kind, device=place.device, **options)

    def compare(self, ours: Any, theirs: Any) -> None:
        if self.ulps == 0:
            super().compare(ours, theirs)
        else:
            assert self.agree(ours, theirs), f"after step {self.steps}: {ours} and {theirs}"

    def agree(self, one: Any, other: Any) -> bool:
        if isinstance(one, float) and isinstance(other, float):
            largest = max(abs(one), abs(other), _LARGEST_LR)
            return one == other or abs(one - other) <= self.ulps * math.ulp(largest)
        if isinstance(one, dict) and isinstance(other, dict):
            return one.keys() == other.keys() and all(self.agree(one[k], other[k]) for k in one)
        if isinstance(one, (list, tuple)) and type(one) is type(other):
            return len(one) == len(other) and all(map(self.agree, one, other))
        return bool(one == other)

    def check_hypers(self) -> None:
        super().check_hypers()
        if self.ulps > 0:
            self.take_over()

    def take_over(self) -> None:
        groups = zip(
            self.ours.optimizer.param_groups, self.theirs.optimizer.param_groups, strict=True
        )
        for ours, theirs in groups:
            if isinstance(ours["lr"], torch.Tensor):
                ours["lr"].copy_(theirs["lr"])
            elif ours["lr"] != theirs["lr"]:
                ours["lr"] = theirs["lr"]
            for name in ("momentum", "betas"):
                if name in theirs and ours[name] != theirs[name]:
                    ours[name] = theirs[name]


@pytest.fixture(autouse=True)
def _at_the_place(place):
    with place.chosen():
        yield


@each_schedule
def test_a_scheduler_moves_the_lr_of_each_group_as_torch_does(case, place):
    DeviceLockstep(place, case).run(40)


@pytest.mark.parametrize("lr_kind", ["tensor", "one_element"])
@each_representative
def test_a_scheduler_moves_tensors_of_the_host_as_torch_does(case, lr_kind, place):
    DeviceLockstep(place, case, lr_kind=lr_kind).run(20)


@each_representative
def test_a_scheduler_moves_tensors_of_the_device(case, place):
    optimizers = [
        make_optimizer(
            library,
            lr=lambda value, device=device: LR_KINDS["tensor"](value).to(device),
            name=case.optimizer,
            device=device,
        )
        for library, device in ((fusedlr, place.device), (torch.optim, "cpu"))
    ]
    given = [group["lr"] for group in optimizers[0].param_groups]
    schedulers = [
        case.build(library, optimizer)
        for library, optimizer in zip((fusedlr, torch.optim), optimizers, strict=True)
    ]
    for optimizer in optimizers:
        optimizer.step()
    for step in range(1, 1 + int(min(12, case.final_epoch))):
        for scheduler in schedulers:
            scheduler.step(*case.step_arguments(step))
    ours, theirs = (torch.stack(lrs(optimizer)).cpu() for optimizer in optimizers)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert torch.equal(ours, torch.stack(given).cpu())


@each_representative
def test_a_thousand_groups_and_edits_between_steps(case, place):
    lockstep = DeviceLockstep(place, case.with_one_function(), num_groups=300)
    lockstep.run(4)
    for side in lockstep.sides:
        side.optimizer.param_groups[7]["lr"] = 0.3
    lockstep.run(4)


@each_case(takes_metric=True)
def test_a_metric_on_the_device_is_read_there(case, place):
    lockstep = DeviceLockstep(place, case)
    for step in range(1, 30):
        (metric,) = case.step_arguments(step)
        lockstep.ours.scheduler.step(torch.tensor(metric, dtype=torch.float64, device=place.device))
        lockstep.theirs.scheduler.step(metric)
    lockstep.check()


@each_representative
def test_the_state_of_a_scheduler_goes_on_elsewhere(case, place):
    """With an optimizer on the host and back on the device."""
    lockstep = DeviceLockstep(place, case)
    lockstep.run(6)
    for device in ("cpu", place.device):
        before = lockstep.ours
        optimizer = make_optimizer(fusedlr, name=case.optimizer, device=device)
        optimizer.load_state_dict(before.optimizer.state_dict())
        scheduler = case.build(fusedlr, optimizer)
        optimizer.load_state_dict(before.optimizer.state_dict())
        scheduler.load_state_dict(before.scheduler.state_dict())
        optimizer.step()
        lockstep.ours.optimizer, lockstep.ours.schedulers = optimizer, [scheduler]
        lockstep.run(6)
