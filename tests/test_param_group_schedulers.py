"""All schedulers of torch.optim move lr and momentum of our optimizers as those of torch's."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import lr_scheduler, swa_utils

from cases import DTYPE, OptimizerCase, each_optimizer, random_tensor
from lockstep import TRUSTED, random_grads, set_grads

TOLERANCE = DTYPE[torch.float32].tolerance
STEPS = 25


@dataclass(frozen=True)
class TorchScheduler:
    """One of torch's schedulers: how it is built for an optimizer of two groups, and stepped."""

    name: str
    build: Callable[[Any], Any]
    #: Whether step() takes a metric.
    takes_metric: bool = False
    #: Whether it writes the momentum, too.
    moves_momentum: bool = False
    #: The classes that it covers.
    covers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


def _warmup_then_cosine(optimizer: Any) -> Any:
    return lr_scheduler.SequentialLR(
        optimizer,
        [
            lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5),
            lr_scheduler.CosineAnnealingLR(optimizer, 12),
            lr_scheduler.ConstantLR(optimizer, 0.5, total_iters=3),
        ],
        milestones=[5, 17],
    )


TORCH_SCHEDULERS = (
    TorchScheduler("LambdaLR", lambda o: lr_scheduler.LambdaLR(o, lambda e: 1 / (1 + e))),
    TorchScheduler(
        "LambdaLR of each group",
        lambda o: lr_scheduler.LambdaLR(o, [lambda e: 1 / (1 + e), lambda e: 0.9**e]),
        covers=("LambdaLR",),
    ),
    TorchScheduler(
        "MultiplicativeLR", lambda o: lr_scheduler.MultiplicativeLR(o, lambda e: 0.99 - e / 1000)
    ),
    TorchScheduler("StepLR", lambda o: lr_scheduler.StepLR(o, 4, 0.7)),
    TorchScheduler("MultiStepLR", lambda o: lr_scheduler.MultiStepLR(o, [3, 3, 9], 0.6)),
    TorchScheduler("ConstantLR", lambda o: lr_scheduler.ConstantLR(o, 0.3, 6)),
    TorchScheduler("LinearLR", lambda o: lr_scheduler.LinearLR(o, 0.2, 0.9, 11)),
    TorchScheduler("ExponentialLR", lambda o: lr_scheduler.ExponentialLR(o, 0.93)),
    TorchScheduler("PolynomialLR", lambda o: lr_scheduler.PolynomialLR(o, 14, 2.0)),
    TorchScheduler("CosineAnnealingLR", lambda o: lr_scheduler.CosineAnnealingLR(o, 8, 1e-3)),
    TorchScheduler(
        "CosineAnnealingWarmRestarts",
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4, 2, 1e-3),
    ),
    TorchScheduler("SequentialLR", _warmup_then_cosine),
    TorchScheduler(
        "ChainedScheduler",
        lambda o: lr_scheduler.ChainedScheduler(
            [lr_scheduler.ConstantLR(o, 0.1, 4), lr_scheduler.ExponentialLR(o, 0.95)]
        ),
    ),
    TorchScheduler(
        "ReduceLROnPlateau",
        lambda o: lr_scheduler.ReduceLROnPlateau(
            o, factor=0.5, patience=2, cooldown=1, min_lr=[1e-3, 2e-3]
        ),
        takes_metric=True,
    ),
    TorchScheduler(
        "CyclicLR",
        lambda o: lr_scheduler.CyclicLR(o, [1e-3, 2e-3], [0.1, 0.2], 4, 7, mode="triangular2"),
        moves_momentum=True,
    ),
    TorchScheduler(
        "CyclicLR without momentum",
        lambda o: lr_scheduler.CyclicLR(o, 1e-3, 0.1, 5, mode="exp_range", cycle_momentum=False),
        covers=("CyclicLR",),
    ),
    TorchScheduler(
        "OneCycleLR",
        lambda o: lr_scheduler.OneCycleLR(o, [0.1, 0.2], total_steps=STEPS + 1, three_phase=True),
        moves_momentum=True,
    ),
    TorchScheduler("SWALR", lambda o: swa_utils.SWALR(o, [0.01, 0.02], anneal_epochs=9)),
)

