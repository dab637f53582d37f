"""What `bench_schedulers` prints: a table for each of its three comparisons."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from contest import Result
from peers import FUSEDLR, TORCH
from report import format_ratio, format_seconds, format_spread
from scheduler_accuracy import VARIANTS, Accuracy
from scheduler_contest import PEER_NAMES, TORCH_ON_FUSEDLR
from scheduler_equality import Equality

EQUALITY_LEGEND = """\
Largest difference of any lr or momentum from torch's over all steps (0: equal to the last bit), and
engine calls per scheduler step, counted. "Tensor lr": of float64. Steps: fewer where torch takes
hours."""
TIME_LEGEND = f"""\
A scheduler step: medians of interleaved rounds; "iqr": the distance between the quartiles.
"{TORCH_ON_FUSEDLR}": torch's scheduler on fusedlr's optimizer. "x {TORCH.name}": how many times
faster than torch's scheduler on torch's optimizer in the same rounds, with quartiles."""
ACCURACY_LEGEND = """\
Largest relative error of the lr over a run, against a closed form in 40 digits that starts from
the double 0.1. A float32 Tensor rounds it: an error of 1.5e-08 from the start."""


def equality_table(equalities: Iterable[Equality]) -> Table:
    rows: dict[str, dict[str, Equality]] = {}
    for one in equalities:
        count = f"{one.groups:,} group{'s' * (one.groups != 1)}"
        heading = f"{one.lr_kind} lr,\n{count},\n{one.steps:,} steps"
        rows.setdefault(one.scheduler, {})[heading] = one
    table = Table("scheduler")
    for heading in next(iter(rows.values()), {}):
        table.add_column(heading, justify="right")
    table.add_column("engine\ncalls\nper step", justify="right")
    for scheduler, row in rows.items():
        differences = (f"{one.largest_difference:.3g}" for one in row.values())
        fewest = min(one.fewest_calls for one in row.values())
        most = max(one.most_calls for one in row.values())
        table.add_row(scheduler, *differences, str(most) if fewest == most else f"{fewest}-{most}")
    return table


def time_table(results: Iterable[Result]) -> Table:
    table = Table("scheduler")
    for heading in (*PEER_NAMES, "iqr", f"x {TORCH.name}", f"x {TORCH_ON_FUSEDLR}"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows: dict[str, dict[str, Result]] = {}
    for result in results:
        rows.setdefault(result.algorithm, {})[result.peer] = result
    for scheduler, row in rows.items():
        ours = row[FUSEDLR.name]
        ratio = ours.ratios[TORCH.name]
        table.add_row(
            scheduler,
            *(format_seconds(row[peer].seconds.median) for peer in PEER_NAMES),
            format_spread(ours.seconds),
            f"{format_ratio(ratio)} ({ratio.lower:.3g} to {ratio.upper:.3g})",
            format_ratio(ours.ratios[TORCH_ON_FUSEDLR]),
        )
    return table


def accuracy_table(accuracies: Iterable[Accuracy]) -> Table:
    table = Table("scheduler")
    for variant in VARIANTS:
        table.add_column(variant.name.replace(", ", ",\n"), justify="right")
    for accuracy in accuracies:
        errors = accuracy.largest_relative_error
        table.add_row(accuracy.scheduler, *(f"{errors[one.name]:.1e}" for one in VARIANTS))
    return table
