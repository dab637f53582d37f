"""Compares fusedlr's schedulers with torch's: the numbers, the speed, and the accuracy.

Without --equality, --time or --accuracy: all three. For a part of the rows: --only SequentialLR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from contest import Result
from report import Verdict, console, environment, print_environment, print_verdicts, write_json
from scheduler_accuracy import FUSEDLR_FLOAT, TORCH_FLOAT, Accuracy, measure_accuracy
from scheduler_cases import CASES, Case
from scheduler_contest import run_scheduler_contest, workload
from scheduler_equality import Equality, measure_equality
from scheduler_tables import (
    ACCURACY_LEGEND,
    EQUALITY_LEGEND,
    TIME_LEGEND,
    accuracy_table,
    equality_table,
    time_table,
)
from targets import check

MANY_GROUPS = 1_000

# The kind of lr, the number of groups, and whether torch is so slow that fewer steps must do.
EQUALITY_RUNS = tuple(
    (lr_kind, groups, lr_kind == "Tensor" and groups == MANY_GROUPS)
    for lr_kind in ("float", "Tensor")
    for groups in (1, 3, MANY_GROUPS)
)
STEPS, SHORT_STEPS = 10_000, 1_000
CONTESTS = (("float", MANY_GROUPS), ("Tensor", MANY_GROUPS), ("float", 1))
ACCURACY_STEPS = 100_000

Say = Callable[[str], None]
Measured = TypeVar("Measured")


def main() -> int:
    options = _parse_options()
    screen, facts = console(), environment()
    print_environment(screen, facts)
    cases = [case for case in CASES if case.scheduler in options.only]
    takes_all = not (options.equality or options.time or options.accuracy)
    results: list[Any] = []
    verdicts: list[Verdict] = []

    if options.equality or takes_all:
        equalities = _compare_numbers(screen, cases, options.full)
        screen.print(EQUALITY_LEGEND, equality_table(equalities), sep="\n")
        results += equalities
        verdicts += _check_equalities(equalities)

    if options.time or takes_all:
        screen.print(TIME_LEGEND)
        for lr_kind, groups in CONTESTS:
            timings = _time(screen, cases, lr_kind, groups, options.rounds)
            screen.print(workload(lr_kind, groups), time_table(timings), sep="\n")
            results += timings
            verdicts += _check_timings(cases, timings)

    if options.accuracy or takes_all:
        accuracies = _compare_with_closed_forms(screen, cases)
        screen.print(f"{ACCURACY_STEPS:,} steps. {ACCURACY_LEGEND}", accuracy_table(accuracies))
        results += accuracies
        verdicts += _check_accuracies(accuracies)

    if not options.check:
        verdicts = []
    print_verdicts(screen, verdicts)
    if options.json:
        write_json(options.json, facts, results, verdicts)
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    names = list(dict.fromkeys(case.scheduler for case in CASES))
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="SCHEDULER")
    parser.add_argument("--equality", action="store_true", help="compare the numbers with torch's")
    parser.add_argument("--time", action="store_true", help="time a step beside torch's")
    parser.add_argument("--accuracy", action="store_true", help="compare with closed forms")
    parser.add_argument(
        "--full",
        action="store_true",
        help=f"compare numbers over {STEPS:,} steps where {SHORT_STEPS:,} have to do otherwise: "
        f"with {MANY_GROUPS:,} groups and Tensors, where torch takes hours",
    )
    parser.add_argument("--rounds", type=int, help="default: as many as a few seconds allow")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument(
        "--check", action="store_true", help="compare with the project's targets; exit 1 on a miss"
    )
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds must be at least 1, but got {options.rounds}")
    return options


def _compare_numbers(screen: Console, cases: Sequence[Case], full: bool) -> list[Equality]:
    configurations = [
        (CASES.index(case), lr_kind, groups, SHORT_STEPS if is_short and not full else STEPS)
        for case in cases
        for lr_kind, groups, is_short in EQUALITY_RUNS
    ]
    return _in_processes(screen, "numbers", _measure_equality, configurations)


def _measure_equality(case: int, lr_kind: str, groups: int, steps: int) -> Equality:
    return measure_equality(CASES[case], lr_kind, groups, steps)


def _time(
    screen: Console, cases: Sequence[Case], lr_kind: str, groups: int, rounds: int | None
) -> list[Result]:
    results = []
    with _progress(screen, len(cases)) as (say, done):
        for case in cases:
            say(f"{case.name}, {workload(lr_kind, groups)}")
            results += run_scheduler_contest(case, lr_kind, groups, rounds)
            done()
    return results


def _compare_with_closed_forms(screen: Console, cases: Sequence[Case]) -> list[Accuracy]:
    indices = [(CASES.index(case),) for case in cases]
    return _in_processes(screen, "accuracy", _measure_accuracy, indices)


def _measure_accuracy(case: int) -> Accuracy:
    return measure_accuracy(CASES[case], ACCURACY_STEPS)


def _in_processes(
    screen: Console,
    title: str,
    measure: Callable[..., Measured],
    arguments: Sequence[tuple[Any, ...]],
) -> list[Measured]:
    """What takes long and is not timed runs on all cores."""
    with (
        ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=_use_one_thread) as pool,
        _progress(screen, len(arguments)) as (say, done),
    ):
        say(title)
        futures = [pool.submit(measure, *these) for these in arguments]
        for _ in as_completed(futures):
            done()
            say(title)
        return [future.result() for future in futures]


def _use_one_thread() -> None:
    torch.set_num_threads(1)


@contextmanager
def _progress(screen: Console, total: int) -> Iterator[tuple[Say, Callable[[], None]]]:
    """Two functions: one tells what is being measured, the other that it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # Drawn between measurements only: a thread that draws would disturb what is timed.
    with Progress(*columns, console=screen, auto_refresh=False, transient=True) as progress:
        task = progress.add_task("", total=total)

        def say(what: str) -> None:
            progress.update(task, description=what)
            progress.refresh()

        yield say, lambda: progress.advance(task)


def _check_equalities(equalities: Sequence[Equality]) -> Iterator[Verdict]:
    for one in equalities:
        yield Verdict(
            target=f"{one.scheduler}, {workload(one.lr_kind, one.groups)}: torch's numbers to the "
            f"last bit for {one.steps:,} steps, each one engine call",
            measured=f"difference {one.largest_difference:.3g}, {one.fewest_calls} to "
            f"{one.most_calls} calls",
            passed=one.is_exact and one.is_one_call,
        )


def _check_timings(cases: Sequence[Case], timings: Sequence[Result]) -> Iterator[Verdict]:
    promised = {case.name for case in cases if case.has_speed_target}
    yield from check(timing for timing in timings if timing.algorithm in promised)


def _check_accuracies(accuracies: Sequence[Accuracy]) -> Iterator[Verdict]:
    for accuracy in accuracies:
        errors = accuracy.largest_relative_error
        ours, theirs = errors[FUSEDLR_FLOAT.name], errors[TORCH_FLOAT.name]
        yield Verdict(
            target=f"{accuracy.scheduler}: as accurate over {accuracy.steps:,} steps as "
            f"{TORCH_FLOAT.name}",
            measured=f"{ours:.1e} against {theirs:.1e}",
            passed=ours <= theirs,
        )


if __name__ == "__main__":
    sys.exit(main())
