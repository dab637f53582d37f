"""Random programs: a trace has the bits of the function, without having been compared with it."""

import bisect
import math
import struct
from unittest import mock

import hypothesis.strategies as st
from hypothesis import given, settings

from fusedlr import _backend, tracing
from fusedlr.expression import compile_, evaluate

STEPS = (*range(40), 99, 100, 101, 4_095, 4_096, 65_537, 999_983)
NAMES = {"math": math, "bisect": bisect, "TABLE": [2, 0, -1, 5], "FACTORS": (0.5, 0.25, 0.125)}

# The grammar: {i} is an int, {f} a float, {n} either, {b} a condition; the other braces give a
# choice. Ints stay far below 2**53, from where on float64 has no odd ones.

SIMPLEST = {
    "i": ["e", "e", "x", "0", "1", "2", "3", "7", "10", "30", "-1", "-2", "-7"],
    "f": ["e / 10", "e / 7.5", "y", "0.0", "-0.0", "0.5", "0.1", "2.5", "math.pi"],
    "b": ["e < 5", "e > 10", "x == 3"],
}
RULES = {
    "i": [
        "({i} + {i})",
        "({i} - {i})",
        "({i} * {2|-3|7})",
        "({i} {//|%} {7|-3})",
        "{min|max}({i}, {i})",
        "{int|round|math.floor|math.ceil|math.trunc}({f})",
        "{abs|-|+|int}({i})",
        "({i} if {b} else {i})",
        "int({b})",
        "bisect.bisect_right([3, 10, 40], {i})",
        "TABLE[{i} % 4]",
        "[2, 0, -1][min(max({i}, 0), 2)]",
        "sum([{i}, {i}])",
    ],
    "f": [
        "({n} {+|-|*|/} {f})",
        "({n} / {3|-7|1000})",
        "({f} {//|%} {0.3|7|-1.5})",
        "{min|max}({f}, {f}, {f})",  # all of them floats: a mixture loses the sign of 0
        "math.{cos|sin|tan|tanh|exp|sqrt|log|fabs}({n})",
        "({0.9|0.5|2|1.01} ** {f})",
        "(abs({f}) ** {2|0.5|3|-1|1.5})",
        "({f} if {b} else {f})",
        "float({n})",
        "FACTORS[min(max({i}, -3), 2)]",
        "(-{f})",
        "abs({f})",
    ],
    "b": [
        "({n} {<|<=|>|>=|==|!=} {n})",
        "({i} in {(3, 10)|TABLE})",
        "({i} in {{3, 10}})",
        "(not {b})",
        "({b} {and|or} {b})",
        "({i} <= {i} < {f})",
    ],
    "statement": [
        "if {b}:\n        return {f}",
        "for m in (3, 10, 50):\n        if {i} >= m:\n            y *= 0.5",
        "while x > 10:\n        x = x // 8 - {1|3}",
        "x = {i} % 1_000_003",
        "y = {f}",
        "e += {i} % 1_000_003",
    ],
}


@st.composite
def programs(draw):
    """The source of a function of ``e``."""

    def write(symbol, depth):
        if symbol == "n":
            symbol = draw(st.sampled_from("if"))
        if depth == 0 or (symbol in SIMPLEST and draw(st.integers(0, 4)) == 0):
            return draw(st.sampled_from(SIMPLEST[symbol]))
        return fill(draw(st.sampled_from(RULES[symbol])), depth - 1)

    def fill(template, depth):
        parts = template.replace("{{", "\0").replace("}}", "\1").replace("}", "{").split("{")
        for place in range(1, len(parts), 2):
            if parts[place] in (*RULES, "n"):
                parts[place] = write(parts[place], depth)
            else:
                parts[place] = draw(st.sampled_from(parts[place].split("|")))
        return "".join(parts).replace("\0", "{").replace("\1", "}")

    lines = ["def function(e):", "x, y = e, 1.0"]
    lines += [write("statement", 3) for _ in range(draw(st.integers(0, 2)))]
    return "\n    ".join([*lines, f"return {write('f', 3)} * y + x"])


def bits(number):
    return "nan" if math.isnan(number) else struct.pack("d", number)


def compiled(source):
    namespace = dict(NAMES)
    exec(source, namespace)
    return namespace["function"]


@settings(deadline=None, max_examples=100)
@given(programs())
def test_the_trace_of_a_random_program_and_the_engine_give_its_bits(source):
    function = compiled(source)
    with mock.patch.object(tracing, "refuse_disagreement"):
        trace = tracing.trace(function)
    if isinstance(trace, tracing.Untraceable):
        # A path of constants may raise, or be complex, where no step goes.
        assert trace.reason.startswith(("it raises ", "it gives complex", "it has more"))
        return

    program = compile_(trace.expression)
    engine = _backend.new_expression(program)
    for step in STEPS:
        try:
            value = float(function(step))
        except (ArithmeticError, TypeError, ValueError):  # no value, or a complex one
            continue
        assert bits(evaluate(program, step)) == bits(value), step
        assert bits(engine(step)) == bits(value), step


def test_most_random_programs_are_traced():
    sources = []

    @settings(deadline=None, max_examples=30, database=None, derandomize=True)
    @given(programs())
    def collect(source):
        sources.append(source)

    collect()
    traces = [tracing.trace(compiled(source)) for source in sources]

    assert sum(isinstance(trace, tracing.Traced) for trace in traces) > 0.7 * len(traces)
