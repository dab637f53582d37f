"""Evaluates formulas of the step: the twin of ``csrc/math/expression.h``.

A block of them at a time, one in each lane. Each lane has its own code; lanes whose next
instruction is the same operation carry it out together.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fusedlr.triton import layouts
from fusedlr.triton.group_table import LANES, lanes
from fusedlr.triton.math_functions import (
    cos,
    exp,
    fmod,
    log,
    nearbyint,
    power,
    sin,
    tan,
    tanh,
    trunc,
)
from fusedlr.triton.memory import load, store

#: More than any operation's number.
_NO_OP = tl.constexpr(1 << 30)


@triton.jit
def zero_signed_as(number):
    """0.0 or -0.0."""
    bits = number.to(tl.int64, bitcast=True)
    return ((bits >> 63) << 63).to(tl.float64, bitcast=True)


@triton.jit
def floor_remainder(a, b):
    """Python's a % b: the remainder has the sign of the divisor, also where it is zero."""
    remainder = fmod(a, b)
    is_other_sign = (b < 0) != (remainder < 0)
    shifted = tl.where(is_other_sign, remainder + b, remainder)
    signed = tl.where(remainder == 0, zero_signed_as(b), shifted)
    return tl.where(b == 0, float("nan"), signed)


@triton.jit
def floor_quotient(a, b):
    """Python's a // b, step by step: a rounded division could end up above the true quotient."""
    remainder = fmod(a, b)
    is_above = (remainder != 0) & ((b < 0) != (remainder < 0))
    exact = (a - remainder) / b
    quotient = tl.where(is_above, exact - 1.0, exact)
    below = tl.floor(quotient)
    rounded = tl.where(quotient - below > 0.5, below + 1.0, below)
    signed = tl.where(quotient == 0, zero_signed_as(a / b), rounded)
    return tl.where(b == 0, float("nan"), signed)


@triton.jit
def table_place(index, size):
    """Truncated, the first or the last entry outside of the table; NaN is the first."""
    last = (size - 1).to(tl.float64)
    place = tl.where(index > 0, index, 0.0)
    return tl.where(place < last, place, last).to(tl.int32)


@triton.jit
def _apply(op, a, b, c):
    """One operation, the same in all lanes."""
    result = a
    if op == layouts.ExpressionOp.add:
        result = a + b
    elif op == layouts.ExpressionOp.sub:
        result = a - b
    elif op == layouts.ExpressionOp.mul:
        result = a * b
    elif op == layouts.ExpressionOp.div:
        result = a / b
    elif op == layouts.ExpressionOp.floordiv:
        result = floor_quotient(a, b)
    elif op == layouts.ExpressionOp.mod:
        result = floor_remainder(a, b)
    elif op == layouts.ExpressionOp.pow:
        result = power(a, b)
    elif op == layouts.ExpressionOp.min:
        result = tl.where(b < a, b, a)
    elif op == layouts.ExpressionOp.max:
        result = tl.where(b > a, b, a)
    elif op == layouts.ExpressionOp.less:
        result = (a < b).to(tl.float64)
    elif op == layouts.ExpressionOp.less_equal:
        result = (a <= b).to(tl.float64)
    elif op == layouts.ExpressionOp.equal:
        result = (a == b).to(tl.float64)
    elif op == layouts.ExpressionOp.neg:
        result = a * -1.0  # Triton's -a is 0 - a, which loses the sign of a zero
    elif op == layouts.ExpressionOp.abs:
        result = tl.abs(a)
    elif op == layouts.ExpressionOp.floor:
        result = tl.floor(a)
    elif op == layouts.ExpressionOp.ceil:
        result = tl.ceil(a)
    elif op == layouts.ExpressionOp.trunc:
        result = trunc(a)
    elif op == layouts.ExpressionOp.round:
        result = nearbyint(a)
    elif op == layouts.ExpressionOp.not_:
        result = (a == 0).to(tl.float64)
    elif op == layouts.ExpressionOp.sqrt:
        result = tl.sqrt(a)
    elif op == layouts.ExpressionOp.exp:
        result = exp(a)
    elif op == layouts.ExpressionOp.log:
        result = log(a)
    elif op == layouts.ExpressionOp.sin:
        result = sin(a)
    elif op == layouts.ExpressionOp.cos:
        result = cos(a)
    elif op == layouts.ExpressionOp.tan:
        result = tan(a)
    elif op == layouts.ExpressionOp.tanh:
        result = tanh(a)
    elif op == layouts.ExpressionOp.select:
        result = tl.where(a != 0, b, c)
    return result


