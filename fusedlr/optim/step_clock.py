"""The clock of an optimizer, and what goes by it, without the compiled extension."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

#: A place in the group table: a group, and a column of its hypers or -1, which is the lr.
Place = tuple[int, int]
#: The place of what is not in the table any more: it is recorded as NaN.
NOWHERE: Place = (-1, -1)
#: A formula of the completed steps, and the places that it fills before each step.
ScheduledPlaces = tuple[Callable[[float], float], Sequence[Place]]
#: Memory, capacity and places.
Record = tuple[Tensor, int, Sequence[Place]]


class Clock(Protocol):
    """What counts the steps of an optimizer, moves its schedules and writes its records."""

    completed: Tensor
    skipped: Tensor
    found_inf: Tensor | None
    is_skipped: bool
    ends_with_plans: bool

    def configure(self, schedules: Any, records: Any) -> None: ...
    def begin_(self) -> None: ...
    def finish_(self) -> None: ...


class StepClock:
    """Counts steps, moves schedules and writes records (``csrc/bindings/step_clock.h``)."""

    def __init__(self) -> None:
        self.completed = torch.zeros(1, dtype=torch.float64, device="cpu")
        self.skipped = torch.zeros(1, dtype=torch.float64, device="cpu")
        self.found_inf: Tensor | None = None
        self.is_skipped = False
        self.ends_with_plans = True
        self._schedules: Sequence[ScheduledPlaces] = ()
        self._records: Sequence[Record] = ()

    def set_table(self, lr: Tensor, hypers: Tensor) -> None:
        self._lr, self._hypers = lr, hypers

    def configure(self, schedules: Sequence[ScheduledPlaces], records: Sequence[Record]) -> None:
        self._schedules, self._records = schedules, records

    def _slot(self, place: Place) -> Tensor:
        group, column = place
        return self._lr[group] if column < 0 else self._hypers[group, column]

    @torch.no_grad()
    def begin_(self) -> None:
        self.is_skipped = self.found_inf is not None and self.found_inf.item() != 0
        if self.is_skipped:
            return
        for formula, places in self._schedules:
            value = formula(self.completed.item())
            for place in places:
                self._slot(place).fill_(value)

    @torch.no_grad()
    def finish_(self) -> None:
        if self.is_skipped:
            self.skipped += 1
        for memory, capacity, places in self._records:
            rows = memory[:-1].view(capacity, len(places) + 2)
            row = rows[int(memory[-1]) % capacity]
            row[0], row[1] = self.completed[0], self.skipped[0]
            for column, place in enumerate(places, 2):
                row[column] = torch.nan if place == NOWHERE else self._slot(place)
            memory[-1] += 1
        if not self.is_skipped:
            self.completed += 1
