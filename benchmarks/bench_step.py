"""Times optimizer and scheduler steps of fusedlr beside torch.optim's variants.

For a part of the matrix: --workload tiny tiny-groups --optimizer AdamW
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from contest import BEST_TORCH, BOTH, ONE_GROUP, ROOF, SCHEDULER, STEP, Result, run_contest
from peers import ALGORITHMS, TORCH_FUSED
from report import (
    console,
    environment,
    format_ratio,
    format_seconds,
    format_spread,
    print_environment,
    print_verdicts,
    three_digits,
    write_json,
)
from targets import check
from workloads import WORKLOADS, Workload

LEGEND = f"""\
Medians of interleaved rounds; "iqr": the distance between the quartiles. "x fused", "x best": how
many times faster than torch's fused and best variant in the same rounds. "GB/s": param, grad and
state read once, all but grad written once. "of roof": beside "{ROOF}", a pass of torch's over
flat buffers that moves the same bytes. "{ONE_GROUP}": fusedlr, the same tensors in one group."""


def main() -> int:
    options = _parse_options()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    screen, facts = console(), environment()
    workloads = [workload for workload in WORKLOADS if workload.name in options.workload]
    algorithms = [algorithm for algorithm in ALGORITHMS if algorithm.name in options.optimizer]
    print_environment(screen, facts)
    screen.print(LEGEND)

    results: list[Result] = []
    with _progress(screen, len(workloads) * len(algorithms)) as progress:
        task = progress.task_ids[0]
        for workload in workloads:
            for algorithm in algorithms:
                label = f"{workload.title}, {algorithm.name}"

                def on_round(phase: str, done: int, label: str = label) -> None:
                    progress.update(task, description=f"{label}: {phase}, round {done}")
                    progress.refresh()

                results += run_contest(workload, algorithm, options.rounds, on_round)
                progress.advance(task)
            screen.print(str(workload), _table(workload, results), sep="\n")

    verdicts = list(check(results)) if options.check else []
    print_verdicts(screen, verdicts)
    if options.json:
        write_json(options.json, facts, results, verdicts)
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("--workload", nargs="+", choices=names, default=names)
    optimizers = [algorithm.name for algorithm in ALGORITHMS]
    parser.add_argument("--optimizer", nargs="+", choices=optimizers, default=optimizers)
    parser.add_argument("--rounds", type=int, help="default: as many as a few seconds allow")
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument(
        "--check", action="store_true", help="compare with the project's targets; exit 1 on a miss"
    )
    options = parser.parse_args()
    for name in ("rounds", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, but got {value}")
    return options


@contextmanager
def _progress(screen: Console, contests: int) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # Drawn between rounds only: a thread that draws would disturb what is timed.
    with Progress(*columns, console=screen, auto_refresh=False, transient=True) as progress:
        progress.add_task("", total=contests)
        yield progress


def _seconds(result: Result) -> str:
    return format_seconds(result.seconds.median)


def _spread(result: Result) -> str:
    return format_spread(result.seconds)


def _bandwidth(result: Result) -> str:
    return three_digits(result.bytes_per_second / 1e9)


def _of_roof(result: Result) -> str:
    return f"{result.ratios[ROOF].median:.0%}"


def _times_fused(result: Result) -> str:
    return format_ratio(result.ratios[TORCH_FUSED.name])


def _times_best(result: Result) -> str:
    return format_ratio(result.ratios[BEST_TORCH])


COLUMNS: tuple[tuple[str, str, Callable[[Result], str]], ...] = (
    ("step", STEP, _seconds),
    ("iqr", STEP, _spread),
    ("GB/s", STEP, _bandwidth),
    ("of roof", STEP, _of_roof),
    ("x fused", STEP, _times_fused),
    ("x best", STEP, _times_best),
    ("cosine", SCHEDULER, _seconds),
    ("x fused", SCHEDULER, _times_fused),
    ("step+cosine", BOTH, _seconds),
    ("iqr", BOTH, _spread),
    ("x fused", BOTH, _times_fused),
    ("x best", BOTH, _times_best),
)


def _table(workload: Workload, results: list[Result]) -> Table:
    table = Table()
    table.add_column("optimizer")
    table.add_column("peer", no_wrap=True)
    for heading, _, _ in COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)

    rows: dict[tuple[str, str], dict[str, Result]] = {}
    for result in results:
        if result.workload == workload.name:
            rows.setdefault((result.algorithm, result.peer), {})[result.timing] = result
    for (algorithm, peer), timings in rows.items():
        cells = (cell(timings[timing]) if timing in timings else "" for _, timing, cell in COLUMNS)
        table.add_row(algorithm, peer, *cells, end_section=peer == ROOF)
    return table


if __name__ == "__main__":
    sys.exit(main())
