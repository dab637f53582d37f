"""A ring buffer in which the step itself writes down what it has used."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedlr.optim.group_table import GroupTable
from fusedlr.optim.step_clock import NOWHERE, Place, Record

#: The columns before those of the group table.
COUNTERS = ("step", "skipped_steps")


class Recorder:
    """The memory of a record: one row for each of the last `capacity` steps.

    A row has the number of completed steps when its step began, the number of steps skipped so far,
    the lr of every group, and every hyper that follows a schedule.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        #: The places in the group table that the columns after :data:`COUNTERS` hold.
        self.places: list[Place] = []
        #: Their names: ``lr[0]`` is the lr of group 0.
        self.names: list[str] = []
        # The rows, and behind them the number of rows ever written: one copy reads both.
        self.memory = self._new_memory(torch.device("cpu"))

    def _new_memory(self, place: torch.device) -> Tensor:
        size = self.capacity * (len(COUNTERS) + len(self.places)) + 1
        memory = torch.full((size,), torch.nan, dtype=torch.float64, device=place)
        memory[-1] = 0
        return memory

    def _rows_of(self, memory: Tensor) -> Tensor:
        return memory[:-1].view(self.capacity, -1)

    def fit(self, table: GroupTable) -> None:
        """Adds columns for groups and schedules that are new; earlier rows have NaN there.

        What has a column keeps it, and is recorded as long as its group is there. The memory is
        where the table is.
        """
        place = table.place
        if self.memory.device != place:
            # Nothing written yet: nothing to bring there, for which the host would wait.
            is_unused = self.memory.device.type == "cpu" and self.memory[-1] == 0
            self.memory = self._new_memory(place) if is_unused else self.memory.to(place)
        known = set(self.places)
        new = [place for place in table.places_to_record() if place not in known]
        if not new:
            return
        before = self.memory
        earlier = self._rows_of(before)
        self.places.extend(new)
        self.names.extend(f"{table.name_of(place)}[{place[0]}]" for place in new)
        self.memory = self._new_memory(place)
        self._rows_of(self.memory)[:, : earlier.shape[1]] = earlier
        self.memory[-1] = before[-1]

    def __len__(self) -> int:
        return min(int(self.memory[-1]), self.capacity)

    def record(self, table: GroupTable) -> Record:
        """What the clock needs to write rows."""
        places = [place if place[0] < len(table) else NOWHERE for place in self.places]
        return self.memory, self.capacity, places

    def rows(self) -> Tensor:
        """The rows of the last steps, oldest first: float64 [steps, columns], on the CPU."""
        memory = self.memory.to("cpu", copy=True)
        rows, written = self._rows_of(memory), int(memory[-1])
        return rows[:written] if written <= self.capacity else rows.roll(-written, 0)
