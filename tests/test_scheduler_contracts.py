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
    LAMBDA_LR,
    REDUCE_LR_ON_PLATEAU,
    REPRESENTATIVES,
    SCHEDULERS,
    cases,
    each_case,
    each_representative,
    each_scheduler,
    metric,
)
from schedule_lockstep import LR_KINDS, Lockstep, Side, initial_lr, lrs, make_optimizer, seen

SIDES = (fusedlr, torch.optim)


def build_pair(case):
    return [Side(library, *build(library, case)) for library in SIDES]


def build(library, case):
    optimizer = make_optimizer(library)
    return optimizer, [case.build(library, optimizer)]


def new_group(lr=0.5):
    return {"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr}


def outcome(act, *arguments):
    """What a call returns, or raises."""
    try:
        return act(*arguments)
    except Exception as error:
        return type(error), str(error)


# Names and types


@each_scheduler
def test_a_scheduler_is_an_instance_of_torchs_class_of_its_name(scheduler):
    assert issubclass(scheduler.ours, scheduler.theirs)
    assert issubclass(scheduler.ours, torch.optim.lr_scheduler.LRScheduler)
    assert issubclass(scheduler.ours, fusedlr.lr_scheduler.LRScheduler)
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
    assert ours == theirs


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
    before = [tensor.item() for tensor in tensors]
    scheduler = case.build(fusedlr, optimizer)
    for step in range(20):
        optimizer.step()
        scheduler.step(*case.step_arguments(step))
    assert all(now is tensor for now, tensor in zip(lrs(optimizer), tensors, strict=True))
    assert all(t.item() != value for t, value in zip(tensors, before, strict=True))


@each_case(takes_metric=False, among=REPRESENTATIVES)
def test_a_tensor_shared_by_all_groups_becomes_an_lr_for_each(case):
    """With torch, every group then has what was written last."""
    optimizer = make_optimizer(fusedlr, lr=lambda value: SHARED)
    scheduler = case.build(fusedlr, optimizer)
    expected = make_optimizer(torch.optim, lr=lambda value: SHARED.item())
    expected_scheduler = case.build(torch.optim, expected)
    for one, other in ((optimizer, scheduler), (expected, expected_scheduler)):
        one.step()
        for _ in range(5):
            other.step()
    assert optimizer.lr.tolist() == lrs(expected)


SHARED = torch.tensor(0.1, dtype=torch.float64)


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
            getattr(library.lr_scheduler, scheduler.name)(make_optimizer(library, 2), **arguments)
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
        before = lrs(side.optimizer)
        for name, value in arguments.items():
            setattr(side.scheduler, name, value)
        with pytest.raises((ZeroDivisionError, ValueError)):
            side.scheduler.step()
        assert lrs(side.optimizer) == before


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


@each_case(takes_metric=False, among=REPRESENTATIVES)
def test_resuming_without_initial_lr_raises_what_torch_raises(case):
    refusals = []
    for library in SIDES:
        optimizer = make_optimizer(library)
        optimizer.param_groups[0]["initial_lr"] = 0.1
        with pytest.raises(KeyError, match=r"not specified in param_groups\[1\]") as caught:
            case.build(library, optimizer, last_epoch=3)
        refusals.append(str(caught.value))
    assert refusals[0] == refusals[1]


def test_a_metric_that_is_no_number_raises_and_changes_nothing():
    (case,) = cases(takes_metric=True, among=REPRESENTATIVES)
    for wrong in ("low", None, torch.ones(2)):
        ours, theirs = build_pair(case)
        before = ours.scheduler.state_dict()
        raised = [outcome(side.scheduler.step, wrong) for side in (ours, theirs)]
        assert raised[0] == raised[1]
        assert issubclass(raised[0][0], Exception)
        assert ours.scheduler.state_dict() == before


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
    side.scheduler.step(*case.step_arguments(1), 5)
    side.scheduler.step(*case.step_arguments(1), epoch=6)


def ask_for_the_lr_outside_of_a_step(side, case):
    if not case.of.takes_metric:
        assert seen(side.scheduler.get_lr())
    side.optimizer.step()
    side.scheduler.step(*case.step_arguments(1))
    if not case.of.takes_metric:
        assert seen(side.scheduler.get_lr())


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
    shown = []
    for side in build_pair(case):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scenario(side, case)
        shown.append([(one.category, str(one.message), one.filename, one.lineno) for one in caught])
        assert side.optimizer.param_groups[0]["lr"] >= 0
    assert shown[0] == shown[1]


def test_the_scenarios_make_every_warning_of_torch_appear():
    shown = set()
    for scenario in SCENARIOS:
        for case in REPRESENTATIVES:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                scenario(build_pair(case)[0], case)
            shown |= {str(one.message).split(" ")[0] for one in caught}
    assert shown == {"Seems", "Detected", "The", "To"}


@each_case(takes_metric=False, among=REPRESENTATIVES)
def test_get_lr_outside_of_a_step_gives_what_torch_gives(case):
    lockstep = Lockstep(case)
    for _ in range(9):
        lockstep.step()
        with pytest.warns(UserWarning, match="please use `get_last_lr"):
            ours, theirs = (seen(side.scheduler.get_lr()) for side in lockstep.sides)
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
        before = ours.observe()
        if outcome(theirs.scheduler.step, *case.step_arguments(step)) is not None:
            # torch needs the initial lr of the new group, and has none.
            for _ in range(2):
                with pytest.raises(ValueError, match=r"3 base_lrs.* 4 param groups.*new scheduler"):
                    ours.scheduler.step()
                assert ours.observe() == before
            ours.schedulers = [case.build(fusedlr, ours.optimizer)]
            ours.optimizer.step()
            ours.scheduler.step()
            break
        ours.scheduler.step(*case.step_arguments(step))
        lockstep.check()
    assert len(ours.scheduler.get_last_lr()) == 4
    assert lrs(ours.optimizer)[3] != 0.5


def test_min_lrs_of_fewer_groups_raise_what_torch_raises():
    raised = []
    for library in SIDES:
        optimizer = make_optimizer(library)
        scheduler = library.lr_scheduler.ReduceLROnPlateau(
            optimizer, patience=0, min_lr=[0.0, 0.01, 0.02]
        )
        optimizer.add_param_group(new_group())
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


@each_case(takes_metric=False, among=REPRESENTATIVES)
def test_base_lrs_may_be_any_sequence(case):
    lockstep = Lockstep(case)
    lockstep.run(2)
    for side in lockstep.sides:
        side.scheduler.base_lrs = (0.4, 0.3, 0.2)
    lockstep.run(20)


def test_min_lrs_may_be_any_sequence():
    (case,) = cases(takes_metric=True, among=REPRESENTATIVES)
    lockstep = Lockstep(case)
    for side in lockstep.sides:
        side.scheduler.min_lrs = (0.04, 0.03, 0.02)
    lockstep.run(40)


# Functions given to LambdaLR


def test_lambdas_may_be_any_sequence():
    (case,) = (case for case in REPRESENTATIVES if case.of is LAMBDA_LR)
    lockstep = Lockstep(case)
    for side in lockstep.sides:
        side.scheduler.lr_lambdas = tuple(side.scheduler.lr_lambdas)
    lockstep.run(10)


def test_a_function_that_raises_moves_nothing():
    def broken(epoch):
        if epoch == 3:
            raise OSError("no learning rate today")
        return 0.9**epoch

    optimizer = make_optimizer(fusedlr)
    scheduler = fusedlr.lr_scheduler.LambdaLR(
        optimizer, [lambda epoch: 0.5**epoch, broken, lambda epoch: 0.5**epoch]
    )
    optimizer.step()
    scheduler.step()
    scheduler.step()
    before = lrs(optimizer), optimizer.lr.tolist(), scheduler.last_epoch, scheduler.get_last_lr()

    for _ in range(2):
        with pytest.raises(OSError, match="no learning rate today"):
            scheduler.step()
        assert before == (
            lrs(optimizer),
            optimizer.lr.tolist(),
            scheduler.last_epoch,
            scheduler.get_last_lr(),
        )


def test_a_function_that_gives_no_number_raises_and_moves_nothing():
    optimizer = make_optimizer(fusedlr)
    scheduler = fusedlr.lr_scheduler.LambdaLR(optimizer, lambda epoch: None if epoch else 1.0)
    optimizer.step()
    before = lrs(optimizer)
    with pytest.raises(TypeError, match="NoneType"):
        scheduler.step()
    assert lrs(optimizer) == before


def test_a_function_sees_the_scheduler_as_torchs_functions_do():
    def calls(library):
        seen_by_function = []

        def function(epoch):
            if scheduler is not None:
                seen_by_function.append(
                    (epoch, type(epoch), scheduler.last_epoch, lrs(scheduler.optimizer))
                )
            return 0.5**epoch

        scheduler = None
        optimizer = make_optimizer(library, num_groups=1)
        scheduler = library.lr_scheduler.LambdaLR(optimizer, function)
        optimizer.step()
        for _ in range(4):
            scheduler.step()
        return seen_by_function

    assert calls(fusedlr) == calls(torch.optim)


def test_a_function_may_return_tensors():
    optimizers = [make_optimizer(library) for library in SIDES]
    for library, optimizer in zip(SIDES, optimizers, strict=True):
        scheduler = library.lr_scheduler.LambdaLR(
            optimizer, lambda epoch: torch.tensor(0.5, dtype=torch.float64) ** epoch
        )
        optimizer.step()
        for _ in range(3):
            scheduler.step()
    ours, theirs = map(lrs, optimizers)
    assert ours == [lr.item() for lr in theirs]


# ReduceLROnPlateau


@pytest.mark.parametrize(
    "make_metric",
    [float, torch.tensor, lambda value: torch.tensor([value], dtype=torch.float64)],
    ids=["float", "0-dim tensor", "one-element tensor"],
)
def test_a_metric_may_be_a_number_or_a_tensor(make_metric):
    lockstep = Lockstep(*cases(takes_metric=True, among=REPRESENTATIVES))
    for step in range(60):
        for side in lockstep.sides:
            side.scheduler.step(make_metric(metric(step)))
        lockstep.check()


def test_nothing_is_better_than_not_a_number():
    lockstep = Lockstep(*cases(takes_metric=True, among=REPRESENTATIVES))
    before = lrs(lockstep.ours.optimizer)
    for value in 8 * [math.nan]:
        for side in lockstep.sides:
            side.scheduler.step(value)
        lockstep.check()
    assert all(now < was for now, was in zip(lrs(lockstep.ours.optimizer), before, strict=True))


def test_a_step_into_the_future_counts_as_in_torch():
    lockstep = Lockstep(*cases(takes_metric=True, among=REPRESENTATIVES))
    for side in lockstep.sides:
        with pytest.warns(UserWarning, match="epoch parameter"):
            side.scheduler.step(1.0, 17)
        assert side.scheduler.last_epoch == 17
    lockstep.run(10)


# Subclasses of the user's


def overriding(library, scheduler, name, method):
    return type("Own", (getattr(library.lr_scheduler, scheduler.name),), {name: method})


@each_case(takes_metric=False, among=REPRESENTATIVES)
def test_a_subclass_with_its_own_get_lr_is_respected(case):
    def get_lr(self):
        return [lr * 0.5 + 0.01 for lr in super(type(self), self).get_lr()]

    assert_subclasses_agree(case, "get_lr", get_lr)


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
@each_case(takes_metric=False, among=REPRESENTATIVES)
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


def assert_subclasses_agree(case, name, method):
    """Steps a subclass with one method of its own, on both sides, also by `step(epoch)`."""
    sides = []
    for library in SIDES:
        optimizer = make_optimizer(library)
        own = overriding(library, case.of, name, method)
        sides.append(Side(library, optimizer, [own(optimizer, **case.arguments(3))]))
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
    assert sides[0].observe()["lr"] != plain.ours.observe()["lr"]
    return sides[0].scheduler, sides[1].scheduler


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


# Optimizers of torch.optim


@each_representative
def test_our_schedulers_work_on_optimizers_of_torch(case):
    sides = []
    for library in SIDES:
        optimizer = make_optimizer(torch.optim)
        sides.append(Side(library, optimizer, [case.build(library, optimizer)]))
        optimizer.step()
    start = lrs(sides[0].optimizer)
    for step in range(1, 40):
        for side in sides:
            side.scheduler.step(*case.step_arguments(step))
        assert sides[0].observe() == sides[1].observe()
    assert lrs(sides[0].optimizer) != start
    keys = [set(side.scheduler.state_dict()) for side in sides]
    assert keys[0] == keys[1]


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
