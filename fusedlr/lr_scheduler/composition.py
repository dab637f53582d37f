"""Schedulers that are made of other schedulers: the engine steps the whole tree in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from fusedlr import _backend
from fusedlr.lr_scheduler.device_scheduler import DeviceScheduler, device_table
from fusedlr.optim.group_table import GroupTable


class CompositeScheduler(DeviceScheduler):
    """Base of SequentialLR and ChainedScheduler; comes before the torch class."""

    _column_names: ClassVar[tuple[str, ...]] = ()
    _counts_steps: ClassVar[bool] = False
    _own_fields: ClassVar[tuple[str, ...]] = (*DeviceScheduler._own_fields, "_child_nodes")

    _schedulers: Any
    _child_nodes: tuple[_backend.SchedulerNode, ...] = ()

    def _columns(self, table: GroupTable) -> tuple[Sequence[Any], ...]:
        return ()

    def _runs_on_device(self) -> bool:
        return super()._runs_on_device() and all(
            isinstance(scheduler, DeviceScheduler)
            and scheduler.optimizer is self.optimizer
            and scheduler._runs_on_device()
            for scheduler in self._schedulers
        )

    def _configured_node(self, table: GroupTable, epoch: Any = None) -> _backend.SchedulerNode:
        children = tuple(scheduler._configured_node(table) for scheduler in self._schedulers)
        node = super()._configured_node(table, epoch)
        if children != self._child_nodes:  # the list was edited, or a scheduler copied
            self._child_nodes = children
            node.set_children_(children)
        return node

    def _remember_tensors(self, tensors: Mapping[int, Tensor]) -> None:
        super()._remember_tensors(tensors)
        for scheduler in self._schedulers:
            scheduler._remember_tensors(tensors)

    def step(self) -> None:  # type: ignore[override]
        """Steps the schedulers that it is made of, all in one call of the engine."""
        table = device_table(self.optimizer)
        # As long as the optimizer has not stepped, torch's classes call each other, and warn.
        has_stepped = getattr(self.optimizer, "_opt_called", False) and hasattr(
            self.optimizer.step, "_wrapped_by_lr_sched"
        )
        if table is None or not has_stepped or not self._runs_on_device():
            self._step_in_parts(table)
            return
        try:
            done = self._move(table)
        except FloatingPointError:  # a part must call a function of the user's
            done = False
        if not done:
            self._step_in_parts(table)

    def _step_in_parts(self, table: GroupTable | None) -> None:
        """Lets torch's class step the schedulers, one after the other."""
        if table is not None and table.device is not None and table.device.is_capturing:
            raise RuntimeError(
                f"this {type(self).__name__} cannot be captured in a graph: the host has to step "
                "its parts one by one, because the optimizer has not stepped before, or a part is "
                "no scheduler of fusedlr, has a formula or a step() of its own, calls functions on "
                "the host, or comes twice"
            )
        super().step()
