"""Kernels that bring what the host knows, and has copied to the device, to its places there."""

from __future__ import annotations

import triton.language as tl

from fusedlr.triton import layouts
from fusedlr.triton.memory import kernel, load, store

BLOCK = tl.constexpr(256)
NUM_WARPS = 4


@kernel
def write_numbers_kernel(tables: tl.int64, places: tl.int64, values: tl.int64, count: tl.int64):
    """Numbers of the group table; no place comes twice."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    place = places + i * layouts.TablePlace.size
    group = load(place + layouts.TablePlace.group, tl.int32, mask, 0).to(tl.int64)
    column = load(place + layouts.TablePlace.column, tl.int32, mask, 0)
    lr = load(tables + layouts.StepTables.lr, tl.int64)
    hypers = load(tables + layouts.StepTables.hypers, tl.int64)
    num_hypers = load(tables + layouts.StepTables.num_hypers, tl.int64)
    slot = tl.where(column < 0, lr + 8 * group, hypers + 8 * (group * num_hypers + column))
    store(slot, load(values + 8 * i, tl.float64, mask, 0.0), tl.float64, mask)


@kernel
def set_grads_kernel(
    rows: tl.int64, active: tl.int64, grads: tl.int64, first: tl.int64, count: tl.int64
):
    """The gradients of the active rows [first, first + count)."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    row = (
        rows
        + load(active + 4 * (first + i), tl.int32, mask, 0).to(tl.int64) * layouts.TensorRow.size
    )
    # The gradient is the operand behind the parameter.
    store(row + layouts.TensorRow.data + 8, load(grads + 8 * i, tl.int64, mask, 0), tl.int64, mask)
