"""Scheduler states have torch's keys, load into torch's schedulers and back, and lose nothing."""

import copy
import io
import pickle
import random

import pytest
import torch

import fusedlr
from schedule_cases import (
    each_case,
    each_representative,
    each_schedule,
)
from schedule_lockstep import LR_KINDS, Lockstep, Side, exact, lrs, make_optimizer

pytestmark = pytest.mark.usefixtures("compiled_engine")

SIDES = (fusedlr, torch.optim)


@pytest.mark.parametrize("lr_kind", LR_KINDS)
@each_representative
def test_a_state_dict_is_that_of_torch_after_every_step(case, lr_kind):
    lockstep = Lockstep(case, lr_kind=lr_kind)
    for _ in range(12):
        ours, theirs = (side.scheduler.state_dict() for side in lockstep.sides)
        assert exact(ours) == exact(theirs)
        lockstep.step()


@each_representative
def test_a_state_dict_is_that_of_torch_also_when_the_last_lr_was_read_before(case):
    lockstep = Lockstep(case)
    for read_first in (True, False):
        for side in lockstep.sides:
            side.scheduler.step(*case.step_arguments(1))
            if read_first:
                side.scheduler.get_last_lr()
        ours, theirs = (side.scheduler.state_dict() for side in lockstep.sides)
        assert exact(ours) == exact(theirs)


def resumed(side, case, saved, lr_kind="float"):
    """A fresh optimizer and scheduler that continue from what was saved, as torch documents it."""
    optimizer = make_optimizer(side.library, lr=LR_KINDS[lr_kind], name=case.optimizer)
    scheduler = case.build(side.library, optimizer)
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    optimizer.step()
    return Side(side.library, optimizer, [scheduler])


def state_of(side):
    return {
        "optimizer": side.optimizer.state_dict(),
        "scheduler": side.scheduler.state_dict(),
    }


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


#: Ways from one program to another.
CHANNELS = {
    "torch.save": through_a_file,
    "pickle": lambda state: pickle.loads(pickle.dumps(state)),
    "deepcopy": copy.deepcopy,
}


def saved_state(side):
    """What a checkpoint file would hold."""
    return through_a_file(state_of(side))


@pytest.mark.parametrize("lr_kind", ["float", "tensor"])
@pytest.mark.parametrize("steps_before", [0, 1, 5, 8, 33])
@each_representative
def test_a_state_loads_into_the_other_library_and_continues_with_equal_bits(
    case, steps_before, lr_kind
):
    lockstep = Lockstep(case, lr_kind=lr_kind)
    lockstep.run(steps_before)
    ours, theirs = (saved_state(side) for side in lockstep.sides)

    lockstep.ours = resumed(lockstep.ours, case, theirs, lr_kind)
    lockstep.theirs = resumed(lockstep.theirs, case, ours, lr_kind)

    lockstep.check()
    lockstep.run(30)


@each_schedule
def test_states_may_be_exchanged_at_any_time(case):
    generator = random.Random(str(case))
    lockstep = Lockstep(case)
    for carry in CHANNELS.values():
        lockstep.run(generator.randrange(9))
        ours, theirs = (carry(state_of(side)) for side in lockstep.sides)
        if generator.random() < 0.7:
            ours, theirs = theirs, ours
        lockstep.ours = resumed(lockstep.ours, case, ours)
        lockstep.theirs = resumed(lockstep.theirs, case, theirs)
        lockstep.check()
    lockstep.run(9)


@each_representative
def test_a_state_is_as_safe_to_load_as_that_of_torch(case):
    """With ``weights_only``, which takes plain data and a few classes."""
    lockstep = Lockstep(case)
    lockstep.run(3)
    loaded = []
    for side in lockstep.sides:
        file = io.BytesIO()
        torch.save(state_of(side), file)
        file.seek(0)
        loaded.append(exact(torch.load(file, weights_only=True)["scheduler"]))
    assert loaded[0] == loaded[1]


@each_representative
def test_a_state_loads_into_a_fresh_scheduler_and_continues_with_equal_bits(case):
    uninterrupted = Lockstep(case)
    uninterrupted.run(9)
    continued = Lockstep(case)
    continued.run(9)
    continued.ours = resumed(continued.ours, case, saved_state(continued.ours))
    continued.check()

    uninterrupted.run(20)
    continued.run(20)

    assert lrs(continued.ours.optimizer) == lrs(uninterrupted.ours.optimizer)


@each_schedule
def test_going_back_to_an_earlier_state_gives_the_bits_of_torch(case):
    """In the objects that are in use."""
    lockstep = Lockstep(case)
    lockstep.run(3)
    states = [copy.deepcopy(state_of(side)) for side in lockstep.sides]
    before = lockstep.ours.observe()
    lockstep.run(7)
    for side, state in zip(lockstep.sides, states, strict=True):
        side.optimizer.load_state_dict(state["optimizer"])
        side.scheduler.load_state_dict(state["scheduler"])
    lockstep.check()
    assert lockstep.ours.observe() == before
    lockstep.run(12)


