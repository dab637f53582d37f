"""Schedulers that share an optimizer, take turns, or are mixed with torch's own."""

import itertools
from functools import partial

import pytest
import torch

import fusedlr
from schedule_cases import EXPONENTIAL_LR, REPRESENTATIVES, STEP_LR, cases
from schedule_lockstep import Lockstep, Side, lrs, make_optimizer, seen

BY_EPOCH = cases(takes_metric=False, among=REPRESENTATIVES)
SIDES = (fusedlr, torch.optim)


def joined(rows):
    return "+".join(map(str, rows))


def row(scheduler, label):
    (found,) = (case for case in cases(of=scheduler) if case.label == label)
    return found


def assert_equal_runs(make_scheduler, steps, act=None):
    """Builds one scheduler on each side, by ``make_scheduler(side)``, and steps both alike."""
    ours, theirs = (Side(library, make_optimizer(library)) for library in SIDES)
    for side in (ours, theirs):
        side.schedulers = [make_scheduler(side)]
        side.optimizer.step()
    moved = set()
    for step in range(steps):
        assert ours.observe() == theirs.observe(), f"after step {step}"
        moved.add(str(lrs(ours.optimizer)))
        for side in (ours, theirs):
            side.scheduler.step()
            if act is not None:
                act(side, step)
    assert len(moved) > 1
    return ours, theirs


@pytest.mark.parametrize("pair", list(itertools.combinations(REPRESENTATIVES, 2)), ids=joined)
def test_two_schedulers_on_one_optimizer_give_the_bits_of_torch(pair):
    Lockstep(*pair).run(60)


def test_all_schedulers_on_one_optimizer_give_the_bits_of_torch():
    Lockstep(*REPRESENTATIVES).run(60)


def sequence_of(rows, milestones, side):
    schedulers = [case.build(side.library, side.optimizer) for case in rows]
    return torch.optim.lr_scheduler.SequentialLR(side.optimizer, schedulers, milestones)


@pytest.mark.parametrize("pair", list(itertools.permutations(BY_EPOCH, 2)), ids=joined)
def test_sequential_lr_of_two_schedulers_gives_the_bits_of_torch(pair):
    assert_equal_runs(partial(sequence_of, pair, [7]), steps=30)


def test_sequential_lr_of_all_schedulers_gives_the_bits_of_torch():
    milestones = [5 * (place + 1) for place in range(len(BY_EPOCH) - 1)]
    assert_equal_runs(partial(sequence_of, BY_EPOCH, milestones), steps=60)


def test_sequential_lr_that_starts_at_once_with_its_second_scheduler_gives_the_bits_of_torch():
    assert_equal_runs(partial(sequence_of, BY_EPOCH[:3], [0, 4]), steps=30)


def test_a_sequence_chained_with_another_scheduler_gives_the_bits_of_torch():
    def chain(side):
        sequence = sequence_of(BY_EPOCH[:2], [3], side)
        other = BY_EPOCH[3].build(side.library, side.optimizer)
        return torch.optim.lr_scheduler.ChainedScheduler([sequence, other], side.optimizer)

    assert_equal_runs(chain, steps=30)


@pytest.mark.parametrize("pair", list(itertools.combinations(BY_EPOCH, 2)), ids=joined)
def test_chained_scheduler_gives_the_bits_of_torch(pair):
    def chain(side):
        schedulers = [case.build(side.library, side.optimizer) for case in pair]
        return torch.optim.lr_scheduler.ChainedScheduler(schedulers, side.optimizer)

    assert_equal_runs(chain, steps=60)


TORCH_ONLY = {
    "ConstantLR": {"factor": 0.3, "total_iters": 4},
    "LinearLR": {"start_factor": 0.2, "total_iters": 6},
    "PolynomialLR": {"total_iters": 20, "power": 2.0},
    "MultiplicativeLR": {"lr_lambda": lambda epoch: 0.9},
    "CosineAnnealingWarmRestarts": {"T_0": 5, "T_mult": 2},
    "OneCycleLR": {"max_lr": 0.5, "total_steps": 100, "cycle_momentum": False},
    "CyclicLR": {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 4, "cycle_momentum": False},
}


