"""Whether an expression gives what a function gives, on a sample of steps."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from typing import Any

from fusedlr.expression import Expression, Program, compile_, evaluate
from fusedlr.tracing.paths import Refusal

FIRST_STEPS = 33
RANDOM_STEPS = 256
LAST_RANDOM_STEP = 10_000_000
# At all steps together: bounds the time that the comparison can take.
MAX_INSTRUCTIONS = 1_000_000


def refuse_disagreement(
    function: Callable[[int], Any],
    expression: Expression,
    first_step: int,
    turns: Iterable[int],
    last_step: float,
) -> None:
    """Raises Refusal if function and expression differ at a step, in one bit or more.

    From some step on the function may raise, or give no real number: then there is nothing to
    compare. But it must have values at most of the first steps, and without a gap.

    Args:
        function: a function of the step.
        expression: what is said to equal it.
        first_step: the first step of interest.
        turns: steps at which the function takes another turn.
        last_step: the function is not called beyond.
    """
    program = compile_(expression)
    gap = ""
    for position, step in enumerate(_sample(program, first_step, turns, last_step)):
        try:
            expected = float(function(step))
        except Exception as error:
            gap = gap or f"it has no value at step {step} ({type(error).__name__}: {error})"
            if 2 * position < FIRST_STEPS:
                raise Refusal(gap) from None
            continue
        if gap:
            raise Refusal(gap)
        value = evaluate(program, step)
        if not _are_same(value, expected):
            raise Refusal(
                f"its trace gives {value!r} at step {step}, but the function itself {expected!r}"
            )


def _sample(program: Program, first_step: int, turns: Iterable[int], last_step: float) -> list[int]:
    """The first steps; turns and powers of two, with their neighbours; and steps at random."""
    generator = random.Random(0)
    last_random_step = int(min(LAST_RANDOM_STEP, last_step))
    steps = {
        around + offset
        for around in (*turns, *(2**exponent for exponent in range(21)))
        for offset in (-1, 0, 1)
    }
    for _ in range(RANDOM_STEPS // 2):
        steps.add(generator.randint(0, last_random_step))
        steps.add(int(last_random_step ** generator.random()))
    first_steps = list(range(first_step, first_step + FIRST_STEPS))
    later = sorted(step for step in steps if first_steps[-1] < step <= last_step)
    at_most = MAX_INSTRUCTIONS // len(program.code)
    if len(later) > at_most:
        later = sorted(generator.sample(later, at_most))
    return first_steps + later


def _are_same(a: float, b: float) -> bool:
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b and math.copysign(1.0, a) == math.copysign(1.0, b)
