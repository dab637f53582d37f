"""How each schedule moves the lr: the twins of ``csrc/math/schedule.h``, formula by formula.

A schedule is a function of its parameters, its clock (both are addresses) and a
:class:`ScheduleStep`. It puts its moves where that says, one for each of the scheduler's functions
of the step; where it puts none, the number stays as it is.

All threads of the program run a schedule together, so what it reads of the clock and then writes
there has a barrier between.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from fusedlr.triton import layouts
from fusedlr.triton.expression import evaluate, floor_quotient, floor_remainder, value_of
from fusedlr.triton.group_table import LANES, lanes
from fusedlr.triton.math_functions import cos, log, power, trunc
from fusedlr.triton.memory import load, store


class ScheduleStep(NamedTuple):
    """What one step knows beside parameters and clock."""

    is_initial: Any  # the step that construction performs
    is_closed: Any  # by the closed form, where there is one
    is_jump: Any  # warm restarts: to the epoch that the clock was given
    metric: Any  # plateau
    table: Any  # sorted milestones (repeats count), or phases: an address, and its size
    table_size: Any
    functions: Any  # of the step, by the user
    num_functions: Any
    moves: Any  # of each function


# One piece of code in the program, instead of one at every call: these are long.
@triton.jit(noinline=True)
def _power(a, b):
    return power(a, b)


@triton.jit(noinline=True)
def _cos(x):
    return cos(x)


@triton.jit
def _pi():
    return tl.full([], 3.141592653589793, tl.float64)  # a cast would go by way of float32


@triton.jit
def _number(numbers, place):
    return load(numbers + 8 * place, tl.float64)


@triton.jit
def _last_epoch(clock):
    return load(clock + layouts.ScheduleClock.last_epoch, tl.float64)


@triton.jit
def _lesser(a, b):
    """Python's min of two numbers: the first one, unless the second is beyond it."""
    return tl.where(b < a, b, a)


@triton.jit
def _greater(a, b):
    return tl.where(b > a, b, a)


@triton.jit
def _put(step, part: tl.constexpr, kind, a, b, source, target):
    """Puts a move of one part: of the lr, or of the momentum."""
    move = step.moves + part
    store(move + layouts.Move.kind, kind, tl.int32)
    store(move + layouts.Move.a, a, tl.float64)
    store(move + layouts.Move.b, b, tl.float64)
    store(move + layouts.Move.from_, source, tl.int32)
    store(move + layouts.Move.to, target, tl.int32)


@triton.jit
def _move_lr(step, kind: tl.constexpr, a, b=0.0):
    """A move of the lr itself."""
    _put(step, layouts.Moves.lr, kind, a, b, -1, -1)


@triton.jit
def _move_from_base(step, kind: tl.constexpr, a, b=0.0):
    """A move that starts at the initial lr."""
    _put(step, layouts.Moves.lr, kind, a, b, layouts.BASE_LR_COLUMN, -1)


@triton.jit
def _call(step, x):
    """Calls the functions of the step at x; then the next function says what they gave."""
    evaluate(step.functions, layouts.StepFunction.size, step.num_functions, x)


@triton.jit
def _called(function, mask):
    """The value of a function, or of a block: of an expression, or what the host has computed."""
    code = load(function + layouts.StepFunction.code, tl.int64, mask, 0)
    value = load(function + layouts.StepFunction.value, tl.float64, mask, 1.0)
    return tl.where(code == 0, value, value_of(function, mask & (code != 0)))


@triton.jit
def _put_functions(step):
    """Puts the value of every function into its own move."""
    first = tl.cast(0, tl.int64)
    while first < step.num_functions:
        place = first + lanes()
        mask = place < step.num_functions
        value = _called(step.functions + place * layouts.StepFunction.size, mask)
        a = step.moves + place * layouts.Moves.size + layouts.Moves.lr + layouts.Move.a
        store(a, value, tl.float64, mask)
        first += LANES


