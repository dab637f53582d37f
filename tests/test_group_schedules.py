"""Hypers given as schedules: evaluated by the step itself, by the count of completed steps."""

import copy
import io
import json
import math
import pickle
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.nn import Parameter

from cases import (
    DTYPE,
    OPTIMIZERS,
    OptimizerCase,
    each_optimizer,
    each_scheduled,
    each_with_betas,
    random_tensor,
)
from fusedlr import _backend
from fusedlr import schedules as s
from fusedlr.expression import compile_
from fusedlr.optim.step_clock import StepClock
from lockstep import TRUSTED, parameters_like, random_grads, set_grads, state_of

TOLERANCE = DTYPE[torch.float32].tolerance
SHAPES = [(5,), (2, 3), ()]
STEPS = 12
RAMP = s.linear(1.0, 0.0, steps=100)


@pytest.fixture(params=["cpu", "torch", "walked", "no extension"])
def engine(request, monkeypatch):
    """What serves CPU tensors; without the extension, Python does what the engines do."""
    if request.param == "no extension":
        monkeypatch.setattr(_backend, "extension", None)
    else:
        monkeypatch.setenv("FUSEDLR_BACKEND", request.param)
    return request.param


# What a step with schedules must do, by hand


def parts_of(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def at(value: Any, step: int) -> Any:
    """A hyper at a step."""
    if isinstance(value, tuple):
        return tuple(at(one, step) for one in value)
    return value(step) if isinstance(value, s.Schedule) else value


def scheduled_keys(arguments: dict[str, Any]) -> list[str]:
    return [
        key
        for key, value in arguments.items()
        if any(isinstance(one, s.Schedule) for one in parts_of(value))
    ]


def hypers(optimizer: Any, keys: list[str]) -> list[dict[str, Any]]:
    return [{key: group[key] for key in keys} for group in optimizer.param_groups]


def params_of(optimizer: Any) -> list[Parameter]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def start_values() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [random_tensor(shape, torch.float32, generator) for shape in SHAPES]


def make(case: OptimizerCase, arguments: dict[str, Any], ours: bool = True) -> Any:
    """An optimizer of two groups; torch's with the hypers of the first step."""
    params = parameters_like(start_values())
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    given = {**case.arguments, **arguments}
    if ours:
        return case.ours(groups, **given)
    return case.theirs(groups, **TRUSTED, **{key: at(value, 0) for key, value in given.items()})


def all_scheduled(case: OptimizerCase) -> Any:
    return make(case, case.scheduled["all"])


def train(optimizer: Any, steps: range, scaler: Any = None) -> None:
    """Steps with gradients that depend on the number of the step only."""
    for step in steps:
        params = params_of(optimizer)
        grads = random_grads(params, torch.Generator().manual_seed(step))
        if scaler is None:
            set_grads(params, grads)
            optimizer.step()
        else:
            scaler.train_step(optimizer, params, grads, step)


class Oracle:
    """torch's optimizer, with the hypers set by hand before each step."""

    def __init__(self, case: OptimizerCase, arguments: dict[str, Any]) -> None:
        self.optimizer = make(case, arguments, ours=False)
        self.arguments = arguments
        self.completed = 0

    def step(self) -> None:
        for group in self.optimizer.param_groups:
            for key in scheduled_keys(self.arguments):
                group[key] = at(self.arguments[key], self.completed)
        self.optimizer.step()
        self.completed += 1


# Values


@each_scheduled
def test_each_step_uses_the_value_at_the_number_of_completed_steps(case, arguments, engine):
    keys = scheduled_keys(arguments)
    optimizer = make(case, arguments)
    assert hypers(optimizer, keys) == [{key: at(arguments[key], 0) for key in keys}] * 2
    for step in range(STEPS):
        assert optimizer.completed_steps == step
        train(optimizer, range(step, step + 1))
        expected = {key: at(arguments[key], step) for key in keys}
        assert hypers(optimizer, keys) == [expected] * 2
        assert all(type(one) is float for key in keys for one in parts_of(expected[key]))
        assert optimizer.lr.tolist() == [group["lr"] for group in optimizer.param_groups]
    assert hypers(optimizer, keys)[0] != {key: at(arguments[key], 0) for key in keys} or not any(
        at(arguments[key], 0) != at(arguments[key], STEPS - 1) for key in keys
    )


@each_scheduled
def test_parameters_move_as_with_torch_and_hypers_set_by_hand(case, arguments, engine):
    ours, theirs = make(case, arguments), Oracle(case, arguments)
    start = start_values()
    for step in range(STEPS):
        train(ours, range(step, step + 1))
        train(theirs.optimizer, range(step, step))
        params = params_of(theirs.optimizer)
        set_grads(params, random_grads(params, torch.Generator().manual_seed(step)))
        theirs.step()
        torch.testing.assert_close(params_of(ours), params, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(
        state_of(ours, case), state_of(theirs.optimizer, case), rtol=TOLERANCE, atol=TOLERANCE
    )
    assert not any(map(torch.equal, params_of(ours), start))
    assert ours.state_dict()["state"].keys() == theirs.optimizer.state_dict()["state"].keys()


@each_optimizer
def test_the_value_of_a_schedule_decides_how_far_a_step_goes(case):
    """Fails on a step that reads anything else than the schedule's value at this step."""
    drop = s.piecewise_constant([0.5, 0.0, 0.25], [2, 4])
    optimizer = make(case, {"lr": drop})
    moved = []
    for step in range(6):
        before = [param.detach().clone() for param in params_of(optimizer)]
        train(optimizer, range(step, step + 1))
        moved.append(not any(map(torch.equal, params_of(optimizer), before)))
    assert moved == [True, True, False, False, True, True]


@each_optimizer
def test_each_group_follows_its_own_schedules(case, engine):
    params = parameters_like(start_values())
    first, second = s.linear(0.5, 0.1, steps=5), s.cosine(0.3, steps=9)
    optimizer = case.ours(
        [
            {"params": params[:1], "lr": first, "weight_decay": second},
            {"params": params[1:2], "lr": second},
            {"params": params[2:]},
        ],
        lr=0.25,
        weight_decay=first,
    )
    for step in range(6):
        train(optimizer, range(step, step + 1))
        assert optimizer.lr.tolist() == [first(step), second(step), 0.25]
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        assert decays == [second(step), first(step), first(step)]


@each_optimizer
def test_a_schedule_and_tensors_serve_side_by_side(case, engine):
    live = torch.tensor(0.25, dtype=torch.float64)
    optimizer = make(case, {"weight_decay": s.linear(0.5, 0.0, steps=4), "lr": live})
    train(optimizer, range(1))
    live.fill_(0.125)
    train(optimizer, range(1, 3))
    assert optimizer.lr.tolist() == [0.125, 0.125]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25, 0.25]


# Construction


@each_optimizer
def test_schedules_are_given_by_position_or_by_name_for_all_groups_or_for_one(case):
    params = parameters_like(start_values())
    optimizer = case.ours([{"params": params[:2]}, {"params": params[2:], "lr": 0.5}], RAMP)
    assert [dict(group.schedules) for group in optimizer.param_groups] == [{"lr": RAMP}, {}]
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.5]
    assert optimizer.defaults["lr"] == RAMP


