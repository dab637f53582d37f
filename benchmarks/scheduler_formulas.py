"""Closed forms of the schedulers in extended precision.

Each takes the lr that a group starts with, the step and what the scheduler is built with. Doubles
are taken as they are: 0.1 is the double that is nearest to a tenth.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

from mpmath import cospi, mp, mpf

# Decimal digits; a double has 16.
mp.dps = 40

# The lr of a group, from the lr that it starts with and the step.
ClosedForm = Callable[[mpf, int], mpf]


def fall(high: mpf, low: mpf, share: mpf) -> mpf:
    """Half a wave of the cosine."""
    return low + (high - low) * (1 + cospi(share)) / 2


def line(start: mpf, end: mpf, share: mpf) -> mpf:
    return start + (end - start) * share


def warmup_cosine(lr: mpf, step: int, warmup: int, total: int) -> mpf:
    if step < warmup:
        return lr * step / warmup
    return fall(lr, mpf(0), mpf(step - warmup) / (total - warmup))


def slow_decay(lr: mpf, step: int, offset: int) -> mpf:
    """The product of 1 - 1 / (k + offset) for k from 1 to the step."""
    return lr * offset / (step + offset)


def step_lr(lr: mpf, step: int, step_size: int, gamma: float) -> mpf:
    return lr * mpf(gamma) ** (step // step_size)


def multi_step(lr: mpf, step: int, milestones: Sequence[int], gamma: float) -> mpf:
    return lr * mpf(gamma) ** bisect_right(milestones, step)


def constant(lr: mpf, step: int, factor: float, total_iters: int) -> mpf:
    return lr * mpf(factor) if step < total_iters else lr


def linear(lr: mpf, step: int, start_factor: float, end_factor: float, total_iters: int) -> mpf:
    share = mpf(min(step, total_iters)) / total_iters
    return lr * line(mpf(start_factor), mpf(end_factor), share)


def exponential(lr: mpf, step: int, gamma: float) -> mpf:
    return lr * mpf(gamma) ** step


def polynomial(lr: mpf, step: int, total_iters: int, power: float) -> mpf:
    return lr * (1 - mpf(min(step, total_iters)) / total_iters) ** mpf(power)


def cosine(lr: mpf, step: int, T_max: int, eta_min: float) -> mpf:
    return fall(lr, mpf(eta_min), mpf(step) / T_max)


def warm_restarts(lr: mpf, step: int, T_0: int, T_mult: int, eta_min: float) -> mpf:
    length = T_0
    while step >= length:
        step -= length
        length *= T_mult
    return fall(lr, mpf(eta_min), mpf(step) / length)


def cyclic(
    lr: mpf,
    step: int,
    base_lr: float,
    max_lr: float,
    step_size_up: int,
    mode: str,
    gamma: float,
    cycle_momentum: bool,
) -> mpf:
    """Up and down in as many steps."""
    cycle, place = divmod(step, 2 * step_size_up)
    height = 1 - abs(mpf(place) / step_size_up - 1)
    scales = {"triangular": 1, "triangular2": mpf(2) ** -cycle, "exp_range": mpf(gamma) ** step}
    return line(mpf(base_lr), mpf(max_lr), height * scales[mode])


def one_cycle(
    lr: mpf,
    step: int,
    max_lr: float,
    total_steps: int,
    pct_start: float,
    div_factor: float,
    final_div_factor: float,
    anneal_strategy: str,
    three_phase: bool,
) -> mpf:
    top = mpf(max_lr)
    bottom = top / div_factor
    rise = mpf(pct_start) * total_steps - 1
    corners = [(mpf(0), bottom), (rise, top), (mpf(total_steps - 1), bottom / final_div_factor)]
    if three_phase:
        corners.insert(2, (2 * rise, bottom))
    (begin, start), (end, target) = next(
        phase for phase in pairwise(corners) if step <= phase[1][0]
    )
    anneal = fall if anneal_strategy == "cos" else line
    return anneal(start, target, (step - begin) / (end - begin))


def plateau(lr: mpf, step: int, factor: float, patience: int, eps: float) -> mpf:
    """Where the metric of step 1 is never reached again."""
    return lr * mpf(factor) ** (max(0, step - 1) // (patience + 1))


def swa(lr: mpf, step: int, swa_lr: float, anneal_epochs: int) -> mpf:
    return fall(lr, mpf(swa_lr), mpf(min(step, anneal_epochs)) / anneal_epochs)


def sequential(parts: Sequence[ClosedForm], lr: mpf, step: int, milestones: Sequence[int]) -> mpf:
    place = bisect_right(milestones, step)
    return parts[place](lr, step - (milestones[place - 1] if place else 0))


def chained(parts: Sequence[ClosedForm], lr: mpf, step: int) -> mpf:
    for part in parts:
        lr = part(lr, step)
    return lr
