"""One workload and one algorithm on a device: every peer, eagerly and in a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from contest import BEST_TORCH, BOTH, ONE_GROUP, SCHEDULER, STEP
from gpu_peers import FUSEDLR, TORCH_FUSED, GpuPeer
from gpu_timing import (
    Launches,
    Stopwatch,
    Timing,
    captured,
    count_launches,
    free_memory,
    interleave,
)
from measure import Contender, Spread
from peers import Algorithm, parameter_groups
from workloads import Workload

# What is timed, beside what the benchmark of the CPU times.
GRAPH = "graph replay of step"
GRAPH_BOTH = "graph replay of step + scheduler step"

COPY = "device copy"
_COPY_BYTES = {"cuda": 2**30, "cpu": 2**22}

Key = tuple[str, str]  # a peer and what is timed


@dataclass(frozen=True)
class GpuResult:
    """What one peer needed; each ratio tells how many times faster it was than the ratios' key."""

    workload: str
    algorithm: str
    peer: str
    timing: str
    tensors: int
    groups: int
    elements: int
    rounds: int
    device_seconds: Spread
    host_seconds: Spread
    moved_bytes: int
    #: Bytes per second beside those of a large copy in the same rounds.
    of_copy: Spread | None
    copy_bytes_per_second: float
    device_ratios: dict[str, Spread]
    host_ratios: dict[str, Spread]
    launches: Launches | None = None

    @property
    def bytes_per_second(self) -> float:
        return self.moved_bytes / self.device_seconds.median


