"""Schedules made of others: one after the other, and behind a warmup."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from fusedlr.expression import STEP, Expression, apply, select
from fusedlr.schedules.curves import (
    ELAPSED,
    SHAPES,
    Shape,
    at_least_one,
    constant,
    cosine,
    inverse_sqrt,
    linear,
    polynomial,
    positive,
    ramp,
)
from fusedlr.schedules.schedule import Operand, Schedule, schedule


@schedule
def join(schedules: Sequence[Operand], boundaries: Sequence[int]) -> Expression:
    r"""One schedule after the other; each counts from its own start.

    .. math:: f(t) = f_k(t - b_k), \quad b_k \le t < b_{k+1}

    Args:
        schedules: the schedules :math:`f_0, f_1, \dots`; a number is a constant schedule.
        boundaries: the steps :math:`b_1, b_2, \dots` at which the next schedule takes over, in
            ascending order, one fewer than schedules. The first schedule starts at step 0.

    Raises:
        ValueError: if the number of boundaries or their order does not fit.

    Example:
        >>> from fusedlr import schedules as s
        >>> rise, fall = s.linear(0.0, 1.0, steps=10), s.cosine(1.0, steps=80)
        >>> schedule = s.join([rise, 1.0, fall], [10, 20])
        >>> schedule(5), schedule(15), schedule(60), schedule(100)
        (0.5, 1.0, 0.5, 0.0)

    Source: the semantics of ``optax.join_schedules``.
    """
    if not schedules:
        raise ValueError("there must be at least one schedule")
    _check_boundaries("schedules", schedules, boundaries)
    parts = [one if isinstance(one, Schedule) else constant(one) for one in schedules]
    joined = parts[0].expression
    for boundary, part in zip(boundaries, parts[1:], strict=True):
        joined = select(apply("less", STEP, boundary), joined, part(STEP - boundary))
    return joined


@schedule
def piecewise_constant(values: Sequence[float], boundaries: Sequence[int]) -> Expression:
    r"""A value for each interval of steps.

    .. math:: f(t) = v_k, \quad b_k \le t < b_{k+1}

    Args:
        values: the values :math:`v_0, v_1, \dots`
        boundaries: the steps :math:`b_1, b_2, \dots` at which the next value begins, in ascending
            order, one fewer than values.

    Raises:
        ValueError: if the number of boundaries or their order does not fit.

    Example:
        >>> from fusedlr import schedules as s
        >>> drops = s.piecewise_constant([0.1, 0.01, 0.001], [100, 200])
        >>> drops(99), drops(100), drops(200)
        (0.1, 0.01, 0.001)
    """
    _check_boundaries("values", values, boundaries)
    return join(values, boundaries).expression


@schedule
def piecewise_linear(values: Sequence[float], boundaries: Sequence[int]) -> Expression:
    r"""Straight lines from value to value.

    .. math:: f(0) = v_0, \quad f(b_k) = v_k

    Args:
        values: the values :math:`v_0, v_1, \dots`; the last one stays.
        boundaries: the steps :math:`b_1, b_2, \dots` at which :math:`v_1, v_2, \dots` are reached,
            in ascending order without repeats, one fewer than values.

    Raises:
        ValueError: if the number of boundaries or their order does not fit.

    Example:
        >>> from fusedlr import schedules as s
        >>> path = s.piecewise_linear([0.0, 1.0, 0.5], [10, 30])
        >>> path(0), path(5), path(10), path(20), path(40)
        (0.0, 0.5, 1.0, 0.75, 0.5)
    """
    _check_boundaries("values", values, boundaries)
    corners = (0, *boundaries)
    lengths = [after - before for before, after in zip(corners, boundaries, strict=False)]
    if 0 in lengths:
        raise ValueError("boundaries must be greater than 0, and each greater than the one before")
    lines = [
        linear(before, after, steps=length)
        for before, after, length in zip(values, values[1:], lengths, strict=False)
    ]
    return join([*lines, values[-1]], boundaries).expression


def _check_boundaries(name: str, items: Sequence[object], boundaries: Sequence[int]) -> None:
    if len(items) != len(boundaries) + 1:
        raise ValueError(
            f"there must be one boundary between two {name}, but there are {len(items)} {name} and "
            f"{len(boundaries)} boundaries"
        )
    if list(boundaries) != sorted(boundaries):
        raise ValueError(f"boundaries must be in ascending order, {sorted(boundaries)}")


# Behind a warmup


@schedule
def warmup(schedule: Schedule, *, steps: int, init: float = 0.0) -> Expression:
    r"""A straight line from `init` to the start of a schedule, then that schedule.

    .. math:: f(t) = \begin{cases} i + (g(0) - i)\, t/W & t < W \\ g(t - W) & t \ge W \end{cases}

    Args:
        schedule: the schedule :math:`g`; it counts from the end of the warmup.
        steps: the length :math:`W` of the warmup; 0 is none.
        init: the value :math:`i` at step 0.

    Example:
        >>> from fusedlr import schedules as s
        >>> warmed = s.warmup(s.exponential(1.0, gamma=0.5), steps=4)
        >>> warmed(0), warmed(2), warmed(4), warmed(5)
        (0.0, 0.5, 1.0, 0.5)
    """
    if steps == 0:
        return schedule.expression
    return join([linear(init, schedule(0), steps=steps), schedule], [steps]).expression


@schedule
def warmup_constant(peak: float, *, warmup_steps: int, init: float = 0.0) -> Expression:
    r"""A straight line from `init` to `peak`, which then stays.

    .. math:: f(t) = i + (p - i) \min(t/W, 1)

    Args:
        peak: the value :math:`p` from step :math:`W` on.
        warmup_steps: the length :math:`W` of the warmup.
        init: the value :math:`i` at step 0.

    Example:
        >>> from fusedlr import schedules as s
        >>> schedule = s.warmup_constant(1.0, warmup_steps=4)
        >>> schedule(0), schedule(1), schedule(4), schedule(100)
        (0.0, 0.25, 1.0, 1.0)
    """
    return warmup(constant(peak), steps=warmup_steps, init=init).expression


@schedule
def warmup_linear(
    peak: float, *, warmup_steps: int, total_steps: int, init: float = 0.0, end: float = 0.0
) -> Expression:
    r"""A straight line up from `init` to `peak`, then one down to `end`.

    .. math:: f(t) = e + (p - e) \frac{T - t}{T - W}, \quad W \le t \le T

    Args:
        peak: the value :math:`p` at the end of the warmup.
        warmup_steps: the length :math:`W` of the warmup.
        total_steps: the step :math:`T` at which `end` is reached, greater than `warmup_steps`.
        init: the value at step 0.
        end: the value :math:`e` from step :math:`T` on.

    Example:
        >>> from fusedlr import schedules as s
        >>> schedule = s.warmup_linear(1.0, warmup_steps=10, total_steps=50)
        >>> schedule(5), schedule(10), schedule(30), schedule(50)
        (0.5, 1.0, 0.5, 0.0)
    """
    decay = linear(peak, end, steps=_decay_steps(warmup_steps, total_steps))
    return warmup(decay, steps=warmup_steps, init=init).expression


@schedule
def warmup_cosine(
    peak: float,
    *,
    warmup_steps: int,
    total_steps: int,
    init: float = 0.0,
    end: float = 0.0,
    exponent: float = 1.0,
    cycles: int = 1,
) -> Expression:
    r"""A straight line up from `init` to `peak`, then half a wave of the cosine down to `end`.

    .. math::
        f(t) = e + (p - e) \left(\frac{1 + \cos(\pi \frac{t - W}{T - W})}{2}\right)^x,
        \quad W \le t \le T

    Args:
        peak: the value :math:`p` at the end of the warmup.
        warmup_steps: the length :math:`W` of the warmup.
        total_steps: the step :math:`T` at which `end` is reached, greater than `warmup_steps`.
        init: the value at step 0.
        end: the value :math:`e` from step :math:`T` on.
        exponent: the power :math:`x`, greater than 0.
        cycles: how many half waves there are after the warmup, each starting again from `peak`.

    Example:
        >>> from fusedlr import schedules as s
        >>> schedule = s.warmup_cosine(3e-4, warmup_steps=2_000, total_steps=100_000)
        >>> schedule(1_000), schedule(2_000), schedule(51_000), schedule(100_000)
        (0.00015, 0.0003, 0.00015, 0.0)
    """
    steps = _decay_steps(warmup_steps, total_steps)
    decay = cosine(peak, end, steps=steps, exponent=exponent, cycles=cycles)
    return warmup(decay, steps=warmup_steps, init=init).expression


@schedule
def warmup_polynomial(
    peak: float,
    *,
    warmup_steps: int,
    total_steps: int,
    power: float = 1.0,
    init: float = 0.0,
    end: float = 0.0,
) -> Expression:
    r"""A straight line up from `init` to `peak`, then polynomial decay to `end`.

    .. math:: f(t) = e + (p - e) \left(\frac{T - t}{T - W}\right)^x, \quad W \le t \le T

    Args:
        peak: the value :math:`p` at the end of the warmup.
        warmup_steps: the length :math:`W` of the warmup.
        total_steps: the step :math:`T` at which `end` is reached, greater than `warmup_steps`.
        power: the power :math:`x`, greater than 0.
        init: the value at step 0.
        end: the value :math:`e` from step :math:`T` on.

    Example:
        >>> from fusedlr import schedules as s
        >>> schedule = s.warmup_polynomial(1.0, warmup_steps=10, total_steps=50, power=2.0)
        >>> schedule(5), schedule(10), schedule(30), schedule(50)
        (0.5, 1.0, 0.25, 0.0)
    """
    steps = _decay_steps(warmup_steps, total_steps)
    decay = polynomial(peak, end, steps=steps, power=power)
    return warmup(decay, steps=warmup_steps, init=init).expression


@schedule
def warmup_inverse_sqrt(
    peak: float, *, warmup_steps: int, timescale: int | None = None, init: float = 0.0
) -> Expression:
    r"""A straight line up from `init` to `peak`, then the inverse square root of the step.

    .. math:: f(t) = p \, \frac{1}{\sqrt{(t - W + T)/T}}, \quad t \ge W

    Args:
        peak: the value :math:`p` at the end of the warmup.
        warmup_steps: the length :math:`W` of the warmup.
        timescale: the number of steps :math:`T`; without it `warmup_steps`, and the schedule is
            that of the Transformer, :math:`p \sqrt{W/t}`.
        init: the value at step 0.

    Example:
        >>> from fusedlr import schedules as s
        >>> schedule = s.warmup_inverse_sqrt(1.0, warmup_steps=100)
        >>> schedule(50), schedule(100), schedule(400), schedule(1_600)
        (0.5, 1.0, 0.5, 0.25)

    Source: Vaswani et al., "Attention Is All You Need", 2017.
    """
    if timescale is None:
        timescale = warmup_steps
    if timescale == 0:
        raise ValueError("without a warmup there must be a timescale of at least 1")
    decay = inverse_sqrt(peak, timescale=timescale)
    return warmup(decay, steps=warmup_steps, init=init).expression


@schedule
def wsd(
    peak: float,
    *,
    warmup_steps: int,
    decay_steps: int,
    total_steps: int,
    init: float = 0.0,
    end: float = 0.0,
    warmup: str = "linear",
    decay: str = "cosine",
) -> Expression:
    r"""Warmup, stable, decay: up from `init` to `peak`, which stays, then down to `end`.

    Args:
        peak: the value between warmup and decay.
        warmup_steps: the length of the warmup.
        decay_steps: the length of the decay.
        total_steps: the step at which the decay ends, at least `warmup_steps` + `decay_steps`.
        init: the value at step 0.
        end: the value from step `total_steps` on.
        warmup: the shape of the warmup: ``"linear"``, ``"cosine"`` or ``"1-sqrt"`` (that of the
            decay, in reverse).
        decay: the shape of the decay: ``"linear"``, ``"cosine"`` or ``"1-sqrt"``.

    Example:
        >>> from fusedlr import schedules as s
        >>> schedule = s.wsd(1.0, warmup_steps=10, decay_steps=40, total_steps=100, decay="1-sqrt")
        >>> schedule(5), schedule(10), schedule(60), schedule(70), schedule(100)
        (0.5, 1.0, 1.0, 0.5, 0.0)

    Source: Hu et al., "MiniCPM", 2024; the shape "1-sqrt" is that of Hägele et al., 2024.
    """
    start = total_steps - decay_steps
    if start < warmup_steps:
        raise ValueError(
            f"warmup_steps + decay_steps must be at most total_steps, but {warmup_steps} + "
            f"{decay_steps} is more than {total_steps}"
        )
    at_least_one(decay_steps=decay_steps)
    fall = ramp(peak, end, _shape("decay", decay), length=decay_steps, elapsed=STEP - start)
    if warmup_steps == 0:
        return fall
    shape = _shape("warmup", warmup)
    rise = ramp(peak, init, shape, length=warmup_steps, elapsed=warmup_steps - STEP)
    return select(apply("less", STEP, warmup_steps), rise, fall)


@schedule
def one_cycle(
    peak: float,
    *,
    total_steps: int,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    shape: str = "cosine",
    three_phase: bool = False,
) -> Expression:
    r"""The 1cycle policy: up from ``peak / div_factor`` to `peak`, then down to far below.

    Args:
        peak: the largest value, reached at step ``pct_start * total_steps - 1``.
        total_steps: the number of steps, at least 2; the last value is that of step
            ``total_steps - 1``, and it stays.
        pct_start: the part of the steps in which the value rises, between 0 and 1.
        div_factor: the first value is ``peak / div_factor``.
        final_div_factor: the last value is ``peak / div_factor / final_div_factor``.
        shape: ``"cosine"``, ``"linear"`` or ``"1-sqrt"``.
        three_phase: whether the value first falls back to where it began, as fast as it rose, and
            only then to the last value.

    Example:
        >>> from fusedlr import schedules as s
        >>> schedule = s.one_cycle(1.0, total_steps=101, pct_start=0.5, shape="linear")
        >>> schedule(0), schedule(100)
        (0.04, 4e-06)
        >>> max(schedule(step) for step in range(101)) > 0.99
        True

    Source: Smith and Topin, "Super-Convergence", 2017; the phases are those of
    :class:`torch.optim.lr_scheduler.OneCycleLR`.
    """
    positive(div_factor=div_factor, final_div_factor=final_div_factor)
    if total_steps < 2:
        raise ValueError("total_steps must be at least 2")
    if not 0 <= pct_start <= 1:
        raise ValueError("pct_start must be between 0 and 1")
    form = _shape("shape", shape)
    init = peak / div_factor
    end = init / final_div_factor
    # Phases end at the last step that belongs to them, which may lie between two steps.
    top, last = pct_start * total_steps - 1, total_steps - 1.0
    corners = [(0.0, init), (top, peak), (last, end)]
    if three_phase:
        if pct_start > 0.5:
            raise ValueError("with three_phase, pct_start must be at most 0.5")
        corners.insert(2, (2 * pct_start * total_steps - 2, init))
    phases = [
        ramp(before, after, form, length=stop - start, elapsed=ELAPSED - start)
        for (start, before), (stop, after) in pairwise(corners)
    ]
    value = phases[0]
    for (stop, _), phase in zip(corners[1:], phases[1:], strict=False):
        value = select(apply("less_equal", ELAPSED, stop), value, phase)
    return value


def _decay_steps(warmup_steps: int, total_steps: int) -> int:
    if warmup_steps >= total_steps:
        raise ValueError(
            "total_steps includes the warmup and must be greater than warmup_steps; for a warmup "
            "without a decay there is warmup_constant"
        )
    return total_steps - warmup_steps


def _shape(argument: str, name: str) -> Shape:
    if name not in SHAPES:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, SHAPES))}")
    return SHAPES[name]