@each_representative
def test_a_shallow_copy_counts_on_its_own_as_in_torch(case):
    lockstep = Lockstep(case)
    lockstep.run(3)
    for side in lockstep.sides:
        side.schedulers.append(copy.copy(side.scheduler))
    for step in range(24):
        for side in lockstep.sides:
            side.schedulers[step % 5 < 2].step(*case.step_arguments(step))
        lockstep.check()


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step:UserWarning")
@each_representative
def test_an_optimizer_and_its_scheduler_travel_together(case):
    lockstep = Lockstep(case.with_one_function() if not case.is_picklable else case)
    lockstep.run(4)
    for side in lockstep.sides:
        side.optimizer, scheduler = copy.deepcopy((side.optimizer, side.scheduler))
        assert scheduler.optimizer is side.optimizer
        side.schedulers = [scheduler]
        side.optimizer.step()
    lockstep.check()
    lockstep.run(9)


@each_representative
def test_loading_a_scheduler_state_writes_no_lr_as_in_torch(case):
    lockstep = Lockstep(case)
    lockstep.run(10)
    for side in lockstep.sides:
        optimizer = make_optimizer(side.library)
        scheduler = case.build(side.library, optimizer)
        before = lrs(optimizer)
        scheduler.load_state_dict(side.scheduler.state_dict())
        assert lrs(optimizer) == before
        assert scheduler.get_last_lr() == side.scheduler.get_last_lr()


@each_representative
def test_loading_changes_neither_the_loaded_dict_nor_what_it_came_from(case):
    lockstep = Lockstep(case)
    lockstep.run(10)
    scheduler = lockstep.ours.scheduler
    state = scheduler.state_dict()
    before = copy.deepcopy(state)
    last_lr = list(scheduler.get_last_lr())

    saved = {"optimizer": lockstep.ours.optimizer.state_dict(), "scheduler": state}
    continued = resumed(lockstep.ours, case, saved)
    for step in range(8):
        continued.scheduler.step(*case.step_arguments(step))

    assert state == before
    assert scheduler.get_last_lr() == last_lr


@each_representative
def test_loading_gives_up_the_lr_of_the_steps_made_before(case):
    """Also when nobody has asked for it in between."""
    source = Lockstep(case)
    source.run(10)
    for side in source.sides:
        optimizer = make_optimizer(side.library)
        scheduler = case.build(side.library, optimizer)
        optimizer.step()
        scheduler.step(*case.step_arguments(1))
        scheduler.load_state_dict(side.scheduler.state_dict())
        assert scheduler.get_last_lr() == side.scheduler.get_last_lr()


def assert_a_copy_continues(case, copied):
    lockstep = Lockstep(case)
    lockstep.run(7)
    for side in lockstep.sides:
        original = side.scheduler
        before = exact(lrs(side.optimizer))
        side.schedulers = [copied(original)]
        side.optimizer = side.scheduler.optimizer
        side.optimizer.step()
        side.scheduler.step(*case.step_arguments(99))
        assert type(side.scheduler) is type(original)
        assert exact(lrs(original.optimizer)) == before
        assert exact(original.get_last_lr()) == before

    lockstep.run(12)


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step:UserWarning")
@each_schedule
def test_a_deepcopied_scheduler_continues_on_an_optimizer_of_its_own(case):
    assert_a_copy_continues(case, copy.deepcopy)


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step:UserWarning")
@each_case(is_picklable=True)
def test_a_pickled_scheduler_continues_on_an_optimizer_of_its_own(case):
    assert_a_copy_continues(case, lambda scheduler: pickle.loads(pickle.dumps(scheduler)))


@pytest.mark.parametrize("lr_kind", LR_KINDS)
@each_representative
def test_last_lrs_are_snapshots_that_alias_nothing(case, lr_kind):
    lockstep = Lockstep(case, lr_kind=lr_kind)
    lockstep.run(5)
    optimizer, scheduler = lockstep.ours.optimizer, lockstep.ours.scheduler
    snapshots = [scheduler.get_last_lr(), scheduler.state_dict()["_last_lr"]]
    values = exact(snapshots[0])

    for group in optimizer.param_groups:
        group["lr"] = 7.0
    optimizer.lr.fill_(8.0)
    for step in range(6, 9):
        scheduler.step(*case.step_arguments(step))

    assert [exact(snapshot) for snapshot in snapshots] == [values, values]


@each_representative
def test_writing_into_a_snapshot_changes_no_lr(case):
    lockstep = Lockstep(case, lr_kind="tensor")
    lockstep.run(5)
    before = exact(lrs(lockstep.ours.optimizer))

    for side in lockstep.sides:
        for lr in side.scheduler.get_last_lr():
            lr.fill_(99.0)

    assert exact(lrs(lockstep.ours.optimizer)) == before
    lockstep.run(5)


@each_representative
def test_the_last_lr_is_of_the_last_step_whenever_it_is_read(case):
    """A later edit, another type of lr, or a group that went or came changes nothing in it."""

    def replace_by_tensor(optimizer):
        optimizer.param_groups[0]["lr"] = torch.tensor(1.0)

    def replace_by_number(optimizer):
        optimizer.param_groups[0]["lr"] = 1.0

    def remove_group(optimizer):
        optimizer.param_groups.pop()

    def add_group(optimizer):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.5})

    for change in (replace_by_tensor, replace_by_number, remove_group, add_group):
        for lr_kind in ("float", "tensor"):
            lockstep = Lockstep(case, lr_kind=lr_kind)
            lockstep.run(3)
            for side in lockstep.sides:
                side.scheduler.step(*case.step_arguments(4))
                change(side.optimizer)
            ours, theirs = (exact(side.scheduler.get_last_lr()) for side in lockstep.sides)
            assert ours == theirs, change.__name__
