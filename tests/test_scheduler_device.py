"""Schedulers on a device, walked on the host: alone, and as steps that a graph replays."""

import copy
import gc
import math
import random
import warnings

import pytest
import torch

import fusedlr
import interpreter
from fusedlr import lr_scheduler
from schedule_cases import (
    CHAINED_SCHEDULER,
    ONE_CYCLE_LR,
    REPRESENTATIVES,
    SEQUENTIAL_LR,
    cases,
    each_case,
    each_representative,
    each_schedule,
    joined,
    metric,
)
from schedule_lockstep import Lockstep, leaves, lrs, make_optimizer

#: One of each class that steps without a metric.
BY_ITSELF = cases(takes_metric=False, among=REPRESENTATIVES)
COMPOSITES = [case for case in REPRESENTATIVES if case.children]

each_by_itself = pytest.mark.parametrize("case", BY_ITSELF, ids=str)


@pytest.fixture(autouse=True)
def _walked(monkeypatch):
    monkeypatch.setenv("FUSEDLR_BACKEND", interpreter.KERNELS_ON_HOST)


def record(act):
    """A graph of what a call launches; nothing of it has run."""
    graph = fusedlr._backend.extension.HostGraph()
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
    for backend in ("cpu", interpreter.KERNELS_ON_HOST) * 2:
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


@pytest.mark.parametrize("num_groups", [3, 300])
@each_by_itself
def test_a_step_is_one_launch_whatever_the_number_of_groups(case, num_groups):
    optimizer = make_optimizer(fusedlr, num_groups, name=case.optimizer)
    scheduler = case.with_one_function().build(fusedlr, optimizer)
    optimizer.step()
    scheduler._materialize()
    assert record(scheduler.step).size == 1


@each_by_itself
def test_an_epoch_that_is_edited_between_replays_counts_from_the_next_one_on(case):
    lockstep = replayed_lockstep(case)
    for step in range(12):
        if step % 4 == 1:
            for side in lockstep.sides:
                for scheduler in (side.scheduler, *leaves(side.scheduler)):
                    if hasattr(scheduler, "last_epoch"):
                        set_attribute(scheduler, "last_epoch", scheduler.last_epoch + 1)
        lockstep.step()
        lockstep.check()


def set_attribute(scheduler, name, value):
    setattr(getattr(scheduler, "_scheduler", scheduler), name, value)


@each_schedule
def test_a_state_that_is_loaded_between_replays_counts_from_the_next_one_on(case):
    lockstep = replayed_lockstep(case)
    lockstep.run(3)
    saved = [
        copy.deepcopy([side.scheduler.state_dict(), side.optimizer.state_dict()])
        for side in lockstep.sides
    ]
    lockstep.run(5)
    for side, (of_scheduler, of_optimizer) in zip(lockstep.sides, saved, strict=True):
        side.scheduler.load_state_dict(of_scheduler)
        side.optimizer.load_state_dict(of_optimizer)
    lockstep.check()
    lockstep.run(12)


@pytest.mark.parametrize("numbers", [{"gamma": 0.25, "step_size": 2}])
def test_numbers_that_a_state_brings_reach_the_captured_step(numbers):
    optimizer = make_optimizer(fusedlr, 1)
    scheduler = lr_scheduler.StepLR(optimizer, step_size=100, gamma=0.5)
    optimizer.step()
    graph = record(scheduler.step)
    scheduler.load_state_dict({**scheduler.state_dict(), **numbers})
    (before,) = lrs(optimizer)
    graph.replay_()
    graph.replay_()
    assert lrs(optimizer) == [before * numbers["gamma"]]


@pytest.mark.parametrize("case", COMPOSITES, ids=str)
def test_schedulers_inside_can_be_stepped_by_hand_between_replays(case):
    lockstep = replayed_lockstep(case)
    for step in range(12):
        for side in lockstep.sides:
            inside = list(leaves(side.scheduler))
            inside[step % len(inside)].step()
        lockstep.step()
        lockstep.check()


