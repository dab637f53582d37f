"""Formulas of the step as plain data, which an engine evaluates on the device.

An :class:`Expression` is arithmetic on one variable, the step. Schedules and traced functions are
expressions; :func:`compile_` turns one into a short list of instructions, and the interpreters here
(numbers, NumPy arrays, tensors) and in ``csrc/math/expression.h`` run that list, all in float64.
Every instruction is evaluated, also those of a branch that :func:`select` does not choose, and
follows IEEE arithmetic: a division by zero is an infinity or NaN, never an error.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Expression:
    """One operation on other expressions.

    Attributes:
        op: a key of :data:`ARITY`, or ``"constant"``, ``"step"``, ``"table"``.
        args: the operands.
        value: the number of a constant; the entries of a table.
    """

    op: str
    args: tuple[Expression, ...] = ()
    value: float | tuple[float, ...] | None = None

    def __add__(self, other: Operand) -> Expression:
        return apply("add", self, other)

    def __radd__(self, other: Operand) -> Expression:
        return apply("add", other, self)

    def __sub__(self, other: Operand) -> Expression:
        return apply("sub", self, other)

    def __rsub__(self, other: Operand) -> Expression:
        return apply("sub", other, self)

    def __mul__(self, other: Operand) -> Expression:
        return apply("mul", self, other)

    def __rmul__(self, other: Operand) -> Expression:
        return apply("mul", other, self)

    def __truediv__(self, other: Operand) -> Expression:
        return apply("div", self, other)

    def __rtruediv__(self, other: Operand) -> Expression:
        return apply("div", other, self)

    def __floordiv__(self, other: Operand) -> Expression:
        return apply("floordiv", self, other)

    def __mod__(self, other: Operand) -> Expression:
        return apply("mod", self, other)

    def __pow__(self, other: Operand) -> Expression:
        return apply("pow", self, other)

    def __rpow__(self, other: Operand) -> Expression:
        return apply("pow", other, self)

    def __neg__(self) -> Expression:
        return apply("neg", self)


Operand = Expression | float

#: The operations, with the number of their operands. Truth is 1.0 and 0.0; what is not 0 is true.
#: ``floordiv`` and ``mod`` round and sign as in Python, ``round`` rounds half to even.
ARITY: Mapping[str, int] = {
    **dict.fromkeys(("add", "sub", "mul", "div", "floordiv", "mod", "pow"), 2),
    **dict.fromkeys(("min", "max", "less", "less_equal", "equal"), 2),
    **dict.fromkeys(("neg", "abs", "floor", "ceil", "trunc", "round", "not"), 1),
    **dict.fromkeys(("sqrt", "exp", "log", "sin", "cos", "tan", "tanh"), 1),
    "select": 3,
}

#: The variable.
STEP = Expression("step")


def constant(value: float) -> Expression:
    """A number."""
    return Expression("constant", (), float(value))


def apply(op: str, *operands: Operand) -> Expression:
    """`op` of its operands; an operation on constants is carried out at once."""
    args = tuple(one if isinstance(one, Expression) else constant(one) for one in operands)
    if len(args) != ARITY[op]:
        raise TypeError(f"{op!r} takes {ARITY[op]} operands, but got {len(args)}")
    if all(arg.op == "constant" for arg in args):
        return constant(NUMBERS[op](*(arg.value for arg in args)))
    return Expression(op, args)


def select(condition: Expression, if_true: Operand, if_false: Operand) -> Expression:
    """`if_true` where `condition` is not 0, else `if_false`."""
    return apply("select", condition, if_true, if_false)


def table(index: Expression, entries: tuple[float, ...]) -> Expression:
    """The entry at `index` (truncated to an integer; below 0 the first, past the end the last)."""
    if not entries:
        raise ValueError("a table needs at least one entry")
    return Expression("table", (index,), tuple(map(float, entries)))


def substitute(expression: Expression, step: Expression) -> Expression:
    """The expression with `step` in the place of the variable."""
    done: dict[int, Expression] = {}  # by the id of a part of the expression
    stack = [expression]
    while stack:
        node = stack[-1]
        waiting = [arg for arg in node.args if id(arg) not in done]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        args = tuple(done[id(arg)] for arg in node.args)
        if node.op == "step":
            done[id(node)] = step
        elif node.op in ARITY:
            done[id(node)] = apply(node.op, *args)
        else:
            done[id(node)] = Expression(node.op, args, node.value)
    return done[id(expression)]


class Instruction(NamedTuple):
    """One line of a compiled expression; operands are the results of earlier lines.

    ``value`` is the number of a constant. A table has its first entry in ``b`` and its size in
    ``c``, as places in the entries of all tables.
    """

    op: str
    a: int = -1
    b: int = -1
    c: int = -1
    value: float = 0.0


class Program(NamedTuple):
    """A compiled expression: its result is that of the last instruction."""

    code: list[Instruction]
    tables: list[float]


def compile_(expression: Expression) -> Program:
    """The instructions that evaluate an expression, each distinct one once."""
    code: list[Instruction] = []
    tables: list[float] = []
    places: dict[Any, int] = {}  # of an instruction, or of the id of an expression
    stack = [expression]
    while stack:
        node = stack[-1]
        waiting = [arg for arg in node.args if id(arg) not in places]
        if waiting:
            stack.extend(reversed(waiting))
            continue
        stack.pop()
        if id(node) in places:
            continue
        operands = [places[id(arg)] for arg in node.args]
        if isinstance(node.value, tuple):
            key: Any = ("table", operands[0], node.value)
            if key not in places:
                instruction = Instruction("table", operands[0], len(tables), len(node.value))
                tables.extend(node.value)
        else:
            value = 0.0 if node.value is None else node.value
            instruction = Instruction(node.op, *operands)._replace(value=value)
            # -0.0 equals 0.0, but is another number.
            key = (*instruction, math.copysign(1.0, value))
        if key not in places:
            places[key] = len(code)
            code.append(instruction)
        places[id(node)] = places[key]
    last = places[id(expression)]
    if last != len(code) - 1:  # the whole equals one of its parts
        code = code[: last + 1]
    return Program(code, tables)


def evaluate(program: Program, step: Any) -> Any:
    """The value at a step (an int or a float), or at each of an array or a tensor of steps."""
    if isinstance(step, Tensor):
        return _run(program, step.to(torch.float64), _TENSORS, _tensor_table)
    if isinstance(step, Real):
        return float(_run(program, float(step), NUMBERS, _number_table))
    if hasattr(step, "__array__"):  # NumPy, which this project does not depend on
        steps = torch.from_numpy(step.__array__().astype("float64", order="C"))
        return _run(program, steps, _TENSORS, _tensor_table).numpy()
    steps = torch.tensor(step, dtype=torch.float64)
    return _run(program, steps, _TENSORS, _tensor_table).tolist()


def _run(
    program: Program, step: Any, ops: Mapping[str, Callable[..., Any]], look_up: Callable[..., Any]
) -> Any:
    results: list[Any] = []
    for op, a, b, c, value in program.code:
        if op == "constant":
            result: Any = torch.full_like(step, value) if isinstance(step, Tensor) else value
        elif op == "step":
            result = step
        elif op == "table":
            result = look_up(program.tables[b : b + c], results[a])
        else:
            result = ops[op](*(results[place] for place in (a, b, c)[: ARITY[op]]))
        results.append(result)
    return results[-1]


# Numbers: Python's own functions, without their errors.


def _quiet(function: Callable[..., float]) -> Callable[..., float]:
    def quiet(*operands: float) -> float:
        try:
            result = function(*operands)
        except OverflowError:
            return math.inf
        except (ValueError, ZeroDivisionError):
            return math.nan
        return math.nan if isinstance(result, complex) else result

    return quiet


def _divide(a: float, b: float) -> float:
    if b != 0:
        return a / b
    sign = math.copysign(1.0, a) * math.copysign(1.0, b)
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, sign)


def _power(a: float, b: float) -> float:
    if a == 0 and b < 0:
        is_odd_integer = b % 2 == 1
        return math.copysign(math.inf, a) if is_odd_integer else math.inf
    try:
        result = a**b
    except OverflowError:
        if a < 0 and b % 1 != 0:  # of a complex result
            return math.nan
        return -math.inf if a < 0 and b % 2 == 1 else math.inf
    return math.nan if isinstance(result, complex) else result


def _logarithm(a: float) -> float:
    return -math.inf if a == 0 else math.log(a)


def _whole(rounding: Callable[[float], int]) -> Callable[[float], float]:
    def rounded(a: float) -> float:
        return math.copysign(float(rounding(a)), a) if math.isfinite(a) else a

    return rounded


def _number_table(entries: list[float], index: float) -> float:
    if math.isnan(index):
        return entries[0]
    return entries[int(min(max(index, 0.0), len(entries) - 1.0))]


NUMBERS: Mapping[str, Callable[..., float]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": _divide,
    "floordiv": _quiet(operator.floordiv),
    "mod": _quiet(operator.mod),
    "pow": _power,
    # As Python's min and max of two numbers: the first one, unless the second is beyond it.
    "min": lambda a, b: b if b < a else a,
    "max": lambda a, b: b if b > a else a,
    "less": lambda a, b: float(a < b),
    "less_equal": lambda a, b: float(a <= b),
    "equal": lambda a, b: float(a == b),
    "neg": operator.neg,
    "abs": abs,
    "floor": _whole(math.floor),
    "ceil": _whole(math.ceil),
    "trunc": _whole(math.trunc),
    "round": _whole(round),
    "not": lambda a: float(a == 0),
    "sqrt": _quiet(math.sqrt),
    "exp": _quiet(math.exp),
    "log": _quiet(_logarithm),
    "sin": _quiet(math.sin),
    "cos": _quiet(math.cos),
    "tan": _quiet(math.tan),
    "tanh": math.tanh,
    "select": lambda condition, a, b: a if condition != 0 else b,
}


# Tensors of steps, float64.


def _tensor_table(entries: list[float], index: Tensor) -> Tensor:
    last = len(entries) - 1.0
    places = torch.nan_to_num(index).clamp(0.0, last).to(torch.int64)
    return torch.tensor(entries, dtype=torch.float64, device=index.device)[places]


_TENSORS: Mapping[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "floordiv": torch.floor_divide,
    "mod": torch.remainder,
    "pow": torch.pow,
    "min": lambda a, b: torch.where(b < a, b, a),
    "max": lambda a, b: torch.where(b > a, b, a),
    "less": lambda a, b: (a < b).to(torch.float64),
    "less_equal": lambda a, b: (a <= b).to(torch.float64),
    "equal": lambda a, b: (a == b).to(torch.float64),
    "neg": torch.neg,
    "abs": torch.abs,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "round": torch.round,
    "not": lambda a: (a == 0).to(torch.float64),
    "sqrt": torch.sqrt,
    "exp": torch.exp,
    "log": torch.log,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "tanh": torch.tanh,
    "select": lambda condition, a, b: torch.where(condition != 0, a, b),
}
