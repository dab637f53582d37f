"""The schedulers that are compared, as data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from mpmath import mpf

import scheduler_formulas as formulas
from fusedlr import schedules
from scheduler_formulas import ClosedForm

Arguments = dict[str, Any]

# Functions that look values up repeat the last one beyond these.
MAX_TABLE_STEPS = 100_000
# Below every group's initial lr.
ETA_MIN = 1e-4


@dataclass(frozen=True)
class Case:
    """A scheduler that is laid out over a number of steps."""

    scheduler: str
    label: str
    # Of the number of steps and of groups: what torch's class and fusedlr's are built with.
    arguments: Callable[[int, int], Arguments]
    # Of the number of steps.
    closed_form: Callable[[int], ClosedForm]
    parts: tuple[Case, ...] = ()
    # Of the number of steps: what fusedlr's class is built with instead, or in addition.
    own_arguments: Callable[[int], Arguments] = lambda steps: {}
    optimizer: str = "SGD"
    moves_momentum: bool = False
    # What `step` is called with at a step.
    step_arguments: Callable[[int], tuple[Any, ...]] = lambda step: ()
    # Whether the work is the same for any number of groups, so that speed can be promised.
    has_speed_target: bool = True

    @property
    def name(self) -> str:
        return f"{self.scheduler}, {self.label}" if self.label else self.scheduler

    def build(self, package: ModuleType, optimizer: torch.optim.Optimizer, steps: int) -> Any:
        """The scheduler of `package`, which is torch.optim or fusedlr."""
        arguments = self.arguments(steps, len(optimizer.param_groups))
        if package is not torch.optim:
            arguments |= self.own_arguments(steps)
        if self.parts:
            arguments["schedulers"] = [part.build(package, optimizer, steps) for part in self.parts]
        homes = (package.lr_scheduler, torch.optim.swa_utils)
        home = next(home for home in homes if hasattr(home, self.scheduler))
        return getattr(home, self.scheduler)(optimizer=optimizer, **arguments)


def _case(
    scheduler: str,
    label: str,
    arguments: Callable[[int], Arguments],
    formula: Callable[..., mpf],
    **more: Any,
) -> Case:
    """A case whose formula reads what the scheduler is built with."""
    return Case(
        scheduler,
        label,
        lambda steps, groups: arguments(steps),
        lambda steps: partial(formula, **arguments(steps)),
        **more,
    )


def _joined(
    scheduler: str,
    label: str,
    *parts: Case,
    formula: Callable[..., mpf],
    arguments: Callable[[int], Arguments] = lambda steps: {},
) -> Case:
    """A case made of others, whose closed forms the formula gets first."""

    def closed_form(steps: int) -> ClosedForm:
        forms = [part.closed_form(steps) for part in parts]
        return partial(formula, forms, **arguments(steps))

    return Case(scheduler, label, lambda steps, groups: arguments(steps), closed_form, parts)


# Functions of the step


def _warmup_cosine(steps: int) -> Callable[[int], float]:
    warmup = steps // 10

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        if step >= steps:
            return 0.0
        return 0.5 * (1.0 + math.cos(math.pi * ((step - warmup) / (steps - warmup))))

    return factor


def _look_up(steps: int) -> Callable[[int], float]:
    """Values that come from somewhere else, such as a file."""
    curve = np.linspace(1.0, 0.1, min(steps, MAX_TABLE_STEPS) + 1) ** 3
    last = len(curve) - 1
    return lambda step: float(curve[min(step, last)])


def _powers(steps: int, groups: int) -> list[Callable[[int], float]]:
    def power(base: float) -> Callable[[int], float]:
        return lambda step: base ** (step / steps)

    return [power(0.01 * (1 + group / groups)) for group in range(groups)]


def _exact_warmup_cosine(steps: int) -> ClosedForm:
    return partial(formulas.warmup_cosine, warmup=steps // 10, total=steps)


def _exact_look_up(steps: int) -> ClosedForm:
    factor = _look_up(steps)
    return lambda lr, step: lr * mpf(factor(step))


def _exact_power(steps: int) -> ClosedForm:
    return lambda lr, step: lr * mpf(0.01) ** (mpf(step) / steps)


# The metric of ReduceLROnPlateau


def _metric(step: int) -> float:
    """A loss that is best at step 1."""
    return 1.0 if step <= 1 else 2.0 + step % 7


def _gamma(steps: int, every: int = 1) -> float:
    """The factor that brings the lr to a hundredth when it is applied every so many steps."""
    return float(0.01 ** (every / steps))


def _cyclic(mode: str, cycle_momentum: bool) -> Case:
    return _case(
        "CyclicLR",
        f"{mode}, momentum" if cycle_momentum else mode,
        lambda steps: {
            "base_lr": 1e-3,
            "max_lr": 0.1,
            "step_size_up": steps // 10,
            "mode": mode,
            "gamma": _gamma(steps),
            "cycle_momentum": cycle_momentum,
        },
        formulas.cyclic,
        moves_momentum=cycle_momentum,
    )


def _one_cycle(label: str, optimizer: str, strategy: str, three_phase: bool) -> Case:
    return _case(
        "OneCycleLR",
        label,
        lambda steps: {
            "max_lr": 0.1,
            "total_steps": steps + 1,  # the initial lr is one of them
            "pct_start": 0.3,
            "div_factor": 25.0,
            "final_div_factor": 100.0,
            "anneal_strategy": strategy,
            "three_phase": three_phase,
        },
        formulas.one_cycle,
        optimizer=optimizer,
        moves_momentum=True,
    )


def _plateau(label: str, metric: Callable[[int], Any]) -> Case:
    return _case(
        "ReduceLROnPlateau",
        label,
        lambda steps: {"factor": _gamma(steps, 11), "patience": 10, "eps": 0.0},
        formulas.plateau,
        step_arguments=lambda step: (metric(step),),
    )


_STEP = _case(
    "StepLR",
    "",
    lambda steps: {"step_size": 30, "gamma": _gamma(steps, 30)},
    formulas.step_lr,
)
_MULTI_STEP = _case(
    "MultiStepLR",
    "",
    lambda steps: {"milestones": [*range(steps // 5, steps, steps // 10)], "gamma": 0.5},
    formulas.multi_step,
)
_EXPONENTIAL = _case(
    "ExponentialLR", "", lambda steps: {"gamma": _gamma(steps)}, formulas.exponential
)
_COSINE = _case(
    "CosineAnnealingLR",
    "",
    lambda steps: {"T_max": steps, "eta_min": ETA_MIN},
    formulas.cosine,
)
_WARMUP = _case(
    "LinearLR",
    "",
    lambda steps: {"start_factor": 0.01, "end_factor": 1.0, "total_iters": steps // 10},
    formulas.linear,
)
_HOLD = _case("ConstantLR", "", lambda steps: {"factor": 1.0, "total_iters": 1}, formulas.constant)
_COSINE_DECAY = _case(
    "CosineAnnealingLR",
    "",
    lambda steps: {"T_max": steps // 2, "eta_min": ETA_MIN},
    formulas.cosine,
)
_WARMUP_THEN_EXPONENTIAL = _joined(
    "SequentialLR",
    "",
    _WARMUP,
    _EXPONENTIAL,
    arguments=lambda steps: {"milestones": [steps // 10]},
    formula=formulas.sequential,
)
# torch's ExponentialLR would make a step too many in a chain that starts a sequence.
_WARMUP_TIMES_STEP = _joined("ChainedScheduler", "", _WARMUP, _STEP, formula=formulas.chained)

CASES = (
    Case(
        "LambdaLR",
        "schedule as a value",
        lambda steps, groups: {"lr_lambda": _warmup_cosine(steps)},
        _exact_warmup_cosine,
        own_arguments=lambda steps: {
            "lr_lambda": schedules.warmup_cosine(1.0, warmup_steps=steps // 10, total_steps=steps)
        },
    ),
    Case(
        "LambdaLR",
        "traced function",
        lambda steps, groups: {"lr_lambda": _warmup_cosine(steps)},
        _exact_warmup_cosine,
    ),
    Case(
        "LambdaLR",
        "tabulated function",
        lambda steps, groups: {"lr_lambda": _look_up(steps)},
        _exact_look_up,
        own_arguments=lambda steps: {"total_steps": min(steps, MAX_TABLE_STEPS)},
    ),
    Case(
        "LambdaLR",
        "function on the host",
        lambda steps, groups: {"lr_lambda": _look_up(steps)},
        _exact_look_up,
    ),
    Case(
        "LambdaLR",
        "a function for each group",
        lambda steps, groups: {"lr_lambda": _powers(steps, groups)},
        _exact_power,
        has_speed_target=False,
    ),
    Case(
        "MultiplicativeLR",
        "traced function",
        lambda steps, groups: {"lr_lambda": lambda step: 1 - 1 / (step + steps // 10)},
        lambda steps: partial(formulas.slow_decay, offset=steps // 10),
    ),
    _STEP,
    _MULTI_STEP,
    _case(
        "ConstantLR",
        "",
        lambda steps: {"factor": 0.3, "total_iters": steps // 10},
        formulas.constant,
    ),
    _case(
        "LinearLR",
        "",
        lambda steps: {"start_factor": 1.0, "end_factor": 0.01, "total_iters": steps},
        formulas.linear,
    ),
    _EXPONENTIAL,
    _case(
        "PolynomialLR",
        "",
        lambda steps: {"total_iters": steps, "power": 2.0},
        formulas.polynomial,
    ),
    _COSINE,
    _case(
        "CosineAnnealingWarmRestarts",
        "",
        lambda steps: {"T_0": steps // 12, "T_mult": 2, "eta_min": ETA_MIN},
        formulas.warm_restarts,
    ),
    *(
        _cyclic(mode, cycle_momentum)
        for mode in ("triangular", "triangular2", "exp_range")
        for cycle_momentum in (False, True)
    ),
    _one_cycle("2 cosine phases", "SGD", "cos", three_phase=False),
    _one_cycle("3 linear phases, AdamW", "AdamW", "linear", three_phase=True),
    _case(
        "SWALR",
        "",
        lambda steps: {"swa_lr": 1e-3, "anneal_epochs": steps},
        formulas.swa,
    ),
    _plateau("float metric", _metric),
    _plateau("Tensor metric", lambda step: torch.tensor(_metric(step), dtype=torch.float64)),
    _joined(
        "SequentialLR",
        "of 3",
        _WARMUP,
        _HOLD,
        _COSINE_DECAY,
        arguments=lambda steps: {"milestones": [steps // 10, steps // 2]},
        formula=formulas.sequential,
    ),
    _joined("ChainedScheduler", "of 2", _WARMUP, _EXPONENTIAL, formula=formulas.chained),
    _joined(
        "SequentialLR",
        "a chain in it",
        _WARMUP_TIMES_STEP,
        _COSINE_DECAY,
        arguments=lambda steps: {"milestones": [steps // 2]},
        formula=formulas.sequential,
    ),
    _joined(
        "ChainedScheduler",
        "a sequence in it",
        _WARMUP_THEN_EXPONENTIAL,
        _MULTI_STEP,
        formula=formulas.chained,
    ),
)
