"""All schedulers of torch.optim move lr and momentum of our optimizers as those of torch's."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import lr_scheduler

from cases import DTYPE, OptimizerCase, each_optimizer, random_tensor
from lockstep import TRUSTED, random_grads, set_grads
from schedule_cases import REPRESENTATIVES, SCHEDULES, ScheduleCase
from schedule_lockstep import Lockstep

TOLERANCE = DTYPE[torch.float32].tolerance
STEPS = 25

each_schedule = pytest.mark.parametrize("schedule", REPRESENTATIVES, ids=str)


def twins(case: OptimizerCase, lrs: list[Any]) -> list[Any]:
    """Our optimizer and torch's, with a group for each lr and equal parameters."""
    optimizers = []
    for optimizer_class, flags in ((case.ours, {}), (case.theirs, TRUSTED)):
        generator = torch.Generator().manual_seed(0)
        groups = [
            {"params": [Parameter(random_tensor((5,), torch.float32, generator))], "lr": lr}
            for lr in copy.deepcopy(lrs)
        ]
        optimizers.append(optimizer_class(groups, **flags, **case.with_momentum))
    return optimizers


def all_params(optimizer: Any) -> list[Parameter]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def hypers_that_move(optimizer: Any, case: OptimizerCase) -> list[Any]:
    return [
        _number(group[key]) for group in optimizer.param_groups for key in ("lr", case.momentum_key)
    ]


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def train_in_lockstep(
    case: OptimizerCase, schedule: ScheduleCase, optimizers: list[Any], instances: list[Any]
) -> list[list[Any]]:
    """The lr and momentum that each went through; asserts that parameters stay together."""
    generators = [torch.Generator().manual_seed(1) for _ in optimizers]
    histories: list[list[Any]] = [[], []]
    start = [param.detach().clone() for param in all_params(optimizers[0])]
    for step in range(STEPS):
        for optimizer, instance, generator, history in zip(
            optimizers, instances, generators, histories, strict=True
        ):
            set_grads(all_params(optimizer), random_grads(all_params(optimizer), generator))
            optimizer.step()
            instance.step(*schedule.step_arguments(step))
            history.append(hypers_that_move(optimizer, case))
        ours, theirs = map(all_params, optimizers)
        torch.testing.assert_close(ours, theirs, rtol=5 * TOLERANCE, atol=5 * TOLERANCE)
    assert not any(map(torch.equal, all_params(optimizers[0]), start))
    return histories


@each_schedule
@each_optimizer
def test_lr_and_momentum_move_exactly_as_on_the_optimizer_of_torch(case, schedule, engine):
    optimizers = twins(case, [0.05, 0.1])
    instances = [schedule.build(torch.optim, optimizer) for optimizer in optimizers]
    ours, theirs = train_in_lockstep(case, schedule, optimizers, instances)
    assert ours == theirs
    assert len({lr for lr, *_ in ours}) > 1
    assert (len({momentum for _, momentum, *_ in ours}) > 1) == schedule.moves_momentum
    assert instances[0].get_last_lr() == instances[1].get_last_lr()
    assert optimizers[0].lr.tolist() == [group["lr"] for group in optimizers[1].param_groups]
    for group in optimizers[0].param_groups:
        assert type(group["lr"]) is float


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_schedulers_of_torch_move_our_groups_as_those_of_torch(schedule):
    Lockstep(schedule, our_schedulers=torch.optim).run(40)


@each_schedule
@each_optimizer
def test_a_tensor_lr_is_moved_as_in_the_optimizer_of_torch(case, schedule, engine):
    lrs = [torch.tensor(0.05), torch.tensor([0.1], dtype=torch.float64)]
    optimizers = twins(case, lrs)
    given = [group["lr"] for group in optimizers[0].param_groups]
    instances = [schedule.build(torch.optim, optimizer) for optimizer in optimizers]
    ours, theirs = train_in_lockstep(case, schedule, optimizers, instances)
    assert ours == theirs
    for group, lr in zip(optimizers[0].param_groups, given, strict=True):
        assert group["lr"] is lr
    assert optimizers[0].lr.tolist() == [_number(lr) for lr in given]


@each_schedule
@each_optimizer
def test_training_resumes_from_checkpoints_of_optimizer_and_scheduler(case, schedule):
    optimizers = twins(case, [0.05, 0.1])
    instances = [schedule.build(torch.optim, optimizer) for optimizer in optimizers]
    generator = torch.Generator().manual_seed(2)
    for step in range(7):
        grads = random_grads(all_params(optimizers[0]), generator)
        for optimizer, instance in zip(optimizers, instances, strict=True):
            set_grads(all_params(optimizer), grads)
            optimizer.step()
            instance.step(*schedule.step_arguments(step))

    resumed = twins(case, [9.0, 9.0])[0]
    resumed_instance = schedule.build(torch.optim, resumed)
    for param, other in zip(all_params(resumed), all_params(optimizers[0]), strict=True):
        param.data.copy_(other.data)
    resumed_instance.load_state_dict(copy.deepcopy(instances[0].state_dict()))
    resumed.load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for step in range(7, 14):
        grads = random_grads(all_params(resumed), generator)
        pairs = ((resumed, resumed_instance), (optimizers[1], instances[1]))
        for optimizer, instance in pairs:
            set_grads(all_params(optimizer), grads)
            optimizer.step()
            instance.step(*schedule.step_arguments(step))
        assert hypers_that_move(resumed, case) == hypers_that_move(optimizers[1], case)
    torch.testing.assert_close(
        all_params(resumed), all_params(optimizers[1]), rtol=5 * TOLERANCE, atol=5 * TOLERANCE
    )


@each_optimizer
def test_a_scheduler_of_torch_warns_when_it_is_stepped_before_the_optimizer(case):
    for optimizer in twins(case, [0.1]):
        scheduler = lr_scheduler.StepLR(optimizer, 1)
        with pytest.warns(
            UserWarning, match=r"`lr_scheduler.step\(\)` before `optimizer.step\(\)`"
        ):
            scheduler.step()
        set_grads(all_params(optimizer), all_params(optimizer))
        optimizer.step()
        scheduler.step()  # no warning
