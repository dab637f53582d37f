"""Schedules with a formula of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fusedlr import expression
from fusedlr.expression import STEP, Expression, apply, select, table
from fusedlr.schedules.schedule import schedule

#: The step, but never before 0.
ELAPSED = apply("max", STEP, 0.0)

#: A weight, as a function of the progress (from 0 to 1) and of what remains (from 1 to 0).
Weight = Callable[[Expression, Expression], Expression]


class Shape(NamedTuple):
    """The form of a ramp: `fall` goes from 1 to 0, and `rise` is 1 - `fall`."""

    fall: Weight
    rise: Weight


LINEAR = Shape(lambda progress, remaining: remaining, lambda progress, remaining: progress)
COSINE = Shape(
    lambda progress, remaining: 0.5 * (1.0 + apply("cos", math.pi * progress)),
    lambda progress, remaining: 0.5 * (1.0 - apply("cos", math.pi * progress)),
)
ONE_MINUS_SQRT = Shape(
    lambda progress, remaining: 1.0 - apply("sqrt", progress),
    lambda progress, remaining: apply("sqrt", progress),
)
#: The shapes that are chosen by name.
SHAPES: Mapping[str, Shape] = {"linear": LINEAR, "cosine": COSINE, "1-sqrt": ONE_MINUS_SQRT}


def falling(fall: Weight) -> Shape:
    """The shape that has this fall."""
    return Shape(fall, lambda progress, remaining: 1.0 - fall(progress, remaining))


def ramp(
    init: float,
    end: float,
    shape: Shape,
    *,
    length: Expression | float,
    elapsed: Expression = STEP,
) -> Expression:
    """From `init` to `end` while `elapsed` goes from 0 to `length`; before and after it the ends.

    In between the value is ``end + (init - end) * fall``.
    """
    weights = elapsed / length, (length - elapsed) / length
    # Starting from the end that is nearer to zero, so that no digits cancel.
    if abs(end) <= abs(init):
        between = (init - end) * shape.fall(*weights) + end
    else:
        between = (end - init) * shape.rise(*weights) + init
    # The formula may miss the ends by the last bit.
    begun = select(apply("less", 0.0, elapsed), between, init)
    return select(apply("less", elapsed, length), begun, end)


def at_least_one(**counts: int) -> None:
    """Raises a ValueError about the first argument that is 0."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1")


def positive(**numbers: float) -> None:
    """Raises a ValueError about the first argument that is not above 0."""
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name} must be greater than 0")


@schedule
def constant(value: float) -> Expression:
    r"""The same value at every step.

    .. math:: f(t) = v

    Args:
        value: the value :math:`v`.

    Example:
        >>> from fusedlr import schedules as s
        >>> s.constant(0.1)(1_000)
        0.1
    """
    return expression.constant(value)


@schedule
def linear(init: float, end: float, *, steps: int) -> Expression:
    r"""A straight line from `init` to `end`.

    .. math:: f(t) = e + (i - e) (1 - t/T), \quad 0 \le t \le T

    Args:
        init: the value :math:`i` at step 0.
        end: the value :math:`e` from step :math:`T` on.
        steps: the length :math:`T`, at least 1.

    Example:
        >>> from fusedlr import schedules as s
        >>> decay = s.linear(0.1, 0.0, steps=100)
        >>> decay(0), decay(50), decay(100), decay(1_000)
        (0.1, 0.05, 0.0, 0.0)
    """
    at_least_one(steps=steps)
    return ramp(init, end, LINEAR, length=steps)


