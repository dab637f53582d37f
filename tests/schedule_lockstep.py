"""The same optimizer and schedulers in torch.optim and in fusedlr, moved side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

import fusedlr
from schedule_cases import ScheduleCase

#: What a group is given as its lr, from a number.
LR_KINDS: dict[str, Callable[[float], Any]] = {
    "float": float,
    "tensor": lambda value: torch.tensor(value, dtype=torch.float64),
    "one_element": lambda value: torch.tensor([value], dtype=torch.float64),
}


def initial_lr(group: int) -> float:
    """Of no short binary form, and another for each group."""
    return 0.1 / (1 + 0.37 * group)


def make_optimizer(
    library: Any, num_groups: int = 3, lr: Callable[[float], Any] = float, name: str = "SGD"
) -> Any:
    """An optimizer with one parameter of two elements, and its gradient, in each group."""
    groups = []
    for group in range(num_groups):
        param = Parameter(torch.ones(2))
        param.grad = torch.tensor([1.0, -0.5])
        groups.append({"params": [param], "lr": lr(initial_lr(group))})
    return getattr(library, name)(groups, lr=1.0)


def seen(values: list[Any]) -> list[Any]:
    """Learning rates with their types, in a form that compares and prints exactly."""
    return [(type(one), one.tolist() if isinstance(one, Tensor) else one) for one in values]


def lrs(optimizer: Any) -> list[Any]:
    return [group["lr"] for group in optimizer.param_groups]


@dataclass
class Side:
    """One library's half of a lockstep."""

    library: Any
    optimizer: Any
    schedulers: list[Any] = field(default_factory=list)

    @property
    def scheduler(self) -> Any:
        return self.schedulers[0]

    def observe(self) -> dict[str, Any]:
        """All that a user sees of the schedule, to the last bit."""
        return {
            "lr": seen(lrs(self.optimizer)),
            "schedulers": [
                {
                    "last_lr": seen(scheduler.get_last_lr()),
                    **{
                        name: getattr(scheduler, name, None)
                        for name in ("last_epoch", "num_bad_epochs", "cooldown_counter")
                    },
                }
                for scheduler in self.schedulers
            ],
        }


class Lockstep:
    """fusedlr's optimizer with fusedlr's schedulers, and torch.optim's with torch's."""

    def __init__(self, *cases: ScheduleCase, num_groups: int = 3, lr_kind: str = "float") -> None:
        self.cases = cases
        self.steps = 0
        self.ours, self.theirs = (
            Side(library, make_optimizer(library, num_groups, LR_KINDS[lr_kind]))
            for library in (fusedlr, torch.optim)
        )
        for side in self.sides:
            side.schedulers = [case.build(side.library, side.optimizer) for case in cases]
        self.check()
        for side in self.sides:
            side.optimizer.step()  # as in training: without it, the first scheduler.step() warns

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.ours, self.theirs

    def step(self) -> None:
        """Steps every scheduler of both sides, and compares."""
        self.steps += 1
        for side in self.sides:
            for case, scheduler in zip(self.cases, side.schedulers, strict=True):
                scheduler.step(*case.step_arguments(self.steps))
        self.check()

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def check(self) -> None:
        assert self.ours.observe() == self.theirs.observe(), f"after step {self.steps}"
        assert self.ours.optimizer.lr.tolist() == list(map(float, lrs(self.theirs.optimizer)))
