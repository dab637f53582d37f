"""CosineAnnealingLR."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from fusedlr.lr_scheduler.device_scheduler import EpochScheduler, nonzero


class CosineAnnealingLR(EpochScheduler, torch.optim.lr_scheduler.CosineAnnealingLR):
    r"""Anneals the lr of each group along a half cosine; past ``T_max`` it rises again.

    .. math:: \gamma_e = \eta + \tfrac{1}{2} (\gamma_0 - \eta) (1 + \cos(\pi e / T))

    computed step by step, as in torch, so that changes of the lr from outside are kept:

    .. math::
        \gamma_e = \frac{1 + \cos(\pi e / T)}{1 + \cos(\pi (e - 1) / T)}
            (\gamma_{e-1} - \eta) + \eta

    Args:
        optimizer: a fused optimizer (on any other, torch's own implementation runs).
        T_max: epochs :math:`T` until the minimum, not 0.
        eta_min: the minimum :math:`\eta`.
        last_epoch: the index of the last epoch, when resuming; -1 starts anew.

    Raises:
        ValueError: if ``T_max`` is 0 (torch: ZeroDivisionError in the middle of training).

    Example:
        >>> import torch, fusedlr
        >>> optimizer = fusedlr.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> scheduler = fusedlr.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
        >>> for epoch in range(4):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.get_last_lr()
        [0.0]

    References:
        Loshchilov & Hutter, "SGDR", https://arxiv.org/abs/1608.03983;
        :class:`torch.optim.lr_scheduler.CosineAnnealingLR`.
    """

    _kind = "cosine_annealing"

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        nonzero("T_max", T_max)
        super().__init__(optimizer, T_max, eta_min, last_epoch)

    def _parameters(self) -> dict[str, Any]:
        return {"T_max": nonzero("T_max", self.T_max), "eta_min": self.eta_min}
