"""Schedulers that go round: cycles of lr and momentum, one cycle, warm restarts, averaging."""

import copy
import math

import pytest
import torch

import fusedlr
from schedule_cases import (
    COSINE_ANNEALING_WARM_RESTARTS,
    CYCLIC_LR,
    ONE_CYCLE_LR,
    SWA_LR,
    Scale,
    cases,
)
from schedule_lockstep import LR_KINDS, Lockstep, Side, lrs, make_optimizer, momentums

pytestmark = pytest.mark.usefixtures("compiled_engine")

SIDES = (fusedlr, torch.optim)

each_momentum_row = pytest.mark.parametrize("case", cases(moves_momentum=True), ids=str)


def build_sides(scheduler, *, name="SGD", lr_kind="float", num_groups=3, **arguments):
    sides = []
    for library in SIDES:
        optimizer = make_optimizer(library, num_groups, LR_KINDS[lr_kind], name)
        built = scheduler.class_in(library)(optimizer, **copy.deepcopy(arguments))
        sides.append(Side(library, optimizer, [built]))
        optimizer.step()
    return sides


def step_both(sides, steps, *arguments):
    for step in range(steps):
        for side in sides:
            side.scheduler.step(*arguments)
        assert sides[0].observe() == sides[1].observe(), f"after step {step + 1}"


# Momentum and betas


@each_momentum_row
def test_parameters_move_by_the_scheduled_momentum(case):
    params = []
    for library in SIDES:
        optimizer = make_optimizer(library, name=case.optimizer)
        scheduler = case.build(library, optimizer)
        for _ in range(12):
            optimizer.step()
            scheduler.step()
        params.append([group["params"][0].detach() for group in optimizer.param_groups])
    torch.testing.assert_close(params[0], params[1], rtol=1e-5, atol=1e-5)


@each_momentum_row
def test_the_other_beta_and_what_else_a_group_holds_stay_as_they_are(case):
    lockstep = Lockstep(case)
    for side in lockstep.sides:
        for index, group in enumerate(side.optimizer.param_groups):
            group["weight_decay"] = 0.01 * index
            if "betas" in group:
                group["betas"] = (0.5, 0.9 + 0.01 * index)
    lockstep.run(12)
    for index, group in enumerate(lockstep.ours.optimizer.param_groups):
        assert group["weight_decay"] == 0.01 * index
        assert group.get("betas", (0.5, 0.9 + 0.01 * index))[1] == 0.9 + 0.01 * index


@pytest.mark.parametrize("scheduler", [CYCLIC_LR, ONE_CYCLE_LR], ids=str)
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_no_momentum_moves_when_it_is_not_to_be_cycled(scheduler, name):
    (case,) = (case for case in cases(of=scheduler) if case.label == "without_momentum")
    optimizer = make_optimizer(fusedlr, name=name)
    before = momentums(optimizer)
    built = case.build(fusedlr, optimizer)
    optimizer.step()
    for _ in range(10):
        built.step()
    assert momentums(optimizer) == before


CYCLES = {
    CYCLIC_LR: {"base_lr": 0.1, "max_lr": 0.3},
    ONE_CYCLE_LR: {"max_lr": 0.3, "total_steps": 9},
}