@each_scheduled
def test_the_schedules_of_a_group_are_named_and_read_only(case, arguments):
    names = {"betas": ("beta1", "beta2")}
    expected = {
        name: one
        for key, value in arguments.items()
        for name, one in zip(names.get(key, (key,)), parts_of(value), strict=True)
        if isinstance(one, s.Schedule)
    }
    for group in make(case, arguments).param_groups:
        assert dict(group.schedules) == expected
        with pytest.raises(TypeError, match="does not support item assignment"):
            group.schedules["lr"] = RAMP


@each_optimizer
def test_torch_checks_the_first_value_of_a_schedule(case):
    for value in (-1.0, -0.5):
        with pytest.raises(ValueError, match=f"Invalid learning rate: {value}"):
            make(case, {"lr": s.constant(value)})
    with pytest.raises(ValueError, match=r"Invalid weight_decay value: -0.1"):
        make(case, {"weight_decay": s.constant(-0.1)})
    later = make(case, {"lr": s.piecewise_constant([0.1, -0.1], [1])})
    train(later, range(2))
    assert later.lr.tolist() == [-0.1, -0.1]


def keys_without_schedule(case: OptimizerCase) -> list[str]:
    group = case.ours([Parameter(torch.ones(1))]).param_groups[0]
    is_number = {key: isinstance(parts_of(value)[0], float) for key, value in group.items()}
    momentum = {"momentum", "dampening", "weight_decay"}  # torch's defaults for SGD are ints
    return [key for key in group if not is_number[key] and key not in {"params", *momentum}]


@each_optimizer
def test_what_is_no_number_takes_no_schedule(case):
    keys = keys_without_schedule(case)
    assert "maximize" in keys
    for key in [*keys, "unheard_of"]:
        refused = rf"param_groups\[0\]\['{key}'\] takes no schedule, but got linear.*; .* lr, "
        param = Parameter(torch.ones(1))
        with pytest.raises(TypeError, match=refused):
            case.ours([{"params": [param], key: RAMP}])
        optimizer = case.ours([param])
        with pytest.raises(TypeError, match=refused):
            optimizer.param_groups[0][key] = RAMP
        with pytest.raises(TypeError, match=refused.replace("0", "1", 1)):
            optimizer.add_param_group({"params": [Parameter(torch.ones(1))], key: RAMP})
        assert len(optimizer.param_groups) == 1
        before = param.detach().clone()
        param.grad = torch.ones(1)
        optimizer.step()
        assert not torch.equal(param, before)


@each_optimizer
def test_a_flag_of_the_constructor_takes_no_schedule(case):
    with pytest.raises(TypeError, match=r"param_groups\[0\]\['maximize'\] takes no schedule"):
        make(case, {"maximize": s.constant(1.0)})


@each_optimizer
def test_a_subclass_with_a_constructor_of_its_own_passes_schedules_on(case):
    class Own(case.ours):  # type: ignore[misc,name-defined]
        def __init__(self, params, rate):
            super().__init__(params, lr=rate)

    optimizer = Own([Parameter(torch.ones(1))], RAMP)
    assert dict(optimizer.param_groups[0].schedules) == {"lr": RAMP}


@each_optimizer
def test_an_added_group_has_the_schedules_of_the_defaults_and_goes_by_the_same_clock(case, engine):
    optimizer = make(case, {"lr": RAMP})
    train(optimizer, range(4))
    own = s.constant(0.3)
    optimizer.add_param_group({"params": [Parameter(torch.ones(2))]})
    optimizer.add_param_group({"params": [Parameter(torch.ones(2))], "lr": own})
    optimizer.add_param_group({"params": [Parameter(torch.ones(2))], "lr": 0.2})
    assert [dict(group.schedules) for group in optimizer.param_groups[1:]] == [
        {"lr": RAMP},
        {"lr": RAMP},
        {"lr": own},
        {},
    ]
    assert optimizer.lr.tolist() == [RAMP(3), RAMP(3), RAMP(3), 0.3, 0.2]
    train(optimizer, range(4, 5))
    assert optimizer.lr.tolist() == [RAMP(4), RAMP(4), RAMP(4), 0.3, 0.2]
    optimizer.defaults["lr"] = 0.7
    optimizer.add_param_group({"params": [Parameter(torch.ones(2))]})
    assert optimizer.lr[-1] == 0.7


# Edits

