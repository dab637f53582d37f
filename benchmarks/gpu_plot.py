"""A picture of a benchmark on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from contest import BOTH, STEP
from gpu_contest import GRAPH, GRAPH_BOTH, GpuResult
from gpu_peers import FUSEDLR, TORCH_FUSED

_COLORS = {STEP: "C0", BOTH: "C1", GRAPH: "C2", GRAPH_BOTH: "C3"}


def draw(results: Sequence[GpuResult], path: Path, title: str) -> bool:
    """Ratios to torch's fused step, and shares of the bandwidth; False without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return False
    ours = [one for one in results if one.peer == FUSEDLR.name]
    labels = list(dict.fromkeys(f"{one.workload}, {one.algorithm}" for one in ours))
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(13, 1.5 + 0.55 * len(labels)), layout="constrained", sharey=True
    )
    timings = [timing for timing in _COLORS if any(one.timing == timing for one in ours)]
    for place, timing in enumerate(timings):
        offset = 0.8 * (place + 0.5) / len(timings) - 0.4
        for one in ours:
            if one.timing != timing:
                continue
            y = labels.index(f"{one.workload}, {one.algorithm}") + offset
            bar = {"height": 0.8 / len(timings), "color": _COLORS[timing]}
            ratio = one.device_ratios.get(TORCH_FUSED.name)
            if ratio is not None:
                left.barh(y, ratio.median, **bar)
            if one.of_copy is not None:
                right.barh(y, 100 * one.of_copy.median, **bar)
        left.barh(0, 0, color=_COLORS[timing], label=timing)
    left.set_xscale("log")
    left.axvline(1, color="black", linewidth=0.8)
    left.set_xlabel("times as fast as torch fused, on the device")
    right.axvline(100, color="black", linewidth=0.8)
    right.set_xlabel("% of the bandwidth of a copy")
    left.set_yticks(range(len(labels)), labels)
    left.invert_yaxis()
    left.legend()
    figure.suptitle(f"fusedlr on {title}")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True
