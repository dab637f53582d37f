"""MultiStepLR."""

from __future__ import annotations

from typing import Any

import torch

from fusedlr.lr_scheduler.device_scheduler import EpochScheduler


class MultiStepLR(EpochScheduler, torch.optim.lr_scheduler.MultiStepLR):
    r"""Multiplies the lr of each group by ``gamma`` at each milestone.

    .. math:: \gamma_e = \gamma_{e-1} \cdot g^{\#\{m : m = e\}}

    Args:
        optimizer: a fused optimizer (on any other, torch's own implementation runs).
        milestones: epochs; one that is listed twice counts twice.
        gamma: factor :math:`g`.
        last_epoch: the index of the last epoch, when resuming; -1 starts anew.

    Example:
        >>> import torch, fusedlr
        >>> optimizer = fusedlr.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> scheduler = fusedlr.lr_scheduler.MultiStepLR(optimizer, milestones=[1, 3], gamma=0.5)
        >>> lrs = []
        >>> for epoch in range(4):
        ...     optimizer.step()
        ...     scheduler.step()
        ...     lrs += scheduler.get_last_lr()
        >>> lrs
        [0.5, 0.5, 0.25, 0.25]

    Source: :class:`torch.optim.lr_scheduler.MultiStepLR`.
    """

    _kind = "multi_step"

    def _parameters(self) -> dict[str, Any]:
        return {"gamma": self.gamma}

    def _table_source(self) -> Any:
        return self.milestones

    def _table(self) -> list[float]:
        return sorted(self.milestones.elements())
