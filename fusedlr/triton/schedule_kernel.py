"""A step of a scheduler, or of a whole tree of them: the twin of ``csrc/engine/kernel_schedule.h``.

One program runs it. Its threads make all decisions together, and share the functions of the step
and the groups, a block of `LANES` at a time. Between a write and what another thread reads or
writes in its place there is a barrier; and so there is where all have read what one overwrites.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fusedlr.triton import layouts
from fusedlr.triton.group_table import LANES, lanes
from fusedlr.triton.links import sync_links
from fusedlr.triton.memory import kernel, load, load_number, store
from fusedlr.triton.moves import apply_move
from fusedlr.triton.schedules import ScheduleStep, prepare


@triton.jit
def _advance_clock(row, counts, has_epoch, epoch):
    clock = row + layouts.SchedulerRow.clock
    step_count = load(clock + layouts.ScheduleClock.step_count, tl.float64)
    last_epoch = load(clock + layouts.ScheduleClock.last_epoch, tl.float64)
    is_counted = counts & (load(row + layouts.SchedulerRow.counts_steps, tl.int32) != 0)
    tl.debug_barrier()
    store(
        clock + layouts.ScheduleClock.step_count, step_count + is_counted.to(tl.float64), tl.float64
    )
    store(
        clock + layouts.ScheduleClock.last_epoch,
        tl.where(has_epoch, epoch, last_epoch + 1),
        tl.float64,
    )


@triton.jit
def _count_up_to(value, table, size):
    """bisect_right of Python, so that even a table without order is read as there."""
    low = tl.cast(0, tl.int64)
    high = size
    while low < high:
        middle = (low + high) // 2
        if value < load(table + 8 * middle, tl.float64):
            high = middle
        else:
            low = middle + 1
    return low


@triton.jit
def _start_part(part, starts, pending):
    """A part that starts at a milestone of a sequence does so by its closed form, uncounted."""
    _advance_clock(part, starts == 0, starts, 0.0)
    store(part + layouts.SchedulerRow.is_closed, starts, tl.int8)
    store(part + layouts.SchedulerRow.next, pending, tl.int64)


@triton.jit
def _start_parts(row, pending):
    """Puts the parts of a composition that take part before the pending ones; the first of all."""
    composition = load(row + layouts.SchedulerRow.composition, tl.int32)
    children = load(row + layouts.SchedulerRow.children, tl.int64)
    if composition == layouts.Composition.sequential:
        epoch = load(
            row + layouts.SchedulerRow.clock + layouts.ScheduleClock.last_epoch, tl.float64
        )
        table = load(row + layouts.SchedulerRow.table, tl.int64)
        place = _count_up_to(epoch, table, load(row + layouts.SchedulerRow.table_size, tl.int64))
        milestone = load(table + 8 * (place - 1), tl.float64, place > 0, float("nan"))
        part = load(children + 8 * place, tl.int64)
        _start_part(part, milestone == epoch, pending)
        pending = part
    elif composition == layouts.Composition.chained:
        num_children = load(row + layouts.SchedulerRow.num_children, tl.int64)
        place = tl.cast(0, tl.int64)
        while place < num_children:
            part = load(children + 8 * place, tl.int64)
            _start_part(part, False, pending)
            pending = part
            place += 1
    return pending


@triton.jit
def _advance(root, has_epoch, is_jump, counts, epoch):
    """Advances the clocks of all schedulers that take part, and links them in the order of moves.

    That is: the parts of a composition one after the other, then the composition. The first one.
    """
    _advance_clock(root, counts, has_epoch, epoch)
    store(root + layouts.SchedulerRow.is_closed, has_epoch & (is_jump == 0), tl.int8)
    store(root + layouts.SchedulerRow.next, 0, tl.int64)
    tl.debug_barrier()
    # A walk from the last to the first, so that each row can be put before those behind it.
    pending = root
    first = tl.cast(0, tl.int64)
    while pending != 0:
        row = pending
        pending = load(row + layouts.SchedulerRow.next, tl.int64)
        tl.debug_barrier()
        store(row + layouts.SchedulerRow.next, first, tl.int64)
        first = row
        pending = _start_parts(row, pending)
        tl.debug_barrier()
    return first


@triton.jit
def _prepare(row, is_initial, is_jump, metric):
    """Turns the clock of a scheduler into moves: one for each of its functions."""
    composition = load(row + layouts.SchedulerRow.composition, tl.int32)
    schedule = load(row + layouts.SchedulerRow.schedule, tl.int32)
    num_functions = load(row + layouts.SchedulerRow.num_functions, tl.int64)
    functions = load(row + layouts.SchedulerRow.functions, tl.int64)
    moves = load(row + layouts.SchedulerRow.moves, tl.int64)
    is_closed = load(row + layouts.SchedulerRow.is_closed, tl.int8) != 0
    table = load(row + layouts.SchedulerRow.table, tl.int64)
    table_size = load(row + layouts.SchedulerRow.table_size, tl.int64)
    # Where a schedule makes no move, this stays.
    store(moves + layouts.Moves.lr + layouts.Move.kind, layouts.MoveKind.keep, tl.int32)
    store(moves + layouts.Moves.momentum + layouts.Move.kind, layouts.MoveKind.keep, tl.int32)
    if composition == layouts.Composition.none:
        step = ScheduleStep(
            is_initial,
            is_closed,
            is_jump,
            metric,
            table,
            table_size,
            functions,
            num_functions,
            moves,
        )
        parameters = row + layouts.SchedulerRow.parameters
        prepare(schedule, parameters, row + layouts.SchedulerRow.clock, step)


@triton.jit
def _moved(row, part: tl.constexpr, group, is_group, num_columns, value):
    """The numbers of a block of groups after one part of a row's move: lr, or momentum."""
    move = load(row + layouts.SchedulerRow.moves, tl.int64) + part
    kind = load(move + layouts.Move.kind, tl.int32)
    if kind != layouts.MoveKind.keep:
        # Several functions: the moves of all of them differ by a only.
        which = tl.zeros(group.shape, tl.int64)
        if load(row + layouts.SchedulerRow.num_functions, tl.int64) > 1:
            function_of_group = load(row + layouts.SchedulerRow.function_of_group, tl.int64)
            which = load(function_of_group + 8 * group, tl.int64, is_group, 0)
        a_of_group = move + which * layouts.Moves.size + layouts.Move.a
        a = load(a_of_group, tl.float64, is_group, 1.0)
        b = load(move + layouts.Move.b, tl.float64)
        source = load(move + layouts.Move.from_, tl.int32)
        target = load(move + layouts.Move.to, tl.int32)
        columns = load(row + layouts.SchedulerRow.columns, tl.int64) + 8 * group
        at_source = load(
            columns + 8 * (source * num_columns), tl.float64, is_group & (source >= 0), 0.0
        )
        at_target = load(
            columns + 8 * (target * num_columns), tl.float64, is_group & (target >= 0), 0.0
        )
        value = apply_move(kind, a, b, value, at_source, at_target)
    return value


