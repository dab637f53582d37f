"""Functions of float64 for kernels: libdevice's, which the CUDA engine calls, too.

Triton's interpreter, which runs kernels on the CPU for tests, gets the CPU engine's bits instead:
the C library's functions, by way of Python's floats. Kernels import them by name: only so does the
compiler find those of its target.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl
from triton.language.extra import libdevice

from fusedlr.expression import NUMBERS


def _of_values(of_arrays: Callable[..., Any]) -> Any:
    """A function of NumPy's arrays as one of the interpreter's values, which wrap such."""

    def apply(*operands: Any) -> Any:
        largest = max(operands, key=lambda operand: int(operand.handle.data.size))
        result = of_arrays(*(operand.handle.data for operand in operands))
        return tl.tensor(type(largest.handle)(result, tl.float64), largest.type)

    return apply


if triton.knobs.runtime.interpret:
    import numpy  # the interpreter needs it, nothing else does

    def _of_numbers(name: str) -> Any:
        return _of_values(numpy.vectorize(NUMBERS[name], otypes=[numpy.float64]))

    power, exp, log = map(_of_numbers, ("pow", "exp", "log"))
    sin, cos, tan, tanh = map(_of_numbers, ("sin", "cos", "tan", "tanh"))
    # Exact, whoever computes them.
    fmod, trunc, nearbyint = map(_of_values, (numpy.fmod, numpy.trunc, numpy.rint))
else:
    power, exp, log = libdevice.pow, libdevice.exp, libdevice.log
    sin, cos, tan, tanh = libdevice.sin, libdevice.cos, libdevice.tan, libdevice.tanh
    fmod, trunc, nearbyint = libdevice.fmod, libdevice.trunc, libdevice.nearbyint