@each_case(of=ONE_CYCLE_LR)
def test_replays_past_the_end_of_a_schedule_leave_the_numbers_as_they_are(case):
    """A device cannot refuse a step."""
    ours = replayed_lockstep(case).ours
    total_steps = ours.scheduler.total_steps
    seen = [ours.observe_hypers()]
    for _ in range(total_steps + 3):
        ours.scheduler.step()
        seen.append(ours.observe_hypers())
    assert seen[total_steps:] == [seen[total_steps]] * 4
    assert len(set(map(str, seen))) > 3
    assert ours.scheduler.last_epoch == total_steps + 3


@each_case(moves_momentum=True)
def test_a_graph_of_both_steps_gives_the_bits_of_eager_steps(case):
    def build():
        optimizer = make_optimizer(fusedlr, 3, name=case.optimizer)
        return optimizer, case.build(fusedlr, optimizer)

    (eager, eager_scheduler), (graphed, scheduler) = build(), build()
    graphed.materialize()

    def step():
        graphed.step()
        scheduler.step()

    graph = record(step)
    for _ in range(int(min(40, case.final_epoch))):
        eager.step()
        eager_scheduler.step()
        graph.replay_()
    for ours, theirs in zip(graphed.param_groups, eager.param_groups, strict=True):
        (one,), (other,) = ours["params"], theirs["params"]
        assert torch.equal(one, other)
        assert {**ours, "params": 0} == {**theirs, "params": 0}
    assert not torch.equal(one, torch.ones(2))
    assert scheduler.state_dict() == eager_scheduler.state_dict()


def test_a_tabulated_function_goes_on_in_replays():
    table = [random.Random(0).random() for _ in range(50)]
    calls = []

    def untraceable(epoch):
        calls.append(epoch)
        return table[int(str(epoch))]

    optimizer = make_optimizer(fusedlr, 1)
    scheduler = lr_scheduler.LambdaLR(optimizer, untraceable, total_steps=40)
    (initial,) = scheduler.base_lrs
    optimizer.step()
    graph = record(scheduler.step)
    num_calls = len(calls)
    for epoch in range(1, 40):
        graph.replay_()
        assert lrs(optimizer) == [initial * table[epoch]]
    assert len(calls) == num_calls


# What cannot be captured


def refusal(scheduler, act, error):
    """What a call raises while it is recorded; nothing has moved, and nothing was recorded."""
    optimizer = scheduler.optimizer
    before = lrs(optimizer), scheduler.get_last_lr(), scheduler.state_dict()
    graph = fusedlr._backend.extension.HostGraph()
    graph.begin_()
    try:
        with pytest.raises(error) as caught:
            act()
    finally:
        graph.end_()
    assert graph.size == 0
    assert (lrs(optimizer), scheduler.get_last_lr(), scheduler.state_dict()) == before
    return str(caught.value)


@pytest.mark.parametrize("case", COMPOSITES, ids=str)
@pytest.mark.parametrize("prepares_by", ["step", "materialize"])
def test_a_step_that_was_not_prepared_says_what_to_call_first(case, prepares_by):
    optimizer = make_optimizer(fusedlr, 3, name=case.optimizer)
    scheduler = case.build(fusedlr, optimizer)
    optimizer.step()
    said = refusal(scheduler, scheduler.step, RuntimeError)
    assert "scheduler.step()" in said
    assert "optimizer.materialize()" in said
    (scheduler.step if prepares_by == "step" else optimizer.materialize)()
    assert record(scheduler.step).size == 1


def test_a_scheduler_that_no_longer_fits_does_not_keep_others_from_being_prepared():
    optimizer = make_optimizer(fusedlr, 2)
    old = lr_scheduler.LambdaLR(optimizer, [lambda epoch: 0.5, lambda epoch: 0.25])
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    new = lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5)
    optimizer.step()
    new.base_lrs[0] = 8.0
    optimizer.materialize()
    graph = record(new.step)
    graph.replay_()
    assert lrs(optimizer)[0] == 4.0
    with pytest.raises(ValueError, match="build a new scheduler"):
        record(old.step)