EDITS = {
    "item": lambda group, key, value: group.__setitem__(key, value),
    "update": lambda group, key, value: group.update({key: value}),
    "or-assignment": lambda group, key, value: group.__ior__({key: value}),
    "pop and item": lambda group, key, value: (group.pop(key), group.__setitem__(key, value)),
    "del and setdefault": lambda group, key, value: (
        group.__delitem__(key),
        group.setdefault(key, value),
    ),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@each_optimizer
def test_assigning_a_number_ends_a_schedule_and_assigning_a_schedule_begins_one(case, edit, engine):
    optimizer = make(case, {"lr": RAMP})
    train(optimizer, range(2))
    first, second = optimizer.param_groups
    edit(first, "lr", 0.5)
    assert dict(first.schedules) == {}
    train(optimizer, range(2, 4))
    assert optimizer.lr.tolist() == [0.5, RAMP(3)]
    other = s.linear(0.5, 0.0, steps=50)
    edit(first, "lr", other)
    edit(second, "lr", torch.tensor(0.25))
    assert [dict(group.schedules) for group in (first, second)] == [{"lr": other}, {}]
    train(optimizer, range(4, 6))
    assert optimizer.lr.tolist() == [other(5), 0.25]
    assert first["lr"] == other(5)
    second["lr"].fill_(0.125)
    train(optimizer, range(6, 7))
    assert optimizer.lr.tolist() == [other(6), 0.125]


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@each_optimizer
def test_all_scheduled_hypers_can_be_edited_while_training(case, edit, engine):
    """As with torch and the same edits by hand."""
    arguments = case.scheduled["all"]
    keys = scheduled_keys(arguments)
    ours, theirs = make(case, arguments), Oracle(case, arguments)
    for step in range(9):
        if step == 3:
            numbers = {key: at(arguments[key], 1) for key in keys}
            for key, value in numbers.items():
                for group in (*ours.param_groups, *theirs.optimizer.param_groups):
                    edit(group, key, value)
            theirs.arguments = {}
            assert [dict(group.schedules) for group in ours.param_groups] == [{}, {}]
        if step == 6:
            for key in keys:
                for group in ours.param_groups:
                    edit(group, key, arguments[key])
            theirs.arguments = arguments
        train(ours, range(step, step + 1))
        params = params_of(theirs.optimizer)
        set_grads(params, random_grads(params, torch.Generator().manual_seed(step)))
        theirs.step()
        assert hypers(ours, keys) == hypers(theirs.optimizer, keys)
        torch.testing.assert_close(params_of(ours), params, rtol=TOLERANCE, atol=TOLERANCE)


@each_with_betas
def test_one_entry_of_a_pair_can_follow_a_schedule(case):
    falling = 0.9 * RAMP
    optimizer = make(case, {"betas": (falling, 0.5)})
    group = optimizer.param_groups[0]
    assert group["betas"] == (0.9, 0.5)
    train(optimizer, range(3))
    assert group["betas"] == (falling(2), 0.5)
    group["betas"] = (0.25, falling)
    assert dict(group.schedules) == {"beta2": falling}
    train(optimizer, range(3, 4))
    assert group["betas"] == (0.25, falling(3))
    group["betas"] = (torch.tensor(0.5), falling)
    train(optimizer, range(4, 5))
    beta1, beta2 = group["betas"]
    assert isinstance(beta1, Tensor)
    assert (beta1.item(), beta2) == (0.5, falling(4))


@each_optimizer
def test_a_schedule_that_was_swapped_for_a_while_comes_back_with_the_number_that_was_read(case):
    """As torch.distributed.checkpoint does with the lr, to create the state of an optimizer."""
    optimizer = make(case, {"lr": RAMP, "weight_decay": s.constant(0.25)})
    train(optimizer, range(2))
    first, second = optimizer.param_groups
    was_read = first["lr"]
    first["lr"] = second["lr"] = 0.0
    train(optimizer, range(2, 3))
    assert optimizer.lr.tolist() == [0.0, 0.0]
    first["lr"], second["lr"] = was_read, RAMP(1)
    assert [dict(group.schedules) for group in (first, second)] == [
        {"lr": RAMP, "weight_decay": s.constant(0.25)},
        {"weight_decay": s.constant(0.25)},
    ]
    train(optimizer, range(3, 4))
    assert optimizer.lr.tolist() == [RAMP(3), RAMP(1)]
    # What was read from one group is a number for another, and so is an equal number.
    first["lr"] = second["weight_decay"] = 0.5
    first["lr"], second["weight_decay"] = second["lr"], 0.25
    assert "lr" not in first.schedules
    assert "weight_decay" not in second.schedules


@each_optimizer
def test_assigning_the_number_that_was_just_read_keeps_that_number(case):
    optimizer = make(case, {"lr": RAMP})
    train(optimizer, range(3))
    group = optimizer.param_groups[0]
    for _ in range(2):
        lr = group["lr"]
        group["lr"] = lr
        assert "lr" not in group.schedules
        group["lr"] = 0.5
        group["lr"] = lr
        train(optimizer, range(3, 4))
        assert group["lr"] == RAMP(2)


@each_optimizer
def test_a_refused_edit_leaves_the_schedule_as_it_is(case):
    optimizer = make(case, {"lr": RAMP})
    for value in ("fast", None, torch.ones(2)):
        with pytest.raises((TypeError, ValueError), match=r"param_groups\[0\]\['lr'\]"):
            optimizer.param_groups[0]["lr"] = value
    train(optimizer, range(3))
    assert optimizer.lr.tolist() == [RAMP(2)] * 2


@each_optimizer
def test_what_is_written_into_the_lr_tensor_is_overwritten_by_a_schedule(case, engine):
    optimizer = make(case, {"lr": RAMP})
    optimizer.param_groups[1]["lr"] = 0.5
    train(optimizer, range(1))
    optimizer.lr.fill_(0.25)
    assert optimizer.param_groups[0]["lr"] == 0.25
    train(optimizer, range(1, 2))
    assert optimizer.lr.tolist() == [RAMP(1), 0.25]


@each_optimizer
def test_schedules_stay_with_their_groups_when_the_list_of_groups_changes(case, engine):
    optimizer = make(case, {})
    other = s.cosine(0.5, steps=50)
    for group, schedule in zip(optimizer.param_groups, (RAMP, other), strict=True):
        group["lr"] = schedule
    train(optimizer, range(2))
    removed = optimizer.param_groups.pop(0)
    assert optimizer.lr.tolist() == [other(1)]
    removed["lr"] = 0.125  # belongs to nobody
    train(optimizer, range(2, 3))
    assert optimizer.lr.tolist() == [other(2)]
    optimizer.param_groups.insert(0, removed)
    optimizer.param_groups.append({**removed, "params": [Parameter(torch.ones(1))], "lr": RAMP})
    optimizer.param_groups = optimizer.param_groups[::-1]
    train(optimizer, range(3, 4))
    assert optimizer.lr.tolist() == [RAMP(3), other(3), 0.125]
    assert optimizer.completed_steps == 4


@each_optimizer
def test_a_copied_group_has_the_values_of_its_schedules(case):
    optimizer = make(case, {"lr": RAMP})
    train(optimizer, range(3))
    group = optimizer.param_groups[0]
    for copied in (dict(group), {**group}, group.copy(), copy.deepcopy(group)):
        assert type(copied) is dict
        assert copied["lr"] == RAMP(2)
    assert f"lr: {RAMP(2)}" in repr(optimizer)
    assert "schedules" not in group


@each_optimizer
def test_a_group_that_is_handed_to_another_optimizer_takes_its_schedules_along(case):
    first = make(case, {"lr": RAMP})
    train(first, range(3))
    second = case.ours(first.param_groups)
    assert [dict(group.schedules) for group in second.param_groups] == [{"lr": RAMP}] * 2
    assert second.lr.tolist() == [1.0, 1.0]
    train(second, range(2))
    assert (first.lr[0], second.lr[0]) == (RAMP(2), RAMP(1))


# The clock


@each_optimizer
def test_the_clock_counts_steps_that_have_run(case, engine):
    optimizer = make(case, {"lr": RAMP})
    assert optimizer.completed_steps == 0
    optimizer.step()  # no parameter has a gradient
    assert (optimizer.completed_steps, optimizer.param_groups[0]["lr"]) == (1, RAMP(0))
    train(optimizer, range(1, 3))
    assert (optimizer.completed_steps, optimizer.param_groups[0]["lr"]) == (3, RAMP(2))
    empty = case.ours([{"params": []}], lr=RAMP)
    for _ in range(3):
        empty.step()
    assert (empty.completed_steps, empty.param_groups[0]["lr"]) == (3, RAMP(2))


@each_optimizer
def test_a_step_that_raises_moves_neither_clock_nor_schedule(case, engine):
    optimizer = make(case, {"lr": RAMP})
    train(optimizer, range(2))
    params = params_of(optimizer)
    before = [param.detach().clone() for param in params]
    params[1].grad = torch.ones(2, 3).to_sparse()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="sparse"):
            optimizer.step()
    assert all(map(torch.equal, params, before))
    assert (optimizer.completed_steps, optimizer.lr.tolist()) == (2, [RAMP(1)] * 2)
    train(optimizer, range(2, 3))
    assert (optimizer.completed_steps, optimizer.lr.tolist()) == (3, [RAMP(2)] * 2)


