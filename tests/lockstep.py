"""The same training with torch.optim and with fusedlr, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from cases import OptimizerCase, Variant, random_tensor

#: torch's for-loop: its foreach and fused implementations have bugs of their own.
TRUSTED = {"foreach": False, "fused": False}


def parameters_like(tensors: Iterable[Tensor], dtype: torch.dtype | None = None) -> list[Parameter]:
    """Fresh parameters with these values; contiguous."""
    return [
        Parameter(t.detach().clone(memory_format=torch.contiguous_format).to(dtype or t.dtype))
        for t in tensors
    ]


def set_grads(params: Iterable[Tensor], grads: Iterable[Tensor | None]) -> None:
    """Gives each parameter a copy of its gradient, in its own dtype; None takes it away."""
    for param, grad in zip(params, grads, strict=True):
        param.grad = None if grad is None else grad.detach().clone().to(param.dtype)


def random_grads(params: Iterable[Tensor], generator: torch.Generator) -> list[Tensor]:
    return [random_tensor(tuple(param.shape), param.dtype, generator) for param in params]


def state_of(optimizer: Any, case: OptimizerCase) -> list[Tensor]:
    """All per-element state of an optimizer, in the order of its parameters."""
    return [
        optimizer.state[param][name]
        for group in optimizer.param_groups
        for param in group["params"]
        for name in case.state_names
        if name in optimizer.state[param]
    ]


def all_elements(tensors: Iterable[Tensor]) -> Tensor:
    """All real numbers of the tensors, in float64."""
    reals = [torch.view_as_real(t) if t.is_complex() else t for t in map(Tensor.detach, tensors)]
    return torch.cat([t.double().flatten() for t in reals])


class Lockstep:
    """fusedlr, torch.optim and torch.optim in float64: the same start, the same gradients."""

    def __init__(
        self, variant: Variant, tensors: Sequence[Tensor], exact_dtype: torch.dtype
    ) -> None:
        self.case = variant.case
        self.start = all_elements(tensors)
        self.ours = parameters_like(tensors)
        self.theirs = parameters_like(tensors)
        self.exact = parameters_like(tensors, exact_dtype)
        self.our_optimizer = variant.case.ours(self.ours, **variant.arguments)
        self.their_optimizer = variant.case.theirs(self.theirs, **TRUSTED, **variant.arguments)
        self.exact_optimizer = variant.case.theirs(self.exact, **TRUSTED, **variant.exact_arguments)

    def step(self, grads: Sequence[Tensor | None]) -> None:
        for params, optimizer in (
            (self.ours, self.our_optimizer),
            (self.theirs, self.their_optimizer),
            (self.exact, self.exact_optimizer),
        ):
            set_grads(params, grads)
            optimizer.step()

    def train(self, steps: int, generator: torch.Generator) -> None:
        for _ in range(steps):
            self.step(random_grads(self.ours, generator))

    def assert_as_accurate_as_torch(self, floor: float) -> None:
        """Our error against the float64 run is at most twice torch's, for parameters and state.

        `floor` is what rounding alone may do, in numbers near 1.
        """
        pairs = [("parameters", self.ours, self.theirs, self.exact)]
        pairs.append(
            (
                "state",
                state_of(self.our_optimizer, self.case),
                state_of(self.their_optimizer, self.case),
                state_of(self.exact_optimizer, self.case),
            )
        )
        for what, ours, theirs, exact in pairs:
            assert len(ours) == len(theirs) == len(exact)
            if not ours:
                continue
            truth = all_elements(exact)
            our_error = (all_elements(ours) - truth).abs().max().item()
            their_error = (all_elements(theirs) - truth).abs().max().item()
            bound = 2 * their_error + floor * max(1.0, truth.abs().max().item())
            assert our_error <= bound, (
                f"{what}: error {our_error:.3g}, torch's is {their_error:.3g}"
            )

    def assert_moved(self, by: float) -> None:
        """Parameters have moved, on average by more than `by`."""
        assert (all_elements(self.ours) - self.start).abs().mean() > by