def test_a_graph_outlives_the_scheduler_that_it_has_captured():
    lockstep = replayed_lockstep(BY_ITSELF[0])
    replayed = lockstep.ours.schedulers.pop()
    graph = replayed._graph
    epoch = replayed.last_epoch
    del replayed
    gc.collect()
    for _ in range(5):
        graph.replay_()
        lockstep.theirs.scheduler.step()
    assert epoch == 0
    lockstep.check_hypers()


def test_settings_that_have_changed_since_the_last_step_are_refused():
    optimizer = make_optimizer(fusedlr)
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    optimizer.step()
    scheduler.gamma = 0.8
    assert "scheduler.step()" in refusal(scheduler, scheduler.step, RuntimeError)
    scheduler._materialize()
    assert record(scheduler.step).size == 1


def test_an_edit_of_the_clock_while_recording_is_refused():
    optimizer = make_optimizer(fusedlr)
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.9)

    def edit():
        scheduler.last_epoch = 5

    graph = fusedlr._backend.extension.HostGraph()
    graph.begin_()
    with pytest.raises(RuntimeError, match="captured"):
        edit()
    graph.end_()
    assert graph.size == 0
    assert scheduler.last_epoch == 0


def test_a_function_that_the_host_has_to_call_is_refused_with_the_remedy():
    optimizer = make_optimizer(fusedlr)
    with pytest.warns(UserWarning, match="calls"):
        scheduler = lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / len(str(epoch)))
    optimizer.step()
    assert "total_steps=" in refusal(scheduler, scheduler.step, RuntimeError)


def test_a_function_without_a_finite_value_is_refused():
    optimizer = make_optimizer(fusedlr)
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda epoch: 2.0**epoch)
    optimizer.step()
    scheduler.last_epoch = 5000
    assert "total_steps=" in refusal(scheduler, scheduler.step, RuntimeError)


@each_case(takes_metric=True)
def test_a_metric_of_the_host_is_refused(case):
    optimizer = make_optimizer(fusedlr)
    scheduler = case.build(fusedlr, optimizer)
    scheduler._materialize()
    assert "tensor" in refusal(scheduler, lambda: scheduler.step(1.0), RuntimeError)


@each_case(takes_epoch=True, takes_metric=False)
def test_an_epoch_of_the_host_is_refused(case):
    optimizer = make_optimizer(fusedlr, name=case.optimizer)
    scheduler = case.build(fusedlr, optimizer)
    optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "step()" in refusal(scheduler, lambda: scheduler.step(3), RuntimeError)


def test_a_step_past_the_end_is_refused_as_on_the_host():
    optimizer = make_optimizer(fusedlr)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=3, cycle_momentum=False)
    optimizer.step()
    for _ in range(3):
        scheduler.step()
    assert "Tried to step 4 times" in refusal(scheduler, scheduler.step, ValueError)


@pytest.mark.parametrize("case", COMPOSITES, ids=str)
def test_a_part_that_cannot_start_at_a_milestone_is_refused_before_the_milestone(case):
    first = BY_ITSELF[0]
    sequence = joined(SEQUENTIAL_LR, "refused", first, case, milestones=[100])
    optimizer = make_optimizer(fusedlr, name=case.optimizer)
    scheduler = sequence.build(fusedlr, optimizer)
    optimizer.step()
    scheduler.step()
    assert "first scheduler" in refusal(scheduler, scheduler.step, NotImplementedError)


@pytest.mark.parametrize("composite", [SEQUENTIAL_LR, CHAINED_SCHEDULER], ids=str)
def test_parts_that_the_host_steps_one_by_one_are_refused(composite):
    class WithAStepOfItsOwn(lr_scheduler.ExponentialLR):
        def step(self, epoch=None):
            super().step(epoch)

    optimizer = make_optimizer(fusedlr)
    parts = [WithAStepOfItsOwn(optimizer, 0.9), lr_scheduler.StepLR(optimizer, 3)]
    options = {"milestones": [5]} if composite is SEQUENTIAL_LR else {}
    scheduler = composite.ours(optimizer=optimizer, schedulers=parts, **options)
    optimizer.step()
    scheduler.step()
    assert "one by one" in refusal(scheduler, scheduler.step, RuntimeError)
