"""StepLR."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from fusedlr.lr_scheduler.device_scheduler import EpochScheduler, nonzero


class StepLR(EpochScheduler, torch.optim.lr_scheduler.StepLR):
    r"""Multiplies the lr of each group by ``gamma`` every ``step_size`` epochs.

    .. math:: \gamma_e = \gamma_{e-1} \cdot g \text{ if } e \bmod s = 0, e > 0

    Args:
        optimizer: a fused optimizer (on any other, torch's own implementation runs).
        step_size: period :math:`s` in epochs, not 0.
        gamma: factor :math:`g`.
        last_epoch: the index of the last epoch, when resuming; -1 starts anew.

    Raises:
        ValueError: if ``step_size`` is 0 (torch: ZeroDivisionError in the middle of training).

    Example:
        >>> import torch, fusedlr
        >>> optimizer = fusedlr.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.05)
        >>> scheduler = fusedlr.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        >>> for epoch in range(4):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.get_last_lr()
        [0.0125]

    Source: :class:`torch.optim.lr_scheduler.StepLR`.
    """

    _kind = "step"

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        nonzero("step_size", step_size)
        super().__init__(optimizer, step_size, gamma, last_epoch)

    def _parameters(self) -> dict[str, Any]:
        return {"gamma": self.gamma, "step_size": nonzero("step_size", self.step_size)}
