"""Schedules as values: pure functions of the step.

A schedule is called with a step, or with an array or a tensor of steps. It prints, compares,
pickles, and is written to JSON. Schedules and numbers are added and multiplied, and :func:`join`
puts one schedule after the other. Steps count from 0 and values are float64; before step 0 a
schedule has its first value, and after its last step its last.

Example:
    >>> from fusedlr import schedules as s
    >>> s.warmup_cosine(3e-4, warmup_steps=2_000, total_steps=100_000)(51_000)
    0.00015
"""

from fusedlr.schedules.combinations import (
    join,
    one_cycle,
    piecewise_constant,
    piecewise_linear,
    warmup,
    warmup_constant,
    warmup_cosine,
    warmup_inverse_sqrt,
    warmup_linear,
    warmup_polynomial,
    wsd,
)
from fusedlr.schedules.curves import (
    constant,
    cosine,
    cosine_restarts,
    exponential,
    geometric,
    inverse_sqrt,
    linear,
    one_minus_sqrt,
    polynomial,
    step,
)
from fusedlr.schedules.parsing import parse
from fusedlr.schedules.schedule import Schedule

__all__ = [
    "Schedule",
    "constant",
    "cosine",
    "cosine_restarts",
    "exponential",
    "geometric",
    "inverse_sqrt",
    "join",
    "linear",
    "one_cycle",
    "one_minus_sqrt",
    "parse",
    "piecewise_constant",
    "piecewise_linear",
    "polynomial",
    "step",
    "warmup",
    "warmup_constant",
    "warmup_cosine",
    "warmup_inverse_sqrt",
    "warmup_linear",
    "warmup_polynomial",
    "wsd",
]
