"""Storage formats: which there are, and their conversion to and from opmath.

Every engine rounds alike: to nearest, ties to even, and float64 by way of float32 to 16 bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fusedlr.triton import layouts
from fusedlr.triton.memory import pointer

#: What Triton's interpreter converts as bits, because its own conversion does not round.
BFLOAT16 = tl.uint16 if triton.knobs.runtime.interpret else tl.bfloat16

#: In the order of Dtype, and of Storage. Kernels write ``storage.ELEMENTS[dtype]``.
ELEMENTS = (tl.float64, tl.float32, BFLOAT16, tl.float16)
OPMATHS = (tl.float64, tl.float32, tl.float32, tl.float32)
SIZES = (8, 4, 2, 2)


@triton.jit
def bfloat16_bits(value):
    """The bits of a float32 rounded to bfloat16, as in csrc/math/storage.h."""
    bits = value.to(tl.uint32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where(value != value, 0x7FC0, rounded).to(tl.uint16)


@triton.jit
def load_as(opmath: tl.constexpr, data, index, mask):
    """The elements `index` behind the pointer `data`, in opmath."""
    element: tl.constexpr = data.dtype.element_ty
    value = tl.load(data + index, mask, 0)
    if element == tl.uint16:
        value = (value.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return value.to(opmath)


@triton.jit
def store_as(data, index, value, mask):
    element: tl.constexpr = data.dtype.element_ty
    if element == tl.uint16:
        value = bfloat16_bits(value.to(tl.float32))
    elif element.primitive_bitwidth == 16:
        value = value.to(tl.float32)
    tl.store(data + index, value.to(element), mask)


@triton.jit
def load_any(opmath: tl.constexpr, address, dtype, index, mask):
    """The same of a tensor whose dtype (of the tables) is known at run time only."""
    if dtype == layouts.Dtype.float64:
        value = load_as(opmath, pointer(address, tl.float64), index, mask)
    elif dtype == layouts.Dtype.float32:
        value = load_as(opmath, pointer(address, tl.float32), index, mask)
    elif dtype == layouts.Dtype.bfloat16:
        value = load_as(opmath, pointer(address, BFLOAT16), index, mask)
    else:
        value = load_as(opmath, pointer(address, tl.float16), index, mask)
    return value


@triton.jit
def store_any(address, dtype, index, value, mask):
    if dtype == layouts.Dtype.float64:
        store_as(pointer(address, tl.float64), index, value, mask)
    elif dtype == layouts.Dtype.float32:
        store_as(pointer(address, tl.float32), index, value, mask)
    elif dtype == layouts.Dtype.bfloat16:
        store_as(pointer(address, BFLOAT16), index, value, mask)
    else:
        store_as(pointer(address, tl.float16), index, value, mask)
