"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.sgd import sgd

from fusedlr.optim.optimizer import FusedOptimizer
from fusedlr.optim.param_group import ParamGroup


class SGD(FusedOptimizer, torch.optim.SGD):
    r"""Stochastic gradient descent with (Nesterov) momentum, all groups in one pass.

    A drop-in for :class:`torch.optim.SGD`: the same arguments, group keys and state.

    .. math::
        b_t &= \mu b_{t-1} + (1 - \tau) (g_t + \lambda \theta_{t-1}),
            \quad b_1 = g_1 + \lambda \theta_0 \\
        \theta_t &= \theta_{t-1} - \gamma b_t

    With ``nesterov``, :math:`g_t + \lambda \theta_{t-1} + \mu b_t` takes the place of :math:`b_t`
    in the last line; with ``momentum=0`` the gradient itself does, and no state is kept.

    Args:
        params: parameters, named parameters, or dicts of param groups. Any strided layout;
            float64, float32, bfloat16, float16, or complex (updated as pairs of reals). DTensors
            (of FSDP2, say) are updated where they lie; their state is DTensors, too.
        lr: learning rate :math:`\gamma`; a float, or a one-element tensor, which stays live:
            writing into it in place is seen by the next step. This, ``momentum``, ``dampening``
            and ``weight_decay`` can also follow a schedule of :mod:`fusedlr.schedules`.
        momentum: :math:`\mu`.
        dampening: :math:`\tau`; not applied to the first gradient of a parameter.
        weight_decay: :math:`\lambda`.
        nesterov: look ahead along the momentum; needs a momentum and no dampening.
        maximize: ascend instead of descend.
        foreach, fused: recorded, and checked as torch does; they change nothing here.
        differentiable: run torch.optim's differentiable implementation.
        backend: the engine, ``"cpu"``, ``"cuda"``, ``"triton"``, or ``"torch"`` for functions of
            torch.optim; by default the best one that can update each parameter
            (:func:`fusedlr.backend_info` tells). Keyword only, and no part of the state.

    A schedule is evaluated by the step itself, at the number of steps completed before it; it is
    saved with the state. A step whose momentum is 0 leaves the momentum buffers alone. Sparse
    gradients raise ``RuntimeError``, as with torch's fused SGD. Raises what
    :class:`torch.optim.SGD` raises for invalid arguments, and ValueError if `backend` cannot update
    the parameters.

    Example:
        >>> import torch, fusedlr
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = fusedlr.SGD([weight], lr=0.1, momentum=0.9)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> weight
        Parameter containing:
        tensor([0.9000, 0.9000], requires_grad=True)

    References:
        Sutskever et al. (2013), "On the importance of initialization and momentum in deep
        learning".
    """

    hyper_names = ("momentum", "dampening", "weight_decay", "nesterov", "maximize")
    sparse_error = "`_fused_sgd` does not support sparse gradients"
    step_is_visible = False
    state_without_step = ("momentum_buffer",)

    def _rule_name(self, group: ParamGroup) -> str:
        return "sgd_momentum" if group.may_be_nonzero("momentum") else "sgd"

    def _state_names(self, group: ParamGroup) -> tuple[str, ...]:
        return ("momentum_buffer",) if group.may_be_nonzero("momentum") else ()

    def _torch_step(self, group: ParamGroup) -> None:
        params: list[Any] = []
        grads: list[Any] = []
        momentum_buffers: list[Any] = []
        has_sparse_grad = self._init_group(  # type: ignore[no-untyped-call]
            group, params, grads, momentum_buffers
        )
        if has_sparse_grad:
            raise RuntimeError(self.sparse_error)
        sgd(
            params,
            grads,
            momentum_buffers,
            has_sparse_grad=has_sparse_grad,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            foreach=group["foreach"],
            fused=group["fused"],
        )
        if group["momentum"] != 0:
            for param, buffer in zip(params, momentum_buffers, strict=True):
                # Storing the same buffer again would make the plans of other groups stale.
                if self.state[param].get("momentum_buffer") is not buffer:
                    self.state[param]["momentum_buffer"] = buffer
