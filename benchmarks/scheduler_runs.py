"""A scheduler at work, in torch or in fusedlr: what the comparisons step and read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from measure import Contender
from peers import Peer
from scheduler_cases import Case

# What a group is given as its lr, from a number.
LR_KINDS: Mapping[str, Callable[[float], Any]] = {
    "float": float,
    "Tensor": partial(torch.tensor, dtype=torch.float64),
    "float32 Tensor": partial(torch.tensor, dtype=torch.float32),
}


def initial_lr(group: int) -> float:
    """Of no short binary form, and another for each group."""
    return 0.1 / (1 + group / 7)


class Run:
    """A scheduler on an optimizer with so many groups, laid out over `steps`; it stands at step 0.

    Each group has one parameter, without a gradient. The optimizer comes from the scheduler's
    package, or from that of the peer that it is said to be `on`.
    """

    def __init__(
        self, case: Case, lr_kind: str, groups: int, steps: int, peer: Peer, on: Peer | None = None
    ) -> None:
        self.case = case
        constructor = getattr((on or peer).package, case.optimizer)
        self.optimizer = constructor(
            [
                {
                    "params": [torch.nn.Parameter(torch.ones(1))],
                    "lr": LR_KINDS[lr_kind](initial_lr(group)),
                }
                for group in range(groups)
            ],
            **({"momentum": 0.9} if case.optimizer == "SGD" else {}),
        )
        with warnings.catch_warnings():
            # While torch's schedulers are nested they warn of the order of steps, and fusedlr's
            # warn of a function that runs on the host.
            warnings.simplefilter("ignore", UserWarning)
            self.scheduler = case.build(peer.package, self.optimizer, steps)
            self.optimizer.step()

    def step(self, step: int) -> None:
        self.scheduler.step(*self.case.step_arguments(step))

    def contender(self) -> Contender:
        """A step that can be repeated."""
        call: Contender = partial(self.scheduler.step, *self.case.step_arguments(1))
        return call

    def lrs(self) -> list[float]:
        """The lr of each group in float64."""
        if hasattr(self.optimizer, "lr"):
            lrs: list[float] = self.optimizer.lr.tolist()
            return lrs
        return self.group_lrs()

    def group_lrs(self) -> list[float]:
        """The lr of each group as its dict has it."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def momentums(self) -> list[float]:
        return [
            group["momentum"] if "momentum" in group else group["betas"][0]
            for group in self.optimizer.param_groups
        ]
