"""MultiplicativeLR."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from fusedlr import _backend
from fusedlr.lr_scheduler.function_scheduler import FunctionScheduler


class MultiplicativeLR(FunctionScheduler, torch.optim.lr_scheduler.MultiplicativeLR):
    r"""Multiplies the lr of each group by a function of the epoch, at every epoch.

    .. math:: \gamma_e = \gamma_{e-1} \lambda(e) \text{ for } e > 0

    Args:
        optimizer: a fused optimizer (on any other, torch's own implementation runs).
        lr_lambda: a function of the epoch (an int), or a list with one for each group. A schedule
            of :mod:`fusedlr.schedules` and a function of arithmetic, conditions and ``math`` become
            formulas that the engine evaluates (and that are made anew when a value that the
            function reads has changed); any other function is called by the host, once per step
            for all groups that it serves, and named in a warning.
        last_epoch: the index of the last epoch, when resuming; -1 starts anew.
        total_steps: the horizon, if it is known: functions that would run on the host are
            evaluated for 0, 1, ..., ``total_steps`` at the first step and become tables; beyond
            the horizon the last value stays.

    Raises:
        ValueError: if the number of functions is not that of the groups.
        TypeError: if one is not callable.

    Warns:
        UserWarning: if a function runs on the host.

    Example:
        >>> import torch, fusedlr
        >>> optimizer = fusedlr.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
        >>> scheduler = fusedlr.lr_scheduler.MultiplicativeLR(optimizer, lambda epoch: 0.5)
        >>> optimizer.step()
        >>> scheduler.step()
        >>> scheduler.get_last_lr()
        [0.25]

    Source: :class:`torch.optim.lr_scheduler.MultiplicativeLR`.
    """

    _kind = "multiplicative"

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
        *,
        total_steps: int | None = None,
    ) -> None:
        self._set_horizon(total_steps)
        super().__init__(optimizer, lr_lambda, last_epoch)

    def _call_functions(self, node: _backend.SchedulerNode, epoch: Any) -> bool:
        # Construction keeps the lr: a function need not have a value there, and is not to count it.
        return self._is_initial or super()._call_functions(node, epoch)
