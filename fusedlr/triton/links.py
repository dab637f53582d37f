"""Numbers of the group table that are tied to tensors: the twin of ``csrc/engine/kernel_links.h``.

Everything here is done for a block of links at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fusedlr.triton import layouts, storage
from fusedlr.triton.group_table import LANES, lanes, slots
from fusedlr.triton.memory import load, pointer, store
from fusedlr.triton.storage import load_as, store_as


@triton.jit
def _read_numbers(address, dtype, mask):
    """The numbers in tensors of one element each, of any dtype."""
    number = tl.zeros(address.shape, tl.float64)
    for one in tl.static_range(len(storage.ELEMENTS)):
        is_one = mask & (dtype == one)
        tensors = pointer(address, storage.ELEMENTS[one])
        number = tl.where(is_one, load_as(tl.float64, tensors, 0, is_one), number)
    return number


@triton.jit
def _write_numbers(address, number, dtype, mask):
    for one in tl.static_range(len(storage.ELEMENTS)):
        tensors = pointer(address, storage.ELEMENTS[one])
        store_as(tensors, 0, number, mask & (dtype == one))


@triton.jit
def _sync_block(link, is_link, tables):
    """Carries what was written since the last call to the other side; a tensor wins."""
    slot_at, _ = slots(tables, link + layouts.LiveLink.place, is_link)
    tensor = load(link + layouts.LiveLink.tensor, tl.int64, is_link, 0)
    tensor_dtype = load(link + layouts.LiveLink.tensor_dtype, tl.int8, is_link, 0)
    source = load(link + layouts.LiveLink.source, tl.int64, is_link, 0)
    source_dtype = load(link + layouts.LiveLink.source_dtype, tl.int8, is_link, 0)
    tensor_value = load(link + layouts.LiveLink.tensor_value, tl.float64, is_link, 0.0)
    source_value = load(link + layouts.LiveLink.source_value, tl.float64, is_link, 0.0)
    slot_value = load(link + layouts.LiveLink.slot_value, tl.float64, is_link, 0.0)

    slot = load(slot_at, tl.float64, is_link, 0.0)
    value = _read_numbers(tensor, tensor_dtype, is_link)
    is_written = is_link & (value != tensor_value)
    is_moved = is_link & (value == tensor_value) & (slot != slot_value)
    has_source = is_link & (value == tensor_value) & (slot == slot_value) & (source != 0)
    at_source = _read_numbers(source, source_dtype, has_source)
    is_followed = has_source & (at_source != source_value)

    is_told = is_moved | is_followed
    tl.debug_barrier()
    _write_numbers(tensor, tl.where(is_moved, slot, at_source), tensor_dtype, is_told)
    tl.debug_barrier()
    value = tl.where(is_told, _read_numbers(tensor, tensor_dtype, is_told), value)

    is_seen = (is_written | is_followed) & (value != tensor_value)
    is_known = is_moved | is_seen
    known_slot = tl.where(is_moved, slot, value)
    store(slot_at, value, tl.float64, is_seen)
    store(link + layouts.LiveLink.slot_value, known_slot, tl.float64, is_known)
    store(link + layouts.LiveLink.tensor_value, value, tl.float64, is_known)
    store(link + layouts.LiveLink.source_value, at_source, tl.float64, is_followed)
    store(link + layouts.LiveLink.source, 0, tl.int64, is_written | is_moved)


# One piece of code in a program, instead of one at every call: it is long.
@triton.jit(noinline=True)
def sync_links(tables):
    """All links of an optimizer. Before it, and after it, there must be a barrier."""
    links = load(tables + layouts.StepTables.links, tl.int64)
    num_links = load(tables + layouts.StepTables.num_links, tl.int64)
    first = tl.cast(0, tl.int64)
    while first < num_links:
        place = first + lanes()
        _sync_block(links + place * layouts.LiveLink.size, place < num_links, tables)
        first += LANES
