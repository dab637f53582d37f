"""SequentialLR."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fusedlr.lr_scheduler.composition import CompositeScheduler


class SequentialLR(CompositeScheduler, torch.optim.lr_scheduler.SequentialLR):
    r"""Runs schedulers one after the other; each counts epochs from its own start.

    The scheduler of epoch :math:`e` is the one after as many milestones as are at most :math:`e`.

    Args:
        optimizer: a fused optimizer (on any other, torch's own implementation runs).
        schedulers: the schedulers, all of this optimizer.
        milestones: the epochs at which the next scheduler takes over: one less than schedulers.
        last_epoch: the index of the last epoch, when resuming; -1 starts anew.

    Raises:
        ValueError: if there are no schedulers, one is of another optimizer or takes a metric, or
            the number of milestones does not fit.
        TypeError: if an entry is no scheduler.

    Example:
        >>> import torch, fusedlr
        >>> from fusedlr.lr_scheduler import ExponentialLR, LinearLR, SequentialLR
        >>> optimizer = fusedlr.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> warmup = LinearLR(optimizer, start_factor=0.5, total_iters=2)
        >>> decay = ExponentialLR(optimizer, gamma=0.5)
        >>> scheduler = SequentialLR(optimizer, [warmup, decay], milestones=[2])
        >>> lrs = scheduler.get_last_lr()
        >>> for epoch in range(4):
        ...     optimizer.step()
        ...     scheduler.step()
        ...     lrs += scheduler.get_last_lr()
        >>> lrs
        [0.5, 0.75, 1.0, 0.5, 0.25]

    Source: :class:`torch.optim.lr_scheduler.SequentialLR`.
    """

    _kind = "sequential"

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: list[LRScheduler],
        milestones: list[int],
        last_epoch: int = -1,
    ) -> None:
        super().__init__(optimizer, schedulers, milestones, last_epoch)
        self._join_optimizer()

    def _table_source(self) -> Any:
        return self._milestones

    def _table(self) -> list[float]:
        return list(self._milestones)
