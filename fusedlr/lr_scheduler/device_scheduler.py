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
    if not optimizer._groups_are_adopted():  # type: ignore[attr-defined]
        optimizer._adopt_groups()  # type: ignore[attr-defined]
    adopted: GroupTable = optimizer._table  # type: ignore[attr-defined]
    return adopted


def _is_of_library(cls: type, name: str) -> bool:
    """Whether method `name` of a scheduler class, if it has one, is torch's or ours."""
    owners = (base for base in cls.__mro__ if name in base.__dict__)
    return next(owners, DeviceScheduler).__module__.startswith(("fusedlr.", "torch.optim."))


def nonzero(name: str, value: float) -> float:
    """`value`, a period of a scheduler; raises ValueError if it is 0."""
    if value == 0:
        raise ValueError(f"{name} must not be 0, but got {value}")
    return value


class DeviceScheduler(torch_scheduler.LRScheduler):
    """Base of the schedulers; comes before the torch class whose arguments and state it keeps.

    The torch class counts epochs, warns and raises. Where its ``get_lr`` would compute new floats
    in a loop over groups, the engine moves the optimizer's lr tensor, by the same formulas in the
    same precision. On an optimizer of torch.optim, torch's own implementation runs.
    """

    # Not part of torch's state_dict.
    _own_fields = ("_lr_snapshot",)

    # The lr of all groups after the last step, and those of their tensors; None once `_last_lr` has
    # been read.
    _lr_snapshot: tuple[Tensor, dict[int, Tensor]] | None = None

    @property
    def _last_lr(self) -> list[Any]:
        if self._lr_snapshot is not None:
            snapshot, tensors = self._lr_snapshot
            self._lr_snapshot = None
            values: list[Any] = snapshot.tolist()
            for index, group in enumerate(self.optimizer.param_groups[: len(values)]):
                # An int stays an int as long as nothing has moved it.
                stored = dict.get(group, "lr")
                if isinstance(stored, int) and stored == values[index]:
                    values[index] = stored
            for index, tensor in tensors.items():
                values[index] = tensor.detach().clone().fill_(values[index])
            self.__dict__["_last_lr"] = values
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
        table.sync()
        self._lr_snapshot = table.lr.clone(), table.lr_tensors()

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
    # Whether a subclass of the user's has a formula of its own, which must be called then.
    _brings_own_formula = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        formulas = ("get_lr", "_get_closed_form_lr")
        cls._brings_own_formula = not all(_is_of_library(cls, name) for name in formulas)

    def _move(self, table: GroupTable, epoch: Any, closed_form: bool) -> None:
        """Moves the lr of all groups to `epoch`."""
        raise NotImplementedError

    def _update_lr(self, epoch: Any = None) -> None:
        table = device_table(self.optimizer)
        if table is None or self._brings_own_formula:
            super()._update_lr(epoch)
            return
        table.sync()
        closed_form = epoch is not None and self._has_closed_form
        last_epoch = self.last_epoch
        self.last_epoch = last_epoch + 1 if epoch is None else epoch
        self._get_lr_called_within_step = False
        try:
            self._move(table, self.last_epoch, closed_form)
        except Exception:
            self.last_epoch = last_epoch
            raise
        self._finish_move(table)


class FormulaScheduler(EpochScheduler):
    """A scheduler whose formula is in ``csrc/math/schedule.h``."""

    #: The name in ``ScheduleKind``.
    _kind: str

    def _parameters(self, epoch: Any, closed_form: bool) -> dict[str, Any]:
        """The fields of ``ScheduleOp`` that the formula reads for the step to `epoch`."""
        raise NotImplementedError

    def _move(self, table: GroupTable, epoch: Any, closed_form: bool) -> None:
        _backend.schedule_(
            table.lr,
            self._kind,
            self._parameters(epoch, closed_form),
            self.base_lrs,
            epoch,
            is_initial=self._is_initial,
            is_restarted=self._step_count == 1 and epoch > 0,
            closed_form=closed_form,
        )
