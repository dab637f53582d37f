"""THE table of schedulers: one row per configuration; every generic scheduler test runs over it.

A new scheduler is a new :class:`SchedulerClass` and its rows of ``SCHEDULES``: what sets it apart
is a field, never a name in a test.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import fusedlr


@dataclass(frozen=True)
class SchedulerClass:
    """What the generic tests need to know of a class of that name in both libraries."""

    name: str
    #: Whether `step` takes a metric. Such a class makes no initial step and warns of no order.
    takes_metric: bool = False
    #: Whether `step(epoch)` has a formula that starts from the initial lr.
    has_closed_form: bool = True
    #: Attributes that may be edited while training, with values to edit them to.
    edits: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    #: Constructor arguments that torch refuses.
    invalid: tuple[dict[str, Any], ...] = ()
    #: Constructor arguments that torch takes, to fail with a ZeroDivisionError while training.
    invalid_later: tuple[dict[str, Any], ...] = ()

    @property
    def ours(self) -> Any:
        return getattr(fusedlr.lr_scheduler, self.name)

    @property
    def theirs(self) -> Any:
        return getattr(torch.optim.lr_scheduler, self.name)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class ScheduleCase:
    """One configuration of a scheduler."""

    of: SchedulerClass
    label: str
    #: Constructor arguments for a number of groups.
    arguments: Callable[[int], dict[str, Any]]
    #: Runs over thousands of steps too.
    runs_long: bool = False
    #: Thousands of steps in float32 leave an error well above float32's rounding.
    drifts_in_float32: bool = False
    #: Python can pickle its arguments.
    is_picklable: bool = True

    def build(self, library: Any, optimizer: torch.optim.Optimizer, **more: Any) -> Any:
        """The scheduler of this row; `library` is ``fusedlr`` or ``torch.optim``."""
        scheduler_class = getattr(library.lr_scheduler, self.of.name)
        return scheduler_class(optimizer, **self.arguments(len(optimizer.param_groups)), **more)

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


def one_function_for_each_group(num_groups: int) -> dict[str, Any]:
    return {"lr_lambda": [lambda epoch, g=g: (0.9 + 0.001 * g) ** epoch for g in range(num_groups)]}


def runs_of_functions(num_groups: int) -> dict[str, Any]:
    """Functions that serve several groups, some of them in a row."""
    functions = [inverse_time, inverse_time, staircase, WarmUp(9), inverse_time]
    return {"lr_lambda": [functions[g % len(functions)] for g in range(num_groups)]}


LAMBDA_LR = SchedulerClass(
    "LambdaLR",
    has_closed_form=False,
    invalid=({"lr_lambda": [math.sqrt]}, {"lr_lambda": 3 * [math.sqrt]}, {}),
)
STEP_LR = SchedulerClass(
    "StepLR",
    edits=(("gamma", (0.5, 1.25, 0.1)), ("step_size", (1, 2, 5))),
    invalid=({"gamma": 0.1}, {"step_size": 3, "unheard_of": 1}),
    invalid_later=({"step_size": 0},),
)
MULTI_STEP_LR = SchedulerClass(
    "MultiStepLR",
    edits=(("gamma", (0.5, 1.25, 0.1)),),
    invalid=({"milestones": 3}, {"gamma": 0.1}),
)
EXPONENTIAL_LR = SchedulerClass(
    "ExponentialLR",
    edits=(("gamma", (0.5, 1.25, 0.9)),),
    invalid=({}, {"gamma": 0.9, "unheard_of": 1}),
)
COSINE_ANNEALING_LR = SchedulerClass(
    "CosineAnnealingLR",
    edits=(("T_max", (3, 7, 50)), ("eta_min", (0.0, 0.01))),
    invalid=({}, {"eta_min": 0.1}),
    invalid_later=({"T_max": 0},),
)
REDUCE_LR_ON_PLATEAU = SchedulerClass(
    "ReduceLROnPlateau",
    takes_metric=True,
    has_closed_form=False,
    edits=(
        ("factor", (0.5, 0.9)),
        ("patience", (0, 3)),
        ("cooldown", (0, 2)),
        ("threshold", (0.0, 0.1)),
        ("eps", (0.0, 1e-3)),
    ),
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
    STEP_LR,
    MULTI_STEP_LR,
    EXPONENTIAL_LR,
    COSINE_ANNEALING_LR,
    REDUCE_LR_ON_PLATEAU,
)


def _row(of: SchedulerClass, label: str, **arguments: Any) -> ScheduleCase:
    return ScheduleCase(of, label, lambda num_groups: arguments)


def _long_row(of: SchedulerClass, label: str, drifts: bool, **arguments: Any) -> ScheduleCase:
    return ScheduleCase(
        of, label, lambda num_groups: arguments, runs_long=True, drifts_in_float32=drifts
    )


#: The first row of a class stands for it where a test needs one of each.
SCHEDULES: tuple[ScheduleCase, ...] = (
    ScheduleCase(LAMBDA_LR, "function_per_group", one_function_for_each_group, is_picklable=False),
    ScheduleCase(LAMBDA_LR, "runs_of_functions", runs_of_functions),
    _long_row(LAMBDA_LR, "inverse_time", False, lr_lambda=inverse_time),
    _row(LAMBDA_LR, "staircase", lr_lambda=staircase),
    _row(LAMBDA_LR, "callable_object", lr_lambda=WarmUp(17)),
    _row(STEP_LR, "every_3", step_size=3, gamma=0.9),
    _row(STEP_LR, "every_step", step_size=1, gamma=0.99),
    _row(STEP_LR, "default_gamma", step_size=30),
    _row(STEP_LR, "later_than_the_run", step_size=1000),
    _row(STEP_LR, "rising", step_size=7, gamma=1.05),
    _row(STEP_LR, "constant", step_size=7, gamma=1),
    _row(STEP_LR, "to_zero", step_size=50, gamma=0.0),
    _row(STEP_LR, "changing_sign", step_size=11, gamma=-0.5),
    _long_row(STEP_LR, "every_13", True, step_size=13, gamma=0.9987),
    _row(MULTI_STEP_LR, "two", milestones=[2, 5], gamma=0.7),
    _row(MULTI_STEP_LR, "none", milestones=[]),
    _row(MULTI_STEP_LR, "repeated", milestones=[5, 10, 5, 10, 10, 100], gamma=0.7),
    _row(MULTI_STEP_LR, "unsorted", milestones=[80, 30, 299], gamma=0.3),
    _row(MULTI_STEP_LR, "at_the_start", milestones=[0, 1], gamma=0.3),
    _row(MULTI_STEP_LR, "later_than_the_run", milestones=[1000]),
    _row(MULTI_STEP_LR, "rising", milestones=[20, 21, 21], gamma=3),
    _row(MULTI_STEP_LR, "from_a_tuple", milestones=(4, 9), gamma=1 / 3),
    _long_row(MULTI_STEP_LR, "hundreds", True, milestones=list(range(0, 10_000, 50)), gamma=0.99),
    _row(EXPONENTIAL_LR, "0.9", gamma=0.9),
    _row(EXPONENTIAL_LR, "to_denormals_and_zero", gamma=0.05),
    _row(EXPONENTIAL_LR, "constant", gamma=1),
    _row(EXPONENTIAL_LR, "rising", gamma=1.01),
    _row(EXPONENTIAL_LR, "changing_sign", gamma=-0.99),
    _row(EXPONENTIAL_LR, "zero", gamma=0.0),
    _long_row(EXPONENTIAL_LR, "slow", True, gamma=0.9997),
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
            "min_lr": [0.01 * (1 + g % 7) for g in range(num_groups)],
            "patience": 0,
            "factor": 0.7,
        },
    ),
    _long_row(REDUCE_LR_ON_PLATEAU, "slow", True, patience=0, factor=0.998, eps=0.0),
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
