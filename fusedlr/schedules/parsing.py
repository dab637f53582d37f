"""Reads a schedule from text, without running it as code."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from fusedlr.schedules.curves import constant
from fusedlr.schedules.schedule import Schedule, constructor

_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def parse(text: str) -> Schedule:
    """The schedule that a text describes: what ``repr`` of a schedule writes, and alike.

    The text may call the functions of this module by their names, with numbers, strings, lists and
    schedules, and add, subtract, multiply and divide. Nothing else is evaluated.

    Args:
        text: such as ``"warmup_cosine(3e-4, warmup_steps=100, total_steps=1000)"``; a number alone
            is a constant schedule.

    Raises:
        ValueError: if the text is anything else; the message has the part that is not understood.

    Example:
        >>> from fusedlr import schedules as s
        >>> s.parse("0.5 * linear(1, 0, steps=10)")
        0.5 * linear(1.0, 0.0, steps=10)
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise ValueError(f"cannot read {text!r}: {error.msg}") from None
    value = _value(tree.body)
    if isinstance(value, Schedule):
        return value
    try:
        return constant(value)
    except TypeError:
        raise ValueError(f"{text!r} is not a schedule") from None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_operand(operand)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            try:
                return _OPERATORS[type(sign)](_operand(left), _operand(right))
            except ZeroDivisionError:
                raise ValueError(f"{ast.unparse(node)!r} divides by 0") from None
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if all(
            keyword.arg for keyword in keywords
        ):
            named = {str(keyword.arg): _value(keyword.value) for keyword in keywords}
            return constructor(name)(*map(_value, args), **named)
    raise _not_understood(node)


def _operand(node: ast.expr) -> Schedule | float:
    value = _value(node)
    if isinstance(value, (Schedule, int, float)) and not isinstance(value, bool):
        return value
    raise _not_understood(node)


def _not_understood(node: ast.expr) -> ValueError:
    return ValueError(
        f"cannot read {ast.unparse(node)!r}; a schedule is written as calls with numbers, strings "
        "and lists, such as linear(0.1, 0.0, steps=100)"
    )
