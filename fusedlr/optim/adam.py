"""Adam."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.adam import adam

from fusedlr.optim.optimizer import FusedOptimizer
from fusedlr.optim.param_group import ParamGroup


class Adam(FusedOptimizer, torch.optim.Adam):
    r"""Adam (Kingma & Ba, 2015), all parameters of all groups in one pass.

    A drop-in for :class:`torch.optim.Adam`: the same arguments, group keys and state.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \theta_t &= \theta_{t-1} - \gamma
            \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Args:
        params: parameters, named parameters, or dicts of param groups. Any strided layout;
            float64, float32, bfloat16, float16, or complex (updated as pairs of reals). DTensors
            (of FSDP2, say) are updated where they lie; their state is DTensors, too.
        lr: learning rate :math:`\gamma`; a float, or a one-element tensor, which stays live:
            writing into it in place is seen by the next step. This, ``betas`` (each of the pair),
            ``eps`` and ``weight_decay`` can also follow a schedule of :mod:`fusedlr.schedules`.
        betas: decay rates :math:`\beta_1, \beta_2` of both averages, two floats or two tensors.
        eps: :math:`\epsilon`, added to the denominator.
        weight_decay: :math:`\lambda`; :math:`\lambda \theta` is added to the gradient, or with
            ``decoupled_weight_decay`` the parameter is scaled by :math:`1 - \gamma \lambda`.
        amsgrad: divide by the running maximum of :math:`v_t` (Reddi et al., 2018).
        maximize: ascend instead of descend.
        foreach, capturable, fused: recorded, and checked as torch does; they change nothing here.
        differentiable: run torch.optim's differentiable implementation.
        decoupled_weight_decay: weight decay as in AdamW.
        backend: the engine, ``"cpu"``, ``"cuda"``, ``"triton"``, or ``"torch"`` for functions of
            torch.optim; by default the best one that can update each parameter
            (:func:`fusedlr.backend_info` tells). Keyword only, and no part of the state.

    Arithmetic runs in float32 (float64 for float64 parameters); the learning rate and all
    coefficients are float64. A schedule is evaluated by the step itself, at the number of steps
    completed before it; it is saved with the state. Raises what :class:`torch.optim.Adam` raises
    for invalid arguments, and ValueError if `backend` cannot update the parameters.

    Example:
        >>> import torch, fusedlr
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = fusedlr.Adam(model.parameters(), lr=1e-3)
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
        >>> optimizer.lr
        tensor([0.0010], dtype=torch.float64)

    References:
        Kingma & Ba, "Adam: A Method for Stochastic Optimization", https://arxiv.org/abs/1412.6980
    """

    hyper_names = ("beta1", "beta2", "eps", "weight_decay", "maximize", "decoupled_weight_decay")
    sparse_error = "Adam does not support sparse gradients, please consider SparseAdam instead"
    step_is_visible = True

    def _rule_name(self, group: ParamGroup) -> str:
        return "adam_amsgrad" if group["amsgrad"] else "adam"

    def _state_names(self, group: ParamGroup) -> tuple[str, ...]:
        names = ("exp_avg", "exp_avg_sq")
        return (*names, "max_exp_avg_sq") if group["amsgrad"] else names

    def _torch_step(self, group: ParamGroup) -> None:
        tensors: tuple[list[Any], ...] = ([], [], [], [], [], [])
        has_complex = self._init_group(group, *tensors)  # type: ignore[no-untyped-call]
        params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps = tensors
        beta1, beta2 = group["betas"]
        adam(
            params,
            grads,
            exp_avgs,
            exp_avg_sqs,
            max_exp_avg_sqs,
            steps,
            amsgrad=group["amsgrad"],
            has_complex=has_complex,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
            foreach=group["foreach"],
            capturable=group["capturable"],
            differentiable=group["differentiable"],
            fused=group["fused"],
            decoupled_weight_decay=group["decoupled_weight_decay"],
        )
