"""Draws curves: as a picture, or with characters for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from fusedlr.cli.curves import Curve

#: A palette that is told apart in print and with colour-blind eyes (Okabe and Ito, 2008).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
TERMINAL_COLORS = ("bright_blue", "bright_red", "bright_green", "magenta", "yellow", "cyan")


def write_picture(curves: Sequence[Curve], path: Path, *, log: bool = False) -> None:
    """Writes the curves as a picture, in the format of the file name's ending.

    Raises:
        ImportError: without matplotlib.
        ValueError: if there is no such format.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for index, curve in enumerate(curves):
        axes.plot(curve.steps, curve.values, color=COLORS[index % len(COLORS)], label=curve.label)
    axes.set_xlabel("step")
    axes.margins(x=0.01)
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    if log:
        axes.set_yscale("log")
    figure.legend(loc="outside lower center", fontsize="small", frameon=False)
    figure.savefig(path, dpi=150)


def as_text(curves: Sequence[Curve], width: int, *, log: bool = False, colors: bool = False) -> str:
    """The curves drawn with Braille characters.

    Args:
        curves: what to draw.
        width: the number of columns there are.
        log: whether the axis of the values is logarithmic.
        colors: whether to tell the curves apart by colour.

    Raises:
        ImportError: without plotille.
    """
    import plotille

    figure = plotille.Figure()
    # There is a tick at every tenth column and at every line: numbers that divide well.
    room = (width - 24) // 10  # beside the labels
    figure.width = 10 * max((ticks for ticks in (4, 5, 8, 10, 20) if ticks <= room), default=2)
    figure.height = 20
    figure.with_colors = colors
    figure.origin = False
    figure.x_label, figure.y_label = "step", "value"
    figure.x_ticks_fkt = lambda low, high: f"{low:.6g}"
    figure.y_ticks_fkt = lambda low, high: f"{10**low if log else low:.4g}"
    marks = not colors and len(curves) > 1  # then curves are told apart by digits
    heights = []
    for index, curve in enumerate(curves):
        points = [
            (step, math.log10(value) if log else value)
            for step, value in zip(curve.steps, curve.values, strict=True)
            if math.isfinite(value) and (value > 0 or not log)
        ]
        heights += [value for _, value in points]
        figure.plot(
            [step for step, _ in points],
            [value for _, value in points],
            lc=TERMINAL_COLORS[index % len(TERMINAL_COLORS)],
            marker=str((index + 1) % 10) if marks else None,
            label=curve.label,
        )
    low = min(heights, default=0.0) if log else min([0.0, *heights])
    high = max(heights, default=1.0)
    figure.set_x_limits(curves[0].steps[0], curves[0].steps[-1])
    figure.set_y_limits(low, high if high > low else low + 1.0)
    return str(figure.show(legend=True))
