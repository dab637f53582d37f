"""Writes docs/scheduler_benchmarks.md from the committed results of bench_schedulers.

python benchmarks/scheduler_page.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table

from contest import Result
from measure import Spread
from peers import FUSEDLR, TORCH
from report import describe, three_digits
from scheduler_accuracy import Accuracy
from scheduler_cases import CASES
from scheduler_equality import Equality
from scheduler_tables import (
    ACCURACY_LEGEND,
    EQUALITY_LEGEND,
    TIME_LEGEND,
    accuracy_table,
    equality_table,
    time_table,
)

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "cpu"
PAGE = ROOT / "docs" / "scheduler_benchmarks.md"

INTRODUCTION = """\
Every scheduler beside torch's: whether its numbers are the same, how long a step takes, and how far
a long run is from the closed form. `make bench-schedulers` measures all of it;
`python benchmarks/scheduler_page.py` writes this page from the results in `benchmarks/results/cpu`.
With what each scheduler is built: `benchmarks/scheduler_cases.py`."""


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    sections = (_introduction(), _numbers(), _speed(), _accuracy())
    return "\n\n".join(paragraph for section in sections for paragraph in section) + "\n"


def _introduction() -> Iterator[str]:
    yield "# The schedulers beside torch's"
    yield INTRODUCTION


def _numbers() -> Iterator[str]:
    facts, results = _newest("equality")
    yield "## Numbers"
    yield EQUALITY_LEGEND
    yield _italic(describe(facts))
    yield _markdown(equality_table(Equality(**result) for result in results))


def _speed() -> Iterator[str]:
    facts, results = _newest("time")
    yield "## Speed"
    yield TIME_LEGEND
    yield _italic(describe(facts))
    for workload, timings in groupby(map(_result, results), key=lambda result: result.workload):
        measured = list(timings)
        yield f"### {workload}"
        yield _fastest_and_slowest(measured)
        yield _markdown(time_table(measured))


def _fastest_and_slowest(results: Iterable[Result]) -> str:
    work_grows_with_groups = {case.name for case in CASES if not case.has_speed_target}
    ratios = sorted(
        result.ratios[TORCH.name].median
        for result in results
        if result.peer == FUSEDLR.name and result.algorithm not in work_grows_with_groups
    )
    but = ", ".join(sorted(work_grows_with_groups))
    lowest, highest = three_digits(ratios[0]), three_digits(ratios[-1])
    return f"{lowest} to {highest} times as fast as torch (without {but})."


def _accuracy() -> Iterator[str]:
    facts, results = _newest("accuracy")
    accuracies = [Accuracy(**result) for result in results]
    yield "## Accuracy"
    yield f"{accuracies[0].steps:,} steps. {ACCURACY_LEGEND}"
    yield _italic(describe(facts))
    yield _markdown(accuracy_table(accuracies))


def _newest(comparison: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Environment and results of the last committed run."""
    path = max(RESULTS.glob(f"*-scheduler-{comparison}.json"))
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["environment"], content["results"]


def _result(fields: dict[str, Any]) -> Result:
    seconds = Spread(**fields["seconds"])
    ratios = {other: Spread(**ratio) for other, ratio in fields["ratios"].items()}
    return Result(**{**fields, "seconds": seconds, "ratios": ratios})


def _italic(text: str) -> str:
    return f"*{text}*"


def _markdown(table: Table) -> str:
    headings = [str(column.header).replace("\n", " ") for column in table.columns]
    rules = ["--:" if column.justify == "right" else ":--" for column in table.columns]
    rows = zip(*(map(str, column.cells) for column in table.columns), strict=True)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rules, *rows))


if __name__ == "__main__":
    main()
