"""THE table of schedulers: one row per configuration; every generic scheduler test runs over it.

A new scheduler is a new :class:`SchedulerClass` and its rows of ``SCHEDULES``: what sets it apart
is a field, never a name in a test.
"""

from __future__ import annotations

import copy
import math
import random
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

import fusedlr

#: Attributes of a class, or keys of a group, with values to edit them to.
Edits = tuple[tuple[str, tuple[Any, ...]], ...]


@dataclass(frozen=True, eq=False)
class SchedulerClass:
    """What the generic tests need to know of a class of that name in both libraries."""

    name: str
    #: The module of torch.optim that has it.
    home: str = "lr_scheduler"
    #: Whether `step` takes a metric. Such a class makes no initial step and warns of no order.
    takes_metric: bool = False
    #: Whether `step` takes an epoch.
    takes_epoch: bool = True
    #: Whether `step(epoch)` has a formula that starts from the initial lr.
    has_closed_form: bool = False
    #: Whether it can be built in the middle, by `last_epoch`.
    takes_last_epoch: bool = True
    #: Whether it has a formula of its own, `get_lr`, rather than being made of other schedulers.
    has_get_lr: bool = True
    #: Whether it takes functions of the step, `lr_lambda`: one, or one for each group.
    takes_functions: bool = False
    #: Attributes that may be edited while training.
    edits: Edits = ()
    #: Attributes that are lists with a number for each group.
    lists: tuple[str, ...] = ("base_lrs",)
    #: Keys of a group that it reads or writes, beside the lr; all optional.
    group_edits: Edits = ()
    #: Constructor arguments that torch refuses.
    invalid: tuple[dict[str, Any], ...] = ()
    #: Constructor arguments that torch takes, to fail with a ZeroDivisionError while training.
    invalid_later: tuple[dict[str, Any], ...] = ()

    @property
    def ours(self) -> Any:
        return getattr(fusedlr.lr_scheduler, self.name)

    @property
    def theirs(self) -> Any:
        return getattr(getattr(torch.optim, self.home), self.name)

    def class_in(self, library: Any) -> Any:
        """The class in ``fusedlr`` or in ``torch.optim``."""
        return self.ours if library is fusedlr else self.theirs

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class ScheduleCase:
    """One configuration of a scheduler."""

    of: SchedulerClass
    label: str
    #: Constructor arguments for a number of groups.
    arguments: Callable[[int], dict[str, Any]]
    #: The schedulers that it is made of.
    children: tuple[ScheduleCase, ...] = ()
    #: The optimizer that it is for.
    optimizer: str = "SGD"
    #: Whether it moves the momentum or beta1, too.
    moves_momentum: bool = False
    #: Where it ends: a step beyond this epoch raises.
    final_epoch: float = math.inf
    #: The formula of `step(epoch)` divides by zero in torch; `step()` needs none.
    has_no_length: bool = False
    #: Runs over thousands of steps too.
    runs_long: bool = False
    #: Thousands of steps in float32 leave an error well above float32's rounding.
    drifts_in_float32: bool = False
    #: Python can pickle its arguments.
    is_picklable: bool = True

    def build(
        self, library: Any, optimizer: torch.optim.Optimizer, subclass: Any = None, **more: Any
    ) -> Any:
        """The scheduler of this row; `library` is ``fusedlr`` or ``torch.optim``."""
        children = [child.build(library, optimizer, **more) for child in self.children]
        own = more if self.of.takes_last_epoch else {}
        return self.build_of(subclass or self.of.class_in(library), optimizer, children, **own)

    def build_of(
        self, scheduler_class: Any, optimizer: torch.optim.Optimizer, children: Any, **more: Any
    ) -> Any:
        """The same of any class, made of any schedulers."""
        arguments = copy.deepcopy(self.arguments(len(optimizer.param_groups)))
        if self.children:
            arguments["schedulers"] = children
        with warnings.catch_warnings():
            # torch's compositions warn of a wrong order while they are built inside of another.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            return scheduler_class(**{"optimizer": optimizer, **arguments, **more})

    def with_one_function(self) -> ScheduleCase:
        """The same, with one function for all groups in the place of one for each."""

        def arguments(num_groups: int) -> dict[str, Any]:
            return {
                key: value[0] if isinstance(value, list) and callable(value[0]) else value
                for key, value in self.arguments(num_groups).items()
            }

        children = tuple(child.with_one_function() for child in self.children)
        return replace(self, arguments=arguments, children=children)

    @property
    def leaves(self) -> tuple[ScheduleCase, ...]:
        """The rows that it is made of, down to those with a formula."""
        if not self.children:
            return (self,)
        return tuple(leaf for child in self.children for leaf in child.leaves)

    def step_arguments(self, step: int) -> list[float]:
        """What ``scheduler.step`` takes: nothing, or a metric."""
        return [metric(step)] if self.of.takes_metric else []

    def __str__(self) -> str:
        return f"{self.of}-{self.label}"


def metric(step: int) -> float:
    """A validation loss: falls, levels out with noise, jumps, and is now and then not a number."""
    if step % 23 == 7:
        return math.nan
    if step % 41 == 40:
        return math.inf
    noise = random.Random(step).uniform(-0.01, 0.01)
    level = -1.0 if step > 150 else 0.0
    return level + 1 / (1 + step) + noise


