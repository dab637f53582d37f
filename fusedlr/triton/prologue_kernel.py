"""What comes before the update of the elements: the twin of ``csrc/engine/kernel_prologue.h``.

One program runs it, phase by phase: all threads have finished one when the next begins.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fusedlr.triton import layouts
from fusedlr.triton.expression import evaluate, value_of
from fusedlr.triton.group_table import LANES, lanes, slots
from fusedlr.triton.links import sync_links
from fusedlr.triton.memory import kernel, load, load_number, store
from fusedlr.triton.prepare_rows import prepare_rows


@triton.jit
def _decide_whether_to_skip(tables, counters):
    found_inf = load(tables + layouts.StepTables.found_inf, tl.int64)
    is_skipped = tl.cast(0.0, tl.float64)
    if found_inf != 0:
        dtype = load(tables + layouts.StepTables.found_inf_dtype, tl.int8)
        is_skipped = (load_number(found_inf, dtype) != 0).to(tl.float64)
    store(counters + layouts.StepCounters.is_skipped, is_skipped, tl.float64)


@triton.jit
def _move_scheduled(tables, formulas):
    """Numbers of the group table that follow a formula."""
    scheduled = load(tables + layouts.StepTables.scheduled, tl.int64)
    num_scheduled = load(tables + layouts.StepTables.num_scheduled, tl.int64)
    first = tl.cast(0, tl.int64)
    while first < num_scheduled:
        place = first + lanes()
        mask = place < num_scheduled
        row = scheduled + place * layouts.ScheduledPlace.size
        slot, has = slots(tables, row + layouts.ScheduledPlace.place, mask)
        index = load(row + layouts.ScheduledPlace.formula, tl.int32, mask, 0).to(tl.int64)
        formula = formulas + index * layouts.ScheduleFormula.size
        store(slot, value_of(formula, mask), tl.float64, has)
        first += LANES


@triton.jit
def _write_record(tables, record, completed, skipped):
    """A row of one record: completed and skipped steps, then numbers of the group table."""
    memory = load(record + layouts.StepRecord.memory, tl.int64)
    capacity = load(record + layouts.StepRecord.capacity, tl.int64)
    places = load(record + layouts.StepRecord.places, tl.int64)
    num_places = load(record + layouts.StepRecord.num_places, tl.int64)
    num_columns = num_places + 2
    num_written = memory + 8 * capacity * num_columns
    written = load(num_written, tl.float64)
    row = memory + 8 * (written.to(tl.int64) % capacity * num_columns)
    store(row, completed, tl.float64)
    store(row + 8, skipped, tl.float64)
    first = tl.cast(0, tl.int64)
    while first < num_places:
        column = first + lanes()
        mask = column < num_places
        slot, has = slots(tables, places + column * layouts.TablePlace.size, mask)
        number = load(slot, tl.float64, has, float("nan"))
        store(row + 16 + 8 * column, number, tl.float64, mask)
        first += LANES
    tl.debug_barrier()
    store(num_written, written + 1, tl.float64)


@triton.jit
def _end(tables, counters):
    completed = load(counters + layouts.StepCounters.completed, tl.float64)
    is_skipped = load(counters + layouts.StepCounters.is_skipped, tl.float64)
    skipped = load(counters + layouts.StepCounters.skipped, tl.float64) + is_skipped
    record = load(tables + layouts.StepTables.records, tl.int64)
    num_records = load(tables + layouts.StepTables.num_records, tl.int64)
    end = record + num_records * layouts.StepRecord.size
    while record < end:
        _write_record(tables, record, completed, skipped)
        record += layouts.StepRecord.size
    tl.debug_barrier()
    store(counters + layouts.StepCounters.skipped, skipped, tl.float64)
    store(counters + layouts.StepCounters.completed, completed + (1 - is_skipped), tl.float64)


@kernel
def prologue_kernel(
    tables: tl.int64,
    rows: tl.int64,
    active: tl.int64,
    num_active: tl.int64,
    rules: tl.int64,
    coeffs: tl.int64,
    begins: tl.int64,
    ends: tl.int64,
):
    """Begins a step, advances the active rows' steps, prepares their coefficients, and ends it."""
    counters = load(tables + layouts.StepTables.counters, tl.int64)
    sync_links(tables)
    if begins != 0:
        _decide_whether_to_skip(tables, counters)
    tl.debug_barrier()
    is_skipped = load(counters + layouts.StepCounters.is_skipped, tl.float64) != 0
    formulas = load(tables + layouts.StepTables.formulas, tl.int64)
    if (begins != 0) & (is_skipped == 0):
        num_formulas = load(tables + layouts.StepTables.num_formulas, tl.int64)
        completed = load(counters + layouts.StepCounters.completed, tl.float64)
        evaluate(formulas, layouts.ScheduleFormula.size, num_formulas, completed)
        tl.debug_barrier()
        _move_scheduled(tables, formulas)
        tl.debug_barrier()
    if is_skipped == 0:
        prepare_rows(tables, rows, active, num_active, rules, coeffs)
    if ends != 0:
        _end(tables, counters)