@triton.jit
def _evaluate_one(instruction, tables, step, results, is_active):
    """One instruction of each lane, given the results of its earlier ones."""
    ops = load(instruction + layouts.Instruction.op, tl.int32, is_active, _NO_OP)
    a_place = load(instruction + layouts.Instruction.a, tl.int32, is_active, -1)
    b_place = load(instruction + layouts.Instruction.b, tl.int32, is_active, -1)
    c_place = load(instruction + layouts.Instruction.c, tl.int32, is_active, -1)
    # Places that an operation does not use hold -1; those of a table are no places of results.
    is_table = ops == layouts.ExpressionOp.table
    a = load(results + 8 * a_place, tl.float64, a_place >= 0, 0.0)
    b = load(results + 8 * b_place, tl.float64, (b_place >= 0) & (is_table == 0), 0.0)
    c = load(results + 8 * c_place, tl.float64, (c_place >= 0) & (is_table == 0), 0.0)
    # Leaves: a constant, the step, an entry of a table.
    value = load(instruction + layouts.Instruction.value, tl.float64, is_active, 0.0)
    value = tl.where(ops == layouts.ExpressionOp.step, step, value)
    entry = tables + 8 * (b_place + table_place(a, c_place))
    value = tl.where(is_table, load(entry, tl.float64, is_table, 0.0), value)
    # All other operations, one after the other, where any lane has it.
    op = tl.min(tl.where(ops > layouts.ExpressionOp.table, ops, _NO_OP))
    while op < _NO_OP:
        value = tl.where(ops == op, _apply(op, a, b, c), value)
        op = tl.min(tl.where(ops > op, ops, _NO_OP))
    return value


# One piece of code in a program, instead of one at every call: it is long.
@triton.jit(noinline=True)
def evaluate(formulas, stride, count, step):
    """Evaluates `count` formulas, which lie `stride` bytes apart; :func:`value_of` then reads them.

    A formula begins as a ``ScheduleFormula`` does; one without code is left alone.
    """
    first = tl.cast(0, tl.int64)
    while first < count:
        place = first + lanes()
        _evaluate_block(formulas + place * stride, place < count, step)
        first += LANES


@triton.jit
def _evaluate_block(formula, is_formula, step):
    code = load(formula + layouts.ScheduleFormula.code, tl.int64, is_formula, 0)
    has_code = code != 0
    size = load(formula + layouts.ScheduleFormula.code_size, tl.int64, has_code, 0)
    tables = load(formula + layouts.ScheduleFormula.tables, tl.int64, has_code, 0)
    results = load(formula + layouts.ScheduleFormula.results, tl.int64, has_code, 0)
    longest = tl.max(size)
    line = tl.cast(0, tl.int64)
    while line < longest:
        is_active = line < size
        instruction = code + line * layouts.Instruction.size
        result = _evaluate_one(instruction, tables, step, results, is_active)
        store(results + 8 * line, result, tl.float64, is_active)
        tl.debug_barrier()  # before anybody reads it
        line += 1


@triton.jit
def value_of(formula, mask):
    """The value of a formula that has been evaluated, or of a block of them."""
    size = load(formula + layouts.ScheduleFormula.code_size, tl.int64, mask, 0)
    results = load(formula + layouts.ScheduleFormula.results, tl.int64, mask, 0)
    return load(results + 8 * (size - 1), tl.float64, mask, 0.0)
