"""Compiled expressions: the engine gives the bits of the Python interpreter."""

import math
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fusedlr import _backend, expression
from fusedlr.expression import ARITY, STEP, Expression, constant

ENGINE_ONLY = {"constant": 0, "step": 0, "table": 1}

#: Where operations change their mind: signed zeros, ties, borders of the format, and no numbers.
SPECIAL = [
    *(0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 0.1, 0.9, math.pi, 710.0, 1e300, 1.7e308, 5e-324, 2.0**53),
    *(math.inf, math.nan),
]
numbers = st.one_of(
    st.sampled_from(SPECIAL + [-number for number in SPECIAL]),
    st.integers(-100, 100_000).map(float),
    st.floats(),
)


@st.composite
def expressions(draw):
    """Expressions of up to a dozen operations, which share parts."""
    nodes = [STEP, constant(draw(numbers))]
    for op in draw(st.lists(st.sampled_from(["constant", "table", *ARITY]), max_size=12)):
        if op == "constant":
            nodes.append(constant(draw(numbers)))
            continue
        operands = draw(st.tuples(*[st.sampled_from(nodes)] * ARITY.get(op, 1)))
        if op == "table":
            entries = draw(st.lists(numbers, min_size=1, max_size=4))
            nodes.append(expression.table(operands[0], tuple(entries)))
        else:
            # Not `apply`, which would carry out an operation on constants.
            nodes.append(Expression(op, operands))
    return nodes[-1]


def bits(number):
    """The bits of a number; all NaNs are one."""
    return "nan" if math.isnan(number) else struct.pack("<d", number)


def assert_engine_agrees(node, step):
    program = expression.compile_(node)
    in_python = expression.evaluate(program, step)
    in_engine = _backend.new_expression(program)(step)
    assert bits(in_engine) == bits(in_python), (in_engine, in_python)


@settings(derandomize=True, deadline=None, max_examples=2000)
@given(expressions(), numbers)
def test_the_engine_gives_the_bits_of_the_interpreter(node, step):
    assert_engine_agrees(node, step)


@pytest.mark.parametrize("op", ARITY)
def test_each_operation_gives_the_bits_of_the_interpreter_on_special_numbers(op):
    signed = SPECIAL + [-number for number in SPECIAL]
    others = signed if ARITY[op] > 1 else [0.0]
    for other in others:
        for operands in ((STEP, constant(other)), (constant(other), STEP)):
            node = Expression(op, (*operands, constant(7.0))[: ARITY[op]])
            for step in signed:
                assert_engine_agrees(node, step)


@settings(derandomize=True, deadline=None, max_examples=500)
@given(st.sampled_from(["floordiv", "mod"]), st.floats(), st.floats())
@example("floordiv", 1.0, 0.1)  # 9.0, where the rounded quotient is 10.0
@example("mod", -1e-320, 3.0)
def test_division_with_remainder_is_that_of_python(op, a, b):
    program = expression.compile_(Expression(op, (STEP, constant(b))))
    operators = {"floordiv": lambda: a // b, "mod": lambda: a % b}
    expected = operators[op]() if b != 0 else math.nan
    assert bits(_backend.new_expression(program)(a)) == bits(expected)


def test_a_table_is_truncated_and_clamped():
    entries = (10.0, 20.0, 30.0)
    program = expression.compile_(expression.table(STEP, entries))
    look_up = _backend.new_expression(program)
    steps = [-math.inf, -1.0, -0.0, 0.0, 0.99, 1.0, 1.99, 2.0, 2.5, 3.0, 1e300, math.inf, math.nan]
    values = [10.0, 10.0, 10.0, 10.0, 10.0, 20.0, 20.0, 30.0, 30.0, 30.0, 30.0, 30.0, 10.0]
    assert [look_up(step) for step in steps] == values


def test_the_engine_and_python_know_the_same_operations():
    assert _backend.extension.expression_ops() == {**ARITY, **ENGINE_ONLY}


STEP_LINE = ("step", -1, -1, -1, 0.0)


@pytest.mark.parametrize(
    ("code", "tables", "message"),
    [
        ([], [], "an expression needs at least one instruction"),
        ([("cosh", 0, -1, -1, 0.0)], [], "instruction 0 .* unknown operation 'cosh'"),
        ([STEP_LINE, ("", 0, 0, -1, 0.0)], [], "instruction 1 .* unknown operation ''"),
        ([STEP_LINE, ("add", 0, 2, -1, 0.0)], [], r"operand 1 of instruction 1 \('add'\) .* is 2,"),
        ([STEP_LINE, ("add", 0, 1, -1, 0.0)], [], r"operand 1 of instruction 1 \('add'\) .* is 1,"),
        ([STEP_LINE, ("neg", -1, -1, -1, 0.0)], [], "operand 0 of instruction 1 .* is -1,"),
        ([("neg", 1, -1, -1, 0.0), STEP_LINE], [], "operand 0 of instruction 0 .* earlier"),
        ([STEP_LINE, ("select", 0, 0, -1, 0.0)], [], "operand 2 of instruction 1 .* is -1,"),
        ([STEP_LINE, ("table", 0, 0, 2, 0.0)], [1.0], "table of 2 entries from entry 0 .* are 1 "),
        ([STEP_LINE, ("table", 0, -1, 1, 0.0)], [1.0], "table of 1 entries from entry -1 "),
        ([STEP_LINE, ("table", 0, 1, 2**31 - 1, 0.0)], [1.0], "from entry 1 on, but there are 1 "),
        ([STEP_LINE, ("table", 0, 0, 0, 0.0)], [1.0], "table of 0 entries"),
        ([STEP_LINE, ("table", 1, 0, 1, 0.0)], [1.0], "operand 0 of instruction 1 .* is 1,"),
    ],
)
def test_code_that_no_engine_can_run_is_refused(code, tables, message):
    with pytest.raises(ValueError, match=message):
        _backend.extension.Expression(code, tables)


def test_operands_that_an_operation_does_not_use_are_ignored():
    code = [("step", 9, 9, 9, 9.0), ("neg", 0, 9, -9, 9.0)]
    assert _backend.extension.Expression(code, [])(2.0) == -2.0
