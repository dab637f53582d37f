"""Storage formats: which there are, and their conversion to and from opmath.

Every engine rounds alike: to nearest, ties to even, and float64 by way of float32 to 16 bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fusedlr.triton import layouts
from fusedlr.triton.memory import load, store

#: In the order of Dtype, and of Storage. Kernels write ``storage.ELEMENTS[dtype]``.
ELEMENTS = (tl.float64, tl.float32, tl.bfloat16, tl.float16)
OPMATHS = (tl.float64, tl.float32, tl.float32, tl.float32)
SIZES = (8, 4, 2, 2)
#: What Triton's interpreter converts as bits, because its own conversion does not round.
IS_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def bfloat16_bits(value):
    """The bits of a float32 rounded to bfloat16, as in csrc/math/storage.h."""
    bits = value.to(tl.uint32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where(value != value, 0x7FC0, rounded).to(tl.uint16)


@triton.jit
def load_as(address, element: tl.constexpr, opmath: tl.constexpr, mask):
    """What is stored at addresses as `element`, in opmath."""
    if IS_INTERPRETED and element == tl.bfloat16:
        bits = load(address, tl.uint16, mask, 0).to(tl.uint32)
        return (bits << 16).to(tl.float32, bitcast=True).to(opmath)
    else:
        return load(address, element, mask, 0).to(opmath)


@triton.jit
def store_as(address, value, element: tl.constexpr, mask):
    if element.primitive_bitwidth == 16:
        value = value.to(tl.float32)
    if IS_INTERPRETED and element == tl.bfloat16:
        store(address, bfloat16_bits(value), tl.uint16, mask)
    else:
        store(address, value, element, mask)


@triton.jit
def load_any(address, index, dtype, opmath: tl.constexpr, mask):
    """The elements `index` of a tensor whose dtype (of the tables) is known at run time only."""
    if dtype == layouts.Dtype.float64:
        value = load_as(address + index * 8, tl.float64, opmath, mask)
    elif dtype == layouts.Dtype.float32:
        value = load_as(address + index * 4, tl.float32, opmath, mask)
    elif dtype == layouts.Dtype.bfloat16:
        value = load_as(address + index * 2, tl.bfloat16, opmath, mask)
    else:
        value = load_as(address + index * 2, tl.float16, opmath, mask)
    return value


@triton.jit
def store_any(address, index, value, dtype, mask):
    if dtype == layouts.Dtype.float64:
        store_as(address + index * 8, value, tl.float64, mask)
    elif dtype == layouts.Dtype.float32:
        store_as(address + index * 4, value, tl.float32, mask)
    elif dtype == layouts.Dtype.bfloat16:
        store_as(address + index * 2, value, tl.bfloat16, mask)
    else:
        store_as(address + index * 2, value, tl.float16, mask)