@pytest.mark.parametrize("name", TORCH_ONLY)
def test_a_scheduler_of_torch_alone_works_on_a_fused_optimizer(name):
    scheduler_class = getattr(torch.optim.lr_scheduler, name)
    assert_equal_runs(lambda side: scheduler_class(side.optimizer, **TORCH_ONLY[name]), steps=60)


@pytest.mark.parametrize("name", ["LinearLR", "ConstantLR"])
@pytest.mark.parametrize("case", BY_EPOCH, ids=str)
def test_a_warm_up_by_torch_and_a_schedule_of_ours_in_sequence_give_the_bits_of_torch(case, name):
    def warm_up_then_case(side):
        warm_up = getattr(torch.optim.lr_scheduler, name)(side.optimizer, 0.2, total_iters=5)
        main = case.build(side.library, side.optimizer)
        return torch.optim.lr_scheduler.SequentialLR(side.optimizer, [warm_up, main], [5])

    assert_equal_runs(warm_up_then_case, steps=40)


@pytest.mark.parametrize("case", BY_EPOCH, ids=str)
def test_swalr_takes_over_from_a_schedule_of_ours_as_in_torch(case):
    def take_over(side, step):
        if step == 10:
            side.schedulers[0] = torch.optim.swa_utils.SWALR(
                side.optimizer, swa_lr=0.4, anneal_epochs=5
            )

    ours, _ = assert_equal_runs(
        lambda side: case.build(side.library, side.optimizer), steps=30, act=take_over
    )
    assert lrs(ours.optimizer) == [0.4] * 3


def test_phases_step_lr_then_exponential_lr_give_the_bits_of_torch():
    """One scheduler for the first epochs, another one afterwards, as tutorials show it."""
    ours, theirs = (Side(library, make_optimizer(library)) for library in SIDES)
    for side in (ours, theirs):
        side.schedulers = [
            row(STEP_LR, "every_3").build(side.library, side.optimizer),
            row(EXPONENTIAL_LR, "0.9").build(side.library, side.optimizer),
        ]
        side.optimizer.step()
    seen_lrs = []
    for epoch in range(40):
        for side in (ours, theirs):
            side.schedulers[0 if epoch < 20 else 1].step()
        assert ours.observe() == theirs.observe(), f"after epoch {epoch}"
        seen_lrs.append(lrs(ours.optimizer)[0])
    assert len(set(seen_lrs[:20])) == 7
    assert len(set(seen_lrs[20:])) == 20


def test_a_second_phase_built_later_starts_from_the_first_ones_initial_lr_as_in_torch():
    ours, theirs = (Side(library, make_optimizer(library)) for library in SIDES)
    for side in (ours, theirs):
        first = row(STEP_LR, "every_3").build(side.library, side.optimizer)
        side.optimizer.step()
        for _ in range(20):
            first.step()
        side.schedulers = [case.build(side.library, side.optimizer) for case in BY_EPOCH]
    for _ in range(20):
        for side in (ours, theirs):
            for scheduler in side.schedulers:
                scheduler.step()
        assert ours.observe() == theirs.observe()
        bases = [seen(side.schedulers[0].base_lrs) for side in (ours, theirs)]
        assert bases[0] == bases[1]


def test_two_optimizers_have_schedules_of_their_own():
    optimizers = [make_optimizer(fusedlr) for _ in range(2)]
    schedulers = [
        fusedlr.lr_scheduler.ExponentialLR(optimizer, gamma)
        for optimizer, gamma in zip(optimizers, (0.5, 0.25), strict=True)
    ]
    for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
        start = lrs(optimizer)
        optimizer.step()
        scheduler.step()
        assert lrs(optimizer) == [lr * scheduler.gamma for lr in start]
    schedulers[0].step()
    assert lrs(optimizers[1]) == [lr * 0.25 for lr in lrs(make_optimizer(fusedlr))]
