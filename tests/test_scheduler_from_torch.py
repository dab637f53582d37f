"""from_torch: a scheduler of torch goes on as one of fusedlr, at whatever step it stands."""

import re
import warnings

import pytest
import torch

import fusedlr
from fusedlr.lr_scheduler import from_torch
from schedule_cases import SCHEDULES, each_schedule
from schedule_lockstep import Lockstep, lrs, make_optimizer

pytestmark = pytest.mark.usefixtures("compiled_engine")

TORCH = torch.optim.lr_scheduler


def lockstep_of_torch(case, lr_kind="float"):
    """torch's schedulers on both sides; our side has a fused optimizer."""
    lockstep = Lockstep(case, lr_kind=lr_kind)
    ours = lockstep.ours
    ours.optimizer = make_optimizer(fusedlr, 3, name=case.optimizer)
    ours.library = torch.optim
    ours.schedulers = [case.build(ours.library, ours.optimizer)]
    ours.optimizer.step()
    return lockstep


@pytest.mark.parametrize("steps", [0, 1, 11])
@each_schedule
def test_a_scheduler_of_torch_goes_on_as_one_of_fusedlr(case, steps):
    lockstep = lockstep_of_torch(case)
    lockstep.run(steps)
    built = lockstep.ours.scheduler
    converted = from_torch(built, total_steps=60)
    assert type(converted).__module__.startswith("fusedlr.")
    assert type(converted).__name__ == type(built).__name__
    lockstep.ours.schedulers = [converted]
    lockstep.check()
    lockstep.run(30)
    assert lockstep.is_over or lockstep.steps == steps + 30


def test_a_converted_scheduler_is_one_engine_call_for_each_step(monkeypatch):
    optimizer = make_optimizer(fusedlr)
    parts = [TORCH.LinearLR(optimizer, total_iters=3), TORCH.ExponentialLR(optimizer, 0.9)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = from_torch(TORCH.SequentialLR(optimizer, parts, [3]))
    optimizer.step()
    scheduler.step()
    calls = []
    table = type(optimizer._table)
    schedule_ = table.schedule_

    def counted(*arguments):
        calls.append(arguments)
        return schedule_(*arguments)

    monkeypatch.setattr(table, "schedule_", counted)
    before = lrs(optimizer)
    for _ in range(6):
        scheduler.step()
    assert len(calls) == 6
    assert lrs(optimizer) != before


def test_a_scheduler_that_is_shared_stays_shared():
    optimizer = make_optimizer(fusedlr)
    shared = TORCH.ExponentialLR(optimizer, 0.9)
    converted = from_torch(TORCH.ChainedScheduler([shared, shared]))
    assert converted._schedulers[0] is converted._schedulers[1]
    assert isinstance(converted._schedulers[0], fusedlr.lr_scheduler.ExponentialLR)


def test_a_scheduler_of_fusedlr_comes_back_as_it_is():
    scheduler = fusedlr.lr_scheduler.ExponentialLR(make_optimizer(fusedlr), 0.9)
    assert from_torch(scheduler) is scheduler


class Halving(TORCH.ExponentialLR):
    """A subclass, which may compute anything."""


def host_function(epoch):
    return {0: 1.0}.get(hash(str(epoch)), 0.5)


@pytest.mark.parametrize(
    ("build", "error", "named"),
    [
        (lambda optimizer: Halving(optimizer, 0.5), TypeError, "Halving"),
        (lambda optimizer: object(), TypeError, "builtins.object"),
        (lambda optimizer: TORCH.LambdaLR(optimizer, host_function), TypeError, "host_function"),
        (
            lambda optimizer: TORCH.MultiplicativeLR(optimizer, host_function),
            TypeError,
            "host_function",
        ),
        (
            lambda optimizer: TORCH.CyclicLR(
                optimizer, 0.1, 1.0, scale_fn=host_function, cycle_momentum=False
            ),
            TypeError,
            "host_function",
        ),
        (
            lambda optimizer: TORCH.ChainedScheduler([Halving(optimizer, 0.5)]),
            TypeError,
            "Halving",
        ),
        (lambda optimizer: TORCH.StepLR(optimizer, 1), ValueError, "step_size"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_represented_is_refused_by_name(build, error, named):
    scheduler = build(make_optimizer(fusedlr))
    if named == "step_size":
        scheduler.step_size = 0
    with pytest.raises(error, match=re.escape(named)):
        from_torch(scheduler)


def test_an_optimizer_of_torch_is_refused_by_name():
    scheduler = TORCH.ExponentialLR(make_optimizer(torch.optim), 0.9)
    with pytest.raises(TypeError, match=r"torch\.optim\.sgd\.SGD.*build a fused optimizer"):
        from_torch(scheduler)


def test_every_scheduler_of_torch_is_in_the_table():
    converted = {case.of.name for case in SCHEDULES}
    names = {name for name in TORCH.__all__ if name != "LRScheduler"}
    assert names <= converted
