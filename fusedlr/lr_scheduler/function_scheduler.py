"""What LambdaLR and MultiplicativeLR share: a function of the epoch for each group."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any, ClassVar

from fusedlr import _backend
from fusedlr.lr_scheduler.device_scheduler import EpochScheduler
from fusedlr.lr_scheduler.step_functions import StepFunctions


class FunctionScheduler(EpochScheduler):
    """Comes before the torch class, which takes ``(optimizer, lr_lambda, last_epoch)``.

    Each class has a constructor of its own, because Python's errors about arguments name its class.
    """

    _own_fields: ClassVar[tuple[str, ...]] = (*EpochScheduler._own_fields, "_step_functions")

    lr_lambdas: list[Callable[[int], float]]
    _step_functions: StepFunctions | None = None
    _total_steps: int | None = None

    def _set_horizon(self, total_steps: Any) -> None:
        if total_steps is None:
            return
        if not isinstance(total_steps, Integral) or total_steps <= 0:
            raise ValueError(f"Expected positive integer total_steps, but got {total_steps!r}")
        self._total_steps = int(total_steps)

    def _functions(self) -> StepFunctions:
        functions = self._step_functions
        if functions is None or not functions.serve(self.lr_lambdas):
            functions = StepFunctions(self.lr_lambdas, type(self).__name__, self._total_steps)
            self._step_functions = functions
        return functions

    def _prepare(self, node: _backend.SchedulerNode, epoch: Any) -> None:
        functions = self._functions()
        if functions.reach_device_at(epoch):
            functions.give_to(node)
        else:
            self._call_functions(node, epoch)

    def _call_functions(self, node: _backend.SchedulerNode, epoch: Any) -> bool:
        functions = self._functions()
        functions.check_capture(node)
        before = self.last_epoch
        # A function may look at the scheduler, which in torch is at the new epoch already.
        self.last_epoch = before + 1 if epoch is None else epoch
        try:
            functions.evaluate_for(node, self.last_epoch)
        finally:
            self.last_epoch = before
        return True

    def state_dict(self) -> dict[str, Any]:
        """The state, with the keys of the torch class; functions are not part of it."""
        state = super().state_dict()
        state.pop("_total_steps", None)
        return state

    def _runs_on_device(self) -> bool:
        return super()._runs_on_device() and self._functions().run_on_device