class WarmUp:
    """A callable object, whose attributes are part of a scheduler's state."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, epoch: int) -> float:
        return min(1.0, (epoch + 1) / self.steps)


def inverse_time(epoch: int) -> float:
    return 1 / (1 + 0.1 * epoch)


def staircase(epoch: int) -> int:
    """An int, and zero at first."""
    return epoch // 30


def slowly_down(epoch: int) -> float:
    return 1 - 1 / (epoch + 40)


def one_of(functions: list[Any]) -> Callable[[int], dict[str, Any]]:
    """A function for each group, in turns."""
    return lambda num_groups: {
        "lr_lambda": [functions[group % len(functions)] for group in range(num_groups)]
    }


def powers_for_each_group(num_groups: int) -> dict[str, Any]:
    return {"lr_lambda": [lambda epoch, g=g: (0.9 + 0.001 * g) ** epoch for g in range(num_groups)]}


def factors_for_each_group(num_groups: int) -> dict[str, Any]:
    return {"lr_lambda": [lambda epoch, g=g: 0.99 - epoch / (2000 + g) for g in range(num_groups)]}


def of_each_group(start: float, factor: float) -> Callable[[int], list[float]]:
    """A number of no short binary form for each group."""
    return lambda num_groups: [start * factor ** (group % 7) for group in range(num_groups)]


LAMBDA_LR = SchedulerClass(
    "LambdaLR",
    takes_functions=True,
    invalid=({"lr_lambda": [math.sqrt]}, {"lr_lambda": 3 * [math.sqrt]}, {}),
)
MULTIPLICATIVE_LR = SchedulerClass(
    "MultiplicativeLR",
    takes_functions=True,
    invalid=(
        {"lr_lambda": [math.sqrt]},
        {"lr_lambda": 3 * (math.sqrt,)},
        {"lr_lambda": 0.9},
        {"lr_lambda": [math.sqrt, 0.9]},
        {},
    ),
)
STEP_LR = SchedulerClass(
    "StepLR",
    has_closed_form=True,
    edits=(("gamma", (0.5, 1.25, 0.1)), ("step_size", (1, 2, 5))),
    invalid=({"gamma": 0.1}, {"step_size": 3, "unheard_of": 1}),
    invalid_later=({"step_size": 0},),
)
MULTI_STEP_LR = SchedulerClass(
    "MultiStepLR",
    has_closed_form=True,
    edits=(
        ("gamma", (0.5, 1.25, 0.1)),
        ("milestones", (Counter([3, 9, 9, 14]), Counter(range(0, 60, 4)), Counter())),
    ),
    invalid=({"milestones": 3}, {"gamma": 0.1}),
)
CONSTANT_LR = SchedulerClass(
    "ConstantLR",
    has_closed_form=True,
    edits=(("factor", (0.5, 0.3, 1.0)), ("total_iters", (1, 6, 50))),
    invalid=({"factor": 1.5}, {"factor": -0.1}, {"unheard_of": 1}),
    invalid_later=({"factor": 0},),
)
LINEAR_LR = SchedulerClass(
    "LinearLR",
    has_closed_form=True,
    edits=(
        ("start_factor", (0.5, 0.3, 1.0)),
        ("end_factor", (0.5, 0.0, 1.0)),
        ("total_iters", (1, 6, 50)),
    ),
    invalid=(
        {"start_factor": 0},
        {"start_factor": 1.5},
        {"start_factor": -0.5},
        {"end_factor": 1.5},
        {"end_factor": -0.1},
        {"unheard_of": 1},
    ),
)
EXPONENTIAL_LR = SchedulerClass(
    "ExponentialLR",
    has_closed_form=True,
    edits=(("gamma", (0.5, 1.25, 0.9)),),
    invalid=({}, {"gamma": 0.9, "unheard_of": 1}),
)
POLYNOMIAL_LR = SchedulerClass(
    "PolynomialLR",
    has_closed_form=True,
    edits=(("total_iters", (1, 6, 50)), ("power", (0.5, 1.0, 3))),
    invalid=({"unheard_of": 1},),
)
COSINE_ANNEALING_LR = SchedulerClass(
    "CosineAnnealingLR",
    has_closed_form=True,
    edits=(("T_max", (3, 7, 50)), ("eta_min", (0.0, 0.01))),
    invalid=({}, {"eta_min": 0.1}),
    invalid_later=({"T_max": 0},),
)
COSINE_ANNEALING_WARM_RESTARTS = SchedulerClass(
    "CosineAnnealingWarmRestarts",
    edits=(
        ("T_0", (2, 4)),
        ("T_i", (3, 7, 50)),
        ("T_mult", (1, 2)),
        ("T_cur", (0, 2, 5)),
        ("eta_min", (0.0, 0.01)),
    ),
    invalid=(
        {"T_0": 0},
        {"T_0": -5},
        {"T_0": 2.5},
        {"T_0": 5, "T_mult": 0},
        {"T_0": 5, "T_mult": 1.5},
        {"T_0": 5, "eta_min": None},
        {"T_0": 5, "eta_min": "0.1"},
        {"eta_min": 0.1},
    ),
)
CYCLIC_LR = SchedulerClass(
    "CyclicLR",
    edits=(
        ("total_size", (6.0, 15.0)),
        ("step_ratio", (0.25, 0.7)),
        ("cycle_momentum", (True, False)),
        ("scale_mode", ("cycle", "iterations")),
        ("gamma", (0.9, 0.99)),
    ),
    lists=("base_lrs", "max_lrs", "base_momentums", "max_momentums"),
    group_edits=(("momentum", (0.0, 0.5)), ("betas", ((0.5, 0.77),)), ("max_momentum", (0.6,))),
    invalid=(
        {},
        {"base_lr": 0.1},
        {"base_lr": 0.1, "max_lr": 1.0, "mode": "sideways"},
        {"base_lr": [0.1], "max_lr": 1.0},
        {"base_lr": 0.1, "max_lr": (0.1, 0.1, 0.1)},
        {"base_lr": 0.1, "max_lr": 1.0, "base_momentum": [0.1]},
        {"base_lr": 0.1, "max_lr": 1.0, "max_momentum": [0.1, 0.2, 0.3]},
        {"base_lr": 0.1, "max_lr": 1.0, "unheard_of": 1},
    ),
)
ONE_CYCLE_LR = SchedulerClass(
    "OneCycleLR",
    edits=(("total_steps", (500, 1000)), ("cycle_momentum", (True, False))),
    group_edits=(
        ("initial_lr", (0.01, 0.3)),
        ("max_lr", (0.5, 0.07)),
        ("min_lr", (0.0, 1e-3)),
        ("base_momentum", (0.5, 0.7)),
        ("max_momentum", (0.9, 0.99)),
        ("momentum", (0.0, 0.5)),
        ("betas", ((0.5, 0.77),)),
    ),
    invalid=(
        {},
        {"max_lr": 0.1},
        {"max_lr": 0.1, "epochs": 5},
        {"max_lr": 0.1, "steps_per_epoch": 5},
        {"max_lr": 0.1, "total_steps": 0},
        {"max_lr": 0.1, "total_steps": -1},
        {"max_lr": 0.1, "total_steps": 10.5},
        {"max_lr": 0.1, "epochs": 0, "steps_per_epoch": 5},
        {"max_lr": 0.1, "epochs": 2.5, "steps_per_epoch": 5},
        {"max_lr": 0.1, "epochs": 5, "steps_per_epoch": -1},
        {"max_lr": 0.1, "epochs": 5, "steps_per_epoch": 5.0},
        {"max_lr": 0.1, "total_steps": 10, "pct_start": 1},
        {"max_lr": 0.1, "total_steps": 10, "pct_start": -0.1},
        {"max_lr": 0.1, "total_steps": 10, "pct_start": 1.5},
        {"max_lr": 0.1, "total_steps": 10, "anneal_strategy": "poly"},
        {"max_lr": [0.1], "total_steps": 10},
        {"max_lr": 0.1, "total_steps": 10, "base_momentum": [0.8]},
        {"max_lr": 0.1, "total_steps": 10, "max_momentum": (0.9, 0.9, 0.9)},
        {"max_lr": 0.1, "total_steps": 10, "unheard_of": 1},
    ),
)
SEQUENTIAL_LR = SchedulerClass("SequentialLR", takes_epoch=False, has_get_lr=False, lists=())
CHAINED_SCHEDULER = SchedulerClass(
    "ChainedScheduler", takes_epoch=False, takes_last_epoch=False, has_get_lr=False, lists=()
)
SWA_LR = SchedulerClass(
    "SWALR",
    home="swa_utils",
    edits=(("anneal_epochs", (0, 1, 7, 50)),),
    group_edits=(("swa_lr", (0.02, 0.5)),),
    invalid=(
        {},
        {"swa_lr": [0.1]},
        {"swa_lr": (0.1, 0.1, 0.1)},
        {"swa_lr": 0.1, "anneal_strategy": "poly"},
        {"swa_lr": 0.1, "anneal_epochs": -1},
        {"swa_lr": 0.1, "anneal_epochs": 2.5},
        {"swa_lr": 0.1, "unheard_of": 1},
    ),
)
REDUCE_LR_ON_PLATEAU = SchedulerClass(
    "ReduceLROnPlateau",
    takes_metric=True,
    takes_last_epoch=False,
    has_get_lr=False,
    edits=(
        ("factor", (0.5, 0.9)),
        ("patience", (0, 3)),
        ("cooldown", (0, 2)),
        ("threshold", (0.0, 0.1)),
        ("eps", (0.0, 1e-3)),
        ("best", (-math.inf, 0.1, math.inf)),
        ("num_bad_epochs", (0, 2)),
        ("cooldown_counter", (0, 3)),
        ("mode", ("min", "max")),
        ("threshold_mode", ("rel", "abs")),
    ),
    lists=("min_lrs",),
    invalid=(
        {"factor": 1.0},
        {"factor": 1.5},
        {"mode": "sideways"},
        {"threshold_mode": "relative"},
        {"min_lr": [0.1]},
        {"min_lr": (0.1, 0.1, 0.1)},
        {"unheard_of": 1},
    ),
)

SCHEDULERS: tuple[SchedulerClass, ...] = (
    LAMBDA_LR,
    MULTIPLICATIVE_LR,
    STEP_LR,
    MULTI_STEP_LR,
    CONSTANT_LR,
    LINEAR_LR,
    EXPONENTIAL_LR,
    POLYNOMIAL_LR,
    COSINE_ANNEALING_LR,
    COSINE_ANNEALING_WARM_RESTARTS,
    CYCLIC_LR,
    ONE_CYCLE_LR,
    SWA_LR,
    REDUCE_LR_ON_PLATEAU,
    SEQUENTIAL_LR,
    CHAINED_SCHEDULER,
)


def _row(of: SchedulerClass, label: str, **arguments: Any) -> ScheduleCase:
    return ScheduleCase(of, label, lambda num_groups: arguments)


def _long_row(of: SchedulerClass, label: str, drifts: bool, **arguments: Any) -> ScheduleCase:
    return replace(_row(of, label, **arguments), runs_long=True, drifts_in_float32=drifts)


def _cycling_row(
    of: SchedulerClass, label: str, optimizer: str = "SGD", **arguments: Any
) -> ScheduleCase:
    """One that moves the momentum (SGD) or beta1, too."""
    return replace(_row(of, label, **arguments), optimizer=optimizer, moves_momentum=True)


def joined(
    of: SchedulerClass, label: str, *children: ScheduleCase, **arguments: Any
) -> ScheduleCase:
    """A scheduler made of others."""
    return replace(
        _row(of, label, **arguments),
        children=children,
        moves_momentum=any(child.moves_momentum for child in children),
        is_picklable=all(child.is_picklable for child in children),
    )


LAMBDA_ROWS = (
    ScheduleCase(LAMBDA_LR, "function_per_group", powers_for_each_group, is_picklable=False),
    ScheduleCase(
        LAMBDA_LR,
        "runs_of_functions",
        one_of([inverse_time, inverse_time, staircase, WarmUp(9), inverse_time]),
    ),
    _long_row(LAMBDA_LR, "inverse_time", False, lr_lambda=inverse_time),
    _row(LAMBDA_LR, "staircase", lr_lambda=staircase),
    _row(LAMBDA_LR, "callable_object", lr_lambda=WarmUp(17)),
)
MULTIPLICATIVE_ROWS = (
    ScheduleCase(
        MULTIPLICATIVE_LR, "function_per_group", factors_for_each_group, is_picklable=False
    ),
    ScheduleCase(
        MULTIPLICATIVE_LR,
        "runs_of_functions",
        one_of([slowly_down, slowly_down, WarmUp(9), inverse_time, slowly_down]),
    ),
    _long_row(MULTIPLICATIVE_LR, "slowly_down", True, lr_lambda=slowly_down),
    _row(MULTIPLICATIVE_LR, "callable_object", lr_lambda=WarmUp(17)),
    _row(MULTIPLICATIVE_LR, "to_denormals_and_zero", lr_lambda=inverse_time),
)
STEP_ROWS = (
    _row(STEP_LR, "every_3", step_size=3, gamma=0.9),
    _row(STEP_LR, "every_step", step_size=1, gamma=0.99),
    _row(STEP_LR, "default_gamma", step_size=30),
    _row(STEP_LR, "later_than_the_run", step_size=1000),
    _row(STEP_LR, "rising", step_size=7, gamma=1.05),
    _row(STEP_LR, "constant", step_size=7, gamma=1),
    _row(STEP_LR, "half_steps", step_size=2.5, gamma=0.9),
    _row(STEP_LR, "to_zero", step_size=50, gamma=0.0),
    _row(STEP_LR, "changing_sign", step_size=11, gamma=-0.5),
    _long_row(STEP_LR, "every_13", True, step_size=13, gamma=0.9987),
)
MULTI_STEP_ROWS = (
    _row(MULTI_STEP_LR, "two", milestones=[2, 5], gamma=0.7),
    _row(MULTI_STEP_LR, "none", milestones=[]),
    _row(MULTI_STEP_LR, "repeated", milestones=[5, 10, 5, 10, 10, 100], gamma=0.7),
    _row(MULTI_STEP_LR, "unsorted", milestones=[80, 30, 299], gamma=0.3),
    _row(MULTI_STEP_LR, "at_the_start", milestones=[0, 1], gamma=0.3),
    _row(MULTI_STEP_LR, "later_than_the_run", milestones=[1000]),
    _row(MULTI_STEP_LR, "rising", milestones=[20, 21, 21], gamma=3),
    _row(MULTI_STEP_LR, "half_steps", milestones=[2.0, 5.5, 9.0], gamma=0.7),
    _row(MULTI_STEP_LR, "from_a_tuple", milestones=(4, 9), gamma=1 / 3),
    _long_row(MULTI_STEP_LR, "hundreds", True, milestones=list(range(0, 10_000, 50)), gamma=0.99),
)
CONSTANT_ROWS = (
    _row(CONSTANT_LR, "0.3_for_7", factor=0.3, total_iters=7),
    _row(CONSTANT_LR, "default"),
    _row(CONSTANT_LR, "for_ever", factor=0.7, total_iters=1000),
    _row(CONSTANT_LR, "for_no_step", factor=0.3, total_iters=0),
    _row(CONSTANT_LR, "for_one_step", factor=0.9, total_iters=1),
    _row(CONSTANT_LR, "one", factor=1, total_iters=3),
    _row(CONSTANT_LR, "for_half_steps", factor=0.3, total_iters=7.5),
)
LINEAR_ROWS = (
    _row(LINEAR_LR, "0.2_to_0.9", start_factor=0.2, end_factor=0.9, total_iters=11),
    _row(LINEAR_LR, "default"),
    _row(LINEAR_LR, "down_to_zero", start_factor=1.0, end_factor=0.0, total_iters=250),
    _row(LINEAR_LR, "down", start_factor=0.9, end_factor=0.1, total_iters=33),
    _row(LINEAR_LR, "for_one_step", start_factor=1 / 7, total_iters=1),
    _row(LINEAR_LR, "level", start_factor=0.5, end_factor=0.5, total_iters=9),
    _row(LINEAR_LR, "for_half_steps", start_factor=0.2, total_iters=7.5),
    _row(LINEAR_LR, "from_almost_nothing", start_factor=1e-9, total_iters=20),
    replace(
        _row(LINEAR_LR, "for_no_step", start_factor=0.3, end_factor=0.7, total_iters=0),
        has_no_length=True,
    ),
    _row(LINEAR_LR, "longer_than_the_run", start_factor=0.1, total_iters=1000),
    _long_row(LINEAR_LR, "long", True, start_factor=0.01, total_iters=9_500),
)
EXPONENTIAL_ROWS = (
    _row(EXPONENTIAL_LR, "0.9", gamma=0.9),
    _row(EXPONENTIAL_LR, "to_denormals_and_zero", gamma=0.05),
    _row(EXPONENTIAL_LR, "constant", gamma=1),
    _row(EXPONENTIAL_LR, "rising", gamma=1.01),
    _row(EXPONENTIAL_LR, "changing_sign", gamma=-0.99),
    _row(EXPONENTIAL_LR, "zero", gamma=0.0),
    _long_row(EXPONENTIAL_LR, "slow", True, gamma=0.9997),
)
POLYNOMIAL_ROWS = (
    _row(POLYNOMIAL_LR, "squared", total_iters=60, power=2.0),
    _row(POLYNOMIAL_LR, "default"),
    _row(POLYNOMIAL_LR, "as_long_as_the_run", total_iters=300),
    _row(POLYNOMIAL_LR, "root", total_iters=70, power=0.5),
    _row(POLYNOMIAL_LR, "odd_power", total_iters=260, power=1.37),
    _row(POLYNOMIAL_LR, "constant", total_iters=20, power=0),
    _row(POLYNOMIAL_LR, "for_one_step", total_iters=1, power=3),
    _row(POLYNOMIAL_LR, "for_half_steps", total_iters=7.5, power=2.0),
    replace(_row(POLYNOMIAL_LR, "for_no_step", total_iters=0), has_no_length=True),
    _row(POLYNOMIAL_LR, "longer_than_the_run", total_iters=1000, power=2),
    _long_row(POLYNOMIAL_LR, "long", True, total_iters=9_500, power=0.9),
)
COSINE_ANNEALING_ROWS = (
    _row(COSINE_ANNEALING_LR, "T=4", T_max=4),
    _row(COSINE_ANNEALING_LR, "T=1", T_max=1),
    _row(COSINE_ANNEALING_LR, "T=2", T_max=2, eta_min=0.003),
    _row(COSINE_ANNEALING_LR, "T=7_eta_min", T_max=7, eta_min=0.01),
    _row(COSINE_ANNEALING_LR, "T=50", T_max=50),
    _row(COSINE_ANNEALING_LR, "as_long_as_the_run", T_max=300, eta_min=1e-5),
    _row(COSINE_ANNEALING_LR, "longer_than_the_run", T_max=1000),
    _row(COSINE_ANNEALING_LR, "eta_min_above_the_lr", T_max=20, eta_min=2.0),
    _row(COSINE_ANNEALING_LR, "half_steps", T_max=7.5, eta_min=0.01),
    _long_row(COSINE_ANNEALING_LR, "T=10000", True, T_max=10_000, eta_min=1e-5),
    _long_row(COSINE_ANNEALING_LR, "many_periods", False, T_max=33, eta_min=1e-3),
)
WARM_RESTARTS_ROWS = (
    _row(COSINE_ANNEALING_WARM_RESTARTS, "doubling", T_0=6, T_mult=2, eta_min=0.001),
    _row(COSINE_ANNEALING_WARM_RESTARTS, "level", T_0=7),
    _row(COSINE_ANNEALING_WARM_RESTARTS, "tripling", T_0=2, T_mult=3, eta_min=0.01),
    _row(COSINE_ANNEALING_WARM_RESTARTS, "every_step", T_0=1),
    _row(COSINE_ANNEALING_WARM_RESTARTS, "doubling_from_one", T_0=1, T_mult=2),
    _row(COSINE_ANNEALING_WARM_RESTARTS, "eta_min_above_the_lr", T_0=20, eta_min=2),
    _row(COSINE_ANNEALING_WARM_RESTARTS, "longer_than_the_run", T_0=1000, T_mult=5),
    _long_row(COSINE_ANNEALING_WARM_RESTARTS, "long", False, T_0=10, T_mult=2, eta_min=1e-4),
)


def scale_of_cycle(cycle: float) -> float:
    return 1 / (1 + 0.3 * cycle)


def scale_of_step(step: float) -> float:
    return 0.99**step


class Scale:
    """A callable object, whose attributes are part of a scheduler's state."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, x: float) -> float:
        return 1 / (1 + self.factor * x)


