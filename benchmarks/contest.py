"""One workload and one algorithm, every peer: what is timed, and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from measure import Contender, Samples, Spread, in_place_roof, interleave
from peers import FUSEDLR, PEERS, TORCH_FUSED, TORCH_PEERS, Algorithm, parameter_groups
from workloads import Workload

# What is timed.
STEP = "step"
SCHEDULER = "scheduler step"
BOTH = "step + scheduler step"

# What a peer is compared with, beside `TORCH_FUSED.name`.
BEST_TORCH = "best torch"
ROOF = "in-place roof"
ONE_GROUP = "one group"

# All steps of one contest, or all its scheduler steps.
BUDGET_SECONDS = 7.0


@dataclass(frozen=True)
class Result:
    """What one peer needed; each ratio tells how many times faster it was than `ratios`' key."""

    workload: str
    algorithm: str
    peer: str
    timing: str
    rounds: int
    seconds: Spread
    moved_bytes: int
    ratios: dict[str, Spread]

    @property
    def bytes_per_second(self) -> float:
        return self.moved_bytes / self.seconds.median


def run_contest(
    workload: Workload,
    algorithm: Algorithm,
    rounds: int | None = None,
    on_round: Callable[[str, int], None] = lambda phase, done: None,
) -> list[Result]:
    """Times `step()` of optimizers without a scheduler, then attaches one to each.

    The order matters: a scheduler of torch's wraps its optimizer's `step`, which costs time.
    """
    # Each peer walks memory of its own: none finds a cache that another has filled.
    optimizers = [(peer, peer.optimizer(algorithm, parameter_groups(workload))) for peer in PEERS]

    steps: dict[tuple[str, str], Contender] = {
        (peer.name, STEP): optimizer.step for peer, optimizer in optimizers
    }
    if workload.groups > 1:
        ours = next(optimizer for peer, optimizer in optimizers if peer is FUSEDLR)
        steps[ONE_GROUP, STEP] = _in_one_group(algorithm, ours).step
    steps[ROOF, STEP] = in_place_roof(workload.elements, algorithm.state_buffers)
    samples = interleave(steps, rounds, BUDGET_SECONDS, lambda done: on_round(STEP, done))
    # Large workloads hold gigabytes here that the next rounds do not need.
    steps.clear()

    scheduled: dict[tuple[str, str], Contender] = {}
    for peer, optimizer in optimizers:
        scheduler = peer.cosine(optimizer)
        scheduled[peer.name, BOTH] = _one_after_the_other(optimizer, scheduler)
        scheduled[peer.name, SCHEDULER] = scheduler.step
    samples |= interleave(scheduled, rounds, BUDGET_SECONDS, lambda done: on_round(BOTH, done))
    return list(_results(workload, algorithm, samples))


def _in_one_group(algorithm: Algorithm, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The same parameters and the same state in one group.

    Equal tensors elsewhere would not do: how scattered small tensors lie in memory, which what ran
    before decides, changes the time of a step by more than their groups do.
    """
    optimizer.step()  # builds the state
    params = [param for group in optimizer.param_groups for param in group["params"]]
    twin = FUSEDLR.optimizer(algorithm, [{"params": params}])
    for param in params:
        twin.state[param] = optimizer.state[param]
        twin.state[param].completed_steps = optimizer.state[param].completed_steps
    return twin


def _one_after_the_other(
    optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler
) -> Contender:
    def step_and_schedule() -> None:
        optimizer.step()
        scheduler.step()

    return step_and_schedule


def _results(
    workload: Workload, algorithm: Algorithm, samples: dict[tuple[str, str], Samples]
) -> Iterator[Result]:
    for (name, timing), own in samples.items():
        best = min(
            (samples[peer.name, timing] for peer in TORCH_PEERS),
            key=lambda torch_samples: torch_samples.spread.median,
        )
        others = {TORCH_FUSED.name: samples[TORCH_FUSED.name, timing], BEST_TORCH: best}
        for extra in (ROOF, ONE_GROUP):
            if (extra, timing) in samples:
                others[extra] = samples[extra, timing]
        yield Result(
            workload=workload.name,
            algorithm=algorithm.name,
            peer=name,
            timing=timing,
            rounds=len(own.seconds),
            seconds=own.spread,
            moved_bytes=0
            if timing == SCHEDULER
            else workload.elements * algorithm.bytes_per_element,
            ratios={other: own.times_faster_than(theirs) for other, theirs in others.items()},
        )
