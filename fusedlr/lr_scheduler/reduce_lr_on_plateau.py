"""ReduceLROnPlateau."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.optim.lr_scheduler import EPOCH_DEPRECATION_WARNING

from fusedlr import _backend
from fusedlr.lr_scheduler.device_scheduler import DeviceScheduler, device_table


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

    def step(self, metrics: Any, epoch: Any = None) -> None:  # type: ignore[override]
        """Tells the scheduler the metric of one epoch: a number or a tensor of one element."""
        table = device_table(self.optimizer)
        if table is None:
            super().step(metrics, epoch)
            return
        current = float(metrics)
        if epoch is not None:
            warnings.warn(EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=2)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch

        if self._is_better(current, self.best):  # type: ignore[no-untyped-call]
            self.best = current
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0  # bad epochs do not count in cooldown

        table.sync()
        if self.num_bad_epochs > self.patience:
            self._reduce_lr(self.last_epoch)
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._finish_move(table)

    def _reduce_lr(self, epoch: Any) -> None:
        table = device_table(self.optimizer)
        lowest = self.default_min_lr
        if table is None or (len(self.min_lrs) != len(table) and lowest is None):
            super()._reduce_lr(epoch)
            return
        if len(self.min_lrs) != len(table) and lowest is not None:
            self.min_lrs = [lowest] * len(table)
        _backend.schedule_plateau_(table.lr, self.factor, self.min_lrs, self.eps)
