"""The optimizers that are compared, as data: what they compute and who computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch

import fusedlr
from workloads import Shape, Workload

# Far beyond what any run takes: the lr changes at every step and never reaches zero.
COSINE_STEPS = 10_000_000


@dataclass(frozen=True)
class Algorithm:
    """An optimizer class by name, its arguments, and the memory that one step must touch."""

    name: str
    arguments: Mapping[str, Any]
    state_buffers: int

    @property
    def bytes_per_element(self) -> int:
        """float32: read param, grad and state; write param and state."""
        reads, writes = 2 + self.state_buffers, 1 + self.state_buffers
        return torch.float32.itemsize * (reads + writes)


@dataclass(frozen=True)
class Peer:
    """A package whose optimizers and `lr_scheduler` have torch.optim's names."""

    name: str
    package: ModuleType
    flags: Mapping[str, bool] = field(default_factory=dict)

    def optimizer(
        self, algorithm: Algorithm, groups: list[dict[str, Any]]
    ) -> torch.optim.Optimizer:
        constructor = getattr(self.package, algorithm.name)
        optimizer: torch.optim.Optimizer = constructor(groups, **algorithm.arguments, **self.flags)
        return optimizer

    def cosine(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        scheduler: torch.optim.lr_scheduler.LRScheduler = (
            self.package.lr_scheduler.CosineAnnealingLR(optimizer, T_max=COSINE_STEPS)
        )
        return scheduler


def parameter_groups(workload: Workload, device: str = "cpu") -> list[dict[str, Any]]:
    """New parameters with gradients, in groups that each have their own lr."""
    return [
        {"params": [_parameter(one, device) for one in shapes], "lr": 1e-3 * (1 + index / 1000)}
        for index, shapes in enumerate(workload.grouped_shapes)
    ]


def _parameter(shape: Shape, device: str) -> torch.nn.Parameter:
    # The values change no time as long as they never become denormal.
    param = torch.nn.Parameter(torch.full(shape, 0.5, device=device))
    param.grad = torch.full(shape, 0.25, device=device)
    return param


ALGORITHMS = (
    Algorithm("AdamW", {}, state_buffers=2),
    Algorithm("SGD", {"momentum": 0.9}, state_buffers=1),
)

TORCH_FUSED = Peer("torch fused", torch.optim, {"fused": True})
TORCH_PEERS = (
    Peer("torch for-loop", torch.optim, {"foreach": False, "fused": False}),
    Peer("torch foreach", torch.optim, {"foreach": True}),
    TORCH_FUSED,
)
FUSEDLR = Peer("fusedlr", fusedlr)
# For schedulers, which are the same whatever the variant of the optimizer.
TORCH = Peer("torch", torch.optim)
PEERS = (*TORCH_PEERS, FUSEDLR)
