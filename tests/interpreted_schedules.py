"""Schedules, links and records on the kernels of Triton, interpreted: bits of torch, or of the CPU.

For a process of its own, with ``TRITON_INTERPRET=1``: test_triton_suite.py starts it.
"""

from __future__ import annotations

import ctypes
import math
import struct
import warnings
from typing import Any

import pytest
import torch
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

import fusedlr
from fusedlr import _backend, expression
from fusedlr.expression import ARITY, STEP, Expression, constant
from fusedlr.triton import layouts
from fusedlr.triton.expression import evaluate, value_of
from fusedlr.triton.group_table import LANES, lanes
from fusedlr.triton.memory import kernel, store
from schedule_cases import REPRESENTATIVES, cases, each_schedule
from schedule_lockstep import Lockstep, exact, leaves, make_optimizer
from test_expression_engine import SPECIAL, bits, expressions, numbers


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEDLR_BACKEND", "triton")


# Expressions


@kernel
def evaluate_kernel(formulas: tl.int64, count: tl.int64, step: tl.int64, values: tl.int64):
    evaluate(
        formulas,
        layouts.ScheduleFormula.size,
        count,
        tl.cast(step, tl.int64).to(tl.float64, bitcast=True),
    )
    first = tl.cast(0, tl.int64)
    while first < count:
        place = first + lanes()
        mask = place < count
        value = value_of(formulas + place * layouts.ScheduleFormula.size, mask)
        store(values + 8 * place, value, tl.float64, mask)
        first += LANES


class Rows:
    """Rows of a struct of the kernels, in memory."""

    def __init__(self, fields: Any, count: int) -> None:
        self._fields = fields
        self._bytes = bytearray(count * fields.size.value)

    def put(self, row: int, form: str, **values: Any) -> None:
        """Puts fields of one row, all of the same form (see the module ``struct``)."""
        for name, value in values.items():
            offset = row * self._fields.size.value + getattr(self._fields, name).value
            struct.pack_into(form, self._bytes, offset, value)

    def address(self) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self._bytes))


def interpreted(programs: list[expression.Program], step: float) -> list[float]:
    """The values of expressions, all in one launch."""
    alive: list[Any] = []
    formulas = Rows(layouts.ScheduleFormula, len(programs))
    ops = list(_backend.extension.expression_ops())
    for row, program in enumerate(programs):
        code = Rows(layouts.Instruction, len(program.code))
        for place, line in enumerate(program.code):
            code.put(place, "i", op=ops.index(line.op), a=line.a, b=line.b, c=line.c)
            code.put(place, "d", value=line.value)
        tables = torch.tensor([*program.tables, 0.0], dtype=torch.float64)
        results = torch.zeros(len(program.code), dtype=torch.float64)
        formulas.put(row, "q", code=code.address(), code_size=len(program.code))
        formulas.put(row, "q", tables=tables.data_ptr(), results=results.data_ptr())
        alive += [code, tables, results]
    values = torch.zeros(len(programs), dtype=torch.float64)
    (step_bits,) = struct.unpack("q", struct.pack("d", step))
    evaluate_kernel[(1,)](formulas.address(), len(programs), step_bits, values.data_ptr())
    return list(values.tolist())


def assert_same_values(nodes: list[Expression], step: float) -> None:
    programs = [expression.compile_(node) for node in nodes]
    for program, value in zip(programs, interpreted(programs, step), strict=True):
        of_cpu_engine = _backend.new_expression(program)(step)
        assert bits(value) == bits(of_cpu_engine), (program, step, value, of_cpu_engine)


@pytest.mark.parametrize("step", [2.5, -0.0, -3.0, 1e300, math.nan])
def test_each_operation_gives_the_bits_of_the_cpu_engine_on_special_numbers(step):
    signed = SPECIAL + [-number for number in SPECIAL]
    nodes = [
        Expression(op, (*operands, constant(7.0))[:arity])
        for op, arity in ARITY.items()
        for other in (signed if arity > 1 else [0.0])
        for operands in ((STEP, constant(other)), (constant(other), STEP))
    ]
    assert len(nodes) > LANES.value, "all in one block"
    assert_same_values(nodes, step)


@settings(derandomize=True, deadline=None, max_examples=10)
@given(st.lists(expressions(), min_size=20, max_size=40), numbers)
def test_expressions_of_any_length_side_by_side_give_the_bits_of_the_cpu_engine(nodes, step):
    assert_same_values(nodes, step)


def test_a_table_is_truncated_and_clamped():
    node = expression.table(STEP, (10.0, 20.0, 30.0))
    for step in (-math.inf, -1.0, 0.99, 1.0, 2.5, 3.0, 1e300, math.inf, math.nan):
        assert_same_values([node, STEP + node], step)


# Schedulers


def skip_epochs(lockstep: Lockstep, count: int) -> None:
    """On both sides, by hand."""
    for side in lockstep.sides:
        for scheduler in {
            id(one): one for one in (side.scheduler, *leaves(side.scheduler))
        }.values():
            if hasattr(scheduler, "last_epoch"):
                scheduler.last_epoch += count


def go_to_epoch(lockstep: Lockstep, epoch: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that epochs are deprecated
        for side in lockstep.sides:
            side.scheduler.step(epoch)
    lockstep.check()


@each_schedule
def test_every_step_gives_the_bits_of_torch(case):
    lockstep = Lockstep(case)
    lockstep.run(3)
    for count in (5, 18):
        skip_epochs(lockstep, count)
        lockstep.run(1)
    # By the closed form, which torch does not have for every class.
    if case.of.takes_epoch and not (case.of.takes_metric or case.has_no_length or case.children):
        go_to_epoch(lockstep, 6)


@pytest.mark.parametrize("case", cases(takes_functions=True, among=REPRESENTATIVES), ids=str)
def test_more_groups_and_functions_than_fit_one_block_give_the_bits_of_torch(case):
    Lockstep(case, num_groups=2 * LANES.value + 3).run(1)


# Tensors of the user's


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_tensors_and_the_group_table_follow_each_other_as_on_the_cpu_engine(dtype, monkeypatch):
    def observed(backend: str) -> list[Any]:
        monkeypatch.setenv("FUSEDLR_BACKEND", backend)
        shared = torch.tensor(0.1, dtype=dtype)
        own = torch.tensor([0.3], dtype=dtype)
        optimizer = make_optimizer(fusedlr, 3, lambda number: shared if number > 0.06 else own)
        scheduler = fusedlr.lr_scheduler.ExponentialLR(optimizer, 0.9)
        seen = []
        for act in (
            lambda: None,
            lambda: shared.fill_(0.05),
            lambda: own.mul_(3),
            scheduler.step,
            lambda: shared.fill_(0.7),
            lambda: own.fill_(1 / 3),
        ):
            act()
            optimizer.step()
            params = [group["params"][0].tolist() for group in optimizer.param_groups]
            numbers = [group["lr"] for group in optimizer.param_groups]
            seen.append(exact([params, numbers, shared, own, optimizer.lr.tolist()]))
        return seen

    of_cpu_engine = observed("cpu")
    assert observed("triton") == of_cpu_engine
    assert len(set(map(str, of_cpu_engine))) == len(of_cpu_engine), "every act moves something"
