"""What the benchmark commands print and write. (rich is needed by those that have a console.)"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

import torch

from measure import Spread

if TYPE_CHECKING:
    from rich.console import Console

# Other work on the machine that is worth a warning.
BUSY_CORES = 0.3
# A pipe has no width of its own: one in which no table is cut.
_PIPE_WIDTH = 150


@dataclass(frozen=True)
class Verdict:
    """A target of the project beside what was measured."""

    target: str
    measured: str
    passed: bool


def console() -> Console:
    from rich.console import Console

    screen = Console(highlight=False)
    return screen if screen.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def environment() -> dict[str, Any]:
    """What a reader needs to judge the numbers, and nothing that tells whose machine it is."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "busy_cores": round(_busy_cores(), 1),
    }


def describe(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def print_environment(screen: Console, facts: dict[str, Any]) -> None:
    screen.print(describe(facts))
    if facts["busy_cores"] > BUSY_CORES:
        screen.print(
            f"[yellow]Other work keeps {facts['busy_cores']} cores busy. A thread pool waits for "
            "its slowest thread, so times and ratios mean little now.[/]"
        )


def print_verdicts(screen: Console, verdicts: Iterable[Verdict]) -> None:
    for verdict in verdicts:
        mark = "[green]pass[/]" if verdict.passed else "[red]FAIL[/]"
        screen.print(f"{mark}  {verdict.target}: {verdict.measured}", soft_wrap=True)


def write_json(
    path: Path, facts: dict[str, Any], results: Iterable[Any], verdicts: Iterable[Verdict]
) -> None:
    """`results` are dataclasses."""
    content = {
        "environment": facts,
        "results": [asdict(result) for result in results],
        "targets": [asdict(verdict) for verdict in verdicts],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def format_seconds(seconds: float) -> str:
    if seconds >= 1:
        return f"{three_digits(seconds)} s"
    if seconds >= 1e-3:
        return f"{three_digits(seconds * 1e3)} ms"
    return f"{three_digits(seconds * 1e6)} µs"


def format_spread(spread: Spread) -> str:
    """The distance between the quartiles in percent of the median."""
    return f"{(spread.upper - spread.lower) / spread.median:.0%}"


def format_ratio(ratio: Spread) -> str:
    return three_digits(ratio.median)


def three_digits(value: float) -> str:
    """Three significant digits, but never an exponent for a large value."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())


def _busy_cores(seconds: float = 0.5) -> float:
    """How many cores work while this process sleeps."""
    try:
        before, start = _idle_seconds(), perf_counter()
        sleep(seconds)
        idle, elapsed = _idle_seconds() - before, perf_counter() - start
    except OSError:
        return os.getloadavg()[0]
    return max(0.0, (os.cpu_count() or 1) - idle / elapsed)


def _idle_seconds() -> float:
    """Summed over all cores, see proc(5): the fourth number of the first line of /proc/stat."""
    ticks = Path("/proc/stat").read_text().split(maxsplit=5)[4]
    return int(ticks) / os.sysconf("SC_CLK_TCK")
