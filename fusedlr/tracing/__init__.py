"""From a Python function of the step to an expression that an engine evaluates.

:func:`trace` calls a copy of the function with a symbolic step, which records the arithmetic done
with it, along every path that the function can take. The trace is then compared with the function
on a sample of steps, bit for bit. :func:`tabulate` takes any function whose horizon is known.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fusedlr.expression import STEP, Expression, table
from fusedlr.tracing.guards import Guards
from fusedlr.tracing.paths import Paths, Refusal, call_unless_refused
from fusedlr.tracing.sample import refuse_disagreement
from fusedlr.tracing.stand_ins import StandIns, expression_of
from fusedlr.tracing.symbol import Symbol

__all__ = ["Traced", "Untraceable", "name_of", "tabulate", "trace"]


class Traced:
    """A function of the step as an expression.

    Attributes:
        expression: its value at every whole step from the first one on.
    """

    __slots__ = ("_guards", "expression")

    def __init__(self, expression: Expression, guards: Guards) -> None:
        self.expression = expression
        self._guards = guards

    @classmethod
    def of(cls, expression: Expression) -> Traced:
        """An expression that depends on nothing but the step."""
        return cls(expression, Guards())

    def is_current(self) -> bool:
        """Whether everything that the function has read is as it was when it was traced."""
        return self._guards.hold()


@dataclass(frozen=True)
class Untraceable:
    """A function that cannot be traced.

    Attributes:
        reason: why, as a clause that starts with "it", the function.
    """

    reason: str


def trace(function: Callable[..., Any], first_step: int = 0) -> Traced | Untraceable:
    """The expression of a function of the step.

    What can be traced: Python's arithmetic, comparisons, conditionals and loops; ``min``, ``max``,
    ``abs``, ``round``, ``sum`` and most other builtins; ``sqrt``, ``exp``, ``log``, ``pow``,
    ``sin``, ``cos``, ``tan``, ``tanh`` and the rounding functions of ``math``; ``bisect``; lists,
    tuples and dicts of numbers; functions, methods, ``functools.partial`` and callable objects that
    do nothing else; schedules. The function itself runs only once the trace shows that it changes
    nothing.

    From some step on, beyond the first ones, the function may have no value: it divides by 0, looks
    up what is not there, gives a complex number. Then the expression is infinite, NaN, or what else
    IEEE arithmetic makes of it.

    Args:
        function: a function of the step, a whole number.
        first_step: the smallest step that it is called with.

    Returns:
        The trace, or why there is none; never raises for the sake of the function.

    Example:
        >>> from fusedlr.tracing import trace
        >>> traced = trace(lambda epoch: 0.5 if epoch < 10 else 0.95**epoch)
        >>> traced.is_current()
        True
        >>> trace(lambda epoch: print(epoch))
        Untraceable(reason='it uses print, which is not written in Python')
    """
    expression = expression_of(function)
    if expression is not None:
        return Traced.of(expression)
    paths, guards = Paths(first_step), Guards()
    stand_ins = StandIns(guards)
    try:
        expression = paths.explore(lambda: _value(function, paths, stand_ins))
        refuse_disagreement(function, expression, first_step, paths.turns, paths.last_to_compare)
        if not guards.hold():
            raise Refusal("it reads what changes from call to call")
    except Refusal as refusal:
        return Untraceable(str(refusal))
    finally:
        stand_ins.forget()
    return Traced(expression, guards)


def _value(function: Callable[..., Any], paths: Paths, stand_ins: StandIns) -> Expression:
    """The value of a function on one path."""
    try:
        copy = stand_ins.of(function, getattr(function, "__name__", type(function).__name__))
        value = call_unless_refused(lambda: copy(Symbol(paths, STEP, int)))
    except (ArithmeticError, LookupError):
        value = math.nan
    except (Exception, SystemExit) as error:
        raise Refusal(f"it raises {type(error).__name__} ({error})") from None
    stand_ins.refuse_changes()
    if isinstance(value, Symbol):
        return value.expression
    if isinstance(value, (int, float)):
        return paths.constant(value)
    raise Refusal(f"it gives {type(value).__name__}, which is not a number")


def tabulate(function: Callable[..., Any], total_steps: int) -> Expression:
    """The values of any function at the steps from 0 to `total_steps`, as a table.

    Args:
        function: a function of the step; it is called once for each step, in order.
        total_steps: the last step that has an entry of its own; later ones have the same value.

    Raises:
        TypeError: if the function gives something that is not a real number.
        ValueError: if it gives NaN, or raises, or if `total_steps` is negative.

    Example:
        >>> from fusedlr.expression import compile_, evaluate
        >>> from fusedlr.tracing import tabulate
        >>> evaluate(compile_(tabulate(lambda epoch: 1 / (1 + epoch), 3)), [0, 1, 3, 1000])
        [1.0, 0.5, 0.25, 0.25]
    """
    if total_steps < 0:
        raise ValueError(f"total_steps must be 0 or more, but got {total_steps}")
    return table(STEP, tuple(_entry(function, step) for step in range(total_steps + 1)))


def _entry(function: Callable[..., Any], step: int) -> float:
    try:
        value = function(step)
    except Exception as error:
        message = f"{name_of(function)} raises {type(error).__name__} at step {step}"
        raise ValueError(message) from error
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        message = f"{name_of(function)} gives {value!r} at step {step}, which is not a number"
        raise TypeError(message) from error
    if math.isnan(number):
        raise ValueError(f"{name_of(function)} gives NaN at step {step}")
    return number


def name_of(function: Any) -> str:
    """Where to find a function: its module, its name in there, the file and the line.

    Example:
        >>> import math
        >>> from fusedlr.tracing import name_of
        >>> name_of(math.sqrt)
        'math.sqrt'
    """
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    name = ".".join(filter(None, (named.__module__, named.__qualname__)))
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:  # of an object that can be called
        code = getattr(inspect.getattr_static(function, "__call__", None), "__code__", None)
    return name if code is None else f"{name} ({code.co_filename}:{code.co_firstlineno})"
