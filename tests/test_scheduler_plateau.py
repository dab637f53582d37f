"""A scheduler that takes a metric: numbers and tensors, NaN, epochs, groups that come."""

import math

import pytest
import torch

import fusedlr
from schedule_cases import REDUCE_LR_ON_PLATEAU, SCHEDULES, cases, each_case, metric
from schedule_lockstep import Lockstep, exact, lrs, make_optimizer

pytestmark = pytest.mark.usefixtures("compiled_engine")

SIDES = (fusedlr, torch.optim)
CASE = cases(of=REDUCE_LR_ON_PLATEAU)[0]

METRICS = {
    "float": float,
    "tensor": torch.tensor,
    "float64 tensor": lambda value: torch.tensor(value, dtype=torch.float64),
    "bfloat16 tensor": lambda value: torch.tensor(value, dtype=torch.bfloat16),
    "one-element tensor": lambda value: torch.tensor([value], dtype=torch.float64),
    "tensor of two dimensions": lambda value: torch.tensor([[value]]),
    "computed tensor": lambda value: (torch.ones((), requires_grad=True) * value).detach(),
    "view": lambda value: torch.tensor([0.0, value, 1.0])[1],
}


@pytest.mark.parametrize("kind", METRICS)
@each_case(takes_metric=True)
def test_a_metric_may_be_a_number_or_a_tensor(case, kind):
    lockstep = Lockstep(case)
    for step in range(60):
        for side in lockstep.sides:
            side.scheduler.step(METRICS[kind](metric(step)))
        lockstep.check_hypers()
    lockstep.check()


@pytest.mark.parametrize("value", [1, True, torch.tensor(3), torch.tensor(False)], ids=repr)
def test_a_metric_may_be_of_any_type_that_is_a_number(value):
    lockstep = Lockstep(CASE)
    for _ in range(4):
        for side in lockstep.sides:
            side.scheduler.step(value)
        lockstep.check()
    assert type(lockstep.ours.scheduler.best) is float


@each_case(takes_metric=True)
def test_numbers_and_tensors_may_take_turns(case):
    lockstep = Lockstep(case)
    makers = list(METRICS.values())
    for step in range(80):
        for side in lockstep.sides:
            side.scheduler.step(makers[step % len(makers)](metric(step)))
        lockstep.check()


def test_a_metric_that_is_overwritten_after_the_step_counts_as_it_was():
    lockstep = Lockstep(CASE)
    loss = torch.zeros(())
    for step in range(60):
        for side in lockstep.sides:
            loss.fill_(metric(step))
            side.scheduler.step(loss)
            loss.fill_(-1e9)
    lockstep.check()


def test_a_metric_that_needs_a_gradient_is_read():
    lockstep = Lockstep(CASE)
    for step in range(10):
        for side in lockstep.sides:
            with torch.no_grad():
                side.scheduler.step(torch.tensor(metric(step), requires_grad=True))
    lockstep.check()


def test_a_metric_that_is_no_number_raises_and_changes_nothing():
    for wrong in ("low", None, torch.ones(2), torch.ones(0), torch.tensor(1j), [1.0]):
        lockstep = Lockstep(CASE)
        lockstep.run(3)
        before = lockstep.ours.observe()
        raised = []
        for side in lockstep.sides:
            with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
                side.scheduler.step(wrong)
            raised.append((caught.type, str(caught.value)))
        assert raised[0] == raised[1]
        assert lockstep.ours.observe() == before
        lockstep.run(3)


def test_nothing_is_better_than_not_a_number():
    lockstep = Lockstep(CASE)
    before = lrs(lockstep.ours.optimizer)
    for value in 8 * [math.nan]:
        for side in lockstep.sides:
            side.scheduler.step(value)
        lockstep.check()
    assert all(now < was for now, was in zip(lrs(lockstep.ours.optimizer), before, strict=True))


def test_a_step_into_the_future_counts_as_in_torch():
    lockstep = Lockstep(CASE)
    for side in lockstep.sides:
        with pytest.warns(UserWarning, match="epoch parameter"):
            side.scheduler.step(1.0, 17)
        assert side.scheduler.last_epoch == 17
    lockstep.run(10)


def test_the_deprecated_epoch_warns_on_every_step():
    scheduler = CASE.build(fusedlr, make_optimizer(fusedlr))
    for epoch in (5, 6):
        with pytest.warns(UserWarning, match="epoch parameter") as caught:
            scheduler.step(1.0, epoch)
        assert [one.filename for one in caught] == [__file__]


@each_case(takes_metric=True)
def test_a_reset_starts_anew(case):
    lockstep = Lockstep(case)
    lockstep.run(30)
    for side in lockstep.sides:
        side.scheduler._reset()
    lockstep.check()
    lockstep.run(30)


def test_reading_best_and_counters_gives_pythons_numbers():
    lockstep = Lockstep(CASE)
    for step in range(40):
        lockstep.step()
        ours, theirs = (
            exact([s.best, s.num_bad_epochs, s.cooldown_counter, s.in_cooldown, s.last_epoch])
            for s in (side.scheduler for side in lockstep.sides)
        )
        assert ours == theirs, f"after step {step}"


def test_min_lrs_of_fewer_groups_raise_what_torch_raises():
    raised = []
    for library in SIDES:
        optimizer = make_optimizer(library)
        scheduler = library.lr_scheduler.ReduceLROnPlateau(
            optimizer, patience=0, min_lr=[0.0, 0.01, 0.02]
        )
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.5})
        scheduler.step(1.0)
        before = lrs(optimizer)
        with pytest.raises(RuntimeError, match="modify the `min_lrs` field") as caught:
            scheduler.step(1.0)
        raised.append(str(caught.value))
        assert lrs(optimizer) == before
        scheduler.min_lrs = [0.0, 0.01, 0.02, 0.03]
        scheduler.step(1.0)
        for now, was, lowest in zip(lrs(optimizer), before, scheduler.min_lrs, strict=True):
            assert now == max(0.1 * was, lowest)
    assert raised[0] == raised[1]


def test_groups_that_come_later_have_the_common_min_lr():
    lockstep = Lockstep(next(case for case in SCHEDULES if case.label == "min_lr"))
    lockstep.run(3)
    for side in lockstep.sides:
        side.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.5})
    lockstep.run(40)
    assert lrs(lockstep.ours.optimizer) == 4 * [0.02]
