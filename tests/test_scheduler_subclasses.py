"""Subclasses of the user's: what they override is respected, and the rest goes on."""

import copy
import warnings

import pytest
import torch

import fusedlr
from schedule_cases import (
    REDUCE_LR_ON_PLATEAU,
    REPRESENTATIVES,
    cases,
    each_case,
    each_representative,
)
from schedule_lockstep import Lockstep, Side, exact_state, lrs, make_optimizer

pytestmark = pytest.mark.usefixtures("compiled_engine")

SIDES = (fusedlr, torch.optim)


def overriding(library, scheduler, name, method):
    return type("Own", (scheduler.class_in(library),), {name: method})


def assert_subclasses_agree(case, name, method):
    """Steps a subclass with one method of its own, on both sides, also by `step(epoch)`."""
    sides = []
    for library in SIDES:
        optimizer = make_optimizer(library)
        own = overriding(library, case.of, name, method)
        sides.append(Side(library, optimizer, [case.build(library, optimizer, subclass=own)]))
        optimizer.step()
    plain = Lockstep(case)
    for step in range(1, 20):
        for side in sides:
            side.scheduler.step(*case.step_arguments(step))
        plain.step()
        assert sides[0].observe() == sides[1].observe(), f"after step {step}"
    if case.of.has_closed_form or name == "_get_closed_form_lr":
        for side in sides:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                side.scheduler.step(7)
        assert sides[0].observe() == sides[1].observe()
        plain.ours.optimizer.param_groups[0]["lr"] = -1.0
    assert sides[0].observe_hypers() != plain.ours.observe_hypers()
    return sides[0].scheduler, sides[1].scheduler


@each_case(has_get_lr=True, among=REPRESENTATIVES)
def test_a_subclass_with_its_own_get_lr_is_respected(case):
    def get_lr(self):
        return [lr * 0.5 + 0.01 for lr in super(type(self), self).get_lr()]

    assert_subclasses_agree(case, "get_lr", get_lr)


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
@each_case(has_get_lr=True, among=REPRESENTATIVES)
def test_a_subclass_with_its_own_closed_form_is_respected(case):
    def closed_form(self):
        return [base_lr / (1 + self.last_epoch) for base_lr in self.base_lrs]

    assert_subclasses_agree(case, "_get_closed_form_lr", closed_form)


@each_representative
def test_a_subclass_with_its_own_step_is_respected(case):
    def step(self, *arguments):
        super(type(self), self).step(*arguments)
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] + 0.001

    assert_subclasses_agree(case, "step", step)


@pytest.mark.parametrize("name", ["_is_better", "_reduce_lr"])
def test_a_subclass_with_its_own_judgement_or_reduction_is_respected(name):
    def _is_better(self, value, best):
        return value < best / 2

    def _reduce_lr(self, epoch):
        self.reductions = [*getattr(self, "reductions", []), epoch]
        super(type(self), self)._reduce_lr(epoch)
        self.optimizer.param_groups[0]["lr"] = 0.2

    (case,) = cases(of=REDUCE_LR_ON_PLATEAU, among=REPRESENTATIVES)
    ours, theirs = assert_subclasses_agree(
        case, name, {"_is_better": _is_better, "_reduce_lr": _reduce_lr}[name]
    )
    assert getattr(ours, "reductions", None) == getattr(theirs, "reductions", None)


@each_representative
def test_a_subclass_that_saves_and_loads_its_dict_by_itself_is_respected(case):
    """As schedulers do that were written after the example of torch's own."""

    def state_dict(self):
        return {key: value for key, value in self.__dict__.items() if key in KEPT}

    def load_state_dict(self, state):
        self.__dict__.update(state)

    sides = []
    for library in SIDES:
        own = type(
            "Own",
            (case.of.class_in(library),),
            {"state_dict": state_dict, "load_state_dict": load_state_dict},
        )
        optimizer = make_optimizer(library)
        sides.append(Side(library, optimizer, [case.build(library, optimizer, subclass=own)]))
        optimizer.step()
    saved = []
    for side in sides:
        for step in range(1, 6):
            side.scheduler.step(*case.step_arguments(step))
        # Nothing else has been read until now.
        saved.append(copy.deepcopy(side.scheduler.state_dict()))
        for step in range(6, 9):
            side.scheduler.step(*case.step_arguments(step))
        side.scheduler.load_state_dict(saved[-1])
        for step in range(6, 12):
            side.scheduler.step(*case.step_arguments(step))
    assert exact_state(saved[0]) == exact_state(saved[1])
    assert sides[0].observe() == sides[1].observe()


#: What moves in each of the classes.
KEPT = ("last_epoch", "_step_count", "_last_lr", "T_cur", "T_i", "best", "num_bad_epochs")


@each_representative
def test_an_attribute_of_a_subclass_is_part_of_its_state(case):
    sides = []
    for library in SIDES:
        optimizer = make_optimizer(library)
        own = overriding(library, case.of, "note", None)
        built = case.build(library, optimizer, subclass=own)
        built.note = [1, 2]
        sides.append(Side(library, optimizer, [built]))
        optimizer.step()
        built.step(*case.step_arguments(1))
    assert sides[0].observe() == sides[1].observe()
    assert sides[0].scheduler.state_dict()["note"] == [1, 2]


@each_representative
def test_a_step_that_was_replaced_on_the_object_is_called(case):
    """As those do that count or log the steps of any scheduler."""
    lockstep = Lockstep(case)
    for side in lockstep.sides:
        side.calls = []
        replace_step(side)
    lockstep.run(10)
    assert lockstep.ours.calls == lockstep.theirs.calls == list(range(1, 11))


def replace_step(side):
    original = side.scheduler.step

    def step(*arguments):
        side.calls.append(len(side.calls) + 1)
        return original(*arguments)

    side.scheduler.step = step
    # A function in the instance would become part of the state, as in torch.
    state_dict = side.scheduler.state_dict

    def without_step():
        return {key: value for key, value in state_dict().items() if key not in REPLACED}

    side.scheduler.state_dict = without_step


REPLACED = ("step", "state_dict")


def test_a_scheduler_written_from_scratch_works():
    class Halving(fusedlr.lr_scheduler._LRScheduler):
        def get_lr(self):
            return [base_lr * 0.5**self.last_epoch for base_lr in self.base_lrs]

    optimizer = make_optimizer(fusedlr)
    start = lrs(optimizer)
    scheduler = Halving(optimizer)
    optimizer.step()
    scheduler.step()
    assert optimizer.lr.tolist() == scheduler.get_last_lr() == [lr * 0.5 for lr in start]
