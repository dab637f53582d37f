"""LinearLR."""

from __future__ import annotations

from typing import Any

import torch

from fusedlr.lr_scheduler.device_scheduler import EpochScheduler


class LinearLR(EpochScheduler, torch.optim.lr_scheduler.LinearLR):
    r"""Changes the factor of each group's lr linearly until epoch ``total_iters``.

    .. math:: \gamma_e = \gamma_0 \left(s + (f - s) \frac{\min(e, T)}{T}\right)

    computed step by step, as in torch, so that changes of the lr from outside are kept.

    Args:
        optimizer: a fused optimizer (on any other, torch's own implementation runs).
        start_factor: :math:`s`, above 0 and at most 1.
        end_factor: :math:`f`, between 0 and 1.
        total_iters: the epoch :math:`T` at which the end is reached.
        last_epoch: the index of the last epoch, when resuming; -1 starts anew.

    Raises:
        ValueError: if a factor is out of range.

    With ``total_iters=0``, where torch raises ZeroDivisionError when it needs the formula above (in
    ``step(epoch)``, and as a later part of SequentialLR), the end is reached at once.

    Example:
        >>> import torch, fusedlr
        >>> optimizer = fusedlr.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> scheduler = fusedlr.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=2)
        >>> lrs = scheduler.get_last_lr()
        >>> for epoch in range(3):
        ...     optimizer.step()
        ...     scheduler.step()
        ...     lrs += scheduler.get_last_lr()
        >>> lrs
        [0.5, 0.75, 1.0, 1.0]

    Source: :class:`torch.optim.lr_scheduler.LinearLR`.
    """

    _kind = "linear"

    def _parameters(self) -> dict[str, Any]:
        return {
            "start_factor": self.start_factor,
            "end_factor": self.end_factor,
            "total_iters": self.total_iters,
        }