@triton.jit
def _move(tables, row):
    # A graph may have captured the step before groups came or went.
    num_columns = load(row + layouts.SchedulerRow.num_groups, tl.int64)
    num_groups = tl.minimum(num_columns, load(tables + layouts.StepTables.num_groups, tl.int64))
    num_hypers = load(tables + layouts.StepTables.num_hypers, tl.int64)
    lr = load(tables + layouts.StepTables.lr, tl.int64)
    hypers = load(tables + layouts.StepTables.hypers, tl.int64)
    last_lr = load(row + layouts.SchedulerRow.last_lr, tl.int64)
    momentum_column = load(row + layouts.SchedulerRow.momentum_column, tl.int32)
    first = tl.cast(0, tl.int64)
    while first < num_groups:
        group = first + lanes()
        is_group = group < num_groups
        value = load(lr + 8 * group, tl.float64, is_group, 0.0)
        value = _moved(row, layouts.Moves.lr, group, is_group, num_columns, value)
        store(lr + 8 * group, value, tl.float64, is_group)
        store(last_lr + 8 * group, value, tl.float64, is_group)
        if momentum_column >= 0:
            momentum = hypers + 8 * (group * num_hypers + momentum_column)
            value = load(momentum, tl.float64, is_group, 0.0)
            value = _moved(row, layouts.Moves.momentum, group, is_group, num_columns, value)
            store(momentum, value, tl.float64, is_group)
        first += LANES
    num_moves = load(row + layouts.SchedulerRow.num_moves, tl.int64)
    tl.debug_barrier()
    store(row + layouts.SchedulerRow.num_moves, num_moves + 1, tl.int64)


@kernel
def schedule_kernel(
    tables: tl.int64,
    root: tl.int64,
    has_epoch: tl.int64,
    is_initial: tl.int64,
    is_jump: tl.int64,
    counts: tl.int64,
    epoch: tl.int64,
    metric: tl.int64,
    metric_dtype: tl.int64,
    metric_value: tl.int64,
):
    """The step of the scheduler at `root`; `epoch` and `metric_value` are the bits of float64."""
    tables, root = tl.cast(tables, tl.int64), tl.cast(root, tl.int64)
    epoch_value = tl.cast(epoch, tl.int64).to(tl.float64, bitcast=True)
    metric_number = tl.cast(metric_value, tl.int64).to(tl.float64, bitcast=True)
    if metric != 0:
        metric_number = load_number(metric, metric_dtype)

    sync_links(tables)
    tl.debug_barrier()
    first = _advance(root, has_epoch != 0, is_jump != 0, counts != 0, epoch_value)

    row = first
    while row != 0:
        is_root = row == root
        _prepare(row, is_root & (is_initial != 0), is_root & (is_jump != 0), metric_number)
        row = load(row + layouts.SchedulerRow.next, tl.int64)
    tl.debug_barrier()

    row = first
    while row != 0:
        _move(tables, row)
        tl.debug_barrier()
        row = load(row + layouts.SchedulerRow.next, tl.int64)
    sync_links(tables)