@triton.jit
def lambda_schedule(parameters, clock, step):
    """``base_lr * f(epoch)``."""
    _call(step, _last_epoch(clock))
    _move_from_base(step, layouts.MoveKind.scale_from, 1.0)
    tl.debug_barrier()
    _put_functions(step)


@triton.jit
def multiplicative_schedule(parameters, clock, step):
    """``lr * f(epoch)``."""
    if not step.is_initial:
        _call(step, _last_epoch(clock))
        _move_lr(step, layouts.MoveKind.scale, 1.0)
        tl.debug_barrier()
        _put_functions(step)


@triton.jit
def step_schedule(parameters, clock, step):
    """``base_lr * gamma^floor(epoch / step_size)``."""
    step_size, gamma = _number(parameters, 0), _number(parameters, 1)
    epoch = _last_epoch(clock)
    if step.is_closed:
        factor = _power(gamma, floor_quotient(epoch, step_size))
        _move_from_base(step, layouts.MoveKind.scale_from, factor)
    elif (epoch != 0) & (floor_remainder(epoch, step_size) == 0):
        _move_lr(step, layouts.MoveKind.scale, gamma)


@triton.jit
def multi_step_schedule(parameters, clock, step):
    """``base_lr * gamma^(number of milestones up to epoch)``."""
    gamma, epoch = _number(parameters, 0), _last_epoch(clock)
    passed = tl.zeros([LANES], tl.int32)
    reached = tl.zeros([LANES], tl.int32)
    first = tl.cast(0, tl.int64)
    while first < step.table_size:
        milestones = step.table + 8 * (first + lanes())
        milestone = load(milestones, tl.float64, first + lanes() < step.table_size, float("inf"))
        passed += (milestone <= epoch).to(tl.int32)
        reached += (milestone == epoch).to(tl.int32)
        first += LANES
    num_passed, num_reached = tl.sum(passed), tl.sum(reached)
    if step.is_closed:
        factor = _power(gamma, num_passed.to(tl.float64))
        _move_from_base(step, layouts.MoveKind.scale_from, factor)
    elif num_reached != 0:
        _move_lr(step, layouts.MoveKind.scale, _power(gamma, num_reached.to(tl.float64)))


@triton.jit
def constant_schedule(parameters, clock, step):
    """``base_lr * factor before total_iters, base_lr afterwards``."""
    factor, total_iters = _number(parameters, 0), _number(parameters, 1)
    epoch = _last_epoch(clock)
    if step.is_closed:
        is_over = (epoch >= total_iters).to(tl.float64)
        _move_from_base(step, layouts.MoveKind.scale_from, factor + is_over * (1 - factor))
    elif epoch == 0:
        _move_lr(step, layouts.MoveKind.scale, factor)
    elif epoch == total_iters:
        _move_lr(step, layouts.MoveKind.scale, 1.0 / factor)


@triton.jit
def linear_schedule(parameters, clock, step):
    """``base_lr * (start + (end - start) min(epoch, total_iters) / total_iters)``."""
    start, end, total_iters = (
        _number(parameters, 0),
        _number(parameters, 1),
        _number(parameters, 2),
    )
    epoch = _last_epoch(clock)
    if step.is_closed:
        share = (end - start) * _lesser(total_iters, epoch) / total_iters
        factor = tl.where(total_iters == 0, end, start + share)  # 0 / 0 in torch
        _move_from_base(step, layouts.MoveKind.scale_from, factor)
    elif epoch == 0:
        _move_lr(step, layouts.MoveKind.scale, start)
    elif not (step.is_initial | (epoch > total_iters)):
        before = total_iters * start + (epoch - 1) * (end - start)
        _move_lr(step, layouts.MoveKind.scale, 1.0 + (end - start) / before)


@triton.jit
def exponential_schedule(parameters, clock, step):
    """``base_lr * gamma^epoch``."""
    gamma = _number(parameters, 0)
    if step.is_closed:
        _move_from_base(step, layouts.MoveKind.scale_from, _power(gamma, _last_epoch(clock)))
    elif not step.is_initial:
        _move_lr(step, layouts.MoveKind.scale, gamma)