@each_optimizer
def test_the_clock_can_be_set(case, engine):
    optimizer = make(case, {"lr": RAMP, "weight_decay": 0.5 * RAMP})
    optimizer.completed_steps = 40
    assert (optimizer.completed_steps, optimizer.param_groups[0]["lr"]) == (40, RAMP(39))
    train(optimizer, range(1))
    assert (optimizer.completed_steps, optimizer.param_groups[0]["lr"]) == (41, RAMP(40))
    assert optimizer.param_groups[1]["weight_decay"] == 0.5 * RAMP(40)
    optimizer.completed_steps = 0
    assert optimizer.param_groups[0]["lr"] == RAMP(0)
    for count, error in ((-1, ValueError), (1.5, TypeError), ("many", TypeError)):
        with pytest.raises(error):
            optimizer.completed_steps = count
    assert optimizer.completed_steps == 0


@each_optimizer
def test_the_clock_counts_beyond_what_float32_can_count(case):
    optimizer = make(case, {"lr": s.linear(1.0, 0.0, steps=2**30)})
    optimizer.completed_steps = 2**24
    train(optimizer, range(3))
    assert optimizer.completed_steps == 2**24 + 3
    assert optimizer.param_groups[0]["lr"] == 1 - (2**24 + 2) / 2**30


# Groups on torch's functions


def mixed(case: OptimizerCase) -> Any:
    """The second group is differentiated through, which torch's own functions must do."""
    params = parameters_like(start_values())
    return case.ours(
        [{"params": params[:2]}, {"params": params[2:], "differentiable": True}],
        **{**case.arguments, **case.scheduled["all"]},
    )


@each_optimizer
def test_groups_on_the_functions_of_torch_go_by_the_same_clock(case):
    ours, theirs = mixed(case), Oracle(case, case.scheduled["all"])
    keys = scheduled_keys(case.scheduled["all"])
    for step in range(STEPS):
        train(ours, range(step, step + 1))
        params = params_of(theirs.optimizer)
        set_grads(params, random_grads(params, torch.Generator().manual_seed(step)))
        theirs.step()
        assert ours.completed_steps == step + 1
        assert hypers(ours, keys) == hypers(theirs.optimizer, keys)
        torch.testing.assert_close(params_of(ours), params, rtol=TOLERANCE, atol=TOLERANCE)


