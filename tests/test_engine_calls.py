"""A step is a fixed number of calls into the engine, and a fixed amount of Python."""

import sys
from collections import Counter

import pytest
import torch

import fusedlr
from cases import each_optimizer
from fusedlr import _backend, schedules
from schedule_cases import each_representative, each_schedule
from schedule_lockstep import LR_KINDS, lrs, make_optimizer


@pytest.fixture
def engine_calls(monkeypatch):
    """Counts calls of the functions of the compiled extension that move something, by name."""
    calls = Counter()

    def counted(name, function):
        def call(*arguments, **keywords):
            calls[name] += 1
            return function(*arguments, **keywords)

        return call

    for name in dir(_backend.extension):
        if name.endswith("_") and not name.endswith("__"):
            function = getattr(_backend.extension, name)
            monkeypatch.setattr(_backend.extension, name, counted(name, function))
    return calls


@pytest.mark.parametrize("num_groups", [1, 40])
@each_schedule
def test_a_scheduler_step_is_at_most_one_engine_call(case, num_groups, engine_calls):
    optimizer = make_optimizer(fusedlr, num_groups)
    scheduler = case.build(fusedlr, optimizer)
    optimizer.step()
    for step in range(1, 12):
        before = lrs(optimizer)
        engine_calls.clear()
        scheduler.step(*case.step_arguments(step))
        assert sum(engine_calls.values()) == 1 or (
            case.of.takes_metric and not engine_calls and lrs(optimizer) == before
        )


@pytest.mark.parametrize("num_groups", [1, 3, 40])
@each_optimizer
def test_an_optimizer_step_is_one_engine_call(case, num_groups, engine_calls):
    optimizer = make_optimizer(fusedlr, num_groups, name=case.name)
    optimizer.step()
    for _ in range(3):
        engine_calls.clear()
        optimizer.step()
        assert engine_calls == {"step_": 1}


def scheduled_optimizer(case, groups):
    """An optimizer with schedules of its defaults and of each group, and a record of its steps."""
    for index, group in enumerate(groups):
        group["weight_decay"] = schedules.linear(0.5, 0.1 * index, steps=20)
    optimizer = case.ours(groups, **case.scheduled["all"])
    return optimizer, fusedlr.History(optimizer, capacity=4)


@pytest.mark.parametrize("num_groups", [1, 3, 40])
@each_optimizer
def test_a_step_with_schedules_and_a_record_is_one_engine_call(case, num_groups, engine_calls):
    optimizer, history = scheduled_optimizer(case, make_groups(num_groups, 1, lambda lr: lr))
    optimizer.step()
    for step in range(1, 6):
        engine_calls.clear()
        optimizer.step()
        assert engine_calls == {"step_": 1}
        expected = schedules.linear(0.5, 0.0, steps=20)(step)
        assert history.to_dict()["weight_decay[0]"][-1] == expected


def python_events(act, *arguments):
    """How often a call runs a line, a function and (where Python can tell) a bytecode."""
    events = Counter()

    def trace(frame, event, _):
        frame.f_trace_opcodes = True
        events[event] += 1
        return trace

    def profile(frame, event, _):
        events[event] += 1

    for install, observe, before in (
        (sys.settrace, trace, sys.gettrace()),
        (sys.setprofile, profile, sys.getprofile()),
    ):
        install(observe)
        try:
            act(*arguments)
        finally:
            install(before)
    return events


def loop_in_python(times):
    for _ in range(times):
        pass


def loop_over_calls(times):
    list(map(abs, range(times)))
    list(map(loop_in_python, range(times)))


def test_python_events_count_loops_and_calls():
    few, many = (python_events(loop_in_python, times) for times in (2, 200))
    assert many["line"] > few["line"] + 150
    few, many = (python_events(loop_over_calls, times) for times in (2, 200))
    assert many["call"] > few["call"] + 150


def make_groups(num_groups, params_per_group, make_lr):
    groups = []
    for index in range(num_groups):
        params = [torch.nn.Parameter(torch.ones(2)) for _ in range(params_per_group)]
        for param in params:
            param.grad = torch.ones(2)
        groups.append({"params": params, "lr": make_lr(0.1 / (1 + index))})
    return groups


@pytest.mark.parametrize("lr_kind", LR_KINDS)
@each_optimizer
def test_an_optimizer_step_runs_the_same_python_for_any_number_of_parameters(case, lr_kind):
    counts = []
    for num_groups, params_per_group in ((2, 1), (200, 1), (2, 100), (1, 400)):
        groups = make_groups(num_groups, params_per_group, LR_KINDS[lr_kind])
        params = [param for group in groups for param in group["params"]]
        optimizer = case.ours(groups, **case.with_all_state)
        optimizer.step()
        before = [param.detach().clone() for param in params]
        counts.append(python_events(optimizer.step))
        assert all((now != was).all() for now, was in zip(params, before, strict=True))
    assert counts == [counts[0]] * 4
    assert counts[0]["line"] > 0


@each_optimizer
def test_a_step_with_schedules_and_a_record_runs_the_same_python_for_any_number_of_groups(case):
    def new_groups(num_groups):
        return make_groups(num_groups, 1, lambda lr: lr)

    few, history = scheduled_optimizer(case, new_groups(2))
    many, _ = scheduled_optimizer(case, new_groups(200))
    without = case.ours(new_groups(2), **case.with_all_state)
    counts = []
    for optimizer in (few, many, without):
        optimizer.step()
        counts.append(python_events(optimizer.step))
        assert optimizer.completed_steps == 3
    assert counts == [counts[0]] * 3
    assert len(history) == 3


@pytest.mark.parametrize("lr_kind", LR_KINDS)
@each_representative
def test_a_scheduler_step_runs_the_same_python_for_any_number_of_groups(case, lr_kind):
    counts = []
    for num_groups in (2, 200):
        optimizer = make_optimizer(fusedlr, num_groups, LR_KINDS[lr_kind])
        scheduler = case.with_one_function().build(fusedlr, optimizer)
        optimizer.step()
        scheduler.step(*case.step_arguments(1))
        before = optimizer.lr.clone()
        counts.append(
            [python_events(scheduler.step, *case.step_arguments(step)) for step in range(2, 11)]
        )
        assert (optimizer.lr != before).all()
    assert counts[0] == counts[1]


def test_the_python_of_torch_grows_with_the_groups():
    """The yardstick measures what it is meant to measure."""
    for make_step in (optimizer_step_of_torch, scheduler_step_of_torch):
        few, many = (python_events(make_step(num_groups)) for num_groups in (2, 200))
        assert many["line"] > few["line"] + 150


def optimizer_step_of_torch(num_groups):
    return make_optimizer(torch.optim, num_groups).step


def scheduler_step_of_torch(num_groups):
    optimizer = make_optimizer(torch.optim, num_groups)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    optimizer.step()
    return scheduler.step