class GpuContest:
    """All peers over the same parameters; each has state of its own."""

    def __init__(
        self,
        workload: Workload,
        algorithm: Algorithm,
        peers: Sequence[GpuPeer],
        stopwatch: Stopwatch,
        seconds: float,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.workload, self.algorithm = workload, algorithm
        self.peers = [peer for peer in peers if algorithm.name in peer.variants]
        self.stopwatch, self.seconds, self.say = stopwatch, seconds, say
        self.groups = parameter_groups(workload, stopwatch.device)
        #: Peers that could not do something, and why.
        self.failures: dict[Key, str] = {}

    def run(self) -> list[GpuResult]:
        timings = self._time(STEP, self._steps)
        timings |= self._time(BOTH, self._scheduled_steps)
        if self.stopwatch.device == "cuda":
            timings |= self._time(GRAPH, self._graphs)
        return list(self._results(timings))

    def count_launches(self) -> dict[Key, Launches]:
        """What torch's fused optimizer and ours make the driver do."""
        found: dict[Key, Launches] = {}
        for peer in self.peers:
            if peer not in (TORCH_FUSED, FUSEDLR):
                continue
            optimizer = peer.optimizer(self.algorithm, self.groups)
            found[peer.name, STEP] = count_launches(optimizer.step, self.stopwatch)
            scheduler = peer.cosine(optimizer)
            found[peer.name, BOTH] = count_launches(_both(optimizer, scheduler), self.stopwatch)
            del optimizer, scheduler
            free_memory(self.stopwatch.device)
        return found

    def close(self) -> None:
        self.groups.clear()
        free_memory(self.stopwatch.device)

    # The contenders

    def _time(
        self, phase: str, prepare: Callable[[GpuPeer], dict[Key, Contender]]
    ) -> dict[Key, Timing]:
        self.say(phase)
        contenders: dict[Key, Contender] = {}
        for peer in self.peers:
            contenders |= self._prepared(peer, phase, partial(prepare, peer))
        contenders[COPY, phase] = _new_copy(self.stopwatch.device)
        timings = interleave(contenders, self.stopwatch, self.seconds)
        contenders.clear()
        free_memory(self.stopwatch.device)
        return timings

    def _prepared(
        self, peer: GpuPeer, timing: str, prepare: Callable[[], dict[Key, Contender]]
    ) -> dict[Key, Contender]:
        """The contenders of a peer; of a package of others, none if it fails in whatever way."""
        try:
            contenders = prepare()
            self.stopwatch.synchronize()
        except Exception as error:
            if peer is FUSEDLR:
                raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:150]
            self.failures.setdefault((peer.name, timing), reason)
            self.say(f"{peer.name} is left out of {timing!r}: {reason}")
            return {}
        return contenders

    def _steps(self, peer: GpuPeer) -> dict[Key, Contender]:
        optimizer = peer.optimizer(self.algorithm, self.groups)
        optimizer.step()
        steps: dict[Key, Contender] = {(peer.name, STEP): optimizer.step}
        if peer is FUSEDLR and self.workload.groups > 1:
            params = [param for group in self.groups for param in group["params"]]
            in_one_group = FUSEDLR.optimizer(self.algorithm, [{"params": params}])
            steps[ONE_GROUP, STEP] = in_one_group.step
        return steps

    def _scheduled_steps(self, peer: GpuPeer) -> dict[Key, Contender]:
        optimizer = peer.optimizer(self.algorithm, self.groups)
        scheduler = peer.cosine(optimizer)
        both = _both(optimizer, scheduler)
        both()
        return {(peer.name, BOTH): both, (peer.name, SCHEDULER): scheduler.step}

    def _graphs(self, peer: GpuPeer) -> dict[Key, Contender]:
        if peer.variants[self.algorithm.name].to_capture is None:
            return {}
        optimizer = peer.optimizer(self.algorithm, self.groups, to_capture=True)
        optimizer.step()
        graphs: dict[Key, Contender] = {(peer.name, GRAPH): captured(optimizer.step)}
        if peer.captures_schedulers:
            both = _both(optimizer, peer.cosine(optimizer))
            both()
            graphs[peer.name, GRAPH_BOTH] = captured(both)
        return graphs

    # The results

    def _results(self, timings: dict[Key, Timing]) -> Iterator[GpuResult]:
        bytes_of_copy = 2 * _COPY_BYTES[self.stopwatch.device]
        for (peer, timing), own in timings.items():
            if peer == COPY:
                continue
            phase = {SCHEDULER: BOTH, GRAPH_BOTH: GRAPH}.get(timing, timing)
            moved = self.workload.elements * self.algorithm.bytes_per_element
            moved = 0 if timing == SCHEDULER else moved
            copy = timings[COPY, phase].device.seconds
            of_copy = [
                (moved / mine) / (bytes_of_copy / copying)
                for mine, copying in zip(own.device.seconds, copy, strict=True)
            ]
            others = self._others(timings, timing)
            yield GpuResult(
                workload=self.workload.name,
                algorithm=self.algorithm.name,
                peer=peer,
                timing=timing,
                tensors=len(self.workload.shapes),
                groups=self.workload.groups,
                elements=self.workload.elements,
                rounds=len(own.device.seconds),
                device_seconds=own.device.spread,
                host_seconds=own.host.spread,
                moved_bytes=moved,
                of_copy=Spread.of(of_copy) if moved else None,
                copy_bytes_per_second=bytes_of_copy / Spread.of(copy).median,
                device_ratios={
                    name: own.device.times_faster_than(other.device)
                    for name, other in others.items()
                },
                host_ratios={
                    name: own.host.times_faster_than(other.host) for name, other in others.items()
                },
            )

    def _others(self, timings: dict[Key, Timing], timing: str) -> dict[str, Timing]:
        """What a timing is compared with: all peers, and the best of torch's."""
        others = {peer: one for (peer, what), one in timings.items() if what == timing}
        others.pop(COPY, None)
        torchs = [one for peer, one in others.items() if peer.startswith("torch")]
        if torchs:
            others[BEST_TORCH] = min(torchs, key=lambda one: one.device.spread.median)
        return others


def with_launches(result: GpuResult, found: dict[Key, Launches]) -> GpuResult:
    return replace(result, launches=found.get((result.peer, result.timing)))


def _both(optimizer: torch.optim.Optimizer, scheduler: Any) -> Contender:
    def step_and_schedule() -> None:
        optimizer.step()
        scheduler.step()

    return step_and_schedule


def _new_copy(device: str) -> Contender:
    """A copy on the device, of so many bytes that no cache holds them."""
    source = torch.full((_COPY_BYTES[device] // 4,), 0.5, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