each_scheduler = pytest.mark.parametrize("scheduler", TORCH_SCHEDULERS, ids=str)


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


def advance(scheduler: TorchScheduler, instance: Any, step: int) -> None:
    if scheduler.takes_metric:
        instance.step(1.0 / (1 + min(step, 6)))
    else:
        instance.step()


def hypers_that_move(optimizer: Any, case: OptimizerCase) -> list[Any]:
    return [
        _number(group[key]) for group in optimizer.param_groups for key in ("lr", case.momentum_key)
    ]


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def train_in_lockstep(
    case: OptimizerCase, scheduler: TorchScheduler, optimizers: list[Any], instances: list[Any]
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
            advance(scheduler, instance, step)
            history.append(hypers_that_move(optimizer, case))
        ours, theirs = map(all_params, optimizers)
        torch.testing.assert_close(ours, theirs, rtol=5 * TOLERANCE, atol=5 * TOLERANCE)
    assert not any(map(torch.equal, all_params(optimizers[0]), start))
    return histories


def test_the_table_covers_every_scheduler_of_torch():
    covered = {name for row in TORCH_SCHEDULERS for name in row.covers or (row.name,)}
    assert covered == set(lr_scheduler.__all__) - {"LRScheduler"} | {"SWALR"}


@each_scheduler
@each_optimizer
def test_lr_and_momentum_move_exactly_as_on_the_optimizer_of_torch(case, scheduler, engine):
    optimizers = twins(case, [0.05, 0.1])
    instances = [scheduler.build(optimizer) for optimizer in optimizers]
    ours, theirs = train_in_lockstep(case, scheduler, optimizers, instances)
    assert ours == theirs
    assert len({lr for lr, *_ in ours}) > 1
    assert (len({momentum for _, momentum, *_ in ours}) > 1) == scheduler.moves_momentum
    assert instances[0].get_last_lr() == instances[1].get_last_lr()
    assert optimizers[0].lr.tolist() == [group["lr"] for group in optimizers[1].param_groups]
    for group in optimizers[0].param_groups:
        assert type(group["lr"]) is float


@each_scheduler
@each_optimizer
def test_a_tensor_lr_is_moved_as_in_the_optimizer_of_torch(case, scheduler, engine):
    lrs = [torch.tensor(0.05), torch.tensor([0.1], dtype=torch.float64)]
    optimizers = twins(case, lrs)
    given = [group["lr"] for group in optimizers[0].param_groups]
    instances = [scheduler.build(optimizer) for optimizer in optimizers]
    ours, theirs = train_in_lockstep(case, scheduler, optimizers, instances)
    assert ours == theirs
    for group, lr in zip(optimizers[0].param_groups, given, strict=True):
        assert group["lr"] is lr
    assert optimizers[0].lr.tolist() == [_number(lr) for lr in given]


@each_scheduler
@each_optimizer
def test_training_resumes_from_checkpoints_of_optimizer_and_scheduler(case, scheduler):
    optimizers = twins(case, [0.05, 0.1])
    instances = [scheduler.build(optimizer) for optimizer in optimizers]
    generator = torch.Generator().manual_seed(2)
    for step in range(7):
        grads = random_grads(all_params(optimizers[0]), generator)
        for optimizer, instance in zip(optimizers, instances, strict=True):
            set_grads(all_params(optimizer), grads)
            optimizer.step()
            advance(scheduler, instance, step)

    resumed = twins(case, [9.0, 9.0])[0]
    resumed_instance = scheduler.build(resumed)
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
            advance(scheduler, instance, step)
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
