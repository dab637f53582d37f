"""Twins of the rules in ``csrc/math``: the same operations in the same order, so the same bits.

The formulas, and why they are computed like this, are in ``csrc/math/adam.h`` and ``sgd.h``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import triton
import triton.language as tl

from fusedlr import _C
from fusedlr.triton.arithmetic import div, integer_power, sqrt
from fusedlr.triton.layouts import MAX_COEFFS


class Rule(NamedTuple):
    """A rule, as kernels find it in ``RULES``."""

    #: (hypers, lr, step) -> coefficients, at most kMaxCoeffs: blocks of float64, an element for
    #: each tensor. The hypers are a tuple in the order of kNames; `step` counts from 1.
    prepare: Any
    #: (param, grad, states, coefficients) -> (param, states...): blocks of opmath, an element for
    #: each of the tensor; the coefficients are numbers in float64.
    update: Any
    #: (hypers) -> whether this step advances the count of steps, if the rule counts them.
    counts_step: Any
    num_hypers: int
    num_coeffs: int
    num_states: int
    counts_steps: bool


@triton.jit
def always(hypers):
    return hypers[0] == hypers[0]


@triton.jit
def decayed(param, grad, sign, weight_decay):
    """The gradient to descend: negated when maximizing, with coupled weight decay."""
    grad *= sign.to(grad.dtype)
    weight_decay = weight_decay.to(grad.dtype)
    # Not `+ 0 * param`: an infinite parameter must stay infinite.
    return tl.where(weight_decay != 0, grad + weight_decay * param, grad)


@triton.jit
def lerp(start, end, weight):
    """From the nearer end, as torch.lerp does."""
    near, far = weight.to(start.dtype), (1.0 - weight).to(start.dtype)
    return tl.where(near < 0.5, start + near * (end - start), end - far * (end - start))


@triton.jit
def adam_prepare(hypers, lr, step):
    beta1, beta2, eps, weight_decay, maximize, decoupled = hypers
    first = 1.0 - integer_power(beta1, step)
    second_sqrt = sqrt(1.0 - integer_power(beta2, step))
    sign = tl.where(maximize != 0, -1.0, 1.0)
    coupled_weight_decay = tl.where(decoupled != 0, 0.0, weight_decay)
    param_decay = tl.where(decoupled != 0, 1.0 - lr * weight_decay, 1.0)
    step_size = lr * second_sqrt / first
    averages = (1.0 - beta1, beta2, 1.0 - beta2)
    return (sign, coupled_weight_decay, param_decay) + averages + (step_size, eps * second_sqrt)


@triton.jit
def adam_averages(param, grad, exp_avg, exp_avg_sq, coeffs):
    sign, weight_decay, param_decay, one_minus_beta1, beta2, one_minus_beta2, _, _ = coeffs
    grad = decayed(param, grad, sign, weight_decay)
    param *= param_decay.to(param.dtype)
    exp_avg = lerp(exp_avg, grad, one_minus_beta1)
    exp_avg_sq = beta2.to(grad.dtype) * exp_avg_sq + one_minus_beta2.to(grad.dtype) * grad * grad
    return param, exp_avg, exp_avg_sq


@triton.jit
def adam_descent(param, exp_avg, exp_avg_sq, coeffs):
    step_size, eps = coeffs[6].to(param.dtype), coeffs[7].to(param.dtype)
    return param - div(step_size * exp_avg, sqrt(exp_avg_sq) + eps)


@triton.jit
def adam_update(param, grad, states, coeffs):
    param, exp_avg, exp_avg_sq = adam_averages(param, grad, states[0], states[1], coeffs)
    return adam_descent(param, exp_avg, exp_avg_sq, coeffs), exp_avg, exp_avg_sq


@triton.jit
def amsgrad_update(param, grad, states, coeffs):
    param, exp_avg, exp_avg_sq = adam_averages(param, grad, states[0], states[1], coeffs)
    # A NaN on either side must win, as it does in torch.maximum.
    is_larger = (exp_avg_sq > states[2]) | (exp_avg_sq != exp_avg_sq)
    max_exp_avg_sq = tl.where(is_larger, exp_avg_sq, states[2])
    param = adam_descent(param, exp_avg, max_exp_avg_sq, coeffs)
    return param, exp_avg, exp_avg_sq, max_exp_avg_sq


@triton.jit
def sgd_prepare(hypers, lr, step):
    momentum, dampening, weight_decay, nesterov, maximize = hypers
    sign = tl.where(maximize != 0, -1.0, 1.0)
    buffer_decay = tl.where(step == 1, 0.0, momentum)
    grad_weight = tl.where(step == 1, 1.0, 1.0 - dampening)
    lookahead = tl.where(nesterov != 0, momentum, 0.0)
    return sign, weight_decay, lr, buffer_decay, grad_weight, lookahead, momentum


@triton.jit
def sgd_update(param, grad, states, coeffs):
    grad = decayed(param, grad, coeffs[0], coeffs[1])
    return (param - coeffs[2].to(param.dtype) * grad,)


@triton.jit
def sgd_momentum_counts_step(hypers):
    return hypers[0] != 0


@triton.jit
def sgd_momentum_update(param, grad, states, coeffs):
    grad = decayed(param, grad, coeffs[0], coeffs[1])
    buffer_decay, grad_weight = coeffs[3].to(param.dtype), coeffs[4].to(param.dtype)
    has_momentum, lookahead = coeffs[6] != 0, coeffs[5].to(param.dtype)
    buffer = tl.where(has_momentum, buffer_decay * states[0] + grad_weight * grad, states[0])
    ahead = tl.where(lookahead != 0, grad + lookahead * buffer, buffer)
    direction = tl.where(has_momentum, ahead, grad)
    return param - coeffs[2].to(param.dtype) * direction, buffer


#: prepare, update and, unless every step counts, counts_step of each rule.
TWINS: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "adam": (adam_prepare, adam_update),
        "adam_amsgrad": (adam_prepare, amsgrad_update),
        "sgd": (sgd_prepare, sgd_update),
        "sgd_momentum": (sgd_prepare, sgd_momentum_update, sgd_momentum_counts_step),
    }
)


def _rule(prepare: Any, update: Any, counts_step: Any = always, *, facts: Any) -> Rule:
    return Rule(
        prepare,
        update,
        counts_step,
        len(facts["hypers"]),
        MAX_COEFFS.value,
        facts["states"],
        facts["counts_steps"],
    )


#: In the order of csrc/math/rules.h. Kernels write ``rules.RULES[index]``.
RULES = tuple(_rule(*TWINS[name], facts=facts) for name, facts in _C.rules().items())
NUM_RULES = tl.constexpr(len(RULES))
