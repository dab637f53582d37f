"""What the schedulers share: one engine call moves the lr of all groups."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar

import torch.optim.lr_scheduler as torch_scheduler
from torch import Tensor
from torch.optim import Optimizer

from fusedlr import _backend
from fusedlr._stack import user_stacklevel
from fusedlr.lr_scheduler.device_field import DeviceField
from fusedlr.optim.group_table import GroupTable


def device_table(optimizer: Optimizer) -> GroupTable | None:
    """The group table of a fused optimizer whose engine can move its lr; None for any other."""
    table = getattr(optimizer, "_table", None)
    if not isinstance(table, GroupTable) or not table.has_engine:
        return None
    placed: GroupTable = optimizer._placed_table()  # type: ignore[attr-defined]
    return placed


def refuse_scheduled_groups(optimizer: Optimizer, *names: str | None) -> None:
    """Raises ValueError if one of these hypers follows a schedule: two masters for one number."""
    for index, group in enumerate(optimizer.param_groups):
        schedules = getattr(group, "schedules", {})
        for name in filter(schedules.get, names):
            raise ValueError(
                f"{name!r} of param_groups[{index}] follows the schedule {schedules[name]!r}; a "
                "scheduler cannot move it as well; give the group a number, or multiply schedules "
                "instead of building a scheduler"
            )


def nonzero(name: str, value: float) -> float:
    """`value`, a divisor of a scheduler; raises ValueError if it is 0."""
    if value == 0:
        raise ValueError(f"{name} must not be 0, but got {value}")
    return value


class DeviceScheduler(torch_scheduler.LRScheduler):
    """Base of the schedulers; comes before the torch class whose arguments and state it keeps.

    The torch class validates, warns and raises. Where it would compute new floats in a loop over
    groups, the engine moves the optimizer's lr tensor, by the same formulas in the same precision.
    On an optimizer of torch.optim, or where a subclass brings a formula of its own, torch's own
    implementation runs.
    """

    #: The name of the formula in ``csrc/math/schedule.h``, or of a composition.
    _kind: ClassVar[str]
    #: What the columns are, for error messages; see :meth:`_columns`.
    _column_names: ClassVar[tuple[str, ...]] = ("base_lrs",)
    #: Whether ``step`` counts in ``_step_count``, as in most classes of torch.
    _counts_steps: ClassVar[bool] = True
    #: The methods in which torch has the formula: a subclass that overrides one is on its own.
    _formula_methods: ClassVar[tuple[str, ...]] = ("get_lr", "_get_closed_form_lr", "_update_lr")
    _has_own_formula: ClassVar[bool] = False
    _has_own_step: ClassVar[bool] = False

    # What belongs to one instance and its engine: not in a state_dict, not in a copy or pickle.
    _own_fields: ClassVar[tuple[str, ...]] = ("_node", "_moves_read", "_table_seen", "_lr_tensors")

    last_epoch = DeviceField()
    _step_count = DeviceField()

    _node: _backend.SchedulerNode | None = None
    # How many moves of the node `_last_lr` has seen.
    _moves_read = 0
    # What the node's table was made from.
    _table_seen: Any = None
    # The groups whose lr was a tensor in the last step, with that tensor.
    _lr_tensors: Mapping[int, Tensor] = MappingProxyType({})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A subclass that saves and loads by itself will look into `__dict__`, which is behind as
        # soon as an engine has stepped.
        methods = (*cls._formula_methods, "state_dict", "load_state_dict")
        cls._has_own_formula = not all(map(cls._is_of_library, methods))
        cls._has_own_step = not cls._is_of_library("step")

    @classmethod
    def _is_of_library(cls, method: str) -> bool:
        owners = (base for base in cls.__mro__ if method in base.__dict__)
        return next(owners, DeviceScheduler).__module__.startswith(("fusedlr.", "torch.optim."))

    # What a class tells of its formula

    def _parameters(self) -> dict[str, Any]:
        """The numbers that the formula reads, by the names of ``csrc/math/schedule.h``."""
        return {}

    def _columns(self, table: GroupTable) -> tuple[Sequence[Any], ...]:
        """The numbers that each group has of its own: for each name of a column a sequence."""
        return (self.base_lrs,)

    def _momentum_name(self) -> str | None:
        """The hyper that the scheduler moves beside the lr, if any."""
        return None

    def _table_source(self) -> Any:
        """What :meth:`_table` is made from, to be compared with what it was made from before."""
        return None

    def _table(self) -> list[float]:
        """A list of any length that the formula reads, such as milestones."""
        return []

    def _prepare(self, node: _backend.SchedulerNode, epoch: Any) -> None:
        """Gives the node what else it needs for the step to `epoch` (None: the next)."""

    def _call_functions(self, node: _backend.SchedulerNode, epoch: Any) -> bool:
        """Gives the node the values of the user's functions, if it has any, for one step."""
        return False

    def _has_formula(self) -> bool:
        """Whether the engine's formula is what this scheduler computes."""
        return not self._has_own_formula

    def _runs_on_device(self) -> bool:
        """Whether the engine can step this scheduler as a part of another one."""
        return self._has_formula() and not self._has_own_step and "step" not in vars(self)

    # The engine's part

    def _configured_node(self, table: GroupTable, epoch: Any = None) -> _backend.SchedulerNode:
        """This scheduler's node, up to date with all attributes that a user may have changed."""
        node = self._node
        if node is None:
            node = _backend.new_scheduler_node(self._kind, self._column_names, self._counts_steps)
            self._node, self._table_seen = node, None
            self._push_fields()
            self._join_optimizer()
        momentum = self._momentum_name()
        column = -1 if momentum is None else table.column(momentum)
        node.configure_(self._parameters(), self._columns(table), column)
        source = self._table_source()
        if source is not None and source != self._table_seen:
            self._table_seen = deepcopy(source)
            node.set_table_(self._table())
        self._prepare(node, epoch)
        return node

    @classmethod
    def _field_names(cls) -> list[str]:
        """The attributes that live in the engine's memory."""
        return [
            name
            for base in cls.__mro__
            for name, value in vars(base).items()
            if isinstance(value, DeviceField)
        ]

    def _push_fields(self) -> None:
        """Writes the fields of the instance into the engine's memory."""
        if self._node is None:
            return
        self._moves_read = self._node.num_moves
        for name in self._field_names():
            if name in self.__dict__:
                self._node.write_(name, float(self.__dict__[name]))

    def _pull_fields(self) -> dict[str, Any]:
        """The instance's ``__dict__``, with what the engine has changed."""
        for name in self._field_names():
            if name in self.__dict__:
                getattr(self, name)
        if self._node is not None:
            _ = self._last_lr
        return self.__dict__

    def _move(
        self,
        table: GroupTable,
        epoch: Any = None,
        *,
        is_initial: bool = False,
        is_jump: bool = False,
        counts: bool = False,
        metric: Any = None,
    ) -> bool:
        """One step: moves the lr of all groups, and what belongs to it.

        Returns whether it was done: the engine cannot step a scheduler twice in one call.
        """
        node = self._configured_node(table, epoch)
        call = (epoch, is_initial, is_jump, counts, metric)
        try:
            done = table.schedule_(node, *call)
        except FloatingPointError:
            # A function of the user's has no finite value here: it is asked itself, and may raise.
            if not self._call_functions(node, epoch):
                raise
            done = table.schedule_(node, *call)
        self._remember_tensors(table.lr_tensors())
        return done

    def _join_optimizer(self) -> None:
        """Lets ``optimizer.materialize()`` prepare this scheduler, too."""
        if device_table(self.optimizer) is not None:
            self.optimizer._schedulers.add(self)  # type: ignore[attr-defined]

    def _materialize(self) -> None:
        """Brings to the device what steps read, so that one can be captured, or replayed."""
        table = device_table(self.optimizer)
        if table is not None and table.device is not None and self._runs_on_device():
            _backend.materialize_scheduler_(self._configured_node(table), table.device)

    # The lr after the last step

    @property
    def _last_lr(self) -> list[Any]:
        node = self._node
        if node is not None and node.num_moves != self._moves_read:
            self._moves_read = node.num_moves
            self.__dict__["_last_lr"] = self._typed(node.read_last_lr())
        try:
            return self.__dict__["_last_lr"]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError("_last_lr") from None

    @_last_lr.setter
    def _last_lr(self, values: list[Any]) -> None:
        if self._node is not None:
            self._moves_read = self._node.num_moves
        self.__dict__["_last_lr"] = values

    def _typed(self, values: list[Any]) -> list[Any]:
        """Learning rates in the type of each group's: an int, a float, or a tensor."""
        for index, group in enumerate(self.optimizer.param_groups[: len(values)]):
            # An int stays an int as long as nothing has moved it.
            stored = dict.get(group, "lr")
            if isinstance(stored, int) and stored == values[index]:
                values[index] = stored
        for index, tensor in self._lr_tensors.items():
            values[index] = tensor.detach().clone().fill_(values[index])
        return values

    def _remember_tensors(self, tensors: Mapping[int, Tensor]) -> None:
        self._lr_tensors = tensors

    # Saving and loading

    def state_dict(self) -> dict[str, Any]:
        """The state, with the keys of the torch class; loads there, and the other way round."""
        self._pull_fields()
        state: dict[str, Any] = super().state_dict()
        return {key: value for key, value in state.items() if key not in self._own_fields}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state of this class or of the torch class of the same name."""
        super().load_state_dict(state_dict)
        self._push_fields()
        if self._node is not None and self._node.was_captured:
            self._materialize()  # the next replay is to know it

    def __getstate__(self) -> dict[str, Any]:
        fields = self._pull_fields()
        return {key: value for key, value in fields.items() if key not in self._own_fields}


class EpochScheduler(DeviceScheduler):
    """A scheduler whose lr depends on the epoch."""

    def _initial_step(self) -> None:
        try:
            refuse_scheduled_groups(self.optimizer, "lr", self._momentum_name())
        except ValueError:
            # The constructor of torch has noted the lr already: another scheduler would go by that.
            for group in self.optimizer.param_groups:
                if "lr" in getattr(group, "schedules", {}):
                    group.pop("initial_lr", None)
            raise
        super()._initial_step()

    def step(self, epoch: Any = None) -> None:
        """Goes to the next epoch; or to `epoch`, which torch has deprecated, by the closed form."""
        table = device_table(self.optimizer) if self._has_formula() else None
        if table is None:
            super().step(epoch)
            return
        node = self._node
        if node.has_only_begun if node is not None else self._step_count == 1:
            self._warn_of_order()
        if epoch is not None:
            warnings.warn(torch_scheduler.EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=2)
        self._get_lr_called_within_step = False
        self._move(table, epoch, is_initial=self._is_initial, counts=True)

    def _warn_of_order(self) -> None:
        """Warns as torch does if the optimizer has not stepped yet."""
        at_first = SimpleNamespace(
            optimizer=self.optimizer, _step_count=1, _update_lr=lambda epoch: None
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch_scheduler.LRScheduler.step(at_first)  # type: ignore[arg-type]
        for warning in caught:
            warnings.warn(warning.message, stacklevel=user_stacklevel())

    def _update_lr(self, epoch: Any = None) -> None:
        table = device_table(self.optimizer) if self._has_formula() else None
        if table is None:
            super()._update_lr(epoch)
            return
        self._get_lr_called_within_step = False
        self._move(table, epoch, is_initial=self._is_initial)
