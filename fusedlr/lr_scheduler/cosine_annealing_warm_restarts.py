"""CosineAnnealingWarmRestarts."""

from __future__ import annotations

import math
from typing import Any

import torch

from fusedlr.lr_scheduler.device_field import DeviceField
from fusedlr.lr_scheduler.device_scheduler import EpochScheduler, device_table


class CosineAnnealingWarmRestarts(
    EpochScheduler, torch.optim.lr_scheduler.CosineAnnealingWarmRestarts
):
    r"""Anneals the lr of each group along a half cosine, again and again.

    .. math:: \gamma = \eta + \tfrac{1}{2} (\gamma_0 - \eta) (1 + \cos(\pi T_{cur} / T_i))

    where :math:`T_{cur}` counts epochs since the last restart and :math:`T_i` is the length of the
    present period: first ``T_0``, then ``T_mult`` times the one before.

    Args:
        optimizer: a fused optimizer (on any other, torch's own implementation runs).
        T_0: epochs of the first period, an int above 0.
        T_mult: growth of the period, an int of at least 1.
        eta_min: the minimum :math:`\eta`.
        last_epoch: the index of the last epoch, when resuming; -1 starts anew.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch, fusedlr
        >>> optimizer = fusedlr.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> scheduler = fusedlr.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2)
        >>> for epoch in range(2):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.get_last_lr()
        [1.0]
        >>> scheduler.step(2.5)
        >>> scheduler.T_cur
        0.5

    References:
        Loshchilov & Hutter, "SGDR", https://arxiv.org/abs/1608.03983;
        :class:`torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`.
    """

    _kind = "warm_restarts"
    _counts_steps = False

    T_cur = DeviceField()
    T_i = DeviceField()

    def _parameters(self) -> dict[str, Any]:
        return {"T_0": self.T_0, "T_mult": self.T_mult, "eta_min": self.eta_min}

    def step(self, epoch: Any = None) -> None:
        """Goes to the next epoch, or to `epoch`, which may be a fraction, forwards or backwards.

        Raises:
            ValueError: if `epoch` is negative.
        """
        table = device_table(self.optimizer) if self._has_formula() else None
        if table is None or (epoch is not None and not 0 <= epoch < math.inf):  # torch raises
            super(EpochScheduler, self).step(epoch)
            return
        self._get_lr_called_within_step = False
        self._move(table, epoch, is_jump=epoch is not None)
