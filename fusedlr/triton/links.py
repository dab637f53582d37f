"""Numbers of the group table that are tied to tensors: the twin of ``csrc/engine/kernel_links.h``.

Everything here is done for a block of numbers at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fusedlr.triton import layouts
from fusedlr.triton.memory import load, store


@triton.jit
def slot_of(tables, group, column):
    """The address of a place in the group table; column -1 is the lr."""
    lr = load(tables + layouts.StepTables.lr, tl.int64)
    hypers = load(tables + layouts.StepTables.hypers, tl.int64)
    num_hypers = load(tables + layouts.StepTables.num_hypers, tl.int64)
    of_group = hypers + 8 * (group * num_hypers + column)
    return tl.where(column < 0, lr + 8 * group.to(tl.int64), of_group)


@triton.jit
def _read_numbers(address, dtype, mask):
    """The numbers in tensors of one element each, of any dtype."""
    is_double = dtype == layouts.Dtype.float64
    is_float = dtype == layouts.Dtype.float32
    is_bfloat16 = dtype == layouts.Dtype.bfloat16
    is_float16 = dtype == layouts.Dtype.float16
    as_double = load(address, tl.float64, mask & is_double, 0.0)
    as_float = load(address, tl.float32, mask & is_float, 0.0)
    as_bfloat16 = load(address, tl.bfloat16, mask & is_bfloat16, 0.0)
    as_float16 = load(address, tl.float16, mask & is_float16, 0.0)
    number = tl.where(is_float, as_float.to(tl.float64), as_double)
    number = tl.where(is_bfloat16, as_bfloat16.to(tl.float64), number)
    return tl.where(is_float16, as_float16.to(tl.float64), number)


@triton.jit
def _write_numbers(address, number, dtype, mask):
    as_float = number.to(tl.float32)
    store(address, number, tl.float64, mask & (dtype == layouts.Dtype.float64))
    store(address, as_float, tl.float32, mask & (dtype == layouts.Dtype.float32))
    store(address, as_float, tl.float16, mask & (dtype == layouts.Dtype.float16))
    store(address, _bfloat16_bits(as_float), tl.int16, mask & (dtype == layouts.Dtype.bfloat16))


@triton.jit
def _bfloat16_bits(number):
    """Rounded to nearest, ties to even: Triton's interpreter cuts off instead."""
    bits = number.to(tl.int32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where(number != number, 0x7FC0, rounded)


@triton.jit
def _sync_block(links, is_link, tables):
    """Carries what was written since the last call to the other side; a tensor wins."""
    group = load(links + layouts.LiveLink.place + layouts.TablePlace.group, tl.int32, is_link, 0)
    column = load(links + layouts.LiveLink.place + layouts.TablePlace.column, tl.int32, is_link, 0)
    slot_at = slot_of(tables, group, column)
    tensor = load(links + layouts.LiveLink.tensor, tl.int64, is_link, 0)
    tensor_dtype = load(links + layouts.LiveLink.tensor_dtype, tl.int8, is_link, 0)
    source = load(links + layouts.LiveLink.source, tl.int64, is_link, 0)
    source_dtype = load(links + layouts.LiveLink.source_dtype, tl.int8, is_link, 0)
    tensor_value = load(links + layouts.LiveLink.tensor_value, tl.float64, is_link, 0.0)
    source_value = load(links + layouts.LiveLink.source_value, tl.float64, is_link, 0.0)
    slot_value = load(links + layouts.LiveLink.slot_value, tl.float64, is_link, 0.0)

    slot = load(slot_at, tl.float64, is_link, 0.0)
    value = _read_numbers(tensor, tensor_dtype, is_link)
    is_written = is_link & (value != tensor_value)
    is_moved = is_link & (value == tensor_value) & (slot != slot_value)
    is_followed = is_link & (value == tensor_value) & (slot == slot_value) & (source != 0)
    at_source = _read_numbers(source, source_dtype, is_followed)
    is_followed = is_followed & (at_source != source_value)

    is_told = is_moved | is_followed
    _write_numbers(tensor, tl.where(is_moved, slot, at_source), tensor_dtype, is_told)
    tl.debug_barrier()
    value = tl.where(is_told, _read_numbers(tensor, tensor_dtype, is_told), value)

    is_seen = (is_written | is_followed) & (value != tensor_value)
    store(slot_at, value, tl.float64, is_seen)
    store(
        links + layouts.LiveLink.slot_value,
        tl.where(is_moved, slot, value),
        tl.float64,
        is_moved | is_seen,
    )
    store(links + layouts.LiveLink.tensor_value, value, tl.float64, is_moved | is_seen)
    store(links + layouts.LiveLink.source_value, at_source, tl.float64, is_followed)
    store(links + layouts.LiveLink.source, 0, tl.int64, is_written | is_moved)


@triton.jit(noinline=True)
def sync_links(tables, LANES: tl.constexpr):
    """All links of an optimizer; nobody may read them, or the group table, before a barrier."""
    links = load(tables + layouts.StepTables.links, tl.int64)
    num_links = load(tables + layouts.StepTables.num_links, tl.int64)
    first = tl.full([], 0, tl.int64)
    while first < num_links:
        link = first + tl.arange(0, LANES)
        _sync_block(links + link * layouts.LiveLink.size, link < num_links, tables)
        first += LANES
