"""OneCycleLR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fusedlr.lr_scheduler.device_scheduler import EpochScheduler
from fusedlr.lr_scheduler.group_columns import GroupColumns
from fusedlr.optim.group_table import GroupTable


class OneCycleLR(EpochScheduler, torch.optim.lr_scheduler.OneCycleLR):
    r"""Raises the lr of each group to ``max_lr`` once, and lowers it far below where it began.

    The lr goes from :math:`\gamma_{max} / d` to :math:`\gamma_{max}` in the first ``pct_start`` of
    the steps, and to :math:`\gamma_{max} / (d f)` in the rest (with ``three_phase``, first back to
    where it began). Within a phase from :math:`a` to :math:`b`, at its share :math:`p`:

    .. math:: b + \tfrac{1}{2} (a - b) (1 + \cos \pi p) \quad \text{or} \quad a + (b - a) p

    The momentum (or :math:`\beta_1`) goes from ``max_momentum`` down to ``base_momentum`` and back.

    Args:
        optimizer: a fused optimizer (on any other, torch's own implementation runs).
        max_lr: :math:`\gamma_{max}`, a number or a list with one for each group.
        total_steps: steps of the whole cycle; or give both of the next two.
        epochs, steps_per_epoch: their product is ``total_steps``.
        pct_start: the share of the steps in which the lr rises, a float in [0, 1].
        anneal_strategy: ``"cos"`` or ``"linear"``.
        cycle_momentum: move the momentum, too.
        base_momentum, max_momentum: its ends, numbers or lists with one for each group.
        div_factor: :math:`d`.
        final_div_factor: :math:`f`.
        three_phase: return to the start before the final descent.
        last_epoch: the index of the last step, when resuming; -1 starts anew.

    Raises:
        ValueError: if an argument is out of range, or a step comes after ``total_steps``.

    Example:
        >>> import torch, fusedlr
        >>> optimizer = fusedlr.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0, momentum=0.9)
        >>> scheduler = fusedlr.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
        >>> for step in range(2):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.get_last_lr(), optimizer.param_groups[0]["momentum"]
        ([1.0], 0.85)

    References:
        Smith & Topin, "Super-Convergence", https://arxiv.org/abs/1708.07120;
        :class:`torch.optim.lr_scheduler.OneCycleLR`.
    """

    _kind = "one_cycle"
    _formula_methods = (*EpochScheduler._formula_methods, "_anneal_func")
    _own_fields = (*EpochScheduler._own_fields, "_group_columns")

    _KEYS = ("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum")
    _column_names = tuple(f"values of {key!r} in their groups" for key in _KEYS)

    _group_columns: GroupColumns | None = None

    def _has_formula(self) -> bool:
        # States of old versions of torch bring a function of their own.
        return super()._has_formula() and "_anneal_func_type" in self.__dict__

    def _momentum_name(self) -> str | None:
        if not self.cycle_momentum:
            return None
        return "beta1" if self.use_beta1 else "momentum"

    def _parameters(self) -> dict[str, Any]:
        return {
            "is_cosine": self._anneal_func_type == "cos",
            "cycles_momentum": self.cycle_momentum,
            "total_steps": self.total_steps,
        }

    def _columns(self, table: GroupTable) -> tuple[Sequence[Any], ...]:
        if self._group_columns is None:
            self._group_columns = GroupColumns(*self._KEYS)
        return self._group_columns.read(table, self.optimizer.param_groups)

    def _table_source(self) -> Any:
        return self._schedule_phases

    def _table(self) -> list[float]:
        ends = ("start_lr", "end_lr", "start_momentum", "end_momentum")
        rows: list[float] = []
        for phase in self._schedule_phases:
            rows.append(phase["end_step"])
            rows += [self._KEYS.index(phase[end]) for end in ends]  # type: ignore[literal-required]
        return rows
