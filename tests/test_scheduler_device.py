"""Schedulers on a device, walked on the host: alone, and as steps that a graph replays."""

import math

import pytest
import torch

import fusedlr
from schedule_cases import (
    REPRESENTATIVES,
    each_case,
    each_representative,
    each_schedule,
    metric,
)
from schedule_lockstep import Lockstep, leaves

COMPOSITES = [case for case in REPRESENTATIVES if case.children]


@pytest.fixture(autouse=True)
def _walked(monkeypatch):
    monkeypatch.setenv("FUSEDLR_BACKEND", "walked")


def record(act):
    """A graph of what a call launches; nothing of it has run."""
    graph = fusedlr._backend.extension.WalkedGraph()
    graph.begin_()
    try:
        act()
    finally:
        graph.end_()
    return graph


class Replayed:
    """A scheduler each of whose steps is a replay of the one that was recorded."""

    def __init__(self, scheduler, takes_metric):
        self._scheduler = scheduler
        self._metrics = [torch.zeros((), dtype=torch.float64)] if takes_metric else []
        scheduler._materialize()
        self._graph = record(lambda: scheduler.step(*self._metrics))

    def step(self, *values):
        for tensor, value in zip(self._metrics, values, strict=True):
            tensor.fill_(value)
        self._graph.replay_()

    def __getattr__(self, name):
        return getattr(self._scheduler, name)


def replayed_lockstep(case, **options):
    """torch's schedulers step by step, ours by replays; torch's class is the oracle."""
    lockstep = Lockstep(case, **options)
    ours = lockstep.ours
    ours.schedulers = [Replayed(ours.scheduler, case.of.takes_metric)]
    lockstep.check()
    return lockstep


# Step by step


@each_schedule
def test_every_step_on_a_device_gives_the_bits_of_torch(case):
    Lockstep(case).run(300)


@pytest.mark.parametrize(
    ("lr_kind", "num_groups", "steps"),
    [("tensor", 3, 60), ("one_element", 1, 60), ("float", 40, 60)],
)
@each_representative
def test_tensors_and_more_groups_give_the_bits_of_torch(case, lr_kind, num_groups, steps):
    Lockstep(case, num_groups=num_groups, lr_kind=lr_kind).run(steps)


def test_all_schedulers_on_one_optimizer_give_the_bits_of_torch():
    Lockstep(*REPRESENTATIVES).run(60)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
@each_case(takes_metric=True)
def test_a_metric_that_is_a_tensor_counts_like_its_number(case, dtype):
    lockstep = Lockstep(case)
    for step in range(1, 100):
        value = metric(step)
        if not dtype.is_floating_point:
            value = int(10 * value) if math.isfinite(value) else 7
        tensor = torch.tensor(value).to(dtype)
        lockstep.ours.scheduler.step(tensor)
        lockstep.theirs.scheduler.step(float(tensor))
        if step % 10 == 0:
            lockstep.check()
    lockstep.check()


@each_representative
def test_a_scheduler_goes_on_where_it_stands_when_the_engine_changes(case, monkeypatch):
    """As when the parameters are moved to a device and back."""
    lockstep = Lockstep(case)
    for backend in ("cpu", "walked", "cpu", "walked"):
        lockstep.run(5)
        monkeypatch.setenv("FUSEDLR_BACKEND", backend)
        lockstep.ours.optimizer._revision.bump()
    lockstep.run(5)


@each_representative
def test_attributes_and_groups_that_are_edited_between_steps_count_as_in_torch(case):
    lockstep = Lockstep(case)
    for step in range(12):
        for side in lockstep.sides:
            for leaf in leaves(side.scheduler):
                if step % 4 == 1 and hasattr(leaf, "last_epoch"):
                    leaf.last_epoch += 1
                if step % 4 == 2 and hasattr(leaf, "base_lrs"):
                    leaf.base_lrs[0] *= 0.5
            if step % 4 == 3:
                side.optimizer.param_groups[1]["lr"] *= 0.7
        lockstep.step()


# Replays


@each_schedule
def test_every_replay_of_a_recorded_step_is_a_step(case):
    replayed_lockstep(case).run(300)


@each_representative
def test_replays_move_tensors_of_the_user(case):
    replayed_lockstep(case, lr_kind="tensor").run(40)


@each_representative
def test_nothing_moves_while_a_step_is_recorded(case):
    lockstep = Lockstep(case)
    before = lockstep.ours.observe()
    Replayed(lockstep.ours.scheduler, case.of.takes_metric)
    assert lockstep.ours.observe() == before


@each_representative
def test_steps_and_replays_can_alternate(case):
    lockstep = replayed_lockstep(case)
    replayed = lockstep.ours.scheduler
    for step in range(12):
        lockstep.ours.schedulers = [replayed._scheduler if step % 3 == 1 else replayed]
        lockstep.step()
        lockstep.check()