@pytest.mark.parametrize("scheduler", CYCLES, ids=str)
def test_an_optimizer_without_momentum_is_refused_as_by_torch(scheduler):
    raised = []
    for library in SIDES:
        optimizer = torch.optim.Adagrad([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        with pytest.raises(ValueError, match="must support momentum or beta1") as caught:
            scheduler.class_in(library)(optimizer, **CYCLES[scheduler])
        raised.append(str(caught.value))
    assert raised[0] == raised[1]


@pytest.mark.parametrize("scheduler", CYCLES, ids=str)
def test_tensor_betas_become_numbers_as_in_torch(scheduler):
    sides = []
    for library in SIDES:
        optimizer = make_optimizer(library, name="Adam")
        for group in optimizer.param_groups:
            group["betas"] = (torch.tensor(0.9), torch.tensor(0.98))
        built = scheduler.class_in(library)(optimizer, **CYCLES[scheduler])
        sides.append(Side(library, optimizer, [built]))
        optimizer.step()
    step_both(sides, 5)


@pytest.mark.parametrize("scheduler", CYCLES, ids=str)
def test_an_edited_momentum_lives_until_the_next_step_of_the_scheduler(scheduler):
    sides = build_sides(scheduler, **CYCLES[scheduler])
    step_both(sides, 3)
    for side in sides:
        side.optimizer.param_groups[1]["momentum"] = 0.123
        assert side.optimizer.param_groups[1]["momentum"] == 0.123
    step_both(sides, 2)
    assert sides[0].optimizer.param_groups[1]["momentum"] != 0.123


# CyclicLR


@pytest.mark.parametrize("lr_kind", LR_KINDS)
def test_bounds_may_be_tensors(lr_kind):
    bounds = {"base_lr": torch.tensor(0.01).double(), "max_lr": torch.tensor(0.3).double()}
    sides = build_sides(CYCLIC_LR, lr_kind="float", step_size_up=3, **bounds)
    for _ in range(8):
        for side in sides:
            side.scheduler.step()
        ours, theirs = (list(map(float, lrs(side.optimizer))) for side in sides)
        assert ours == theirs


def test_bounds_are_copied_as_in_torch():
    bounds = [0.3, 0.2, 0.1]
    for library in SIDES:
        scheduler = CYCLIC_LR.class_in(library)(make_optimizer(library), 0.01, bounds)
        bounds[0] = 99.0
        assert scheduler.max_lrs[0] == 0.3
        bounds[0] = 0.3


def test_the_scale_of_a_callable_object_is_saved_and_loaded():
    loaded = []
    for side in build_sides(
        CYCLIC_LR, base_lr=0.1, max_lr=0.9, step_size_up=3, scale_fn=Scale(0.2)
    ):
        state = side.scheduler.state_dict()
        assert state["_scale_fn_custom"] == {"factor": 0.2}
        assert "_scale_fn_ref" not in state
        state["_scale_fn_custom"] = {"factor": 0.7}
        side.scheduler.load_state_dict(state)
        assert side.scheduler._scale_fn_custom.factor == 0.7
        for _ in range(5):
            side.scheduler.step()
        loaded.append(lrs(side.optimizer))
    assert loaded[0] == loaded[1]


@pytest.mark.filterwarnings("ignore:.* on the host at every step:UserWarning")
@pytest.mark.parametrize("mode", ["cycle", "iterations"])
def test_a_scale_function_is_given_what_torch_gives_it(mode):
    def scale(x):
        return x if type(x) is int else -1.0

    sides = build_sides(
        CYCLIC_LR, base_lr=0.1, max_lr=0.3, step_size_up=3, scale_fn=scale, scale_mode=mode
    )
    step_both(sides, 14)


@pytest.mark.filterwarnings("ignore:.* on the host at every step:UserWarning")
@pytest.mark.parametrize("mode", ["cycle", "iterations"])
def test_a_scale_function_that_raises_moves_nothing(mode):
    def scale(x):
        if x == 2:
            raise OSError("no scale today")
        return float(str(x))

    for side in build_sides(
        CYCLIC_LR, base_lr=0.1, max_lr=0.3, step_size_up=3, scale_fn=scale, scale_mode=mode
    ):
        _, error, before = side.step_until_refused()
        assert isinstance(error, OSError)
        if side.library is fusedlr:
            assert side.observe_progress() == before


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_an_edited_mode_or_gamma_counts_from_the_next_load_on_as_in_torch(mode):
    sides = build_sides(
        CYCLIC_LR, base_lr=0.1, max_lr=0.3, step_size_up=3, mode="exp_range", gamma=0.9
    )
    step_both(sides, 2)
    for side in sides:
        side.scheduler.mode, side.scheduler.gamma = mode, 0.8
    step_both(sides, 8)
    for side in sides:
        side.scheduler.load_state_dict(side.scheduler.state_dict())
    step_both(sides, 8)


def test_a_cycle_of_no_length_is_refused_by_both():
    for library in SIDES:
        with pytest.raises((ZeroDivisionError, ValueError)):
            CYCLIC_LR.class_in(library)(make_optimizer(library), 0.1, 0.3, step_size_up=0)


# OneCycleLR


@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("total_steps", [1, 2, 3, 7])
def test_the_shortest_cycles_give_the_bits_of_torch_to_their_end(
    total_steps, strategy, three_phase
):
    sides = build_sides(
        ONE_CYCLE_LR,
        max_lr=[0.3, 0.2, 0.1],
        total_steps=total_steps,
        anneal_strategy=strategy,
        three_phase=three_phase,
    )
    step_both(sides, total_steps)
    refused = []
    for side in sides:
        _, error, before = side.step_until_refused(1)
        refused.append((type(error), str(error)))
        if side.library is fusedlr:
            assert side.observe_progress() == before
    assert refused[0] == refused[1]


@pytest.mark.parametrize("pct_start", [0.0, 0.01, 1 / 3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("three_phase", [False, True])
def test_any_share_of_rising_gives_the_bits_of_torch(pct_start, three_phase):
    sides = build_sides(
        ONE_CYCLE_LR, max_lr=0.3, total_steps=13, pct_start=pct_start, three_phase=three_phase
    )
    step_both(sides, 12)


@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_an_empty_phase_is_at_its_end_where_torch_divides_by_zero(strategy):
    arguments = {"max_lr": 0.25, "total_steps": 10, "anneal_strategy": strategy}
    at_the_start = {**arguments, "pct_start": 0.1}
    with pytest.raises(ZeroDivisionError):
        ONE_CYCLE_LR.theirs(make_optimizer(torch.optim), **at_the_start)
    optimizer = make_optimizer(fusedlr)
    ONE_CYCLE_LR.ours(optimizer, **at_the_start)
    assert lrs(optimizer) == 3 * [0.25]

    ours, theirs = build_sides(ONE_CYCLE_LR, **arguments, pct_start=1.0)
    step_both((ours, theirs), 9)
    assert lrs(ours.optimizer) == 3 * [0.25]
    with pytest.raises(ZeroDivisionError):
        theirs.scheduler.step()
    ours.scheduler.step()
    assert lrs(ours.optimizer) == pytest.approx(3 * [0.25 / 25.0 / 1e4], abs=1e-15)


def test_a_loaded_optimizer_brings_its_own_bounds():
    """They are in its groups, not in the scheduler."""
    sides = build_sides(ONE_CYCLE_LR, max_lr=0.3, total_steps=20)
    states = [
        side.optimizer.state_dict()
        for side in build_sides(
            ONE_CYCLE_LR,
            max_lr=[1.0, 0.9, 0.8],
            total_steps=20,
            div_factor=3.0,
            base_momentum=0.5,
            max_momentum=0.6,
        )
    ]
    step_both(sides, 3)
    for side, state in zip(sides, states, strict=True):
        side.optimizer.load_state_dict(state)
    step_both(sides, 17)
    assert max(momentums(sides[0].optimizer)) <= 0.6


def test_bounds_that_are_tensors_follow_writes_into_them():
    sides = []
    for library in SIDES:
        optimizer = make_optimizer(library, lr=LR_KINDS["tensor"])
        built = ONE_CYCLE_LR.class_in(library)(
            optimizer, torch.tensor(0.3, dtype=torch.float64), total_steps=20
        )
        sides.append(Side(library, optimizer, [built]))
        optimizer.step()
    for step in range(20):
        for side in sides:
            side.scheduler.step()
            if step == 5:
                side.optimizer.param_groups[1]["max_lr"].mul_(2)
                side.optimizer.param_groups[2]["min_lr"].fill_(0.05)
        ours, theirs = (list(map(float, lrs(side.optimizer))) for side in sides)
        assert ours == theirs, f"after step {step + 1}"


def test_a_bound_that_was_deleted_is_missed_as_in_torch():
    for side in build_sides(ONE_CYCLE_LR, max_lr=0.3, total_steps=20):
        side.scheduler.step()
        del side.optimizer.param_groups[1]["max_lr"]
        before = lrs(side.optimizer)
        with pytest.raises((KeyError, ValueError), match="max_lr"):
            side.scheduler.step()
        if side.library is fusedlr:
            assert lrs(side.optimizer) == before


def test_edited_phases_count_as_in_torch():
    sides = build_sides(ONE_CYCLE_LR, max_lr=0.3, total_steps=40, three_phase=True)
    step_both(sides, 3)
    for side in sides:
        side.scheduler._schedule_phases[0]["end_step"] = 20.0
        side.scheduler._schedule_phases[1]["end_lr"] = "min_lr"
    step_both(sides, 10)
    for side in sides:
        side.scheduler._anneal_func_type = "linear"
    step_both(sides, 10)


def test_a_state_of_an_old_version_with_a_function_is_accepted():
    """Versions before 2.2 saved `anneal_func` in the place of `_anneal_func_type`."""
    sides = build_sides(ONE_CYCLE_LR, max_lr=0.3, total_steps=20)
    step_both(sides, 2)
    for side in sides:
        state = side.scheduler.state_dict()
        del state["_anneal_func_type"], side.scheduler._anneal_func_type
        state["anneal_func"] = torch.optim.lr_scheduler.OneCycleLR._annealing_linear
        side.scheduler.load_state_dict(state)
    step_both(sides, 10)


# CosineAnnealingWarmRestarts


EPOCHS = (0.5, 3, 7.25, 4, 4, 20, 19.75, 0, 40, 2.125, 1e3, 5.0, 0.0)


@pytest.mark.parametrize("steps_between", [0, 1, 3])
@pytest.mark.parametrize("T_mult", [1, 2, 3])
@pytest.mark.parametrize("T_0", [1, 5])
def test_jumps_to_any_epoch_give_the_bits_of_torch(T_0, T_mult, steps_between):
    sides = build_sides(COSINE_ANNEALING_WARM_RESTARTS, T_0=T_0, T_mult=T_mult, eta_min=0.003)
    for epoch in EPOCHS:
        step_both(sides, 1, epoch)
        step_both(sides, steps_between)


def test_batches_within_epochs_give_the_bits_of_torch():
    """As documented: ``scheduler.step(epoch + i / batches)``."""
    sides = build_sides(COSINE_ANNEALING_WARM_RESTARTS, T_0=2, T_mult=2)
    batches = 7
    for epoch in range(12):
        for batch in range(batches):
            step_both(sides, 1, epoch + batch / batches)


def test_jumps_warn_of_nothing_and_count_no_steps():
    for side in build_sides(COSINE_ANNEALING_WARM_RESTARTS, T_0=2):
        side.scheduler.step(5)
        side.scheduler.step(epoch=6.5)
        assert side.scheduler._step_count == 0
        assert side.scheduler.last_epoch == 6


@pytest.mark.parametrize("epoch", [-1, -0.25])
def test_a_negative_epoch_is_refused_as_by_torch_and_moves_nothing(epoch):
    raised = []
    for side in build_sides(COSINE_ANNEALING_WARM_RESTARTS, T_0=4):
        side.scheduler.step()
        before = side.observe()
        with pytest.raises(ValueError, match="non-negative epoch") as caught:
            side.scheduler.step(epoch)
        raised.append(str(caught.value))
        assert side.observe() == before
    assert raised[0] == raised[1]


@pytest.mark.parametrize("epoch", [math.nan, math.inf])
def test_an_epoch_that_is_no_number_is_refused_and_moves_no_lr(epoch):
    for side in build_sides(COSINE_ANNEALING_WARM_RESTARTS, T_0=4):
        before = lrs(side.optimizer)
        with pytest.raises((ValueError, OverflowError)):
            side.scheduler.step(epoch)
        assert lrs(side.optimizer) == before


# SWALR


@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("anneal_epochs", [0, 1, 2, 10])
def test_averaging_begins_anywhere_and_stays_at_its_lr(anneal_epochs, strategy):
    sides = build_sides(
        SWA_LR, swa_lr=[0.3, 0.02, 0.0], anneal_epochs=anneal_epochs, anneal_strategy=strategy
    )
    step_both(sides, anneal_epochs + 3)
    assert lrs(sides[0].optimizer) == [0.3, 0.02, 0.0]


def test_the_strategy_of_a_loaded_state_counts():
    sides = build_sides(SWA_LR, swa_lr=0.3, anneal_epochs=9)
    other = build_sides(SWA_LR, swa_lr=0.3, anneal_epochs=12, anneal_strategy="linear")
    step_both(sides, 2)
    for side, source in zip(sides, reversed(other), strict=True):
        state = source.scheduler.state_dict()
        assert "anneal_func" not in state
        side.scheduler.load_state_dict(state)
    step_both(sides, 12)


def test_a_function_of_the_users_anneals_as_in_torch():
    sides = build_sides(SWA_LR, swa_lr=0.3, anneal_epochs=9)
    for side in sides:
        side.scheduler.anneal_func = lambda t: t * t
    for _ in range(10):
        for side in sides:
            side.scheduler.step()
        assert lrs(sides[0].optimizer) == lrs(sides[1].optimizer)
