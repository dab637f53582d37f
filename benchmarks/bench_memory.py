"""Measures what fusedlr's steps hold and allocate, beside torch.optim's variants.

Every measurement runs in a process of its own, so that none sees what another has left behind.
Needs Linux and glibc.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from rich.progress import track
from rich.table import Table

from memory import (
    LARGE,
    LOOP,
    LOOP_STEPS,
    TABLES,
    Loop,
    Overhead,
    Peak,
    measure_beyond_torch,
    measure_loop,
    measure_peak,
    measure_tables,
)
from peers import ALGORITHMS, FUSEDLR, PEERS
from report import Verdict, console, environment, print_environment, print_verdicts, write_json

# The project's targets.
MAX_BYTES_PER_TENSOR, MAX_BYTES_PER_GROUP = 256, 512
# Growth that is no leak. The heap is counted exactly, but Python's free lists fill; the kernel
# counts pages, whenever they are first touched. A leak of malloc's smallest block would be 32 bytes
# a step.
HEAP_NOISE_BYTES = LOOP_STEPS
RESIDENT_NOISE_BYTES = 32 * LOOP_STEPS
PEAK_NOISE_BYTES = 2 * 1024**2

Measured = TypeVar("Measured")


def main() -> int:
    options = _parse_options()
    # Python's small objects come from malloc too, in the processes that measure: all are counted.
    os.environ["PYTHONMALLOC"] = "malloc"
    screen, facts = console(), environment()
    print_environment(screen, facts)

    every_peer = [(a, p) for a in range(len(ALGORITHMS)) for p in range(len(PEERS))]
    adamw = [(index,) for index, algorithm in enumerate(ALGORITHMS) if algorithm.name == "AdamW"]
    every_algorithm = [(index,) for index in range(len(ALGORITHMS))]
    loops = _measure_all(f"{LOOP_STEPS:,} steps", measure_loop, every_peer)
    screen.print(f"{LOOP}, with a cosine scheduler", _loop_table(loops), sep="\n")
    peaks = _measure_all("peak of a step", measure_peak, every_peer)
    screen.print(f"{LARGE}: the peak of three steps", _peak_table(peaks), sep="\n")
    overheads = _measure_all("tables", measure_tables, adamw)
    overheads += _measure_all("objects and tables", measure_beyond_torch, every_algorithm)
    screen.print("What one more tensor or group takes", _overhead_table(overheads), sep="\n")

    verdicts = [*_check_loops(loops), *_check_peaks(peaks), *_check_tables(overheads)]
    if options.check:
        print_verdicts(screen, verdicts)
    if options.json:
        write_json(options.json, facts, [*loops, *peaks, *overheads], verdicts)
    return 1 if options.check and not all(verdict.passed for verdict in verdicts) else 0


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument(
        "--check", action="store_true", help="compare with the project's targets; exit 1 on a miss"
    )
    return parser.parse_args()


def _measure_all(
    title: str, measure: Callable[..., Measured], arguments: Sequence[tuple[Any, ...]]
) -> list[Measured]:
    return [_in_new_process(measure, *these) for these in track(arguments, title, transient=True)]


def _in_new_process(measure: Callable[..., Measured], *arguments: Any) -> Measured:
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
        return process.submit(measure, *arguments).result()


def _loop_table(loops: list[Loop]) -> Table:
    table = Table()
    table.add_column("optimizer")
    table.add_column("peer")
    table.add_column("torch allocations\nin the second step", justify="right")
    table.add_column("their bytes", justify="right")
    table.add_column("Python objects\nduring a step, bytes", justify="right")
    table.add_column(f"heap growth over\n{LOOP_STEPS:,} steps, bytes", justify="right")
    table.add_column("growth of resident\nmemory, KiB", justify="right")
    for loop in loops:
        table.add_row(
            loop.algorithm,
            loop.peer,
            f"{loop.torch_allocations:,}",
            f"{loop.torch_allocated_bytes:,}",
            f"{loop.python_peak_bytes:,}",
            f"{loop.heap_growth_bytes:,}",
            f"{loop.resident_growth_bytes / 1024:,.0f}",
            end_section=loop.peer == FUSEDLR.name,
        )
    return table


def _peak_table(peaks: list[Peak]) -> Table:
    table = Table()
    table.add_column("optimizer")
    table.add_column("peer")
    table.add_column("params, grads\nand state, MB", justify="right")
    table.add_column("peak beyond\nthem, MB", justify="right")
    table.add_column("in percent\nof the params", justify="right")
    for peak in peaks:
        table.add_row(
            peak.algorithm,
            peak.peer,
            f"{peak.training_bytes / 1e6:,.1f}",
            f"{peak.excess_bytes / 1e6:,.1f}",
            f"{peak.excess_bytes / peak.param_bytes:.1%}",
            end_section=peak.peer == FUSEDLR.name,
        )
    return table


def _overhead_table(overheads: list[Overhead]) -> Table:
    table = Table()
    table.add_column("optimizer")
    table.add_column("what")
    table.add_column("bytes per tensor", justify="right")
    table.add_column("bytes per group", justify="right")
    for overhead in overheads:
        table.add_row(
            overhead.algorithm,
            overhead.what,
            f"{overhead.bytes_per_tensor:,.0f}",
            f"{overhead.bytes_per_group:,.0f}",
        )
    return table


def _check_loops(loops: list[Loop]) -> Iterator[Verdict]:
    for loop in loops:
        if loop.peer != FUSEDLR.name:
            continue
        yield Verdict(
            target=f"{loop.algorithm}: torch allocates nothing in a plan's second step",
            measured=f"{loop.torch_allocations} allocations",
            passed=loop.torch_allocations == 0,
        )
        yield Verdict(
            target=f"{loop.algorithm}: {LOOP_STEPS:,} steps grow no memory",
            measured=f"heap {loop.heap_growth_bytes:,} bytes (noise: {HEAP_NOISE_BYTES:,}), "
            f"resident {loop.resident_growth_bytes:,} (noise: {RESIDENT_NOISE_BYTES:,})",
            passed=loop.heap_growth_bytes <= HEAP_NOISE_BYTES
            and loop.resident_growth_bytes <= RESIDENT_NOISE_BYTES,
        )


def _check_peaks(peaks: list[Peak]) -> Iterator[Verdict]:
    for peak in peaks:
        if peak.peer != FUSEDLR.name:
            continue
        yield Verdict(
            target=f"{peak.algorithm}: no temporary in proportion to the parameters",
            measured=f"{peak.excess_bytes:,} bytes for {peak.param_bytes:,} of parameters "
            f"(noise: {PEAK_NOISE_BYTES:,})",
            passed=peak.excess_bytes <= PEAK_NOISE_BYTES,
        )


def _check_tables(overheads: list[Overhead]) -> Iterator[Verdict]:
    for overhead in overheads:
        if overhead.what != TABLES:
            continue
        yield Verdict(
            target=f"{overhead.algorithm}: tables of at most {MAX_BYTES_PER_TENSOR} bytes per "
            f"tensor and {MAX_BYTES_PER_GROUP} per group",
            measured=f"{overhead.bytes_per_tensor:.0f} and {overhead.bytes_per_group:.0f}",
            passed=overhead.bytes_per_tensor <= MAX_BYTES_PER_TENSOR
            and overhead.bytes_per_group <= MAX_BYTES_PER_GROUP,
        )


if __name__ == "__main__":
    sys.exit(main())
