"""What the project promises of a GPU, as data, and whether a run kept it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from contest import BOTH, STEP
from gpu_contest import GpuResult
from gpu_peers import FUSEDLR, TORCH_FUSED
from report import Verdict, three_digits


@dataclass(frozen=True)
class Measure:
    """A number of a result; None if the run has not measured it."""

    name: str
    of: Callable[[GpuResult], float | None]


def _of_copy(result: GpuResult) -> float | None:
    return None if result.of_copy is None else result.of_copy.median


def _device_ratio(result: GpuResult) -> float | None:
    ratio = result.device_ratios.get(TORCH_FUSED.name)
    return None if ratio is None else ratio.median


def _host_ratio(result: GpuResult) -> float | None:
    ratio = result.host_ratios.get(TORCH_FUSED.name)
    return None if ratio is None else ratio.median


def _launches(result: GpuResult) -> float | None:
    # None at all means that the profiler has seen nothing.
    return (result.launches and result.launches.launches) or None


def _waits_and_copies(result: GpuResult) -> float | None:
    if result.launches is None or result.launches.launches == 0:
        return None
    return result.launches.waits + result.launches.copies


OF_COPY = Measure("of the bandwidth of a copy", _of_copy)
DEVICE_RATIO = Measure("x as fast as torch fused on the device", _device_ratio)
HOST_RATIO = Measure("x as fast as torch fused on the host", _host_ratio)
HOST_PER_TENSOR = Measure(
    "µs of the host per tensor", lambda result: result.host_seconds.median * 1e6 / result.tensors
)
LAUNCHES = Measure("launches", _launches)
WAITS = Measure("times waited or copied", _waits_and_copies)


@dataclass(frozen=True)
class GpuTarget:
    """`measure` of a timing of fusedlr is at least, or at most, so much."""

    workload: str
    timing: str
    measure: Measure
    at_least: float | None = None
    at_most: float | None = None
    algorithm: str | None = None  # None: every one

    def fits(self, result: GpuResult) -> bool:
        return (
            (result.workload, result.timing) == (self.workload, self.timing)
            and result.peer == FUSEDLR.name
            and self.algorithm in (None, result.algorithm)
        )

    def verdict(self, result: GpuResult) -> Verdict | None:
        value = self.measure.of(result)
        if value is None:
            return None
        if self.at_least is not None:
            bound, passed = f"at least {self.at_least:.4g}", value >= self.at_least
        else:
            bound, passed = f"at most {self.at_most:.4g}", value <= (self.at_most or 0)
        return Verdict(
            target=f"{result.algorithm}, {self.workload}, {self.timing}: {bound} "
            f"{self.measure.name}",
            measured=three_digits(value),
            passed=passed,
        )


_WORKLOADS = ("billion", "llama", "llama-groups", "gpt2", "lora", "tiny", "tiny-groups", "mlp")

GPU_TARGETS = (
    GpuTarget("billion", STEP, OF_COPY, at_least=0.95, algorithm="AdamW"),
    GpuTarget("billion", STEP, DEVICE_RATIO, at_least=1.05, algorithm="AdamW"),
    GpuTarget("tiny-groups", BOTH, DEVICE_RATIO, at_least=10),
    GpuTarget("tiny-groups", BOTH, HOST_RATIO, at_least=20),
    GpuTarget("tiny-groups", BOTH, HOST_PER_TENSOR, at_most=1),
    # Whatever the number of groups.
    *(GpuTarget(workload, STEP, LAUNCHES, at_most=2) for workload in _WORKLOADS),
    *(GpuTarget(workload, BOTH, LAUNCHES, at_most=3) for workload in _WORKLOADS),
    *(GpuTarget(workload, BOTH, WAITS, at_most=0) for workload in _WORKLOADS),
)


def check(results: Iterable[GpuResult]) -> Iterator[Verdict]:
    """A verdict for each target that the run has measured."""
    measured = list(results)
    for target in GPU_TARGETS:
        for result in filter(target.fits, measured):
            verdict = target.verdict(result)
            if verdict is not None:
                yield verdict
