"""How far fusedlr's schedulers are from torch's, and how often a step calls the engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from fusedlr import _backend
from peers import FUSEDLR, TORCH
from scheduler_cases import Case
from scheduler_runs import Run

# How many times in a run the lrs are also read from the groups one by one.
GROUP_READINGS = 20


@dataclass(frozen=True)
class Equality:
    """The largest difference of any lr or momentum over the steps, and the engine calls in each."""

    scheduler: str
    lr_kind: str
    groups: int
    steps: int
    largest_difference: float
    fewest_calls: int
    most_calls: int

    @property
    def is_exact(self) -> bool:
        return self.largest_difference == 0

    @property
    def is_one_call(self) -> bool:
        return self.fewest_calls == self.most_calls == 1


def measure_equality(case: Case, lr_kind: str, groups: int, steps: int) -> Equality:
    ours = Run(case, lr_kind, groups, steps, FUSEDLR)
    theirs = Run(case, lr_kind, groups, steps, TORCH)
    differences = [_difference(case, ours, theirs, reads_groups=True)]
    calls = []
    with _engine_calls() as counter:
        for step in range(1, steps + 1):
            counter.clear()
            ours.step(step)
            calls.append(counter.total())
            theirs.step(step)
            reads_groups = step % max(1, steps // GROUP_READINGS) == 0
            differences.append(_difference(case, ours, theirs, reads_groups))
    return Equality(
        scheduler=case.name,
        lr_kind=lr_kind,
        groups=groups,
        steps=steps,
        largest_difference=torch.stack(differences).max().item(),
        fewest_calls=min(calls),
        most_calls=max(calls),
    )


def _difference(case: Case, ours: Run, theirs: Run, reads_groups: bool) -> torch.Tensor:
    """The largest one; not a number if a side is none."""
    their_lrs = theirs.lrs()
    pairs = [(ours.lrs(), their_lrs)]
    if reads_groups:
        pairs.append((ours.group_lrs(), their_lrs))
    if case.moves_momentum:
        pairs.append((ours.momentums(), theirs.momentums()))
    left, right = (torch.tensor(side, dtype=torch.float64) for side in zip(*pairs, strict=True))
    return (left - right).abs().max()


@contextmanager
def _engine_calls() -> Iterator[Counter[str]]:
    """Counts calls of the functions of the compiled extension that move something, by name."""
    counter: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        function = getattr(_backend.extension, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            counter[name] += 1
            return function(*arguments, **keywords)

        return call

    names = (name for name in dir(_backend.extension) if name.endswith("_") and name[-2] != "_")
    movers: dict[str, Any] = {name: counted(name) for name in names}
    with patch.multiple(_backend.extension, **movers):
        yield counter
