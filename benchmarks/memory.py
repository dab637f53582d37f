"""What optimizers hold and allocate: each function here measures one thing, in this process."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from peers import ALGORITHMS, FUSEDLR, PEERS, TORCH_FUSED, Algorithm, Peer, parameter_groups
from probes import heap_bytes, peak_bytes_during, resident_bytes, torch_allocations
from workloads import WORKLOADS, Workload

LOOP_STEPS = 10_000
WARM_UP_STEPS = 1_000
# Three groups of a weight and a bias.
LOOP = replace(next(w for w in WORKLOADS if w.name == "mlp"), groups=3)
LARGE = Workload("large", "100 tensors of 1 M", 100 * [(2**20,)])

TABLES = "group table and plan"
BEYOND_TORCH = f"all that {TORCH_FUSED.name} does not hold"


@dataclass(frozen=True)
class Loop:
    """Steps with a cosine scheduler: what one of them allocates, what thousands leave behind."""

    algorithm: str
    peer: str
    torch_allocations: int
    torch_allocated_bytes: int
    python_peak_bytes: int
    heap_growth_bytes: int
    resident_growth_bytes: int


@dataclass(frozen=True)
class Peak:
    """The most that three steps, the first among them, hold beside params, grads and state."""

    algorithm: str
    peer: str
    param_bytes: int
    training_bytes: int
    excess_bytes: int


@dataclass(frozen=True)
class Overhead:
    """What fusedlr holds for one more tensor and for one more group."""

    algorithm: str
    what: str
    bytes_per_tensor: float
    bytes_per_group: float


def measure_loop(algorithm_index: int, peer_index: int) -> Loop:
    # Waking threads for 8,682 elements would take most of the time, and changes no count.
    torch.set_num_threads(1)
    algorithm, peer = ALGORITHMS[algorithm_index], PEERS[peer_index]
    optimizer = peer.optimizer(algorithm, parameter_groups(LOOP))
    optimizer.step()
    allocations = torch_allocations(optimizer.step)

    scheduler = peer.cosine(optimizer)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.step()
            scheduler.step()

    train(WARM_UP_STEPS)
    gc.collect()
    heap, resident = heap_bytes(), resident_bytes()
    train(LOOP_STEPS)
    gc.collect()
    heap, resident = heap_bytes() - heap, resident_bytes() - resident

    return Loop(
        algorithm=algorithm.name,
        peer=peer.name,
        torch_allocations=len(allocations),
        torch_allocated_bytes=sum(allocations),
        python_peak_bytes=_python_peak_bytes(lambda: train(1)),
        heap_growth_bytes=heap,
        resident_growth_bytes=resident,
    )


def measure_peak(algorithm_index: int, peer_index: int) -> Peak:
    algorithm, peer = ALGORITHMS[algorithm_index], PEERS[peer_index]
    # Code pages and thread stacks of a first step are not the optimizer's memory.
    warm_up = replace(LARGE, shapes=LARGE.shapes[:1])
    peer.optimizer(algorithm, parameter_groups(warm_up)).step()
    gc.collect()

    optimizer = peer.optimizer(algorithm, parameter_groups(LARGE))
    param_bytes = torch.float32.itemsize * LARGE.elements
    state_bytes = algorithm.state_buffers * param_bytes
    before = resident_bytes()

    def three_steps() -> None:
        for _ in range(3):
            optimizer.step()

    return Peak(
        algorithm=algorithm.name,
        peer=peer.name,
        param_bytes=param_bytes,
        training_bytes=2 * param_bytes + state_bytes,
        excess_bytes=peak_bytes_during(three_steps) - before - state_bytes,
    )


def measure_tables(algorithm_index: int) -> Overhead:
    """The group table and the plan."""
    algorithm = ALGORITHMS[algorithm_index]

    def table_bytes(workload: Workload) -> int:
        torch_optimizer, torch_bytes = _construct(TORCH_FUSED, algorithm, workload)
        optimizer, own_bytes = _construct(FUSEDLR, algorithm, workload)
        # With the state loaded, nothing but the plan is left for the first step to build.
        torch_optimizer.step()
        optimizer.load_state_dict(torch_optimizer.state_dict())
        return own_bytes - torch_bytes + _heap_growth(optimizer.step)

    return _overhead(algorithm, TABLES, table_bytes)


def measure_beyond_torch(algorithm_index: int) -> Overhead:
    """Everything: objects, tables and state, minus what torch's fused variant holds."""
    algorithm = ALGORITHMS[algorithm_index]

    def extra_bytes(workload: Workload) -> int:
        torch_optimizer, torch_bytes = _construct(TORCH_FUSED, algorithm, workload)
        optimizer, own_bytes = _construct(FUSEDLR, algorithm, workload)
        grown = _heap_growth(optimizer.step) - _heap_growth(torch_optimizer.step)
        return own_bytes - torch_bytes + grown

    return _overhead(algorithm, BEYOND_TORCH, extra_bytes)


def _overhead(algorithm: Algorithm, what: str, held_bytes: Callable[[Workload], int]) -> Overhead:
    """From the difference between two sizes, which leaves out what is there only once."""

    def held(tensors: int, groups: int) -> int:
        return held_bytes(Workload("tiny", "tensors of 1", tensors * [(1,)], groups))

    held(2, 1)  # what the first optimizer of a process imports and caches
    return Overhead(
        algorithm=algorithm.name,
        what=what,
        bytes_per_tensor=(held(8192, 1) - held(4096, 1)) / 4096,
        bytes_per_group=(held(4096, 2048) - held(4096, 1024)) / 1024,
    )


def _construct(
    peer: Peer, algorithm: Algorithm, workload: Workload
) -> tuple[torch.optim.Optimizer, int]:
    """An optimizer, and what malloc gave out for it, its parameters and gradients apart."""
    groups = parameter_groups(workload)
    made: list[torch.optim.Optimizer] = []
    grown = _heap_growth(
        lambda: made.append(peer.optimizer(algorithm, [dict(group) for group in groups]))
    )
    return made[0], grown


def _heap_growth(call: Callable[[], object]) -> int:
    gc.collect()
    before = heap_bytes()
    call()
    gc.collect()
    return heap_bytes() - before


def _python_peak_bytes(call: Callable[[], object]) -> int:
    """The most that Python's own objects needed at any moment of the call."""
    tracemalloc.start()
    try:
        call()  # caches of the first traced call
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