@each_optimizer
def test_a_step_that_raises_in_a_function_of_torch_does_not_count(case, monkeypatch):
    optimizer = mixed(case)
    train(optimizer, range(2))
    with monkeypatch.context() as patch:
        patch.setattr(case.ours, "_torch_step", lambda self, group: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            optimizer.step()
    assert optimizer.completed_steps == 2
    train(optimizer, range(2, 3))
    assert optimizer.completed_steps == 3
    assert optimizer.lr.tolist() == [at(case.scheduled["all"]["lr"], 2)] * 2


# Saving, loading, copying


def through_a_file(checkpoint: Any) -> Any:
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def resumed_from_a_file(optimizer: Any) -> Any:
    """A fresh optimizer that was built with plain numbers, and loads what the other one saved."""
    params = parameters_like(params_of(optimizer))
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    fresh = type(optimizer)(groups, lr=0.7)
    fresh.load_state_dict(through_a_file(optimizer.state_dict()))
    return fresh


RESUMES = {
    "from a file": resumed_from_a_file,
    "deepcopy": copy.deepcopy,
    "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)),
    "own state": lambda optimizer: (optimizer.load_state_dict(optimizer.state_dict()), optimizer)[
        1
    ],
}


@each_scheduled
def test_every_schedule_goes_on_with_the_same_bits_after_a_resume(case, arguments):
    assert_resumes_with_the_same_bits(case, arguments, resumed_from_a_file, (1, 6))


@pytest.mark.parametrize("resume", RESUMES.values(), ids=RESUMES)
@each_optimizer
def test_training_goes_on_with_the_same_bits_after_a_resume_at_any_step(case, resume, engine):
    assert_resumes_with_the_same_bits(case, case.scheduled["all"], resume, (0, 1, 2, 5, 11))


def assert_resumes_with_the_same_bits(case, arguments, resume, at_steps):
    whole = make(case, arguments)
    train(whole, range(STEPS))
    for step in at_steps:
        optimizer = make(case, arguments)
        train(optimizer, range(step))
        optimizer = resume(optimizer)
        assert optimizer.completed_steps == step
        train(optimizer, range(step, STEPS))
        assert all(map(torch.equal, params_of(optimizer), params_of(whole)))
        assert torch.equal(optimizer.lr, whole.lr)
        assert [group.schedules for group in optimizer.param_groups] == [
            group.schedules for group in whole.param_groups
        ]


@each_optimizer
def test_a_checkpoint_with_schedules_is_plain_data_that_torch_loads_too(case):
    optimizer = all_scheduled(case)
    optimizer.param_groups[1]["lr"] = 0.5
    train(optimizer, range(3))
    checkpoint = through_a_file(optimizer.state_dict())
    plain = make(case, {}).state_dict()
    for index, (saved, unscheduled) in enumerate(
        zip(checkpoint["param_groups"], plain["param_groups"], strict=True)
    ):
        assert saved.keys() - unscheduled.keys() == {"schedules", "completed_steps"}
        assert saved["completed_steps"] == 3
        assert json.loads(json.dumps(saved["schedules"])) == saved["schedules"]
        schedules = {name: s.Schedule.from_json(one) for name, one in saved["schedules"].items()}
        assert schedules == optimizer.param_groups[index].schedules
        assert saved["lr"] == optimizer.lr[index]
    theirs = make(case, {}, ours=False)
    theirs.load_state_dict(checkpoint)
    assert [group["lr"] for group in theirs.param_groups] == optimizer.lr.tolist()
    train(theirs, range(3, 4))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@each_optimizer
def test_a_distributed_checkpoint_restores_schedules(case, tmp_path):
    """Into a fresh optimizer with the same schedules; torch takes a step to create its state."""

    class Model(torch.nn.Module):
        def __init__(self, params: list[Tensor]) -> None:
            super().__init__()
            self.params = torch.nn.ParameterList(params)

    def model_and_optimizer() -> tuple[Any, Any]:
        scheduled = {**case.scheduled["lr"], **case.scheduled["weight_decay"]}
        optimizer = make(case, {**case.with_all_state, **scheduled})
        return Model(params_of(optimizer)), optimizer

    model, source = model_and_optimizer()
    train(source, range(3))
    saved = get_optimizer_state_dict(model, source)
    dcp.save(saved, storage_writer=dcp.FileSystemWriter(tmp_path), no_dist=True)
    model, optimizer = model_and_optimizer()
    loaded = get_optimizer_state_dict(model, optimizer)
    dcp.load(loaded, storage_reader=dcp.FileSystemReader(tmp_path), no_dist=True)
    set_optimizer_state_dict(model, optimizer, loaded)
    with torch.no_grad():
        for param, value in zip(params_of(optimizer), params_of(source), strict=True):
            param.copy_(value)
    assert optimizer.completed_steps == 3
    for one in (source, optimizer):
        train(one, range(3, STEPS))
    assert all(map(torch.equal, params_of(optimizer), params_of(source)))
    assert torch.equal(optimizer.lr, source.lr)


@each_optimizer
def test_a_schedule_of_many_groups_is_evaluated_once(case):
    optimizer = make(case, {"lr": RAMP, "weight_decay": 0.5 * RAMP})
    optimizer.step()
    resumed = resumed_from_a_file(optimizer)
    resumed.step()
    for one in (optimizer, resumed):
        first, second = (group.schedules for group in one.param_groups)
        assert first["lr"] is second["lr"]
        assert sorted(map(repr, (schedule for schedule, _ in one._table._compiled.values()))) == [
            repr(0.5 * RAMP),
            repr(RAMP),
        ]


@each_optimizer
def test_groups_without_schedules_are_saved_as_in_torch(case):
    optimizer = make(case, {})
    optimizer.param_groups[0]["lr"] = RAMP
    train(optimizer, range(2))
    optimizer.param_groups[0]["lr"] = 0.5
    theirs = make(case, {}, ours=False)
    for saved, expected in zip(
        optimizer.state_dict()["param_groups"], theirs.state_dict()["param_groups"], strict=True
    ):
        assert saved.keys() == expected.keys()


@each_optimizer
def test_a_checkpoint_decides_which_hypers_follow_a_schedule(case):
    source = make(case, {"lr": RAMP, "weight_decay": 0.25})
    train(source, range(5))
    optimizer = make(case, {"lr": 0.5 * RAMP, "weight_decay": RAMP})
    train(optimizer, range(2))
    optimizer.load_state_dict(through_a_file(source.state_dict()))
    assert [dict(group.schedules) for group in optimizer.param_groups] == [{"lr": RAMP}] * 2
    assert optimizer.completed_steps == 5
    train(optimizer, range(5, 7))
    assert optimizer.lr.tolist() == [RAMP(6)] * 2
    assert optimizer.param_groups[0]["weight_decay"] == 0.25


@pytest.mark.parametrize("from_torch", [True, False])
@each_optimizer
def test_a_checkpoint_without_schedules_ends_them_with_a_warning(case, from_torch):
    source = make(case, {"lr": 0.125}, ours=not from_torch)
    train(source, range(3))
    optimizer = make(case, {"lr": RAMP})
    optimizer.param_groups[1]["lr"] = 0.5
    train(optimizer, range(2))
    with pytest.warns(
        UserWarning, match=r"these schedules end \(param_groups\[0\]: lr\)"
    ) as caught:
        optimizer.load_state_dict(through_a_file(source.state_dict()))
    assert caught[0].filename == __file__
    train(optimizer, range(2, 4))
    assert optimizer.lr.tolist() == [0.125, 0.125]
    assert optimizer.completed_steps == 4
    optimizer.load_state_dict(source.state_dict())  # no schedule is left: no warning


BROKEN = {
    "no dict": ("schedules", "cosine", TypeError, r"'schedules' of param_groups\[1\] .*'cosine'"),
    "no schedule": ("schedules", {"lr": {}}, ValueError, r"'schedules' of param_groups\[1\]"),
    "unknown schedule": (
        "schedules",
        {"lr": {"name": "saw", "arguments": {}}},
        ValueError,
        r"'schedules' of param_groups\[1\] .*saw",
    ),
    "unknown hyper": (
        "schedules",
        {"maximize": RAMP.to_json()},
        ValueError,
        r"param_groups\[1\] .*'maximize'.* can only be given for",
    ),
    "negative clock": ("completed_steps", -1, TypeError, r"param_groups\[1\] .* is -1"),
    "no clock": ("completed_steps", "late", TypeError, r"param_groups\[1\] .* is 'late'"),
}


@pytest.mark.parametrize(("key", "value", "error", "message"), BROKEN.values(), ids=BROKEN)
@each_optimizer
def test_a_broken_checkpoint_changes_nothing(case, key, value, error, message):
    optimizer = all_scheduled(case)
    train(optimizer, range(3))
    before = optimizer.state_dict()
    broken = copy.deepcopy(before)
    train(optimizer, range(3, 5))
    expected = repr(optimizer.state_dict())
    broken["param_groups"][1][key] = value
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(broken)
    assert repr(optimizer.state_dict()) == expected
    assert optimizer.completed_steps == 5


@each_optimizer
def test_a_plain_optimizer_saves_no_clock_but_copies_it(case):
    optimizer = make(case, {})
    train(optimizer, range(3))
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert copied.completed_steps == 3
        copied.param_groups[0]["lr"] = RAMP
        train(copied, range(3, 4))
        assert copied.lr[0] == RAMP(3)
        assert optimizer.completed_steps == 3


# Overflow


class Scaling:
    """Training with torch's GradScaler, with overflows in some steps."""

    def __init__(self, overflows: set[int]) -> None:
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1000)
        self.overflows = overflows

    def train_step(self, optimizer: Any, params: Any, grads: list[Tensor], step: int) -> None:
        set_grads(params, [grad * self.scaler.get_scale() for grad in grads])
        if step in self.overflows:
            params[-1].grad.view(-1)[0] = torch.inf
        self.scaler.scale(torch.ones(()))  # what backward starts from
        self.scaler.step(optimizer)
        self.scaler.update()