@triton.jit
def polynomial_schedule(parameters, clock, step):
    """``base_lr * (1 - min(epoch, total_iters) / total_iters)^power``."""
    total_iters, exponent = _number(parameters, 0), _number(parameters, 1)
    epoch = _last_epoch(clock)
    if step.is_closed:
        left = 1.0 - _lesser(total_iters, epoch) / total_iters
        factor = tl.where(total_iters == 0, 0.0, _power(left, exponent))  # 0 / 0 in torch
        _move_from_base(step, layouts.MoveKind.scale_from, factor)
    elif not (step.is_initial | (epoch > total_iters)):
        left = 1.0 - epoch / total_iters
        left_before = 1.0 - (epoch - 1) / total_iters
        _move_lr(step, layouts.MoveKind.scale, _power(left / left_before, exponent))


@triton.jit
def cosine_annealing_schedule(parameters, clock, step):
    """``eta_min + (base_lr - eta_min) (1 + cos(pi epoch / T_max)) / 2``."""
    T_max, eta_min = _number(parameters, 0), _number(parameters, 1)
    epoch = _last_epoch(clock)
    step_count = load(clock + layouts.ScheduleClock.step_count, tl.float64)
    if step.is_closed:
        _move_from_base(step, layouts.MoveKind.span_above, 1 + _cos(_pi() * epoch / T_max), eta_min)
    elif not step.is_initial:
        if (step_count == 1) & (epoch > 0):  # resumed in the middle
            _move_from_base(
                step, layouts.MoveKind.span_above, 1 + _cos(epoch * _pi() / T_max), eta_min
            )
        elif floor_remainder(epoch - 1 - T_max, 2 * T_max) == 0:  # at the minimum: 0 / 0 below
            _move_from_base(step, layouts.MoveKind.add_span, 1 - _cos(_pi() / T_max), eta_min)
        else:
            ratio = (1 + _cos(_pi() * epoch / T_max)) / (1 + _cos(_pi() * (epoch - 1) / T_max))
            _move_lr(step, layouts.MoveKind.contract, ratio, eta_min)


@triton.jit
def warm_restarts_schedule(parameters, clock, step):
    """``eta_min + (base_lr - eta_min) (1 + cos(pi T_cur / T_i)) / 2``."""
    T_0, T_mult, eta_min = _number(parameters, 0), _number(parameters, 1), _number(parameters, 2)
    epoch = _last_epoch(clock)
    T_cur = load(clock + layouts.ScheduleClock.T_cur, tl.float64)
    T_i = load(clock + layouts.ScheduleClock.T_i, tl.float64)
    last_epoch = epoch
    if not step.is_closed:  # else T_cur stays where it is, as in torch
        if step.is_jump | (epoch <= 0):
            epoch = _greater(epoch, 0)
            last_epoch = tl.floor(epoch)
            if epoch < T_0:
                T_i = T_0
                T_cur = epoch
            elif T_mult == 1:
                T_cur = floor_remainder(epoch, T_0)
            else:
                growth = _power(T_mult, trunc(log(epoch / T_0 * (T_mult - 1) + 1) / log(T_mult)))
                T_cur = epoch - T_0 * (growth - 1) / (T_mult - 1)
                T_i = T_0 * growth
        else:
            T_cur = T_cur + 1
            if T_cur >= T_i:
                T_cur = floor_remainder(T_cur, T_i)
                T_i = T_i * T_mult
    tl.debug_barrier()
    store(clock + layouts.ScheduleClock.last_epoch, last_epoch, tl.float64)
    store(clock + layouts.ScheduleClock.T_cur, T_cur, tl.float64)
    store(clock + layouts.ScheduleClock.T_i, T_i, tl.float64)
    _move_from_base(step, layouts.MoveKind.span_above, 1 + _cos(_pi() * T_cur / T_i), eta_min)


