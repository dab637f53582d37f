"""The same optimizer and schedulers in torch.optim and in fusedlr, moved side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    library: Any,
    num_groups: int = 3,
    lr: Callable[[float], Any] = float,
    name: str = "SGD",
    device: torch.device | str = "cpu",
) -> Any:
    """An optimizer with one parameter of two elements, and its gradient, in each group."""
    groups = []
    for group in range(num_groups):
        param = Parameter(torch.ones(2, device=device))
        param.grad = torch.tensor([1.0, -0.5], device=device)
        groups.append({"params": [param], "lr": lr(initial_lr(group))})
    return getattr(library, name)(groups, lr=1.0)


def exact(value: Any) -> Any:
    """A value in a form that compares and prints to the last bit, with its types."""
    kind = type(value)
    if kind is float:
        return kind, value if value == value else "NaN"
    if isinstance(value, (list, tuple)):
        return kind, [exact(one) for one in value]
    if isinstance(value, dict):
        return kind, {key: exact(one) for key, one in value.items()}
    if isinstance(value, Tensor):
        return Tensor, value.dtype, exact(value.tolist())
    return kind, value


def exact_state(value: Any) -> Any:
    """The same for what a scheduler remembers, where a count may be an int or a whole float."""
    if isinstance(value, dict):
        return type(value), {key: exact_state(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [exact_state(one) for one in value]
    return exact(float(value) if type(value) is int else value)


def lrs(optimizer: Any) -> list[Any]:
    return [group["lr"] for group in optimizer.param_groups]


def momentums(optimizer: Any) -> list[Any]:
    """The momentum or the betas of each group."""
    return [group.get("momentum", group.get("betas")) for group in optimizer.param_groups]


def leaves(scheduler: Any) -> Iterator[Any]:
    """The schedulers that a scheduler is made of, down to those with a formula."""
    if not hasattr(scheduler, "_schedulers"):
        yield scheduler
    for child in getattr(scheduler, "_schedulers", ()):
        yield from leaves(child)


def outcome(act: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """What a call returns, or the type and text of what it raises."""
    try:
        return act(*arguments, **keywords)
    except Exception as error:
        return type(error), str(error)


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
            **self.observe_progress(),
            "states": [exact_state(scheduler.state_dict()) for scheduler in self.schedulers],
        }

    def observe_progress(self) -> dict[str, Any]:
        """What a step that raises leaves as it was."""
        return {
            "groups": [
                exact({key: group[key] for key in group if key != "params"})
                for group in self.optimizer.param_groups
            ],
            "last lrs": [exact(scheduler.get_last_lr()) for scheduler in self.schedulers],
            "epochs": [
                exact_state([getattr(leaf, "last_epoch", None) for leaf in leaves(scheduler)])
                for scheduler in self.schedulers
            ],
        }

    def step_until_refused(self, limit: int = 20) -> tuple[int, Exception, dict[str, Any]]:
        """How many steps went well, what the next one raised, and the progress before it."""
        for step in range(limit):
            before = self.observe_progress()
            try:
                self.scheduler.step()
            except Exception as error:
                return step, error, before
        raise AssertionError(f"none of {limit} steps raised")

    def observe_hypers(self) -> Any:
        """What a step moves."""
        return exact([lrs(self.optimizer), momentums(self.optimizer)])


class Lockstep:
    """fusedlr's optimizer with fusedlr's schedulers, and torch.optim's with torch's.

    ``our_optimizer`` or ``our_schedulers`` may be those of torch.optim, too. ``device`` is that of
    our optimizer; torch's is on the CPU.
    """

    def __init__(
        self,
        *cases: ScheduleCase,
        num_groups: int = 3,
        lr_kind: str = "float",
        our_optimizer: Any = fusedlr,
        our_schedulers: Any = fusedlr,
        device: torch.device | str = "cpu",
    ) -> None:
        self.cases = cases
        self.steps = 0
        make_lr, name = LR_KINDS[lr_kind], cases[0].optimizer
        ours = make_optimizer(our_optimizer, num_groups, make_lr, name, device)
        self.ours = Side(our_schedulers, ours)
        self.theirs = Side(torch.optim, make_optimizer(torch.optim, num_groups, make_lr, name))
        for side in self.sides:
            side.schedulers = [case.build(side.library, side.optimizer) for case in cases]
        self.check()
        for side in self.sides:
            side.optimizer.step()  # as in training: without it, the first scheduler.step() warns

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.ours, self.theirs

    @property
    def is_over(self) -> bool:
        """Whether a scheduler has reached its end."""
        return any(
            scheduler.last_epoch >= case.final_epoch
            for case, scheduler in zip(self.cases, self.theirs.schedulers, strict=True)
            if hasattr(scheduler, "last_epoch")
        )

    def step(self, *, compare: bool = True) -> None:
        """Steps every scheduler of both sides, and compares."""
        if self.is_over:
            return
        self.steps += 1
        for side in self.sides:
            for case, scheduler in zip(self.cases, side.schedulers, strict=True):
                scheduler.step(*case.step_arguments(self.steps))
        if not compare:
            return
        # The schedulers' states only now and then: reading them must not be what keeps them right.
        if self.steps in (1, 2, 3) or self.steps % 16 in (0, 1):
            self.check()
        else:
            self.check_hypers()

    def run(self, steps: int, compare_every: int = 1) -> None:
        for step in range(steps):
            self.step(compare=step % compare_every == 0)
        self.check()

    def check(self) -> None:
        self.check_hypers()
        self.compare(self.ours.observe(), self.theirs.observe())

    def check_hypers(self) -> None:
        self.compare(self.ours.observe_hypers(), self.theirs.observe_hypers())
        if isinstance(self.ours.optimizer, fusedlr.optim.FusedOptimizer):
            theirs = list(map(float, lrs(self.theirs.optimizer)))
            self.compare(self.ours.optimizer.lr.tolist(), theirs)

    def compare(self, ours: Any, theirs: Any) -> None:
        assert ours == theirs, f"after step {self.steps}"