@pytest.mark.parametrize("resume", RESUMES.values(), ids=RESUMES)
@each_optimizer
def test_a_step_that_gradscaler_skips_does_not_advance_a_schedule(case, resume, engine):
    overflows = {0, 3, 4, 9}
    optimizer, scaling = all_scheduled(case), Scaling(overflows)
    for step in range(STEPS):
        if step in (1, 4, 6):  # a kill
            optimizer = resume(optimizer)
        train(optimizer, range(step, step + 1), scaling)
    reference = all_scheduled(case)
    for step in sorted(set(range(STEPS)) - overflows):
        train(reference, range(step, step + 1))
    assert optimizer.completed_steps == reference.completed_steps == STEPS - len(overflows)
    assert torch.equal(optimizer.lr, reference.lr)
    assert all(map(torch.equal, params_of(optimizer), params_of(reference)))


def overflow_by_hand(optimizer: Any, step: int, overflows: set[int]) -> None:
    optimizer.found_inf = torch.tensor(float(step in overflows))
    train(optimizer, range(step, step + 1))
    del optimizer.found_inf


@pytest.mark.parametrize("build", [all_scheduled, mixed], ids=["one engine", "mixed engines"])
@each_optimizer
def test_a_step_that_found_an_overflow_skips_itself(case, build, engine):
    overflows = {0, 1, 5, 8}
    optimizer, reference = build(case), build(case)
    for step in range(STEPS):
        before = repr((optimizer.lr, params_of(optimizer), state_of(optimizer, case)))
        overflow_by_hand(optimizer, step, overflows)
        after = repr((optimizer.lr, params_of(optimizer), state_of(optimizer, case)))
        if step in overflows:
            assert step < 2 or after == before
        else:
            train(reference, range(step, step + 1))
        assert optimizer.skipped_steps == len([one for one in overflows if one <= step])
        assert optimizer.completed_steps == reference.completed_steps
    assert all(map(torch.equal, params_of(optimizer), params_of(reference)))
    assert not any(map(torch.equal, params_of(optimizer), start_values()))
    assert torch.equal(optimizer.lr, reference.lr)
    torch.testing.assert_close(
        optimizer.state_dict()["state"], reference.state_dict()["state"], rtol=0, atol=0
    )


