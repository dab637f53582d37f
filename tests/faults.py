"""Faults that the tests must notice: a pytest plugin, for ``pytest -p faults``.

The environment variable ``FUSEDLR_TEST_FAULT`` names the one to inject.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torch import Tensor

from fusedlr import _backend
from fusedlr.optim import planning
from fusedlr.optim.group_table import GroupTable


class ObservedPlan(_backend.extension.Plan):  # type: ignore[misc]
    """A plan that remembers the tensors that it was given."""

    def __init__(self, groups: list[Any], lr: Tensor, *others: Any) -> None:
        super().__init__(groups, lr, *others)
        self.lr = lr
        self.steps: dict[int, Tensor] = {}

    def set_state_(self, index: int, step: Tensor | None, state: list[Tensor]) -> None:
        if step is not None:
            self.steps[index] = step
        super().set_state_(index, step, state)


def around_each_step(change_: Callable[[ObservedPlan], Callable[[], Any]]) -> None:
    """Calls ``change_(plan)`` before each step, and what it returns afterwards."""
    try_step_ = _backend.try_step_

    def faulty_step_(plans: list[ObservedPlan], clock: Any) -> str | None:
        undo = [change_(plan) for plan in plans]
        try:
            return try_step_(plans, clock)
        finally:
            for undo_ in reversed(undo):
                undo_()

    _backend.new_plan = lambda groups, tables, *others: ObservedPlan(groups, *tables, *others)
    _backend.try_step_ = faulty_step_


def no_op_step() -> None:
    """A step moves nothing."""
    _backend.try_step_ = lambda plans, clock: None


def step_with_the_first_lr() -> None:
    """A step goes on with the lr that was in the table when its plan was built."""
    new_plan = _backend.new_plan
    _backend.new_plan = lambda groups, tables, *others: new_plan(
        groups, (tables[0].clone(), tables[1]), *others
    )


def ignored_lr_edits() -> None:
    """The table keeps the first lr of each group."""
    assign = GroupTable.assign

    def faulty_assign(self: GroupTable, index: int, key: str, value: Any) -> None:
        given = self.__dict__.setdefault("_given", set())
        if key != "lr" or index not in given:
            assign(self, index, key, value)
        if key == "lr":
            given.add(index)

    GroupTable.assign = faulty_assign  # type: ignore[method-assign]


def ignored_schedules() -> None:
    """Schedulers count epochs, but leave the table as it is."""
    for name in ("schedule_", "schedule_lambdas_", "schedule_plateau_"):
        setattr(_backend, name, lambda *arguments, **keywords: None)


def ignored_group_schedules() -> None:
    """Hypers that follow a schedule keep its first value."""
    configure_clock = planning.configure_clock

    def configure_without_schedules(optimizer: Any) -> None:
        table = optimizer._table
        schedules, table.schedules = table.schedules, {}
        try:
            configure_clock(optimizer)
        finally:
            table.schedules = schedules

    planning.configure_clock = configure_without_schedules


def hurried_group_schedules() -> None:
    """Hypers that follow a schedule have the value of the step after."""
    try_step_ = _backend.try_step_

    def faulty_step_(plans: list[Any], clock: Any) -> str | None:
        clock.completed.add_(1)
        try:
            return try_step_(plans, clock)
        finally:
            clock.completed.sub_(1)

    _backend.try_step_ = faulty_step_


def swapped_groups() -> None:
    """Each group is stepped with the lr of another one."""

    def swap_(plan: ObservedPlan) -> Callable[[], Any]:
        values = plan.lr.clone()
        plan.lr.copy_(values.flip(0))
        return lambda: plan.lr.copy_(values)

    around_each_step(swap_)


def wrong_bias_correction() -> None:
    """The bias correction is that of the step after."""

    def shift_(plan: ObservedPlan) -> Callable[[], Any]:
        steps = list(plan.steps.values())
        for step in steps:
            step.add_(1)
        return lambda: [step.sub_(1) for step in steps]

    around_each_step(shift_)


FAULTS: dict[str, Callable[[], None]] = {
    fault.__name__: fault
    for fault in (
        no_op_step,
        step_with_the_first_lr,
        ignored_lr_edits,
        ignored_schedules,
        ignored_group_schedules,
        hurried_group_schedules,
        swapped_groups,
        wrong_bias_correction,
    )
}


def pytest_configure() -> None:
    if name := os.environ.get("FUSEDLR_TEST_FAULT"):
        FAULTS[name]()
