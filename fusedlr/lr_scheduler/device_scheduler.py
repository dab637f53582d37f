"""What the schedulers share: one engine call moves the lr of all groups."""

from __future__ import annotations

from typing import Any

import torch.optim.lr_scheduler as torch_scheduler
from torch import Tensor
from torch.optim import Optimizer

from fusedlr import _backend
from fusedlr.optim.group_table import GroupTable


def device_table(optimizer: Optimizer) -> GroupTable | None:
    """The group table of a fused optimizer whose engine can move its lr; None for any other."""
    table = getattr(optimizer, "_table", None)
    if not isinstance(table, GroupTable) or _backend.engine_for("cpu")[0] == "torch":
        return None
    if len(table) != len(optimizer.param_groups):
        optimizer._adopt_groups()  # type: ignore[attr-defined]
        table = optimizer._table  # type: ignore[attr-defined]
    return table


class DeviceScheduler(torch_scheduler.LRScheduler):
    """Base of the schedulers; comes before the torch class whose arguments and state it keeps.

    The torch class counts epochs, warns and raises. Where its ``get_lr`` would compute new floats
    in a loop over groups, the engine moves the optimizer's lr tensor, by the same formulas in the
    same precision. On an optimizer of torch.optim, torch's own implementation runs.
    """

    # Not part of torch's state_dict.
    _own_fields = ("_lr_snapshot",)

    # The lr of all groups after the last step, if `_last_lr` has not been read since.
    _lr_snapshot: Tensor | None = None

    @property
    def _last_lr(self) -> list[Any]:
        if self._lr_snapshot is not None:
            values = self._lr_snapshot.tolist()
            self._lr_snapshot = None
            self.__dict__["_last_lr"] = [
                group["lr"].detach().clone().fill_(value)
                if isinstance(group["lr"], Tensor)
                else value
                for group, value in zip(self.optimizer.param_groups, values, strict=False)
            ]
        try:
            return self.__dict__["_last_lr"]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError("_last_lr") from None

    @_last_lr.setter
    def _last_lr(self, values: list[Any]) -> None:
        self._lr_snapshot = None
        self.__dict__["_last_lr"] = values

    def _finish_move(self, table: GroupTable) -> None:
        """Makes a move of the lr tensor known to the user's tensors and to ``get_last_lr``."""
        table.publish()
        self._lr_snapshot = table.lr.clone()

    def state_dict(self) -> dict[str, Any]:
        """The state, with the keys of the torch class; loads there, and the other way round."""
        if self._lr_snapshot is not None:
            _ = self._last_lr
        state: dict[str, Any] = super().state_dict()
        return {key: value for key, value in state.items() if key not in self._own_fields}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state of this class or of the torch class of the same name."""
        self._lr_snapshot = None
        super().load_state_dict(state_dict)


class EpochScheduler(DeviceScheduler):
    """A scheduler whose lr depends on the epoch."""

    # Whether `step(epoch)` has a closed form.
    _has_closed_form = True
    # Whether a subclass of the user's has a get_lr of its own, which must be called then.
    _brings_own_formula = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        owner = next(base for base in cls.__mro__ if "get_lr" in base.__dict__)
        cls._brings_own_formula = not owner.__module__.startswith(("fusedlr.", "torch.optim."))

    def _move(self, table: GroupTable, epoch: Any, closed_form: bool) -> None:
        """Moves the lr of all groups to `epoch`."""
        raise NotImplementedError

    def _update_lr(self, epoch: Any = None) -> None:
        table = device_table(self.optimizer)
        if table is None or self._brings_own_formula:
            super()._update_lr(epoch)
            return
        table.refresh()
        new_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._move(table, new_epoch, closed_form=epoch is not None and self._has_closed_form)
        self.last_epoch = new_epoch
        self._finish_move(table)


class FormulaScheduler(EpochScheduler):
    """A scheduler whose formula is in ``csrc/math/schedule.h``."""

    #: The name in ``ScheduleKind``.
    _kind: str

    def _parameters(self) -> dict[str, Any]:
        """The fields of ``ScheduleOp`` that the formula reads."""
        raise NotImplementedError

    def _move(self, table: GroupTable, epoch: Any, closed_form: bool) -> None:
        _backend.schedule_(
            table.lr,
            self._kind,
            self._parameters(),
            self.base_lrs,
            epoch,
            is_initial=self._is_initial,
            is_restarted=self._step_count == 1 and epoch > 0,
            closed_form=closed_form,
        )
