"""The coefficients of a step: once for each tensor, by the rule of its group."""

from __future__ import annotations

import triton
import triton.language as tl

from fusedlr.triton import layouts, rules
from fusedlr.triton.memory import load, load_numbers, store

#: Rows that are prepared at a time.
ROWS = tl.constexpr(128)


@triton.jit
def advance_steps(row, counts, mask):
    """Advances the steps of the rows that `counts`, and gives those of all rows in `mask`."""
    address = load(row + layouts.TensorRow.step, tl.int64, mask, 0)
    dtype = load(row + layouts.TensorRow.step_dtype, tl.uint8, mask, 0)
    is_double = mask & (dtype == layouts.Dtype.float64)
    is_single = mask & (dtype != layouts.Dtype.float64)
    double = load(address, tl.float64, is_double, 0.0)
    single = load(address, tl.float32, is_single, 0.0)
    double = tl.where(counts, double + 1.0, double)
    single = tl.where(counts, single + 1.0, single)
    store(address, double, tl.float64, is_double & counts)
    store(address, single, tl.float32, is_single & counts)
    return tl.where(is_double, double, single.to(tl.float64)).to(tl.int64)


@triton.jit
def prepare_by(tables, row, coeffs, mask, rule: tl.constexpr):
    group = load(row + layouts.TensorRow.group, tl.int32, mask, 0).to(tl.int64)
    num_hypers = load(tables + layouts.StepTables.num_hypers, tl.int64)
    hypers = load(tables + layouts.StepTables.hypers, tl.int64) + 8 * num_hypers * group
    numbers = load_numbers(hypers, rules.RULES[rule].num_hypers, mask, 0.0)
    lr = load(load(tables + layouts.StepTables.lr, tl.int64) + 8 * group, tl.float64, mask, 0.0)
    step = tl.zeros(mask.shape, tl.int64)
    if rules.RULES[rule].counts_steps:
        counts = mask & rules.RULES[rule].counts_step(numbers)
        step = advance_steps(row, counts, mask)
    prepared = rules.RULES[rule].prepare(numbers, lr, step)
    for i in tl.static_range(len(prepared)):
        store(coeffs + 8 * i, prepared[i], tl.float64, mask)


@triton.jit
def prepare_rows(tables, rows, active, num_active, rules_, coeffs):
    """Advances the steps of the active rows, and prepares their coefficients."""
    first = tl.cast(0, tl.int64)
    while first < num_active:
        k = first + tl.arange(0, ROWS)
        mask = k < num_active
        index = load(active + 4 * k, tl.int32, mask, 0).to(tl.int64)
        row = rows + index * layouts.TensorRow.size
        group = load(row + layouts.TensorRow.group, tl.int32, mask, 0).to(tl.int64)
        # A group may have gone since a graph was captured.
        mask = mask & (group < load(tables + layouts.StepTables.num_groups, tl.int64))
        rule_of_row = load(rules_ + 4 * group, tl.int32, mask, -1)
        for rule in tl.static_range(rules.NUM_RULES):
            chosen = mask & (rule_of_row == rule)
            if tl.max(chosen.to(tl.int32), 0) > 0:
                prepare_by(tables, row, coeffs + index * layouts.MAX_COEFFS * 8, chosen, rule)
        first += ROWS
