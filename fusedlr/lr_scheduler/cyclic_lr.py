"""CyclicLR."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch.optim import Optimizer

from fusedlr import _backend
from fusedlr.lr_scheduler.device_scheduler import (
    EpochScheduler,
    nonzero,
    refuse_scheduled_groups,
)
from fusedlr.lr_scheduler.step_functions import StepFunctions
from fusedlr.optim.group_table import GroupTable

# CyclicSchedule::Mode of csrc/math/schedule.h.
_MODES = {"triangular": 0, "triangular2": 1, "exp_range": 2, "custom": 3}


class CyclicLR(EpochScheduler, torch.optim.lr_scheduler.CyclicLR):
    r"""Moves the lr of each group up and down between two bounds.

    .. math:: \gamma_e = \gamma_{base} + (\gamma_{max} - \gamma_{base})\, h(e)\, s

    where :math:`h` rises from 0 to 1 in ``step_size_up`` steps, then falls in ``step_size_down``,
    and the scale :math:`s` is 1 (``"triangular"``), :math:`2^{1 - c}` in the :math:`c`-th cycle
    (``"triangular2"``), :math:`g^e` (``"exp_range"``), or a function of the user's. The momentum
    (or :math:`\beta_1`) runs the other way.

    Args:
        optimizer: a fused optimizer (on any other, torch's own implementation runs).
        base_lr, max_lr: :math:`\gamma_{base}, \gamma_{max}`, numbers or lists with one for each
            group.
        step_size_up, step_size_down: steps of the rise and of the fall (by default as many).
        mode: ``"triangular"``, ``"triangular2"`` or ``"exp_range"``; without effect if ``scale_fn``
            is given.
        gamma: :math:`g`.
        scale_fn: :math:`s` as a function of the cycle (1, 2, ...) or of the step. What reaches the
            engine and what the host calls is as in :class:`fusedlr.lr_scheduler.LambdaLR`.
        scale_mode: ``"cycle"`` or ``"iterations"``: what ``scale_fn`` is a function of.
        cycle_momentum: move the momentum, too.
        base_momentum, max_momentum: its bounds, numbers or lists with one for each group.
        last_epoch: the index of the last step, when resuming; -1 starts anew.

    Raises:
        ValueError: if a list has another length than the groups, the mode is unknown, the
            optimizer has no momentum to cycle, ``step_size_up`` is 0 (torch: ZeroDivisionError,
            after the lr has been overwritten), or the lr of a group is a schedule.

    Example:
        >>> import torch, fusedlr
        >>> optimizer = fusedlr.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0, momentum=0.9)
        >>> scheduler = fusedlr.lr_scheduler.CyclicLR(
        ...     optimizer, base_lr=0.0, max_lr=1.0, step_size_up=2
        ... )
        >>> lrs = scheduler.get_last_lr()
        >>> for step in range(4):
        ...     optimizer.step()
        ...     scheduler.step()
        ...     lrs += scheduler.get_last_lr()
        >>> lrs
        [0.0, 0.5, 1.0, 0.5, 0.0]

    References:
        Smith, "Cyclical Learning Rates for Training Neural Networks",
        https://arxiv.org/abs/1506.01186; :class:`torch.optim.lr_scheduler.CyclicLR`.
    """

    _kind = "cyclic"
    _formula_methods = (*EpochScheduler._formula_methods, "scale_fn")
    _own_fields = (*EpochScheduler._own_fields, "_step_functions")
    _column_names = ("base_lrs", "max_lrs", "base_momentums", "max_momentums")

    base_momentums: list[Any]
    max_momentums: list[Any]
    _step_functions: StepFunctions | None = None

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: Literal["cycle", "iterations"] = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float = 0.8,
        max_momentum: float = 0.9,
        last_epoch: int = -1,
    ) -> None:
        nonzero("step_size_up", step_size_up)
        if isinstance(optimizer, Optimizer):  # torch's constructor begins with writing the lr
            refuse_scheduled_groups(optimizer, "lr")
        super().__init__(
            optimizer,
            base_lr,
            max_lr,
            step_size_up,
            step_size_down,
            mode,
            gamma,
            scale_fn,
            scale_mode,
            cycle_momentum,
            base_momentum,
            max_momentum,
            last_epoch,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state of this class or of the torch class of the same name."""
        super().load_state_dict(dict(state_dict))  # torch takes an entry out of it

    def _mode(self) -> str:
        if self._scale_fn_custom is not None:
            return "custom"
        if isinstance(self._scale_fn_ref, partial):
            return "exp_range"
        triangular2: Any = self._triangular2_scale_fn
        return "triangular2" if self._scale_fn_ref is triangular2 else "triangular"

    def _momentum_name(self) -> str | None:
        if not self.cycle_momentum:
            return None
        return "beta1" if self.use_beta1 else "momentum"

    def _parameters(self) -> dict[str, Any]:
        mode = self._mode()
        # torch binds gamma when it chooses the function: a later edit has no effect.
        gamma = self._scale_fn_ref.args[0] if mode == "exp_range" else 1.0  # type: ignore[attr-defined]
        return {
            "total_size": self.total_size,
            "step_ratio": self.step_ratio,
            "mode": _MODES[mode],
            "gamma": gamma,
            "scales_by_cycle": self.scale_mode == "cycle",
            "cycles_momentum": self.cycle_momentum,
        }

    def _columns(self, table: GroupTable) -> tuple[Sequence[Any], ...]:
        momentums = (self.base_momentums, self.max_momentums) if self.cycle_momentum else ((), ())
        return (self.base_lrs, self.max_lrs, *momentums)

    def _functions(self) -> StepFunctions:
        functions = self._step_functions
        if functions is None or not functions.serve([self._scale_fn_custom]):
            functions = StepFunctions([self._scale_fn_custom], type(self).__name__, None)
            self._step_functions = functions
        return functions

    def _prepare(self, node: _backend.SchedulerNode, epoch: Any) -> None:
        if self._scale_fn_custom is None:
            return
        functions = self._functions()
        if functions.reach_device_at(epoch):
            functions.give_to(node)
        else:
            self._call_functions(node, epoch)

    def _call_functions(self, node: _backend.SchedulerNode, epoch: Any) -> bool:
        functions = self._functions()
        functions.check_capture(node)
        functions.evaluate_for(node, self._argument(epoch))
        return True

    def _argument(self, epoch: Any) -> Any:
        """What ``scale_fn`` is called with in the step to `epoch`."""
        epoch = self.last_epoch + 1 if epoch is None else epoch
        return math.floor(1 + epoch / self.total_size) if self.scale_mode == "cycle" else epoch

    def _runs_on_device(self) -> bool:
        is_custom = self._scale_fn_custom is not None
        return super()._runs_on_device() and (not is_custom or self._functions().run_on_device)