@each_optimizer
def test_an_overflow_is_a_tensor_of_one_element_that_is_read_by_each_step(case, engine):
    optimizer = make(case, {"lr": RAMP})
    assert getattr(optimizer, "found_inf", None) is None
    found_inf = torch.zeros(1)
    optimizer.found_inf = found_inf
    assert optimizer.found_inf is found_inf
    for value in (0.0, 1.0, math.nan, 0.0, 2.0):
        found_inf.fill_(value)
        train(optimizer, range(1))
    assert (optimizer.completed_steps, optimizer.skipped_steps) == (2, 3)
    optimizer.found_inf = None
    train(optimizer, range(1))
    assert (optimizer.completed_steps, optimizer.skipped_steps) == (3, 3)
    with pytest.raises(AttributeError, match="found_inf was not set"):
        _ = optimizer.found_inf
    for value, error in ((1.0, TypeError), (torch.zeros(2), ValueError)):
        with pytest.raises(error, match="found_inf must"):
            optimizer.found_inf = value


@each_optimizer
def test_what_was_skipped_is_still_checked(case, engine):
    optimizer = make(case, {"lr": RAMP})
    optimizer.found_inf = torch.ones(())
    train(optimizer, range(1))
    params_of(optimizer)[0].grad = torch.ones(5).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert (optimizer.completed_steps, optimizer.skipped_steps) == (0, 1)


@each_optimizer
def test_copies_keep_the_number_of_skipped_steps(case):
    optimizer = make(case, {"lr": RAMP})
    for step in range(4):
        overflow_by_hand(optimizer, step, {1, 2})
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert (copied.completed_steps, copied.skipped_steps) == (2, 2)
        assert getattr(copied, "found_inf", None) is None


# The group table


@each_optimizer
def test_a_hyper_that_was_moved_in_the_table_reads_as_it_was_moved(case):
    """How schedulers cycle momentum: they write a column, and no group is edited."""
    optimizer = make(case, case.with_momentum)
    table, group = optimizer._table, optimizer.param_groups[0]
    for column, name in enumerate(optimizer.hyper_names):
        assert table.column(name) == column
    with pytest.raises(KeyError):
        table.column("lr")
    group["weight_decay"] = 1
    assert type(group["weight_decay"]) is int
    table.hypers[:, table.column("weight_decay")] = 0.5
    assert group["weight_decay"] == dict(group)["weight_decay"] == group.get("weight_decay") == 0.5
    table.hypers[:, table.column("weight_decay")] = 1.0
    assert type(group["weight_decay"]) is int
    live = torch.tensor(0.25)
    group["weight_decay"] = live
    table.hypers[:, table.column("weight_decay")] = 0.75
    assert group["weight_decay"] is live
    assert live == 0.75
    name = {"betas": "beta1"}.get(case.momentum_key, case.momentum_key)
    before = parts_of(group[case.momentum_key])
    table.hypers[:, table.column(name)] = 0.5
    assert parts_of(group[case.momentum_key]) == (0.5, *before[1:])
    assert optimizer.state_dict()["param_groups"][0][case.momentum_key] == group[case.momentum_key]


@each_optimizer
def test_a_pair_that_nobody_moved_is_the_one_that_was_given(case):
    group = make(case, {}).param_groups[0]
    for pair in ((0, 0.5), [0.25, 0.5]):
        if case.momentum_key == "betas":
            group["betas"] = pair
            assert group["betas"] is pair


@pytest.mark.parametrize("by_hand", [True, False])
@each_optimizer
def test_a_momentum_that_passes_through_zero_is_that_of_torch(case, by_hand, engine):
    """As CyclicLR with base_momentum=0 writes it into the table, and as torch sets it."""
    values = [0.9, 0.5, 0.0, 0.0, 0.5, 0.9, 0.0, 0.3]
    arguments = {**case.with_momentum, "weight_decay": 0.1}
    ours, theirs = make(case, arguments), make(case, arguments, ours=False)
    name = {"betas": "beta1"}.get(case.momentum_key, case.momentum_key)
    for step, value in enumerate(values):
        for optimizer in (ours, theirs):
            if optimizer is ours and not by_hand:
                ours._table.hypers[:, ours._table.column(name)] = value
                continue
            for group in optimizer.param_groups:
                rest = parts_of(group[case.momentum_key])[1:]
                group[case.momentum_key] = (value, *rest) if rest else value
        if step == 3:  # plans are built anew where the momentum is 0
            for optimizer in (ours, theirs):
                optimizer.add_param_group({"params": [Parameter(torch.ones(2))]})
        for optimizer in (ours, theirs):
            train(optimizer, range(step, step + 1))
        torch.testing.assert_close(
            params_of(ours)[:3], params_of(theirs)[:3], rtol=TOLERANCE, atol=TOLERANCE
        )


@each_optimizer
def test_annotations_of_a_group_are_counted_and_leave_plans_as_they_are(case):
    optimizer = make(case, {})
    train(optimizer, range(1))
    group, table = optimizer.param_groups[0], optimizer._table
    revision, annotations = optimizer._revision.number, table.annotations
    for count, edit in enumerate(
        (
            lambda: group.__setitem__("initial_lr", 0.1),
            lambda: group.update(max_lr=0.5),
            lambda: group.setdefault("swa_lr", 0.5),
            lambda: group.__ior__({"base_momentum": 0.8}),
            lambda: group.pop("max_lr"),
            lambda: group.__delitem__("initial_lr"),
        ),
        1,
    ):
        edit()
        assert table.annotations == annotations + count
    _ = group["swa_lr"], group.get("nothing"), group.setdefault("swa_lr", 0.1)
    group["lr"] = 0.25
    assert table.annotations == annotations + 6
    assert optimizer._revision.number == revision
    assert optimizer._table is table


