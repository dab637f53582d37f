"""ConstantLR."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from fusedlr.lr_scheduler.device_scheduler import EpochScheduler, nonzero


class ConstantLR(EpochScheduler, torch.optim.lr_scheduler.ConstantLR):
    r"""Scales the lr of each group by ``factor`` until epoch ``total_iters``.

    .. math:: \gamma_e = f \gamma_0 \text{ for } e < T, \quad \gamma_e = \gamma_0 \text{ after}

    Args:
        optimizer: a fused optimizer (on any other, torch's own implementation runs).
        factor: :math:`f`, above 0 (unless ``total_iters`` is 0) and at most 1.
        total_iters: the epoch :math:`T` at which the factor ends.
        last_epoch: the index of the last epoch, when resuming; -1 starts anew.

    Raises:
        ValueError: if ``factor`` is not between 0 and 1, or is 0 (torch divides by it in the middle
            of training, and raises ZeroDivisionError).

    Example:
        >>> import torch, fusedlr
        >>> optimizer = fusedlr.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> scheduler = fusedlr.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=2)
        >>> lrs = scheduler.get_last_lr()
        >>> for epoch in range(2):
        ...     optimizer.step()
        ...     scheduler.step()
        ...     lrs += scheduler.get_last_lr()
        >>> lrs
        [0.5, 0.5, 1.0]

    Source: :class:`torch.optim.lr_scheduler.ConstantLR`.
    """

    _kind = "constant"

    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 1.0 / 3,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        self._check(factor, total_iters)
        super().__init__(optimizer, factor, total_iters, last_epoch)

    @staticmethod
    def _check(factor: float, total_iters: int) -> None:
        if total_iters > 0:
            nonzero("factor", factor)

    def _parameters(self) -> dict[str, Any]:
        self._check(self.factor, self.total_iters)
        return {"factor": self.factor, "total_iters": self.total_iters}
