"""Warnings, errors, types and other promises of torch's schedulers, compared by running both."""

import gc
import inspect
import math
import warnings
import weakref

import pytest
import torch

import fusedlr
from schedule_cases import (
    REPRESENTATIVES,
    SCHEDULERS,
    SCHEDULES,
    each_case,
    each_representative,
    each_schedule,
    each_scheduler,
)
from schedule_lockstep import (
    LR_KINDS,
    Lockstep,
    Side,
    exact,
    initial_lr,
    leaves,
    lrs,
    make_optimizer,
    outcome,
)

pytestmark = pytest.mark.usefixtures("compiled_engine")

SIDES = (fusedlr, torch.optim)


def build_pair(case):
    return [Side(library, *build(library, case)) for library in SIDES]


def build(library, case):
    optimizer = make_optimizer(library)
    return optimizer, [case.build(library, optimizer)]


def new_group(lr=0.5):
    return {"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr}


# Names and types


@each_scheduler
def test_a_scheduler_is_an_instance_of_torchs_class_of_its_name(scheduler):
    assert issubclass(scheduler.ours, scheduler.theirs)
    assert issubclass(scheduler.ours, torch.optim.lr_scheduler.LRScheduler)
    assert issubclass(scheduler.ours, fusedlr.lr_scheduler.LRScheduler)
    assert getattr(fusedlr.optim.lr_scheduler, scheduler.name) is scheduler.ours
    assert scheduler.ours is not scheduler.theirs
    assert scheduler.ours.__name__ == scheduler.name


def test_the_base_classes_are_those_of_torch():
    assert fusedlr.lr_scheduler.LRScheduler is torch.optim.lr_scheduler.LRScheduler
    assert fusedlr.lr_scheduler._LRScheduler is torch.optim.lr_scheduler._LRScheduler
    assert fusedlr.optim.lr_scheduler is fusedlr.lr_scheduler


@each_scheduler
def test_arguments_and_defaults_are_those_of_torch(scheduler):
    ours, theirs = (
        [
            (parameter.name, parameter.default, parameter.kind)
            for parameter in inspect.signature(cls.__init__).parameters.values()
        ]
        for cls in (scheduler.ours, scheduler.theirs)
    )
    assert ours[: len(theirs)] == theirs
    # What is ours alone has a default, and does not take the place of a later argument of torch's.
    for _, default, kind in ours[len(theirs) :]:
        assert default is not inspect.Parameter.empty
        assert kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("lr_kind", ["float32 tensor", *LR_KINDS])
@each_representative
def test_last_lrs_have_the_type_dtype_and_shape_of_the_groups(case, lr_kind):
    make_lr = LR_KINDS.get(lr_kind, torch.tensor)
    given = make_lr(initial_lr(0))
    for library in SIDES:
        optimizer = make_optimizer(library, lr=make_lr)
        scheduler = case.build(library, optimizer)
        optimizer.step()
        scheduler.step(*case.step_arguments(1))
        for values in (lrs(optimizer), scheduler.get_last_lr()):
            for value in values:
                assert type(value) is type(given)
                if isinstance(given, torch.Tensor):
                    assert (value.dtype, value.shape) == (given.dtype, given.shape)


@each_representative
def test_a_user_tensor_is_moved_in_place(case):
    optimizer = make_optimizer(fusedlr, lr=torch.tensor)
    tensors = lrs(optimizer)
    scheduler = case.build(fusedlr, optimizer)
    went_through = [[] for _ in tensors]
    for step in range(20):
        optimizer.step()
        scheduler.step(*case.step_arguments(step))
        for values, tensor in zip(went_through, tensors, strict=True):
            values.append(tensor.item())
    assert all(now is tensor for now, tensor in zip(lrs(optimizer), tensors, strict=True))
    assert all(len(set(values)) > 1 for values in went_through)


@each_case(takes_metric=False, among=REPRESENTATIVES)
def test_a_tensor_shared_by_all_groups_becomes_an_lr_for_each(case):
    """With torch, every group then has what was written last."""
    shared = torch.tensor(0.1, dtype=torch.float64)
    optimizer = make_optimizer(fusedlr, lr=lambda value: shared)
    scheduler = case.build(fusedlr, optimizer)
    expected = make_optimizer(torch.optim, lr=lambda value: 0.1)
    expected_scheduler = case.build(torch.optim, expected)
    for one, other in ((optimizer, scheduler), (expected, expected_scheduler)):
        one.step()
        for _ in range(5):
            other.step()
    assert optimizer.lr.tolist() == lrs(expected)


# Errors


def refused_arguments():
    return [
        pytest.param(scheduler, arguments, id=f"{scheduler}-{arguments}")
        for scheduler in SCHEDULERS
        for arguments in scheduler.invalid
    ]


@pytest.mark.parametrize(("scheduler", "arguments"), refused_arguments())
def test_invalid_arguments_raise_what_torch_raises(scheduler, arguments):
    def refusal(library):
        with pytest.raises((TypeError, ValueError)) as caught:
            scheduler.class_in(library)(make_optimizer(library, 2), **arguments)
        return caught.type, str(caught.value)

    assert refusal(fusedlr) == refusal(torch.optim)


@pytest.mark.parametrize(
    ("scheduler", "arguments"),
    [
        pytest.param(scheduler, arguments, id=f"{scheduler}-{arguments}")
        for scheduler in SCHEDULERS
        for arguments in scheduler.invalid_later
    ],
)
def test_what_torch_finds_out_while_training_is_refused_at_construction(scheduler, arguments):
    optimizer = make_optimizer(fusedlr)
    before = lrs(optimizer)
    (name,) = arguments
    with pytest.raises(ValueError, match=f"{name} must not be 0"):
        scheduler.ours(optimizer, **arguments)
    assert lrs(optimizer) == before
    assert "initial_lr" not in optimizer.param_groups[0]


@pytest.mark.parametrize(
    ("scheduler", "arguments"),
    [
        pytest.param(scheduler, arguments, id=f"{scheduler}-{arguments}")
        for scheduler in SCHEDULERS
        for arguments in scheduler.invalid_later
    ],
)
def test_what_is_refused_at_construction_moves_nothing_when_edited_in(scheduler, arguments):
    case = next(case for case in REPRESENTATIVES if case.of is scheduler)
    lockstep = Lockstep(case)
    lockstep.run(2)
    for side in lockstep.sides:
        for name, value in arguments.items():
            setattr(side.scheduler, name, value)
        _, error, before = side.step_until_refused()
        assert isinstance(error, (ZeroDivisionError, ValueError))
        assert side.observe_progress()["groups"] == before["groups"]


@pytest.mark.parametrize("case", [c for c in SCHEDULES if math.isfinite(c.final_epoch)], ids=str)
def test_a_step_beyond_the_end_raises_what_torch_raises_and_moves_nothing(case):
    lockstep = Lockstep(case)
    lockstep.run(1000)
    assert lockstep.is_over
    ours = lockstep.ours
    before = ours.observe_progress()
    refused = [outcome(side.scheduler.step) for side in lockstep.sides]
    assert refused[0] == refused[1]
    assert refused[0][0] is ValueError
    assert ours.observe_progress() == before
    assert outcome(ours.scheduler.step) == refused[0]
    assert ours.observe_progress() == before


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
@each_case(has_no_length=True, has_closed_form=True)
def test_a_schedule_of_no_length_is_at_its_end_where_torch_divides_by_zero(case):
    ours, theirs = build_pair(case)
    for side in (ours, theirs):
        side.optimizer.step()
    with pytest.raises(ZeroDivisionError):
        theirs.scheduler.step(3)
    ours.scheduler.step(3)
    end = case.arguments(3).get("end_factor", 0.0)
    assert lrs(ours.optimizer) == [initial_lr(group) * end for group in range(3)]


@each_representative
def test_something_that_is_no_optimizer_raises_what_torch_raises(case):
    class NoOptimizer:
        param_groups = ()

    refusals = []
    for library in SIDES:
        with pytest.raises(TypeError, match="NoOptimizer is not an Optimizer") as caught:
            case.build(library, NoOptimizer())
        refusals.append(str(caught.value))
    assert refusals[0] == refusals[1]


@each_case(takes_last_epoch=True, among=REPRESENTATIVES)
def test_resuming_without_initial_lr_raises_what_torch_raises(case):
    refusals = []
    for library in SIDES:
        optimizer = make_optimizer(library)
        optimizer.param_groups[0]["initial_lr"] = 0.1
        with pytest.raises(KeyError, match=r"not specified in param_groups\[1\]") as caught:
            case.build(library, optimizer, last_epoch=3)
        refusals.append(str(caught.value))
    assert refusals[0] == refusals[1]


# Warnings


def step_before_the_optimizer(side, case):
    side.scheduler.step(*case.step_arguments(1))
    side.scheduler.step(*case.step_arguments(2))


def step_after_the_optimizer(side, case):
    side.optimizer.step()
    side.scheduler.step(*case.step_arguments(1))


def step_with_an_overridden_optimizer_step(side, case):
    side.optimizer.step = lambda: None
    side.optimizer.step()
    side.scheduler.step(*case.step_arguments(1))


def step_to_an_epoch(side, case):
    side.optimizer.step()
    if case.of.takes_epoch:
        side.scheduler.step(*case.step_arguments(1), 5)
        side.scheduler.step(*case.step_arguments(1), epoch=6)


def ask_for_the_lr_outside_of_a_step(side, case):
    if case.of.has_get_lr:
        assert side.scheduler.get_lr()
    side.optimizer.step()
    side.scheduler.step(*case.step_arguments(1))
    if case.of.has_get_lr:
        assert side.scheduler.get_lr()


def build_a_second_scheduler_between(side, case):
    side.optimizer.step()
    case.build(side.library, side.optimizer)
    side.scheduler.step(*case.step_arguments(1))


SCENARIOS = [
    step_before_the_optimizer,
    step_after_the_optimizer,
    step_with_an_overridden_optimizer_step,
    step_to_an_epoch,
    ask_for_the_lr_outside_of_a_step,
    build_a_second_scheduler_between,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
@each_representative
def test_warnings_are_those_of_torch(case, scenario):
    shown, pointed_to = [], []
    for side in build_pair(case):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scenario(side, case)
        shown.append([(one.category, str(one.message)) for one in caught])
        pointed_to.append([(one.filename, one.lineno) for one in caught])
        assert side.optimizer.param_groups[0]["lr"] >= 0
    assert shown[0] == shown[1]
    # The schedulers that others are made of make torch point into itself.
    assert pointed_to[0] == pointed_to[1] or case.children


def test_the_scenarios_make_every_warning_of_torch_appear():
    shown = set()
    for scenario in SCENARIOS:
        for case in REPRESENTATIVES:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                scenario(build_pair(case)[0], case)
            shown |= {str(one.message).split(" ")[0] for one in caught}
    assert shown == {"Seems", "Detected", "The", "To"}


@each_case(has_get_lr=True, among=REPRESENTATIVES)
def test_get_lr_outside_of_a_step_gives_what_torch_gives(case):
    lockstep = Lockstep(case)
    for _ in range(9):
        lockstep.step()
        with pytest.warns(UserWarning, match="please use `get_last_lr"):
            ours, theirs = (exact(side.scheduler.get_lr()) for side in lockstep.sides)
        assert ours == theirs
        lockstep.check()


# Groups that come, go and change


@each_representative
def test_after_add_param_group_a_scheduler_goes_on_or_says_at_once_to_rebuild_it(case):
    lockstep = Lockstep(case)
    lockstep.run(1)
    for side in lockstep.sides:
        side.optimizer.add_param_group(new_group())
    ours, theirs = lockstep.sides
    for step in range(2, 30):
        before = ours.observe_progress()
        if outcome(theirs.scheduler.step, *case.step_arguments(step)) is not None:
            # torch needs the initial lr of the new group, and has none.
            for _ in range(2):
                with pytest.raises(ValueError, match=r"3.* 4 param groups.*new scheduler"):
                    ours.scheduler.step()
                assert ours.observe_progress() == before
            ours.schedulers = [case.build(fusedlr, ours.optimizer)]
            ours.optimizer.step()
            ours.scheduler.step()
            break
        ours.scheduler.step(*case.step_arguments(step))
        lockstep.check()
    assert len(ours.scheduler.get_last_lr()) == 4
    assert lrs(ours.optimizer)[3] != 0.5


@each_representative
def test_a_group_that_is_given_all_that_a_scheduler_needs_joins_in_as_in_torch(case):
    lockstep = Lockstep(case)
    lockstep.run(2)
    for side in lockstep.sides:
        side.optimizer.add_param_group(new_group())
        first, *_, last = side.optimizer.param_groups
        for key in set(first) - set(last):
            last[key] = first[key]
        for leaf in leaves(side.scheduler):
            for name in (*LISTS, "lr_lambdas"):
                if hasattr(leaf, name):
                    getattr(leaf, name).append(getattr(leaf, name)[0])
    lockstep.run(12)
    for side in lockstep.sides:
        side.optimizer.step()
    lockstep.run(12)


LISTS = {name for scheduler in SCHEDULERS for name in scheduler.lists}


@each_representative
def test_replaced_and_reordered_groups_are_scheduled_by_their_place_as_in_torch(case):
    def replace(groups):
        groups[0] = dict(groups[0])

    def reverse(groups):
        groups.reverse()

    def replace_list(optimizer_groups):
        optimizer_groups[:] = [dict(group) for group in optimizer_groups]

    for change in (replace, reverse, replace_list):
        lockstep = Lockstep(case)
        lockstep.run(2)
        for side in lockstep.sides:
            change(side.optimizer.param_groups)
        lockstep.run(12)
        for side in lockstep.sides:
            side.optimizer.step()
        lockstep.run(12)


# Optimizers of torch.optim


@each_schedule
def test_our_schedulers_work_on_optimizers_of_torch(case):
    Lockstep(case, our_optimizer=torch.optim).run(40)


@each_representative
def test_our_schedulers_move_the_lr_of_optimizers_of_torch(case):
    lockstep = Lockstep(case, our_optimizer=torch.optim)
    start = lrs(lockstep.ours.optimizer)
    lockstep.run(20)
    assert all(now != was for now, was in zip(lrs(lockstep.ours.optimizer), start, strict=True))


# What torch is set to


@each_representative
def test_the_default_dtype_makes_no_difference(case):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        Lockstep(case).run(12)
    finally:
        torch.set_default_dtype(before)


@each_representative
def test_the_default_device_makes_no_difference(case):
    lockstep = Lockstep(case)
    with torch.device("meta"):
        lockstep.run(6)
        for side in lockstep.sides:
            side.schedulers = [case.build(side.library, side.optimizer)]
        lockstep.run(6)


@pytest.mark.parametrize("lr_kind", ["float", "tensor"])
@each_representative
def test_schedulers_step_inside_and_outside_of_inference_mode(case, lr_kind):
    lockstep = Lockstep(case, lr_kind=lr_kind)
    with torch.inference_mode():
        for side in lockstep.sides:
            side.schedulers = [case.build(side.library, side.optimizer)]
        lockstep.run(3)
    lockstep.run(3)
    for side in lockstep.sides:
        side.optimizer.step()
    lockstep.run(3)


# Memory


def left_behind(library, case):
    """Who refers to an optimizer that has lost its scheduler, and what is left when it goes."""
    optimizer, schedulers = build(library, case)
    optimizer.step()
    schedulers[0].step(*case.step_arguments(1))
    schedulers[0].get_last_lr()
    optimizer.step()
    reference = weakref.ref(optimizer)
    schedulers.clear()
    referrers = gc.get_referrers(optimizer)
    del optimizer
    return referrers, reference(), gc.collect()


@pytest.fixture
def quiet_collector():
    """A collector that runs only when called, and only over what the test makes."""
    make_optimizer(torch.optim)  # the first one of a process imports the rest of torch
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


@each_representative
@pytest.mark.usefixtures("quiet_collector")
def test_an_optimizer_and_its_scheduler_are_in_no_reference_cycle(case):
    for library in (torch.optim, fusedlr):
        assert left_behind(library, case) == ([], None, 0)