@schedule
def cosine(
    init: float, end: float = 0.0, *, steps: int, exponent: float = 1.0, cycles: int = 1
) -> Expression:
    r"""Half a wave of the cosine, from `init` to `end`.

    .. math:: f(t) = e + (i - e) \left(\frac{1 + \cos(\pi t/T)}{2}\right)^p, \quad 0 \le t \le T

    Args:
        init: the value :math:`i` at step 0.
        end: the value :math:`e` from step :math:`T` on.
        steps: the length :math:`T`, at least 1.
        exponent: the power :math:`p`, greater than 0.
        cycles: how many half waves there are in `steps`, each starting again from `init`: with
            :math:`c` of them, :math:`c\,t/T \bmod 1` takes the place of :math:`t/T`.

    Example:
        >>> from fusedlr import schedules as s
        >>> decay = s.cosine(0.1, steps=100)
        >>> decay(0), decay(50), decay(100)
        (0.1, 0.05, 0.0)
        >>> restarts = s.cosine(0.1, steps=100, cycles=2)
        >>> restarts(25), restarts(50), restarts(75), restarts(100)
        (0.05, 0.1, 0.05, 0.0)

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017.
    """
    at_least_one(steps=steps, cycles=cycles)
    positive(exponent=exponent)
    shape = COSINE
    if cycles > 1 or exponent != 1:
        shape = falling(lambda progress, _: COSINE.fall(cycles * progress % 1.0, _) ** exponent)
    return ramp(init, end, shape, length=steps)


@schedule
def polynomial(init: float, end: float = 0.0, *, steps: int, power: float = 1.0) -> Expression:
    r"""A power of the steps that remain, from `init` to `end`.

    .. math:: f(t) = e + (i - e) (1 - t/T)^p, \quad 0 \le t \le T

    Args:
        init: the value :math:`i` at step 0.
        end: the value :math:`e` from step :math:`T` on.
        steps: the length :math:`T`, at least 1.
        power: the power :math:`p`, greater than 0; 1 is a straight line.

    Example:
        >>> from fusedlr import schedules as s
        >>> decay = s.polynomial(1.0, steps=100, power=2.0)
        >>> decay(0), decay(50), decay(100)
        (1.0, 0.25, 0.0)
    """
    at_least_one(steps=steps)
    positive(power=power)
    shape = falling(lambda progress, remaining: remaining**power)
    return ramp(init, end, shape, length=steps)


@schedule
def one_minus_sqrt(init: float, end: float = 0.0, *, steps: int) -> Expression:
    r"""One minus the square root of the progress: falls fast, then ever more slowly.

    .. math:: f(t) = e + (i - e) (1 - \sqrt{t/T}), \quad 0 \le t \le T

    Args:
        init: the value :math:`i` at step 0.
        end: the value :math:`e` from step :math:`T` on.
        steps: the length :math:`T`, at least 1.

    Example:
        >>> from fusedlr import schedules as s
        >>> cooldown = s.one_minus_sqrt(1.0, steps=100)
        >>> cooldown(0), cooldown(25), cooldown(100)
        (1.0, 0.5, 0.0)

    Source: Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations", 2024.
    """
    at_least_one(steps=steps)
    return ramp(init, end, ONE_MINUS_SQRT, length=steps)


@schedule
def geometric(init: float, end: float, *, steps: int) -> Expression:
    r"""From `init` to `end` by equal factors: a straight line on a logarithmic axis.

    .. math:: f(t) = i \, (e/i)^{t/T}, \quad 0 \le t \le T

    Args:
        init: the value :math:`i` at step 0.
        end: the value :math:`e` from step :math:`T` on; of the sign of `init`, neither is 0.
        steps: the length :math:`T`, at least 1.

    Example:
        >>> from fusedlr import schedules as s
        >>> sweep = s.geometric(1.0, 16.0, steps=4)
        >>> sweep(0), sweep(1), sweep(2), sweep(4)
        (1.0, 2.0, 4.0, 16.0)
    """
    at_least_one(steps=steps)
    if not init * end > 0:
        raise ValueError("init and end must be of one sign, and not 0; linear passes through 0")
    value = init * (end / init) ** (STEP / steps)
    begun = select(apply("less", 0.0, STEP), value, init)
    return select(apply("less", STEP, steps), begun, end)