CYCLIC_ROWS = (
    _cycling_row(
        CYCLIC_LR,
        "triangular",
        base_lr=0.003,
        max_lr=0.7,
        step_size_up=4,
        step_size_down=7,
        base_momentum=0.7,
        max_momentum=0.93,
    ),
    _cycling_row(
        CYCLIC_LR, "triangular2", base_lr=0.01, max_lr=0.3, step_size_up=10, mode="triangular2"
    ),
    _cycling_row(
        CYCLIC_LR,
        "exp_range",
        base_lr=0.01,
        max_lr=0.3,
        step_size_up=8,
        step_size_down=3,
        mode="exp_range",
        gamma=0.994,
    ),
    _row(
        CYCLIC_LR, "without_momentum", base_lr=0.1, max_lr=0.4, step_size_up=5, cycle_momentum=False
    ),
    ScheduleCase(
        CYCLIC_LR,
        "of_each_group",
        lambda num_groups: {
            "base_lr": of_each_group(0.01, 0.9)(num_groups),
            "max_lr": of_each_group(0.3, 1.1)(num_groups),
            "base_momentum": of_each_group(0.8, 0.97)(num_groups),
            "max_momentum": tuple(of_each_group(0.95, 0.99)(num_groups)),
            "step_size_up": 6,
            "mode": "triangular2",
        },
        moves_momentum=True,
    ),
    _cycling_row(
        CYCLIC_LR, "on_adam", "Adam", base_lr=0.01, max_lr=0.3, step_size_up=9, mode="triangular2"
    ),
    _cycling_row(
        CYCLIC_LR,
        "scaled_by_cycle",
        base_lr=0.01,
        max_lr=0.3,
        step_size_up=6,
        scale_fn=scale_of_cycle,
    ),
    _cycling_row(
        CYCLIC_LR,
        "scaled_by_step",
        "AdamW",
        base_lr=0.01,
        max_lr=0.3,
        step_size_up=6,
        mode="any",
        scale_fn=scale_of_step,
        scale_mode="iterations",
    ),
    _cycling_row(
        CYCLIC_LR,
        "scaled_by_an_object",
        base_lr=0.01,
        max_lr=0.3,
        step_size_up=6,
        scale_fn=Scale(0.2),
        scale_mode="iterations",
    ),
    _cycling_row(CYCLIC_LR, "default", base_lr=0.1, max_lr=0.3),
    _cycling_row(
        CYCLIC_LR, "half_steps", base_lr=0.1, max_lr=0.3, step_size_up=2.5, step_size_down=4.75
    ),
    _cycling_row(
        CYCLIC_LR, "without_a_way_down", base_lr=0.1, max_lr=0.3, step_size_up=5, step_size_down=0
    ),
    _cycling_row(CYCLIC_LR, "downwards", base_lr=0.4, max_lr=0.1, step_size_up=5),
    replace(
        _cycling_row(
            CYCLIC_LR,
            "long",
            base_lr=1e-4,
            max_lr=0.3,
            step_size_up=123,
            step_size_down=77,
            mode="exp_range",
            gamma=0.9997,
        ),
        runs_long=True,
    ),
)
ONE_CYCLE_ROWS = (
    _cycling_row(ONE_CYCLE_LR, "cosine", max_lr=0.7, total_steps=400, pct_start=0.1),
    _cycling_row(
        ONE_CYCLE_LR,
        "three_linear_phases",
        max_lr=0.7,
        epochs=20,
        steps_per_epoch=20,
        pct_start=0.2,
        anneal_strategy="linear",
        three_phase=True,
    ),
    _cycling_row(
        ONE_CYCLE_LR,
        "on_adam",
        "Adam",
        max_lr=0.7,
        total_steps=320,
        pct_start=0.45,
        three_phase=True,
    ),
    _cycling_row(
        ONE_CYCLE_LR, "on_adamw", "AdamW", max_lr=0.7, total_steps=301, anneal_strategy="linear"
    ),
    _row(
        ONE_CYCLE_LR,
        "without_momentum",
        max_lr=0.7,
        total_steps=350,
        pct_start=0.0,
        cycle_momentum=False,
    ),
    ScheduleCase(
        ONE_CYCLE_LR,
        "of_each_group",
        lambda num_groups: {
            "max_lr": of_each_group(0.7, 0.9)(num_groups),
            "base_momentum": tuple(of_each_group(0.8, 0.97)(num_groups)),
            "max_momentum": of_each_group(0.95, 0.99)(num_groups),
            "total_steps": 310,
            "div_factor": 7,
            "final_div_factor": 30,
        },
        moves_momentum=True,
    ),
    replace(
        _cycling_row(
            ONE_CYCLE_LR, "short", max_lr=0.7, total_steps=13, epochs=7, steps_per_epoch=7
        ),
        final_epoch=13,
    ),
    replace(
        _cycling_row(
            ONE_CYCLE_LR,
            "in_short_phases",
            max_lr=0.7,
            epochs=4,
            steps_per_epoch=4,
            pct_start=0.5,
            three_phase=True,
        ),
        final_epoch=16,
    ),
    replace(_cycling_row(ONE_CYCLE_LR, "long", max_lr=0.7, total_steps=10_000), runs_long=True),
)
SWA_ROWS = (
    _row(SWA_LR, "cosine", swa_lr=0.013, anneal_epochs=15),
    _row(SWA_LR, "linear", swa_lr=0.013, anneal_epochs=20, anneal_strategy="linear"),
    _row(SWA_LR, "default", swa_lr=0.3),
    _row(SWA_LR, "at_once", swa_lr=0.013, anneal_epochs=0),
    _row(SWA_LR, "in_one_step", swa_lr=0.013, anneal_epochs=1, anneal_strategy="linear"),
    _row(SWA_LR, "longer_than_the_run", swa_lr=0.013, anneal_epochs=1000),
    ScheduleCase(
        SWA_LR,
        "of_each_group",
        lambda num_groups: {"swa_lr": of_each_group(0.3, 0.8)(num_groups), "anneal_epochs": 50},
    ),
    _long_row(SWA_LR, "long", False, swa_lr=0.013, anneal_epochs=9_500),
)
PLATEAU_ROWS = (
    _row(REDUCE_LR_ON_PLATEAU, "patience=0", patience=0, factor=0.9),
    _row(REDUCE_LR_ON_PLATEAU, "default"),
    _row(REDUCE_LR_ON_PLATEAU, "patience=2", patience=2, factor=0.5),
    _row(REDUCE_LR_ON_PLATEAU, "max", mode="max", patience=3, factor=0.9),
    _row(REDUCE_LR_ON_PLATEAU, "abs", threshold_mode="abs", threshold=0.02, patience=3, factor=0.9),
    _row(
        REDUCE_LR_ON_PLATEAU,
        "max_abs",
        mode="max",
        threshold_mode="abs",
        threshold=0.02,
        patience=3,
        factor=0.9,
    ),
    _row(REDUCE_LR_ON_PLATEAU, "cooldown", patience=1, cooldown=6, factor=0.8),
    _row(REDUCE_LR_ON_PLATEAU, "min_lr", patience=0, factor=0.5, min_lr=0.02),
    _row(REDUCE_LR_ON_PLATEAU, "large_eps", patience=0, factor=0.9, eps=0.005),
    _row(REDUCE_LR_ON_PLATEAU, "no_threshold", patience=2, factor=0.9, threshold=0.0),
    ScheduleCase(
        REDUCE_LR_ON_PLATEAU,
        "min_lr_per_group",
        lambda num_groups: {
            "min_lr": [0.01 * (1 + group % 7) for group in range(num_groups)],
            "patience": 0,
            "factor": 0.7,
        },
    ),
    _long_row(REDUCE_LR_ON_PLATEAU, "slow", True, patience=0, factor=0.998, eps=0.0),
)

