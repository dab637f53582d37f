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


# Where all operands are stored alike


@triton.jit
def find(row, offset, count: tl.constexpr):
    """The addresses so many bytes behind the beginning of each operand."""
    if count == 0:
        return ()
    else:
        last = load(row + layouts.TensorRow.data + 8 * (count - 1), tl.int64) + offset
        return find(row, offset, count - 1) + (last,)


@triton.jit
def are_aligned(addresses, count: tl.constexpr):
    bits = addresses[0]
    for operand in tl.static_range(1, count):
        bits = bits | addresses[operand]
    return (bits & 15) == 0


@triton.jit
def pointers(addresses, element: tl.constexpr, alignment: tl.constexpr, count: tl.constexpr):
    """Pointers whose alignment the compiler knows: it does where the hint is given at the cast."""
    if count == 0:
        return ()
    else:
        last = tl.multiple_of(addresses[count - 1].to(tl.pointer_type(element)), alignment)
        return pointers(addresses, element, alignment, count - 1) + (last,)


@triton.jit
def load_operands(opmath: tl.constexpr, operands, index, mask, count: tl.constexpr):
    if count == 0:
        return ()
    else:
        last = load_as(opmath, operands[count - 1], index, mask)
        return load_operands(opmath, operands, index, mask, count - 1) + (last,)


@triton.jit
def update_elements(data, index, mask, coeffs, rule: tl.constexpr, opmath: tl.constexpr):
    num_states: tl.constexpr = rules.RULES[rule].num_states
    operands = load_operands(opmath, data, index, mask, 2 + num_states)
    updated = rules.RULES[rule].update(operands[0], operands[1], operands[2:], coeffs)
    store_as(data[0], index, updated[0], mask)
    for state in tl.static_range(num_states):
        store_as(data[2 + state], index, updated[1 + state], mask)


@triton.jit
def update_uniform(row, begin, count, coeffs, rule: tl.constexpr, storage_: tl.constexpr):
    num_operands: tl.constexpr = 2 + rules.RULES[rule].num_states
    element: tl.constexpr = storage.ELEMENTS[storage_]
    opmath: tl.constexpr = storage.OPMATHS[storage_]
    size: tl.constexpr = storage.SIZES[storage_]
    vector: tl.constexpr = 16 // size
    addresses = find(row, begin * size, num_operands)
    lanes = tl.arange(0, BLOCK)
    done = tl.cast(0, tl.int32)
    if are_aligned(addresses, num_operands):
        in_vectors = count // vector * vector
        data = pointers(addresses, element, 16, num_operands)
        block = tl.cast(0, tl.int32)
        while block * BLOCK < in_vectors:
            index = block * BLOCK + lanes
            update_elements(data, index, index < in_vectors, coeffs, rule, opmath)
            block += 1
        done = in_vectors
    unaligned = pointers(addresses, element, size, num_operands)
    while done < count:
        index = done + lanes
        update_elements(unaligned, index, index < count, coeffs, rule, opmath)
        done += BLOCK


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
        last = load_any(opmath, data, dtype_of(row, operand), at, mask)
        return load_any_operands(row, layouts_, index, mask, opmath, operand) + (last,)


@triton.jit
def store_any_operand(row, layouts_, index, value, mask, operand: tl.constexpr):
    data = load(row + layouts.TensorRow.data + 8 * operand, tl.int64)
    at = place(row, layouts_, operand, index)
    store_any(data, dtype_of(row, operand), at, value, mask)


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
