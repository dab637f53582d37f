"""Reads and writes at addresses, which are int64: of one element, or of a block of them.

A pointer of C++ in a table is an address, too: ``load(row + layouts.TensorRow.step, tl.int64)``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

from fusedlr.triton import layouts
from fusedlr.triton.layouts import FINGERPRINT


def kernel(function: Callable[..., Any]) -> Any:
    """A function that is launched: one and the same kernel, whatever its numbers are."""
    numbers = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.annotation != "tl.constexpr"
    ]
    return triton.jit(do_not_specialize=numbers)(function)


@triton.jit
def pointer(address, dtype: tl.constexpr):
    tl.static_assert(FINGERPRINT >= 0)  # see there
    return tl.cast(address, tl.int64).to(tl.pointer_type(dtype))


@triton.jit
def load(address, dtype: tl.constexpr, mask=None, other=None):
    """What lies at an address."""
    return tl.load(pointer(address, dtype), mask, other)


@triton.jit
def store(address, value, dtype: tl.constexpr, mask=None):
    """Puts a number there, converted to the dtype."""
    tl.store(pointer(address, dtype), tl.cast(value, dtype), mask)


@triton.jit
def load_number(address, dtype):
    """The float64 at an address where one element of a `dtype` (of the tables) lies."""
    number = tl.full([], 0.0, tl.float64)
    if dtype == layouts.Dtype.float64:
        number = load(address, tl.float64)
    elif dtype == layouts.Dtype.float32:
        number = load(address, tl.float32).to(tl.float64)
    elif dtype == layouts.Dtype.bfloat16:
        number = load(address, tl.bfloat16).to(tl.float64)
    elif dtype == layouts.Dtype.float16:
        number = load(address, tl.float16).to(tl.float64)
    return number


@triton.jit
def load_numbers(address, count: tl.constexpr, mask=None, other=None):
    """A tuple of float64 that lie one behind the other."""
    if count == 0:
        return ()
    else:
        last = load(address + 8 * (count - 1), tl.float64, mask, other)
        return load_numbers(address, count - 1, mask, other) + (last,)