WARM_UP_THEN_COSINE = joined(
    SEQUENTIAL_LR,
    "warm_up_then_cosine",
    _row(LINEAR_LR, "", start_factor=0.1, total_iters=5),
    _row(COSINE_ANNEALING_LR, "", T_max=40, eta_min=0.001),
    milestones=[5],
)
CONSTANT_TIMES_EXPONENTIAL = joined(
    CHAINED_SCHEDULER,
    "constant_times_exponential",
    _row(CONSTANT_LR, "", factor=0.1, total_iters=4),
    _row(EXPONENTIAL_LR, "", gamma=0.95),
)
ONE_CYCLE = ONE_CYCLE_ROWS[0]
TRIANGULAR = CYCLIC_ROWS[0]

SEQUENTIAL_ROWS = (
    WARM_UP_THEN_COSINE,
    joined(
        SEQUENTIAL_LR,
        "three",
        _row(CONSTANT_LR, "", factor=0.3, total_iters=20),
        EXPONENTIAL_ROWS[0],
        WARM_RESTARTS_ROWS[0],
        milestones=[4, 20],
    ),
    joined(
        SEQUENTIAL_LR,
        "without_a_warm_up",
        replace(_row(LINEAR_LR, "", start_factor=0.1, total_iters=0), has_no_length=True),
        _row(COSINE_ANNEALING_LR, "", T_max=40, eta_min=0.001),
        milestones=[0],
    ),
    joined(SEQUENTIAL_LR, "one", POLYNOMIAL_ROWS[0], milestones=[]),
    joined(
        SEQUENTIAL_LR,
        "from_the_second_on",
        EXPONENTIAL_ROWS[0],
        COSINE_ANNEALING_ROWS[0],
        STEP_ROWS[0],
        milestones=[0, 10],
    ),
    joined(
        SEQUENTIAL_LR,
        "passing_over_the_second",
        LINEAR_ROWS[0],
        EXPONENTIAL_ROWS[0],
        MULTI_STEP_ROWS[0],
        milestones=[7, 7],
    ),
    joined(
        SEQUENTIAL_LR,
        "later_than_the_run",
        EXPONENTIAL_ROWS[-1],
        COSINE_ANNEALING_ROWS[0],
        milestones=[1000],
    ),
    joined(
        SEQUENTIAL_LR,
        "functions",
        LAMBDA_ROWS[1],
        MULTIPLICATIVE_ROWS[1],
        LAMBDA_ROWS[2],
        milestones=[11, 20],
    ),
    joined(
        SEQUENTIAL_LR,
        "swa",
        _row(COSINE_ANNEALING_LR, "", T_max=20),
        SWA_ROWS[0],
        milestones=[12],
    ),
    joined(SEQUENTIAL_LR, "cycles", LINEAR_ROWS[0], TRIANGULAR, ONE_CYCLE, milestones=[10, 40]),
    joined(
        SEQUENTIAL_LR,
        "sequence_first",
        WARM_UP_THEN_COSINE,
        EXPONENTIAL_ROWS[0],
        milestones=[15],
    ),
    joined(
        SEQUENTIAL_LR,
        "chain_first",
        CONSTANT_TIMES_EXPONENTIAL,
        LINEAR_ROWS[0],
        milestones=[9],
    ),
    replace(
        joined(
            SEQUENTIAL_LR,
            "long",
            _row(LINEAR_LR, "", start_factor=0.01, total_iters=1000),
            _row(COSINE_ANNEALING_LR, "", T_max=9_000, eta_min=1e-4),
            milestones=[1000],
        ),
        runs_long=True,
        drifts_in_float32=True,
    ),
)
CHAINED_ROWS = (
    CONSTANT_TIMES_EXPONENTIAL,
    joined(CHAINED_SCHEDULER, "three", LINEAR_ROWS[0], STEP_ROWS[0], MULTIPLICATIVE_ROWS[1]),
    joined(CHAINED_SCHEDULER, "one", COSINE_ANNEALING_ROWS[3], optimizer=None),
    joined(
        CHAINED_SCHEDULER,
        "first_ones_optimizer",
        POLYNOMIAL_ROWS[0],
        COSINE_ANNEALING_ROWS[4],
        optimizer=None,
    ),
    joined(CHAINED_SCHEDULER, "chain_in_a_chain", CONSTANT_TIMES_EXPONENTIAL, LINEAR_ROWS[0]),
    joined(CHAINED_SCHEDULER, "sequence_in_a_chain", WARM_UP_THEN_COSINE, STEP_ROWS[0]),
    joined(CHAINED_SCHEDULER, "cycles", ONE_CYCLE, EXPONENTIAL_ROWS[0]),
    joined(CHAINED_SCHEDULER, "overwritten", EXPONENTIAL_ROWS[0], LAMBDA_ROWS[2], SWA_ROWS[0]),
    replace(
        joined(
            CHAINED_SCHEDULER,
            "long",
            EXPONENTIAL_ROWS[-1],
            _row(LINEAR_LR, "", start_factor=0.01, total_iters=9_500),
        ),
        runs_long=True,
        drifts_in_float32=True,
    ),
)