@schedule
def exponential(
    init: float, *, gamma: float, steps: int = 1, end: float | None = None
) -> Expression:
    r"""Exponential decay: a factor `gamma` every `steps` steps, applied continuously.

    .. math:: f(t) = i \, \gamma^{t/T}

    Args:
        init: the value :math:`i` at step 0.
        gamma: the factor :math:`\gamma`, greater than 0.
        steps: the number of steps :math:`T` in which the value is multiplied by it, at least 1.
        end: where the value stops (a lower bound if `gamma` is below 1, otherwise an upper one).

    Example:
        >>> from fusedlr import schedules as s
        >>> decay = s.exponential(1.0, gamma=0.5, steps=10, end=0.1)
        >>> decay(0), decay(10), decay(20), decay(100)
        (1.0, 0.5, 0.25, 0.1)

    Source: the semantics of ``optax.exponential_decay``; with ``steps=1`` that of
    :class:`torch.optim.lr_scheduler.ExponentialLR`.
    """
    at_least_one(steps=steps)
    positive(gamma=gamma)
    value = init * gamma ** (ELAPSED / steps)
    if end is None:
        return value
    return apply("max" if gamma < 1 else "min", value, end)


@schedule
def step(init: float, *, step_size: int, gamma: float = 0.1) -> Expression:
    r"""Multiplies by `gamma` every `step_size` steps.

    .. math:: f(t) = i \, \gamma^{\lfloor t/T \rfloor}

    Args:
        init: the value :math:`i` at first.
        step_size: the number of steps :math:`T` between two changes, at least 1.
        gamma: the factor :math:`\gamma`.

    Example:
        >>> from fusedlr import schedules as s
        >>> decay = s.step(1.0, step_size=30, gamma=0.5)
        >>> decay(29), decay(30), decay(60)
        (1.0, 0.5, 0.25)

    Source: the semantics of :class:`torch.optim.lr_scheduler.StepLR`.
    """
    at_least_one(step_size=step_size)
    return init * gamma ** (ELAPSED // step_size)


@schedule
def inverse_sqrt(init: float, *, timescale: int) -> Expression:
    r"""The inverse square root of the step.

    .. math:: f(t) = i \, \frac{1}{\sqrt{(t + T)/T}}

    Args:
        init: the value :math:`i` at step 0.
        timescale: the number of steps :math:`T`, at least 1; the value is half after :math:`3T`.

    Example:
        >>> from fusedlr import schedules as s
        >>> decay = s.inverse_sqrt(1.0, timescale=100)
        >>> decay(0), decay(300), decay(1_500)
        (1.0, 0.5, 0.25)

    Source: Vaswani et al., "Attention Is All You Need", 2017.
    """
    at_least_one(timescale=timescale)
    return init * (1.0 / apply("sqrt", (ELAPSED + timescale) / timescale))


@schedule
def cosine_restarts(init: float, end: float = 0.0, *, period: int, growth: int = 1) -> Expression:
    r"""Cosine decay that restarts after each period, for ever.

    .. math:: f(t) = e + (i - e) \frac{1 + \cos(\pi t_n/T_n)}{2}, \quad T_n = T g^n

    where :math:`t_n` counts from the start of the period :math:`n`.

    Args:
        init: the value :math:`i` at the start of each period.
        end: the value :math:`e` that each period approaches.
        period: the length :math:`T` of the first period, at least 1.
        growth: the factor :math:`g` from the length of a period to that of the next, at least 1.

    Example:
        >>> from fusedlr import schedules as s
        >>> restarts = s.cosine_restarts(0.1, period=10, growth=2)
        >>> restarts(0), restarts(5), restarts(10), restarts(20), restarts(30)
        (0.1, 0.05, 0.1, 0.05, 0.1)

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017.
    """
    at_least_one(period=period, growth=growth)
    if growth == 1:
        return ramp(init, end, COSINE, length=period, elapsed=ELAPSED % period)
    # Up to the last step that float64 can count.
    starts, lengths = [0], [period]
    while starts[-1] + lengths[-1] <= 2**53:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * growth)
    # The logarithm finds the period, but may be one off next to a boundary.
    ratio = ELAPSED * ((growth - 1) / period) + 1.0
    index = apply("floor", apply("log", ratio) / math.log(growth))
    index = index - apply("less", STEP, table(index, tuple(starts)))
    next_start = table(index + 1.0, (*starts, math.inf))
    index = index + apply("less_equal", next_start, STEP)
    elapsed = ELAPSED - table(index, tuple(starts))
    return ramp(init, end, COSINE, length=table(index, tuple(lengths)), elapsed=elapsed)
