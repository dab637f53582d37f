"""LambdaLR."""

from __future__ import annotations

from typing import Any

import torch

from fusedlr import _backend
from fusedlr.lr_scheduler.device_scheduler import EpochScheduler
from fusedlr.optim.group_table import GroupTable


class LambdaLR(EpochScheduler, torch.optim.lr_scheduler.LambdaLR):
    r"""Sets the lr of each group to its initial lr times a function of the epoch.

    .. math:: \gamma_e = \gamma_0 \lambda(e)

    Args:
        optimizer: a fused optimizer (on any other, torch's own implementation runs).
        lr_lambda: a function of the epoch (an int), or a list with one for each group. A function
            that serves consecutive groups is called once per step.
        last_epoch: the index of the last epoch, when resuming; -1 starts anew.

    Raises:
        ValueError: if the number of functions is not that of the groups.

    Example:
        >>> import torch, fusedlr
        >>> optimizer = fusedlr.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
        >>> scheduler = fusedlr.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))
        >>> optimizer.step()
        >>> scheduler.step()
        >>> scheduler.get_last_lr()
        [0.25]

    Source: :class:`torch.optim.lr_scheduler.LambdaLR`.
    """

    _has_closed_form = False

    def _move(self, table: GroupTable, epoch: Any, closed_form: bool) -> None:
        _backend.schedule_lambdas_(table.lr, self.lr_lambdas, self.base_lrs, epoch)
