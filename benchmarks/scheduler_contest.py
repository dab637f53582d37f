"""One scheduler in torch and in fusedlr: how long a step takes."""

from __future__ import annotations

from contest import SCHEDULER, Result
from measure import interleave
from peers import FUSEDLR, TORCH
from scheduler_cases import Case
from scheduler_runs import Run

# torch's scheduler on fusedlr's optimizer.
TORCH_ON_FUSEDLR = "torch on fusedlr"
PEER_NAMES = (TORCH.name, TORCH_ON_FUSEDLR, FUSEDLR.name)

# Far beyond what any run takes: no schedule ends.
STEPS = 10_000_000
BUDGET_SECONDS = 2.0


def workload(lr_kind: str, groups: int) -> str:
    return f"{groups:,} group{'s' * (groups != 1)}, {lr_kind} lr"


def run_scheduler_contest(
    case: Case, lr_kind: str, groups: int, rounds: int | None = None
) -> list[Result]:
    """A result for each of `PEER_NAMES`."""
    runs = (
        Run(case, lr_kind, groups, STEPS, TORCH),
        Run(case, lr_kind, groups, STEPS, TORCH, on=FUSEDLR),
        Run(case, lr_kind, groups, STEPS, FUSEDLR),
    )
    contenders = {name: run.contender() for name, run in zip(PEER_NAMES, runs, strict=True)}
    samples = interleave(contenders, rounds, BUDGET_SECONDS)
    return [
        Result(
            workload=workload(lr_kind, groups),
            algorithm=case.name,
            peer=name,
            timing=SCHEDULER,
            rounds=len(own.seconds),
            seconds=own.spread,
            moved_bytes=0,
            ratios={
                other: own.times_faster_than(samples[other])
                for other in (TORCH.name, TORCH_ON_FUSEDLR)
            },
        )
        for name, own in samples.items()
    ]