@triton.jit
def cyclic_schedule(parameters, clock, step):
    """A triangle between base and max, scaled by a function of the cycle or of the epoch.

    The momentum runs the other way.
    """
    total_size, step_ratio = _number(parameters, 0), _number(parameters, 1)
    mode, gamma = _number(parameters, 2), _number(parameters, 3)
    epoch = _last_epoch(clock)
    cycle = tl.floor(1 + epoch / total_size)
    x = 1.0 + epoch / total_size - cycle
    height = tl.where(x <= step_ratio, x / step_ratio, (x - 1) / (step_ratio - 1))
    at = tl.where(_number(parameters, 4) != 0, cycle, epoch)
    if mode == layouts.CyclicMode.triangular:
        _put_triangle(parameters, step, height, 1.0)
    elif mode == layouts.CyclicMode.triangular2:
        _put_triangle(parameters, step, height, 1 / _power(tl.cast(2.0, tl.float64), at - 1))
    elif mode == layouts.CyclicMode.exp_range:
        _put_triangle(parameters, step, height, _power(gamma, at))
    else:
        _call(step, at)
        _put_triangle(parameters, step, height, _called(step.functions, True))


@triton.jit
def _put_triangle(parameters, step, height, scale):
    _put(
        step,
        layouts.Moves.lr,
        layouts.MoveKind.rise,
        height,
        scale,
        layouts.CyclicColumn.base_lr,
        layouts.CyclicColumn.max_lr,
    )
    if _number(parameters, 5) != 0:  # whether the momentum moves
        _put(
            step,
            layouts.Moves.momentum,
            layouts.MoveKind.fall,
            height,
            scale,
            layouts.CyclicColumn.base_momentum,
            layouts.CyclicColumn.max_momentum,
        )


@triton.jit
def one_cycle_schedule(parameters, clock, step):
    """Phases, each a cosine or a straight line between two columns.

    A phase is a row of the table: its last epoch, and the columns of its ends: lr from, lr to,
    momentum from, momentum to.
    """
    is_cosine, total_steps = _number(parameters, 0) != 0, _number(parameters, 2)
    epoch = _last_epoch(clock)
    phase = step.table
    last_phase = step.table + 8 * (step.table_size - layouts.ONE_CYCLE_PHASE_SIZE)
    start = tl.cast(0.0, tl.float64)
    while (phase != last_phase) & (epoch > _number(phase, 0)):
        start = _number(phase, 0)
        phase += 8 * layouts.ONE_CYCLE_PHASE_SIZE
    # An empty phase is at its end; torch divides by zero.
    length = _number(phase, 0) - start
    share = tl.where(length == 0, 1.0, (epoch - start) / length)
    if epoch <= total_steps:  # past the end, a device stays there
        _put_between(step, layouts.Moves.lr, is_cosine, share, phase, 1)
        if _number(parameters, 1) != 0:  # whether the momentum moves
            _put_between(step, layouts.Moves.momentum, is_cosine, share, phase, 3)


@triton.jit
def _put_between(step, part: tl.constexpr, is_cosine, share, phase, ends: tl.constexpr):
    kind = tl.where(is_cosine, layouts.MoveKind.cosine, layouts.MoveKind.linear)
    a = tl.where(is_cosine, _cos(_pi() * share) + 1, share)
    _put(step, part, kind, a, 0.0, _number(phase, ends), _number(phase, ends + 1))


@triton.jit
def swa_schedule(parameters, clock, step):
    """From the lr to swa_lr within anneal_epochs steps."""
    anneal_epochs, is_cosine = _number(parameters, 0), _number(parameters, 1) != 0
    count = load(clock + layouts.ScheduleClock.step_count, tl.float64) - 1
    count = tl.where(anneal_epochs == 0, _greater(1.0, count), count)
    before = _swa_share(is_cosine, (count - 1) / _greater(1.0, anneal_epochs))
    share = _swa_share(is_cosine, count / _greater(1.0, anneal_epochs))
    _put(
        step,
        layouts.Moves.lr,
        layouts.MoveKind.average,
        before,
        share,
        -1,
        layouts.SWA_LR_COLUMN,
    )


