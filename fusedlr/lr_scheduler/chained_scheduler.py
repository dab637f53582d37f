"""ChainedScheduler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fusedlr.lr_scheduler.composition import CompositeScheduler


class ChainedScheduler(CompositeScheduler, torch.optim.lr_scheduler.ChainedScheduler):
    r"""Steps several schedulers together: each moves the lr that the one before has left.

    Args:
        schedulers: the schedulers, all of one optimizer.
        optimizer: that optimizer; by default the one of the first scheduler. (On an optimizer that
            is not a fused one, torch's own implementation runs.)

    Raises:
        ValueError: if there are no schedulers, or one is of another optimizer or takes a metric.
        TypeError: if an entry is no scheduler.

    Example:
        >>> import torch, fusedlr
        >>> from fusedlr.lr_scheduler import ChainedScheduler, ConstantLR, ExponentialLR
        >>> optimizer = fusedlr.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> constant = ConstantLR(optimizer, factor=0.5, total_iters=2)
        >>> scheduler = ChainedScheduler([constant, ExponentialLR(optimizer, gamma=0.5)])
        >>> lrs = scheduler.get_last_lr()
        >>> for epoch in range(3):
        ...     optimizer.step()
        ...     scheduler.step()
        ...     lrs += scheduler.get_last_lr()
        >>> lrs
        [0.5, 0.25, 0.25, 0.125]

    Source: :class:`torch.optim.lr_scheduler.ChainedScheduler`.
    """

    _kind = "chained"

    def __init__(
        self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None
    ) -> None:
        super().__init__(schedulers, optimizer)
        self._join_optimizer()
