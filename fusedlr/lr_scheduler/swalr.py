"""SWALR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.optim.swa_utils

from fusedlr.lr_scheduler.device_scheduler import EpochScheduler
from fusedlr.lr_scheduler.group_columns import GroupColumns
from fusedlr.optim.group_table import GroupTable


class SWALR(EpochScheduler, torch.optim.swa_utils.SWALR):
    r"""Anneals the lr of each group to ``swa_lr``, and keeps it there, for weight averaging.

    .. math:: \gamma_e = \gamma_{swa} \alpha_e + \gamma_{start} (1 - \alpha_e), \quad
        \alpha_e = \min(1, e / T) \text{ or } \tfrac{1}{2} (1 - \cos(\pi \min(1, e / T)))

    where :math:`\gamma_{start}` is what the present lr would have started from.

    Args:
        optimizer: a fused optimizer (on any other, torch's own implementation runs).
        swa_lr: :math:`\gamma_{swa}`, a number or a list with one for each group.
        anneal_epochs: :math:`T`, an int of at least 0.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        last_epoch: the index of the last epoch, when resuming; -1 starts anew.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch, fusedlr
        >>> optimizer = fusedlr.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> scheduler = fusedlr.lr_scheduler.SWALR(
        ...     optimizer, swa_lr=0.5, anneal_epochs=2, anneal_strategy="linear"
        ... )
        >>> for epoch in range(2):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.get_last_lr()
        [0.5]

    References:
        Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization",
        https://arxiv.org/abs/1803.05407; :class:`torch.optim.swa_utils.SWALR`.
    """

    _kind = "swa"
    _formula_methods = (*EpochScheduler._formula_methods, "_get_initial_lr", "_cosine_anneal")
    _own_fields = (*EpochScheduler._own_fields, "_group_columns")
    _column_names = ("values of 'swa_lr' in their groups",)

    _group_columns: GroupColumns | None = None

    def _has_formula(self) -> bool:
        known = (self._cosine_anneal, self._linear_anneal)
        return super()._has_formula() and self.anneal_func in known

    def _parameters(self) -> dict[str, Any]:
        return {
            "anneal_epochs": self.anneal_epochs,
            "is_cosine": self.anneal_func is self._cosine_anneal,
        }

    def _columns(self, table: GroupTable) -> tuple[Sequence[Any], ...]:
        if self._group_columns is None:
            self._group_columns = GroupColumns("swa_lr")
        return self._group_columns.read(table, self.optimizer.param_groups)
