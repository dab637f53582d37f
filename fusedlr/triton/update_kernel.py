"""The update kernel: walks the chunks of all tensors that share a rule and a storage.

One program for each chunk. A tensor whose operands lie at multiples of 16 bytes is read and written
16 bytes at a time, all but its last elements.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fusedlr.triton import layouts, rules, storage
from fusedlr.triton.memory import kernel, load, load_numbers
from fusedlr.triton.storage import load_any, load_as, store_any, store_as

#: Elements that a program works on at a time: of float32, two vectors of each operand for each of
#: 128 threads, as in csrc/engine/tuning.h.
BLOCK = tl.constexpr(1024)
NUM_WARPS = 4


@triton.jit
def load_addresses(row, count: tl.constexpr):
    """Where the first operands of a row lie."""
    if count == 0:
        return ()
    else:
        last = load(row + layouts.TensorRow.data + 8 * (count - 1), tl.int64)
        return load_addresses(row, count - 1) + (last,)


# Where all operands are stored alike


@triton.jit
def advance(addresses, bytes, count: tl.constexpr):
    if count == 0:
        return ()
    else:
        return advance(addresses, bytes, count - 1) + (addresses[count - 1] + bytes,)


@triton.jit
def as_aligned(addresses, count: tl.constexpr):
    """Addresses that the compiler may take for multiples of 16."""
    if count == 0:
        return ()
    else:
        return as_aligned(addresses, count - 1) + (tl.multiple_of(addresses[count - 1], 16),)


@triton.jit
def are_aligned(addresses, count: tl.constexpr):
    bits = addresses[0]
    for operand in tl.static_range(1, count):
        bits = bits | addresses[operand]
    return (bits & 15) == 0


@triton.jit
def load_operands(addresses, index, mask, storage_: tl.constexpr, count: tl.constexpr):
    if count == 0:
        return ()
    else:
        address = addresses[count - 1] + index * storage.SIZES[storage_]
        last = load_as(address, storage.ELEMENTS[storage_], storage.OPMATHS[storage_], mask)
        return load_operands(addresses, index, mask, storage_, count - 1) + (last,)


@triton.jit
def update_elements(addresses, index, mask, coeffs, rule: tl.constexpr, storage_: tl.constexpr):
    num_states: tl.constexpr = rules.RULES[rule].num_states
    operands = load_operands(addresses, index, mask, storage_, 2 + num_states)
    updated = rules.RULES[rule].update(operands[0], operands[1], operands[2:], coeffs)
    size: tl.constexpr = storage.SIZES[storage_]
    store_as(addresses[0] + index * size, updated[0], storage.ELEMENTS[storage_], mask)
    for state in tl.static_range(num_states):
        address = addresses[2 + state] + index * size
        store_as(address, updated[1 + state], storage.ELEMENTS[storage_], mask)


@triton.jit
def update_uniform(row, begin, count, coeffs, rule: tl.constexpr, storage_: tl.constexpr):
    num_operands: tl.constexpr = 2 + rules.RULES[rule].num_states
    vector: tl.constexpr = 16 // storage.SIZES[storage_]
    addresses = load_addresses(row, num_operands)
    addresses = advance(addresses, begin * storage.SIZES[storage_], num_operands)
    lanes = tl.arange(0, BLOCK)
    index = 0
    if are_aligned(addresses, num_operands):
        in_vectors = tl.multiple_of(count // vector * vector, vector)
        while index < in_vectors:
            at = tl.multiple_of(index, BLOCK) + lanes
            update_elements(
                as_aligned(addresses, num_operands), at, at < in_vectors, coeffs, rule, storage_
            )
            index += BLOCK
        index = in_vectors
    while index < count:
        update_elements(addresses, index + lanes, index + lanes < count, coeffs, rule, storage_)
        index += BLOCK


# Where each is stored and laid out in its own way


@triton.jit
def locate(layout, operand: tl.constexpr, index):
    """Where the elements `index` of the walk lie in an operand; see DeviceLayout."""
    num_dims = load(layout, tl.int64)
    sizes = layout + 8
    strides = sizes + 8 * num_dims * (1 + operand)
    offset = index * 0
    dim = num_dims - 1
    while dim >= 0:
        size = load(sizes + 8 * dim, tl.int64)
        offset += index % size * load(strides + 8 * dim, tl.int64)
        index = index // size
        dim -= 1
    return offset


@triton.jit
def place(row, layouts_, operand: tl.constexpr, index):
    layout = load(row + layouts.TensorRow.layout, tl.int32)
    if layout >= 0:
        index = locate(layouts_ + 8 * layout.to(tl.int64), operand, index)
    return index


@triton.jit
def dtype_of(row, operand: tl.constexpr):
    if operand == 0:
        return load(row + layouts.TensorRow.param_dtype, tl.uint8)
    elif operand == 1:
        return load(row + layouts.TensorRow.grad_dtype, tl.uint8)
    else:
        return load(row + layouts.TensorRow.state_dtype, tl.uint8)


@triton.jit
def load_any_operands(row, layouts_, index, mask, opmath: tl.constexpr, count: tl.constexpr):
    if count == 0:
        return ()
    else:
        operand: tl.constexpr = count - 1
        data = load(row + layouts.TensorRow.data + 8 * operand, tl.int64)
        at = place(row, layouts_, operand, index)
        last = load_any(data, at, dtype_of(row, operand), opmath, mask)
        return load_any_operands(row, layouts_, index, mask, opmath, operand) + (last,)


@triton.jit
def store_any_operand(row, layouts_, index, value, mask, operand: tl.constexpr):
    data = load(row + layouts.TensorRow.data + 8 * operand, tl.int64)
    store_any(data, place(row, layouts_, operand, index), value, dtype_of(row, operand), mask)


@triton.jit
def update_any(row, layouts_, begin, count, coeffs, rule: tl.constexpr, opmath: tl.constexpr):
    num_states: tl.constexpr = rules.RULES[rule].num_states
    first = 0
    while first < count:
        lanes = first + tl.arange(0, BLOCK)
        index, mask = begin + lanes, lanes < count
        operands = load_any_operands(row, layouts_, index, mask, opmath, 2 + num_states)
        updated = rules.RULES[rule].update(operands[0], operands[1], operands[2:], coeffs)
        store_any_operand(row, layouts_, index, updated[0], mask, 0)
        for state in tl.static_range(num_states):
            store_any_operand(row, layouts_, index, updated[1 + state], mask, 2 + state)
        first += BLOCK


@kernel
def update_kernel(
    tables: tl.int64,
    rows: tl.int64,
    layouts_: tl.int64,
    chunks: tl.int64,
    coeffs: tl.int64,
    rule: tl.constexpr,
    storage_: tl.constexpr,
):
    counters = load(tables + layouts.StepTables.counters, tl.int64)
    if load(counters + layouts.StepCounters.is_skipped, tl.float64) == 0:
        chunk = chunks + tl.program_id(0).to(tl.int64) * layouts.Chunk.size
        row_index = load(chunk + layouts.Chunk.row, tl.int32).to(tl.int64)
        number = load(chunk + layouts.Chunk.number, tl.int32).to(tl.int64)
        row = rows + row_index * layouts.TensorRow.size
        begin = number * layouts.CHUNK_ELEMENTS
        left = load(row + layouts.TensorRow.numel, tl.int64) - begin
        count = tl.minimum(left, layouts.CHUNK_ELEMENTS).to(tl.int32)
        numbers = load_numbers(
            coeffs + row_index * layouts.MAX_COEFFS * 8, rules.RULES[rule].num_coeffs
        )
        if storage_ != layouts.Storage.any:
            update_uniform(row, begin, count, numbers, rule, storage_)
        elif dtype_of(row, 0) == layouts.Dtype.float64:
            update_any(row, layouts_, begin, count, numbers, rule, tl.float64)
        else:
            update_any(row, layouts_, begin, count, numbers, rule, tl.float32)
