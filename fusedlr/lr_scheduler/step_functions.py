"""The user's functions of the step, brought to the engine where that is possible."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from typing import Any

from fusedlr import _backend, tracing
from fusedlr._stack import user_stacklevel
from fusedlr.expression import Expression, compile_

#: A function whose surroundings change more often than this is left to the host: tracing it takes
#: as long as calling it hundreds of times.
_MOST_TRACES = 16

_REMEDY = (
    "Write it as arithmetic on the step, give a schedule of fusedlr.schedules instead, or pass "
    "total_steps= to have its values tabulated."
)

#: Functions that a warning has named already; by their code, so that a lambda that is made again
#: and again is named once.
_warned: weakref.WeakSet[Any] = weakref.WeakSet()


class StepFunctions:
    """The functions of a scheduler, one for each group.

    A function reaches the engine as an expression: a schedule is one, arithmetic is traced, and
    with a horizon whatever is left becomes a table. If one of them does not, the host calls all of
    them at every step, each distinct function once.

    Args:
        functions: one for each group; the same function may serve several.
        owner: the name of the scheduler's class, for the warning.
        total_steps: the horizon, if it is known.
    """

    def __init__(self, functions: Sequence[Any], owner: str, total_steps: int | None) -> None:
        self.functions = list(functions)
        self._distinct = list({id(function): function for function in functions}.values())
        places = {id(function): place for place, function in enumerate(self._distinct)}
        self._of_group = [places[id(function)] for function in functions]
        self._owner = owner
        self._total_steps = total_steps
        # What the functions have become, and what notices that they have changed; None: they run
        # on the host.
        self._expressions: list[Expression] | None = None
        self._traces: list[tracing.Traced] = []
        self._num_traces = 0
        # Which node has been given which expressions.
        self._node: _backend.SchedulerNode | None = None
        self._given: list[Expression] | None = None

    def serve(self, functions: Sequence[Any]) -> bool:
        """Whether these are the functions that this object was made for."""
        return self.functions == functions

    @property
    def run_on_device(self) -> bool:
        """Whether the engine evaluates the functions by itself."""
        if not self._num_traces or not all(trace.is_current() for trace in self._traces):
            self._trace()
        return self._expressions is not None

    def reach_device_at(self, epoch: Any) -> bool:
        """Whether the engine evaluates them for the step to `epoch` (None: the next)."""
        # A trace holds for whole steps from 0 on.
        is_usual = epoch is None or (epoch >= 0 and epoch == int(epoch))
        return is_usual and self.run_on_device

    def give_to(self, node: _backend.SchedulerNode) -> None:
        """Gives a node the functions as expressions, unless it has them."""
        self._assign_groups(node)
        if self._expressions is None or self._given is self._expressions:
            return
        self._given = self._expressions
        node.set_functions_([_backend.new_expression(compile_(one)) for one in self._given])

    def evaluate_for(self, node: _backend.SchedulerNode, argument: Any) -> None:
        """Gives a node the values of the functions at `argument`."""
        self._assign_groups(node)
        self._given = None
        # A product, as with the lr in torch: text is no number.
        node.set_function_values_([float(1.0 * function(argument)) for function in self._distinct])

    def check_capture(self, node: _backend.SchedulerNode) -> None:
        """Raises RuntimeError if a graph is capturing the step: it could not call the functions."""
        names = ", ".join(map(tracing.name_of, self._distinct[:3]))
        node.refuse_capture(f"the host would have to call {names} at every replay. {_REMEDY}")

    def _assign_groups(self, node: _backend.SchedulerNode) -> None:
        if self._node is not node:
            self._node, self._given = node, None
            node.set_function_of_group_(self._of_group)

    def _trace(self) -> None:
        expressions, traces = [], []
        self._expressions, self._traces = None, []
        self._num_traces += 1
        if self._num_traces > _MOST_TRACES:
            self._warn(self._distinct[0], "what it reads changes again and again")
            return
        for function in self._distinct:
            trace = tracing.trace(function)
            if isinstance(trace, tracing.Traced):
                traces.append(trace)
                expressions.append(trace.expression)
            elif self._total_steps is not None:
                expressions.append(tracing.tabulate(function, self._total_steps))
            else:
                self._warn(function, trace.reason)
                return
        self._expressions, self._traces = expressions, traces

    def _warn(self, function: Any, reason: str) -> None:
        code = getattr(function, "__code__", None) or type(function)
        if code in _warned:
            return
        _warned.add(code)
        warnings.warn(
            f"{self._owner} calls {tracing.name_of(function)} on the host at every step, because "
            f"{reason}. {_REMEDY}",
            UserWarning,
            stacklevel=user_stacklevel(),
        )
