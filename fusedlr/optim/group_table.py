"""The group table: the learning rate and every other hyper of every param group, as tensors."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from fusedlr import _backend
from fusedlr.expression import compile_, evaluate
from fusedlr.optim.revision import Revision
from fusedlr.optim.step_clock import Place, Record, ScheduledPlaces
from fusedlr.schedules import Schedule

if TYPE_CHECKING:
    from fusedlr._backend import DeviceTable


class LiveTensors(Protocol):
    """Keeps user tensors and entries of the table in step."""

    def set_table(self, lr: Tensor, hypers: Tensor) -> None: ...
    def put(self, group: int, column: int, tensor: Tensor, source: Tensor | None) -> None: ...
    def drop(self, group: int, column: int) -> None: ...
    def follows_source(self, group: int, column: int) -> bool: ...
    def sync_(self) -> None: ...
    def sync_group_(self, group: int) -> None: ...


_LR = -1  # the column of the lr

# Columns that are true or false.
_SWITCHES = frozenset({"maximize", "nesterov", "decoupled_weight_decay"})

_SIZE = ctypes.sizeof(ctypes.c_double)
_Pair = ctypes.c_double * 2
_double_at = ctypes.c_double.from_address


class GroupTable:
    """One row for each param group: ``lr`` float64 [G] and ``hypers`` float64 [G, H].

    The table lies on the CPU. Where kernels read it, :attr:`device` has it too; then the table here
    is the host's copy, which is sent when a step begins and fetched when somebody reads a group.

    Numbers are written when a group is edited, so that a step reads the table and nothing else.
    Tensors stay the user's own: :meth:`sync` carries what was written into them into the table, and
    what was written into the table into them. Schedules are kept in :attr:`schedules`; the table
    holds the value that the last step has used, and each step begins by writing its own.

    Args:
        hyper_names: names of the columns of ``hypers``; ``betas`` fills ``beta1`` and ``beta2``.
        make_live_tensors: builds the object that keeps user tensors and the table in step.
        completed: the number of completed steps, float64 [1], by which schedules go.
        revision: what plans look at; moves on when a schedule begins or ends.
    """

    def __init__(
        self,
        hyper_names: tuple[str, ...],
        make_live_tensors: Callable[[], LiveTensors],
        completed: Tensor,
        revision: Revision,
        has_engine: bool,
    ) -> None:
        self.hyper_names = hyper_names
        self._column = {name: column for column, name in enumerate(hyper_names)}
        self._name = {_LR: "lr", **dict(enumerate(hyper_names))}
        # The column or the two columns in which the value of a key is.
        self._columns: dict[str, int | tuple[int, int]] = {"lr": _LR, **self._column}
        if "beta1" in self._columns:
            self._columns["betas"] = (self._columns.pop("beta1"), self._columns.pop("beta2"))  # type: ignore[assignment]
        #: The keys of a group whose values are in the table.
        self.keys = frozenset(self._columns)
        #: The schedules, by the places that they fill.
        self.schedules: dict[Place, Schedule] = {}
        # As functions of the step, by id, each with the schedule that keeps the id its own.
        self._compiled: dict[int, tuple[Schedule, Any]] = {}
        #: What is recorded of each step.
        self.records: list[Record] = []
        # The number that was last read in the place of a schedule: whoever swaps a hyper for a
        # while, as torch.distributed.checkpoint does, puts this very number back.
        self._read: dict[Place, tuple[float, Schedule]] = {}
        #: Whether an engine of ours moves the numbers. Fixed here: asking takes longer than a step
        #: of a scheduler.
        self.has_engine = has_engine
        #: Grows with every edit of an entry that no step reads, such as ``initial_lr``.
        self.annotations = 0
        self._completed = completed
        self._revision = revision
        # The lr tensors as they are read back, and as they were given, by group.
        self._lr_tensors: dict[int, Tensor] = {}
        self._given_lr: dict[int, Tensor] = {}
        self._live = make_live_tensors()
        self._has_live = False
        # The user's tensors, each with the one that it follows, by place.
        self._links: dict[Place, tuple[Tensor, Tensor | None]] = {}
        #: The table on each device that runs kernels.
        self.devices: dict[torch.device, DeviceTable] = {}
        #: The one of them whose numbers count; None if those of the host do.
        self.device: DeviceTable | None = None
        self._set_tables(
            torch.zeros(0, dtype=torch.float64, device="cpu"),
            torch.zeros(0, len(hyper_names), dtype=torch.float64, device="cpu"),
        )

    def _set_tables(self, lr: Tensor, hypers: Tensor) -> None:
        self._host_lr = lr
        self._host_hypers = hypers
        self._live.set_table(lr, hypers)
        for device in self.devices.values():
            device.set_table(lr, hypers)

    @property
    def lr(self) -> Tensor:
        """The learning rates that a step reads: float64 [G], on the device of the parameters."""
        return self._host_lr if self.device is None else self.device.lr

    @property
    def hypers(self) -> Tensor:
        """The other hypers that a step reads: float64 [G, H]."""
        return self._host_hypers if self.device is None else self.device.hypers

    @property
    def place(self) -> torch.device:
        """Where the table is that counts."""
        return torch.device("cpu") if self.device is None else self.device.place

    @property
    def host_tables(self) -> tuple[Tensor, Tensor]:
        """``lr`` and ``hypers`` on the CPU, which :attr:`device` may be ahead of."""
        return self._host_lr, self._host_hypers

    def move_to(self, devices: dict[torch.device, DeviceTable], device: DeviceTable | None) -> None:
        """Makes these the tables that steps read."""
        self.pull()
        self.sync()  # an edit that waits in a tensor must not get lost when it is tied anew
        self._links = {
            place: (tensor, source if self._follows_source(place) else None)
            for place, (tensor, source) in self._links.items()
        }
        for place in self._links:
            self._untie(place)
        self.devices, self.device = devices, device
        for table in devices.values():
            table.set_table(self._host_lr, self._host_hypers)
        for place, tensors in self._links.items():
            self._tie(place, *tensors)

    def take_devices_of(self, other: GroupTable) -> None:
        """Goes on with the devices of a table that this one replaces: graphs know their memory."""
        devices, device = other.devices, other.device
        if devices:
            other.move_to({}, None)
            self.move_to(devices, device)

    def set_clock(self, completed: Tensor) -> None:
        """From now on steps are counted there."""
        self._completed = completed

    def pull(self) -> None:
        """Fetches what kernels have changed; waits for them."""
        if self.device is not None:
            self.device.pull_()

    def _mark(self, index: int, column: int) -> None:
        """Tells the devices that a number was written here."""
        for device in self.devices.values():
            device.mark_(index, column)

    def _tie(self, place: Place, tensor: Tensor, source: Tensor | None) -> None:
        """Keeps a tensor and an entry of the table in step, where the tensor is."""
        self._links[place] = tensor, source
        device = self.device
        if device is not None and all(
            one is None or (one.device == device.place and one.is_floating_point())
            for one in (tensor, source)
        ):
            device.put(*place, tensor, source)
        else:
            self._has_live = True
            self._live.put(*place, tensor, source)

    def _follows_source(self, place: Place) -> bool:
        """Whether the tensor of a place still follows another one."""
        is_tied_to_device = self.device is not None and self.device.follows_source(*place)
        return is_tied_to_device or self._live.follows_source(*place)

    def _untie(self, place: Place) -> None:
        self._live.drop(*place)
        if self.device is not None:
            self.device.drop(*place)

    def _address(self, index: int, column: int) -> int:
        # Where the table lies may change behind the tensor, as in lr.share_memory_().
        if column == _LR:
            return self._host_lr.data_ptr() + _SIZE * index
        return self._host_hypers.data_ptr() + _SIZE * (index * len(self.hyper_names) + column)

    def _slot(self, index: int, column: int) -> ctypes.c_double:
        # Several times faster than indexing the tensor.
        return _double_at(self._address(index, column))

    def __len__(self) -> int:
        return self._host_lr.numel()

    def append_row(self) -> int:
        """Adds a row of zeros for a new group and returns its index."""
        self.pull()
        lr, hypers = self.host_tables
        self._set_tables(
            torch.cat([lr, lr.new_zeros(1)]),
            torch.cat([hypers, hypers.new_zeros(1, len(self.hyper_names))]),
        )
        return len(self) - 1

    def column(self, name: str) -> int:
        """The column of ``hypers`` that holds a hyper (``"beta1"``, ``"momentum"``…)."""
        return self._column[name]

    def check(self, index: int, key: str, value: Any) -> list[tuple[int, Any, float]]:
        """What ``group[key] = value`` of group ``index`` means: (column, value, number).

        Raises:
            TypeError: if the value is neither a number nor a tensor nor a schedule.
            ValueError: if a tensor has more than one element.
        """
        columns = self._columns[key]
        if isinstance(columns, int):
            return [(columns, value, self._number(index, key, value))]
        try:
            first, second = value
        except (TypeError, ValueError):
            raise TypeError(
                f"param_groups[{index}]['{key}'] must be a pair of numbers, got {value!r}"
            ) from None
        return [
            (column, one, self._number(index, key, one))
            for column, one in zip(columns, (first, second), strict=True)
        ]

    def _number(self, index: int, key: str, value: Any) -> float:
        if isinstance(value, Schedule):
            if key in _SWITCHES:
                self.refuse_schedule(index, key, value)
            return self._current_value(value)
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(
                    f"param_groups[{index}]['{key}'] must be a 1-element tensor, "
                    f"but has shape {tuple(value.shape)}"
                )
            return float(value.item())
        try:
            return float(value)
        except (TypeError, ValueError):
            raise TypeError(
                f"param_groups[{index}]['{key}'] must be a number or a 1-element tensor, "
                f"but got {value!r}"
            ) from None

    def refuse_schedule(self, index: int, key: str, schedule: Schedule) -> None:
        """Raises TypeError: a group has a schedule where none can be."""
        takers = ", ".join(sorted(self.keys - _SWITCHES))
        raise TypeError(
            f"param_groups[{index}]['{key}'] takes no schedule, but got {schedule!r}; "
            f"schedules can be given for {takers}"
        )

    def assign(self, index: int, key: str, value: Any) -> Any:
        """Takes over ``group[key] = value`` of group ``index``; raises as :meth:`check` does.

        Returns:
            What is to be stored in the dict: the value, with numbers in the place of schedules.
        """
        columns = self.check(index, key, value)
        if any(isinstance(one, Tensor) for _, one, _ in columns):
            self.sync()  # an edit that waits in a tensor must not get lost when it is tied anew
        stored: list[Any] = []
        for column, one, number in columns:
            slot = self._slot(index, column)
            slot.value = number
            if column == _LR and self._lr_tensors:
                self._lr_tensors.pop(index, None)
                self._given_lr.pop(index, None)
            if isinstance(one, Tensor):
                self._put(index, column, one)
            elif self._links.pop((index, column), None) is not None:
                self._untie((index, column))
            self._mark(index, column)
            self._follow((index, column), one)
            # A schedule may give out numbers that are constants somewhere: `slot.value` is new.
            stored.append(slot.value if isinstance(one, Schedule) else one)
        if not any(isinstance(one, Schedule) for _, one, _ in columns):
            return value
        return tuple(stored) if isinstance(self._columns[key], tuple) else stored[0]

    def _follow(self, place: Place, value: Any) -> None:
        """Begins, ends or resumes the schedule of a place to which a value was assigned."""
        if isinstance(value, Schedule):
            self._read.pop(place, None)
            self.schedules[place] = value
            self._notice_schedules()
            return
        was_read, schedule = self._read.get(place, (None, None))
        if place in self.schedules:
            if value is was_read:  # to stay as it is: not swapped for a while
                del self._read[place]
            self._end_schedule(place)
        elif schedule is not None and value is was_read:
            self.schedules[place] = schedule
            self._notice_schedules()

    def forget(self, index: int, key: str) -> None:
        """Ends the schedules of a hyper of group `index` for good."""
        columns = self._columns[key]
        for column in (columns,) if isinstance(columns, int) else columns:
            self._read.pop((index, column), None)
            self._end_schedule((index, column))

    def _end_schedule(self, place: Place) -> None:
        if self.schedules.pop(place, None) is not None:
            self._notice_schedules()

    def _notice_schedules(self) -> None:
        """Tells plans, or at once the device where graphs go on without them, of schedules."""
        self._revision.bump()
        if self.device is not None and self.device.was_captured:
            self.device.configure(self.formulas(), self.records)  # type: ignore[arg-type]

    def formulas(self) -> list[ScheduledPlaces]:
        """The schedules as functions of the step, each with the places that it fills."""
        places: dict[int, list[Place]] = {}  # by the id of the schedule
        for place, schedule in self.schedules.items():
            places.setdefault(id(schedule), []).append(place)
        compiled = self._compiled
        self._compiled = {
            id(schedule): compiled.get(id(schedule)) or (schedule, _formula_of(schedule))
            for schedule in self.schedules.values()
        }
        return [(self._compiled[key][1], filled) for key, filled in places.items()]

    def _current_value(self, schedule: Schedule) -> float:
        """The value of the last step; before the first step that of step 0."""
        return schedule(max(self._completed.item() - 1.0, 0.0))

    def refresh_schedules(self) -> None:
        """Shows the values that belong to the number of completed steps."""
        for (index, column), schedule in self.schedules.items():
            self._slot(index, column).value = self._current_value(schedule)
            self._mark(index, column)

    def schedules_of(self, index: int) -> dict[str, Schedule]:
        """The schedules of a group by the names of the hypers (``"lr"``, ``"beta1"``…)."""
        return {
            name: self.schedules[index, column]
            for column, name in self._name.items()
            if (index, column) in self.schedules
        }

    def scheduled_names(self) -> frozenset[str]:
        """The names of the hypers that can follow a schedule."""
        return frozenset(self._name.values()) - _SWITCHES

    def names_of(self, key: str) -> tuple[str, ...]:
        """The names of the hypers under a key of a group: ``("beta1", "beta2")`` for betas."""
        columns = self._columns[key]
        places = (columns,) if isinstance(columns, int) else columns
        return tuple(self._name[column] for column in places)

    def name_of(self, place: Place) -> str:
        """The name of the hyper at a place."""
        return self._name[place[1]]

    def places_to_record(self) -> list[Place]:
        """The lr of every group, and what follows a schedule."""
        lrs = [(index, _LR) for index in range(len(self))]
        others = (place for place in self.schedules if place[1] != _LR)
        return [*lrs, *sorted(others, key=lambda place: (place[1], place[0]))]

    def _put(self, index: int, column: int, tensor: Tensor) -> None:
        if column != _LR:
            self._tie((index, column), tensor, None)
            return
        # One tensor in several groups: a scheduler must be able to move each of them on its own, so
        # each gets a tensor that follows the user's until the group is written to itself.
        sharers = [other for other, given in self._given_lr.items() if given is tensor]
        if sharers:
            self.pull()  # what was written into it before belongs to all of them
        self._given_lr[index] = self._lr_tensors[index] = tensor
        if not sharers:
            self._tie((index, _LR), tensor, None)
            return
        for other in (*sharers, index):
            if self._lr_tensors[other] is tensor:
                self._lr_tensors[other] = tensor.detach().clone()
                self._tie((other, _LR), self._lr_tensors[other], tensor)

    def current(self, index: int, key: str, stored: Any) -> Any:
        """What ``group[key]`` reads, given what is stored in the dict."""
        columns = self._columns[key]
        if self.device is not None:
            self.device.pull_()
        if self._has_live:
            self._live.sync_group_(index)
        if isinstance(columns, tuple):
            first, second = stored
            numbers = _Pair.from_address(self._address(index, columns[0]))
            one, two = map(self._moved, (index, index), columns, (first, second), numbers)
            return stored if one is first and two is second else (one, two)
        return self._moved(index, columns, stored, _double_at(self._address(index, columns)).value)

    def last_known(self, index: int, key: str) -> float:
        """The number of a hyper as the host knows it, without waiting for a device."""
        return self._slot(index, self._column[key]).value

    def _moved(self, index: int, column: int, stored: Any, number: float) -> Any:
        if self._links and isinstance(stored, Tensor):
            return self._lr_tensors.get(index, stored) if column == _LR else stored
        # An int stays an int as long as nothing has moved it.
        value = stored if stored == number else number
        if self.schedules and (schedule := self.schedules.get((index, column))):
            self._read[index, column] = value, schedule
        return value

    def lr_tensors(self) -> dict[int, Tensor]:
        """The lr tensors of the groups that were given one, by group."""
        return self._lr_tensors.copy()

    def sync(self) -> None:
        """Carries what was written into the user's tensors into the table, and the other way."""
        if self._has_live:
            self._live.sync_()

    def schedule_(self, node: _backend.SchedulerNode, *call: Any) -> bool:
        """One step of a scheduler; `call` as in :func:`fusedlr._backend.schedule_`."""
        self.sync()
        if self.device is not None:
            return _backend.schedule_on_(node, self.device, *call)
        done = _backend.schedule_(node, self.lr, self.hypers, *call)
        self.sync()
        return done

    def snapshot(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """A group as a plain dict that shares no memory with the table or with live tensors."""

        def detached(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.detach().clone()
            if isinstance(value, tuple):
                return tuple(detached(one) for one in value)
            return value

        return {key: detached(value) if key in self.keys else value for key, value in group.items()}


def _formula_of(schedule: Schedule) -> Any:
    """A function of the step, of the engine if there is one."""
    program = compile_(schedule.expression)
    return _backend.new_expression(program) or functools.partial(evaluate, program)
