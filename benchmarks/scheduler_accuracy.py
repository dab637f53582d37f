"""How far a long run of a scheduler is from its closed form in extended precision."""

from __future__ import annotations

from dataclasses import dataclass

from mpmath import mpf

from peers import FUSEDLR, TORCH, Peer
from scheduler_cases import Case
from scheduler_runs import Run, initial_lr

# The lr is compared after each of these many steps, and after the last one.
STRIDE = 97


@dataclass(frozen=True)
class Variant:
    """Whose scheduler, and what it keeps the lr in."""

    peer: Peer
    lr_kind: str

    @property
    def name(self) -> str:
        return f"{self.peer.name}, {self.lr_kind} lr"


TORCH_FLOAT = Variant(TORCH, "float")
FUSEDLR_FLOAT = Variant(FUSEDLR, "float")
VARIANTS = (
    Variant(TORCH, "float32 Tensor"),
    Variant(FUSEDLR, "float32 Tensor"),
    TORCH_FLOAT,
    FUSEDLR_FLOAT,
)


@dataclass(frozen=True)
class Accuracy:
    """The largest relative error of the lr over a run, by the names of the variants."""

    scheduler: str
    steps: int
    largest_relative_error: dict[str, float]


def measure_accuracy(case: Case, steps: int) -> Accuracy:
    form = case.closed_form(steps)
    lr = mpf(initial_lr(0))
    exact = {step: form(lr, step) for step in (*range(0, steps, STRIDE), steps)}
    errors = {variant.name: _largest_error(case, variant, steps, exact) for variant in VARIANTS}
    return Accuracy(case.name, steps, errors)


def _largest_error(case: Case, variant: Variant, steps: int, exact: dict[int, mpf]) -> float:
    run = Run(case, variant.lr_kind, 1, steps, variant.peer)
    errors = []
    for step in range(steps + 1):
        if step > 0:
            run.step(step)
        # Where the lr is 0, every error is infinitely many times as large.
        if exact.get(step, 0) != 0:
            errors.append(abs(mpf(run.lrs()[0]) / exact[step] - 1))
    return float(max(errors))
