"""Division and square root as IEEE demands, and integer powers: for equal bits."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def div(a, b):
    """A / b, rounded to nearest; ``/`` of float32 is an approximation on a GPU."""
    if a.dtype == tl.float32:
        return tl.div_rn(a, b)
    else:
        return a / b


@triton.jit
def sqrt(a):
    if a.dtype == tl.float32:
        return tl.sqrt_rn(a)
    else:
        return tl.sqrt(a)


@triton.jit
def integer_power(base, exponent):
    """base^exponent by squaring, of blocks: the multiplications of csrc/math/integer_power.h."""
    power = tl.full(base.shape, 1.0, tl.float64)
    while tl.max(exponent, 0) > 0:
        power = tl.where(exponent & 1 == 1, power * base, power)
        base = base * base
        exponent = exponent >> 1
    return power
