"""PolynomialLR."""

from __future__ import annotations

from typing import Any

import torch

from fusedlr.lr_scheduler.device_scheduler import EpochScheduler


class PolynomialLR(EpochScheduler, torch.optim.lr_scheduler.PolynomialLR):
    r"""Decays the lr of each group to 0 at epoch ``total_iters``, along a power of what is left.

    .. math:: \gamma_e = \gamma_0 \left(1 - \frac{\min(e, T)}{T}\right)^p

    computed step by step, as in torch, so that changes of the lr from outside are kept.

    Args:
        optimizer: a fused optimizer (on any other, torch's own implementation runs).
        total_iters: the epoch :math:`T` at which the lr is 0.
        power: :math:`p`.
        last_epoch: the index of the last epoch, when resuming; -1 starts anew.

    With ``total_iters=0``, where torch raises ZeroDivisionError when it needs the formula above (in
    ``step(epoch)``, and as a later part of SequentialLR), the lr is 0 at once.

    Example:
        >>> import torch, fusedlr
        >>> optimizer = fusedlr.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> scheduler = fusedlr.lr_scheduler.PolynomialLR(optimizer, total_iters=4)
        >>> lrs = scheduler.get_last_lr()
        >>> for epoch in range(2):
        ...     optimizer.step()
        ...     scheduler.step()
        ...     lrs += scheduler.get_last_lr()
        >>> [round(lr, 12) for lr in lrs]
        [1.0, 0.75, 0.5]

    Source: :class:`torch.optim.lr_scheduler.PolynomialLR`.
    """

    _kind = "polynomial"

    def _parameters(self) -> dict[str, Any]:
        return {"total_iters": self.total_iters, "power": self.power}