# The compiled clock and its twin


def test_the_clock_of_python_does_what_the_compiled_one_does():
    lr = torch.full((3,), 0.5, dtype=torch.float64)
    table = torch.arange(6, dtype=torch.float64).view(3, 2)
    schedules = [s.cosine(0.7, 0.1, steps=5), s.exponential(1.0, gamma=0.3)]
    places = [[(0, -1), (2, -1), (1, 1)], [(0, 0)]]
    results = []
    for clock in (StepClock(), _backend.step_clock_class()()):
        assert clock.completed.dtype == clock.skipped.dtype == torch.float64
        tables = lr.clone(), table.clone()
        compiled = [_backend.new_expression(compile_(one.expression)) for one in schedules]
        record = torch.full((4 * 5 + 1,), torch.nan, dtype=torch.float64)
        record[-1] = 0
        clock.set_table(*tables)
        clock.configure(
            list(zip(compiled, places, strict=True)),
            [(record, 4, [(0, -1), (-1, -1), (1, 1)])],
        )
        trace = []
        for step in range(7):
            clock.found_inf = torch.tensor(step % 3 == 1) if step else None
            clock.begin_()
            trace.append(clock.is_skipped)
            clock.finish_()
            trace.append([one.tolist() for one in (clock.completed, clock.skipped, *tables)])
        assert clock.ends_with_plans
        results.append((trace, repr(record.tolist())))
    assert results[0] == results[1]
    assert results[0][0][-1][:2] == [[5.0], [2.0]]


# Sequences


class ScheduledTraining(RuleBasedStateMachine):
    """Any sequence of edits, copies and resumes, beside torch with hypers set by hand."""

    schedules = st.sampled_from([RAMP, 0.3 * RAMP, s.cosine(0.4, 0.05, steps=6), s.constant(0.2)])
    groups = st.integers(0, 1)
    keys = st.sampled_from(["lr", "weight_decay"])

    @initialize(case=st.sampled_from(OPTIMIZERS), schedule=schedules)
    def build(self, case: OptimizerCase, schedule: Any) -> None:
        self.case = case
        self.ours = make(case, {"lr": schedule})
        self.theirs = make(case, {"lr": schedule(0)}, ours=False)
        self.following = {(0, "lr"): schedule, (1, "lr"): schedule}
        self.completed = self.steps = 0
        self.saved: Any = None

    @rule(overflows=st.booleans())
    def step(self, overflows: bool) -> None:
        self.ours.found_inf = torch.tensor(float(overflows))
        train(self.ours, range(self.steps, self.steps + 1))
        if not overflows:
            for (group, key), schedule in self.following.items():
                self.theirs.param_groups[group][key] = schedule(self.completed)
            train(self.theirs, range(self.steps, self.steps + 1))
            self.completed += 1
        self.steps += 1

    @rule(group=groups, key=keys, value=st.sampled_from([0.0, 0.25, 0.5]))
    def assign_a_number(self, group: int, key: str, value: float) -> None:
        self.following.pop((group, key), None)
        for optimizer in (self.ours, self.theirs):
            optimizer.param_groups[group][key] = value

    @rule(group=groups, key=keys, schedule=schedules)
    def assign_a_schedule(self, group: int, key: str, schedule: Any) -> None:
        self.following[group, key] = schedule
        self.ours.param_groups[group][key] = schedule
        self.theirs.param_groups[group][key] = schedule(max(self.completed - 1, 0))

    @rule()
    def annotate(self) -> None:
        self.ours.param_groups[0]["nickname"] = self.theirs.param_groups[0]["nickname"] = "head"

    @rule()
    def replace_the_list_of_groups(self) -> None:
        self.ours.param_groups = list(self.ours.param_groups)

    @rule(how=st.sampled_from(["deepcopy", "pickle"]))
    def go_on_with_a_copy(self, how: str) -> None:
        self.ours = RESUMES[how](self.ours)

    @precondition(lambda self: self.following)
    @rule()
    def save(self) -> None:
        states = [through_a_file(one.state_dict()) for one in (self.ours, self.theirs)]
        params = [
            [param.detach().clone() for param in params_of(one)] for one in (self.ours, self.theirs)
        ]
        self.saved = states, params, dict(self.following), self.completed

    @precondition(lambda self: self.saved)
    @rule(fresh=st.booleans())
    def load(self, fresh: bool) -> None:
        states, params, following, self.completed = self.saved
        if fresh:
            self.ours = make(self.case, {"lr": 0.7})
        self.following = dict(following)
        for optimizer, state, values in zip((self.ours, self.theirs), states, params, strict=True):
            optimizer.load_state_dict(copy.deepcopy(state))
            with torch.no_grad():
                for param, value in zip(params_of(optimizer), values, strict=True):
                    param.copy_(value)

    @invariant()
    def both_are_in_the_same_state(self) -> None:
        assert self.ours.completed_steps == self.completed
        keys = ["lr", "weight_decay"]
        assert hypers(self.ours, keys) == hypers(self.theirs, keys)
        following = {
            (index, name): schedule
            for index, group in enumerate(self.ours.param_groups)
            for name, schedule in group.schedules.items()
        }
        assert following == self.following
        torch.testing.assert_close(
            params_of(self.ours), params_of(self.theirs), rtol=1e-4, atol=1e-4
        )


def test_any_sequence_of_edits_copies_and_resumes_ends_where_it_ends_by_hand():
    run_state_machine_as_test(
        ScheduledTraining,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            derandomize=True,
            deadline=None,
            database=None,
        ),
    )