#: The first row of a class stands for it where a test needs one of each.
SCHEDULES: tuple[ScheduleCase, ...] = (
    *LAMBDA_ROWS,
    *MULTIPLICATIVE_ROWS,
    *STEP_ROWS,
    *MULTI_STEP_ROWS,
    *CONSTANT_ROWS,
    *LINEAR_ROWS,
    *EXPONENTIAL_ROWS,
    *POLYNOMIAL_ROWS,
    *COSINE_ANNEALING_ROWS,
    *WARM_RESTARTS_ROWS,
    *CYCLIC_ROWS,
    *ONE_CYCLE_ROWS,
    *SWA_ROWS,
    *PLATEAU_ROWS,
    *SEQUENTIAL_ROWS,
    *CHAINED_ROWS,
)

REPRESENTATIVES: tuple[ScheduleCase, ...] = tuple(
    next(case for case in SCHEDULES if case.of is scheduler) for scheduler in SCHEDULERS
)


def cases(**facts: Any) -> list[ScheduleCase]:
    """The rows, or of the representatives those, whose fields (or their class's) are as given."""
    rows = facts.pop("among", SCHEDULES)
    return [
        case
        for case in rows
        if all(
            getattr(case if hasattr(case, name) else case.of, name) == value
            for name, value in facts.items()
        )
    ]


each_scheduler = pytest.mark.parametrize("scheduler", SCHEDULERS, ids=str)
each_schedule = pytest.mark.parametrize("case", SCHEDULES, ids=str)
each_representative = pytest.mark.parametrize("case", REPRESENTATIVES, ids=str)


def each_case(**facts: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases(**facts), ids=str)
