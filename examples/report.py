"""What the demo shows: a progress bar, a table and a picture."""

from __future__ import annotations

from pathlib import Path
from statistics import median, quantiles

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from stdlib_text import CharDataset
from training import Run, Settings


def progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def summary_table(runs: list[Run], data: CharDataset, settings: Settings) -> Table:
    """One row per run; the ratio is the first run's time per step divided by the row's."""
    table = Table(
        title="The same training twice",
        caption="time: median (quartiles) of optimizer.step() + scheduler.step()",
    )
    table.add_column("AdamW, LambdaLR")
    for header in ("train loss", "val loss", "time per step", "ratio"):
        table.add_column(header, justify="right", no_wrap=True)
    reference = median(runs[0].update_seconds)
    for run in runs:
        low, middle, high = (1e3 * q for q in quantiles(run.update_seconds, n=4))
        table.add_row(
            run.name,
            f"{run.evaluate(data, 'train', settings):.6f}",
            f"{run.evaluate(data, 'val', settings):.6f}",
            f"{middle:.2f} ms ({low:.2f}-{high:.2f})",
            f"{reference / median(run.update_seconds):.2f}x",
        )
    return table


def plot_curves(path: Path, theirs: Run, ours: Run, resumed: Run, bound: float) -> None:
    """Loss curves, how far they are apart, and the lr of every group, over the same steps."""
    steps = range(len(ours.losses))
    resumed_steps = steps[-len(resumed.losses) :]
    every = max(1, len(steps) // 30)
    figure, (loss_axes, difference_axes, lr_axes) = plt.subplots(
        3, sharex=True, figsize=(9, 10), height_ratios=[3, 1.5, 2], layout="constrained"
    )

    # The curves lie on one another: a wide band below a thin line shows both.
    loss_axes.plot(steps, theirs.losses, color="tab:orange", alpha=0.45, lw=5, label=theirs.name)
    loss_axes.plot(steps, ours.losses, color="tab:blue", lw=1, label=ours.name)
    loss_axes.plot(resumed_steps[::every], resumed.losses[::every], "kx", ms=5, label=resumed.name)
    loss_axes.set_ylabel("training loss (nats per character)")
    loss_axes.legend()
    loss_axes.set_title("A character-level GPT on the source of Python's standard library")

    differences = [abs(a - b) for a, b in zip(theirs.losses, ours.losses, strict=True)]
    difference_axes.plot(steps, differences, ".", color="tab:gray", ms=3)
    # Logarithmic, but with room for the steps at which both losses are the same float32.
    difference_axes.set_yscale("symlog", linthresh=1e-7)
    difference_axes.axhline(bound, color="tab:red", ls="--", lw=1, label="bound")
    difference_axes.set_ylim(bottom=0)
    difference_axes.set_ylabel("difference between\nthe two losses")
    difference_axes.legend(loc="lower right")

    for group, rates in zip(ours.optimizer.param_groups, zip(*ours.lrs, strict=True), strict=True):
        lr_axes.plot(steps, rates, label=group["name"])
    lr_axes.plot(steps, theirs.lrs, "k:", lw=1)
    lr_axes.plot([], [], "k:", lw=1, label=f"each, in {theirs.name}")
    lr_axes.set_ylabel("learning rate")
    lr_axes.set_xlabel("step")
    lr_axes.legend()

    for axes in figure.axes:
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