@triton.jit
def _swa_share(is_cosine, t):
    share = _greater(0.0, _lesser(1.0, t))
    return tl.where(is_cosine, (1 - _cos(_pi() * share)) / 2, share)


@triton.jit
def plateau_schedule(parameters, clock, step):
    """To lr * factor, down to min_lr, when the metric has not improved for `patience` epochs."""
    factor, patience = _number(parameters, 0), _number(parameters, 1)
    cooldown, eps = _number(parameters, 2), _number(parameters, 3)
    best = load(clock + layouts.ScheduleClock.best, tl.float64)
    num_bad_epochs = load(clock + layouts.ScheduleClock.num_bad_epochs, tl.float64)
    cooldown_counter = load(clock + layouts.ScheduleClock.cooldown_counter, tl.float64)
    is_better = _is_better(parameters, step.metric, best)
    is_cooling = cooldown_counter > 0
    num_bad_epochs = tl.where(is_better | is_cooling, 0.0, num_bad_epochs + 1)
    is_over = num_bad_epochs > patience
    cooldown_counter = tl.where(is_cooling, cooldown_counter - 1, cooldown_counter)
    tl.debug_barrier()
    store(clock + layouts.ScheduleClock.best, tl.where(is_better, step.metric, best), tl.float64)
    store(
        clock + layouts.ScheduleClock.num_bad_epochs,
        tl.where(is_over, 0.0, num_bad_epochs),
        tl.float64,
    )
    store(
        clock + layouts.ScheduleClock.cooldown_counter,
        tl.where(is_over, cooldown, cooldown_counter),
        tl.float64,
    )
    if is_over:
        _move_from_base(step, layouts.MoveKind.reduce, factor, eps)


@triton.jit
def _is_better(parameters, metric, best):
    seeks_maximum, threshold = _number(parameters, 4) != 0, _number(parameters, 5)
    is_relative = _number(parameters, 6) != 0
    highest = tl.where(is_relative, best * (threshold + 1.0), best + threshold)
    lowest = tl.where(is_relative, best * (1.0 - threshold), best - threshold)
    return tl.where(seeks_maximum, metric > highest, metric < lowest)


@triton.jit
def prepare(schedule, parameters, clock, step):
    """Turns the clock of a schedule, which has been advanced, into moves of all groups."""
    if schedule == layouts.Schedule.lambda_:
        lambda_schedule(parameters, clock, step)
    elif schedule == layouts.Schedule.multiplicative:
        multiplicative_schedule(parameters, clock, step)
    elif schedule == layouts.Schedule.step:
        step_schedule(parameters, clock, step)
    elif schedule == layouts.Schedule.multi_step:
        multi_step_schedule(parameters, clock, step)
    elif schedule == layouts.Schedule.constant:
        constant_schedule(parameters, clock, step)
    elif schedule == layouts.Schedule.linear:
        linear_schedule(parameters, clock, step)
    elif schedule == layouts.Schedule.exponential:
        exponential_schedule(parameters, clock, step)
    elif schedule == layouts.Schedule.polynomial:
        polynomial_schedule(parameters, clock, step)
    elif schedule == layouts.Schedule.cosine_annealing:
        cosine_annealing_schedule(parameters, clock, step)
    elif schedule == layouts.Schedule.warm_restarts:
        warm_restarts_schedule(parameters, clock, step)
    elif schedule == layouts.Schedule.cyclic:
        cyclic_schedule(parameters, clock, step)
    elif schedule == layouts.Schedule.one_cycle:
        one_cycle_schedule(parameters, clock, step)
    elif schedule == layouts.Schedule.swa:
        swa_schedule(parameters, clock, step)
    elif schedule == layouts.Schedule.plateau:
        plateau_schedule(parameters, clock, step)
