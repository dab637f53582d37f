"""Twins in ``fusedlr/triton`` are those of the lists of C++, and compute without contractions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import triton.language as tl

from fusedlr import _backend, expression
from fusedlr.triton import layouts, schedules
from fusedlr.triton.memory import kernel, store
from fusedlr.triton.moves import apply_move
from fusedlr.triton.schedules import (
    ScheduleStep,
    constant_schedule,
    linear_schedule,
    plateau_schedule,
)
from test_triton_compiled import ARCHITECTURES, compiled, count

TRITON = Path(schedules.__file__).parent


def mentioned(module: str, function: str, enumeration: str) -> list[str]:
    """The values of an enumeration of C++ that a function of a module mentions, in its order."""
    tree = ast.parse((TRITON / f"{module}.py").read_text(encoding="utf-8"))
    (body,) = (
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function
    )
    return [
        node.attr
        for node in ast.walk(body)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == enumeration
    ]


def values_of(enumeration: str) -> set[str]:
    return set(vars(getattr(layouts, enumeration)))


def test_every_schedule_has_its_twin():
    names = set(_backend.extension.schedules())
    assert {name.rstrip("_") for name in values_of("Schedule")} == names
    assert {name for name in vars(schedules) if name.endswith("_schedule")} == {
        f"{name}_schedule" for name in names
    }
    dispatched = mentioned("schedules", "prepare", "Schedule")
    assert len(dispatched) == len(names)
    assert set(dispatched) == values_of("Schedule")


def test_every_operation_of_an_expression_has_its_twin():
    leaves = {"constant", "step", "table"}
    applied = mentioned("expression", "_apply", "ExpressionOp")
    assert len(applied) == len(set(applied))
    assert set(applied) == values_of("ExpressionOp") - leaves
    assert {name.rstrip("_") for name in applied} == set(expression.ARITY)
    # The others come first: what is above them is applied.
    assert list(_backend.extension.expression_ops())[:3] == ["constant", "step", "table"]


def test_every_move_has_its_twin():
    applied = mentioned("moves", "apply_move", "MoveKind")
    assert len(applied) == len(set(applied))
    assert set(applied) == values_of("MoveKind") - {"keep"}


@kernel
def formulas_kernel(numbers: tl.int64, kind: tl.int64, is_closed: tl.int64, clock: tl.int64):
    """All moves, and schedules that need no function of libdevice, which fuses as it likes."""
    value = tl.cast(kind, tl.float64)
    a, b = value * value, value / 3
    moved = apply_move(kind, a, b, value, a - b, b + value)
    store(numbers, moved, tl.float64)
    step = ScheduleStep(
        kind == 0, is_closed != 0, kind == 0, value, numbers, kind, numbers, kind, numbers
    )
    constant_schedule(numbers, clock, step)
    linear_schedule(numbers, clock, step)
    plateau_schedule(numbers, clock, step)


def test_formulas_of_schedules_compute_as_ieee_demands():
    ptx = compiled(formulas_kernel, ARCHITECTURES[0])["ptx"]
    assert count(ptx, r"fma\.\S+") == 0
    assert count(ptx, r"mul\.rn\.f64") > 10
    assert count(ptx, r"div\.rn\.f64") >= 4
    assert not re.search(r"\.approx|div\.full|\.ftz", ptx)


def test_a_function_of_the_step_begins_as_a_formula_does():
    """What evaluates formulas evaluates these, too."""
    of_formula, of_function = vars(layouts.ScheduleFormula), vars(layouts.StepFunction)
    fields = of_formula.keys() - {"size"}
    assert {name: of_function[name].value for name in fields} == {
        name: of_formula[name].value for name in fields
    }
