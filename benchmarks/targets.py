"""The speed that the project promises, as data, and whether a run kept it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from contest import ONE_GROUP, ROOF, SCHEDULER, STEP, Result
from peers import FUSEDLR, TORCH, TORCH_FUSED
from report import Verdict, format_ratio


@dataclass(frozen=True)
class Target:
    """`timing` of fusedlr is at least so many times faster than `than`."""

    workload: str
    timing: str
    than: str
    at_least: float
    # Where equality is the target, noise alone fails the median half of the time: the upper
    # quartile decides.
    within_noise: bool = False

    def verdict(self, result: Result) -> Verdict:
        ratio = result.ratios[self.than]
        noise = " within noise" if self.within_noise else ""
        return Verdict(
            target=f"{result.algorithm}, {self.workload}: {self.timing} at least "
            f"{self.at_least:.3g} x as fast as {self.than}{noise}",
            measured=f"{format_ratio(ratio)} x (quartiles {ratio.lower:.3g} to {ratio.upper:.3g})",
            passed=(ratio.upper if self.within_noise else ratio.median) >= self.at_least,
        )


TARGETS = (
    Target("tiny", STEP, TORCH_FUSED.name, 60),
    Target("tiny-groups", STEP, TORCH_FUSED.name, 150),
    Target("tiny-groups", SCHEDULER, TORCH_FUSED.name, 20),
    # 1,000 groups cost at most 1.1 times what one group costs.
    Target("tiny-groups", STEP, ONE_GROUP, 1 / 1.1),
    Target("1,000 groups, float lr", SCHEDULER, TORCH.name, 20),
    Target("mlp", STEP, TORCH_FUSED.name, 3),
    Target("one-tensor", STEP, TORCH_FUSED.name, 1, within_noise=True),
    Target("one-tensor", STEP, ROOF, 0.9),
    Target("gpt2", STEP, TORCH_FUSED.name, 1, within_noise=True),
    Target("gpt2", STEP, ROOF, 0.9),
)


def check(results: Iterable[Result]) -> Iterator[Verdict]:
    """A verdict for each target that the run has measured."""
    ours = [result for result in results if result.peer == FUSEDLR.name]
    for target in TARGETS:
        for result in ours:
            if (result.workload, result.timing) == (target.workload, target.timing):
                yield target.verdict(result)
