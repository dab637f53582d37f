"""ReduceLROnPlateau."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import EPOCH_DEPRECATION_WARNING

from fusedlr.lr_scheduler.device_field import DeviceField
from fusedlr.lr_scheduler.device_scheduler import (
    DeviceScheduler,
    device_table,
    refuse_scheduled_groups,
)
from fusedlr.optim.group_table import GroupTable


class ReduceLROnPlateau(DeviceScheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
    r"""Reduces the lr of each group when a metric has stopped improving.

    .. math:: \gamma \leftarrow \max(f \gamma, \gamma_{\min})

    after more than ``patience`` epochs without improvement, if that changes it by more than
    ``eps``.

    Args:
        optimizer: a fused optimizer (on any other, torch's own implementation runs).
        mode: ``"min"`` or ``"max"``: the direction of improvement.
        factor: :math:`f < 1`.
        patience: epochs without improvement that are tolerated.
        threshold, threshold_mode: by how much (``"rel"``: of the best, or ``"abs"``) a metric must
            be better than the best to count as an improvement.
        cooldown: epochs after a reduction in which bad epochs do not count.
        min_lr: :math:`\gamma_{\min}`, a number or a list with one for each group.
        eps: the smallest reduction.

    Raises:
        ValueError: if ``factor`` is not below 1, a mode is unknown, or ``min_lr`` has another
            length.

    Example:
        >>> import torch, fusedlr
        >>> optimizer = fusedlr.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> scheduler = fusedlr.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
        >>> for loss in (1.0, 1.0, 1.0):
        ...     scheduler.step(loss)
        >>> scheduler.get_last_lr()
        [0.5]

    Source: :class:`torch.optim.lr_scheduler.ReduceLROnPlateau`.
    """

    _kind = "plateau"
    _counts_steps = False
    _column_names = ("min_lrs",)
    _formula_methods = ("_is_better", "_reduce_lr")

    best = DeviceField(always_float=True)
    num_bad_epochs = DeviceField()
    cooldown_counter = DeviceField()

    def _reset(self) -> None:
        refuse_scheduled_groups(self.optimizer, "lr")
        super()._reset()
        self._join_optimizer()

    def _parameters(self) -> dict[str, Any]:
        return {
            "factor": self.factor,
            "patience": self.patience,
            "cooldown": self.cooldown,
            "eps": self.eps,
            "seeks_maximum": self.mode == "max",
            "threshold": self.threshold,
            "is_relative": self.threshold_mode == "rel",
        }

    def _columns(self, table: GroupTable) -> tuple[Sequence[Any], ...]:
        if len(self.min_lrs) != len(table) and self.default_min_lr is not None:
            return ([self.default_min_lr] * len(table),)
        return (self.min_lrs,)

    def step(self, metrics: Any, epoch: Any = None) -> None:  # type: ignore[override]
        """Tells the scheduler the metric of one epoch: a number or a tensor of one element.

        A tensor is read by the engine; the host does not wait for it.
        """
        table = device_table(self.optimizer) if self._has_formula() else None
        if table is None or (self.default_min_lr is None and len(self.min_lrs) != len(table)):
            super().step(metrics, epoch)
            return
        if epoch is not None:
            warnings.warn(EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=2)
        is_single = isinstance(metrics, torch.Tensor) and metrics.numel() == 1
        metric = metrics if is_single else float(metrics)
        self._move(table, epoch, metric=metric)
        has_grown = len(self.min_lrs) != len(table) and self.default_min_lr is not None
        if has_grown and self._node is not None and self._node.may_have_moved:
            self.min_lrs = list(self._columns(table)[0])  # as torch does when it reduces
