"""ExponentialLR."""

from __future__ import annotations

from typing import Any

import torch

from fusedlr.lr_scheduler.device_scheduler import EpochScheduler


class ExponentialLR(EpochScheduler, torch.optim.lr_scheduler.ExponentialLR):
    r"""Multiplies the lr of each group by ``gamma`` every epoch.

    .. math:: \gamma_e = \gamma_{e-1} \cdot g

    Args:
        optimizer: a fused optimizer (on any other, torch's own implementation runs).
        gamma: factor :math:`g`.
        last_epoch: the index of the last epoch, when resuming; -1 starts anew.

    Example:
        >>> import torch, fusedlr
        >>> optimizer = fusedlr.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> scheduler = fusedlr.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        >>> for epoch in range(3):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.get_last_lr()
        [0.125]

    Source: :class:`torch.optim.lr_scheduler.ExponentialLR`.
    """

    _kind = "exponential"

    def _parameters(self) -> dict[str, Any]:
        return {"gamma": self.gamma}
