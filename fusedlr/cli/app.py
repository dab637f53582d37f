"""The commands, as a Typer application."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fusedlr.cli import drawing
from fusedlr.cli.curves import read_curves
from fusedlr.cli.info import facts

app = typer.Typer(
    help="Fused optimizers and learning-rate schedules for PyTorch.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command()
def info() -> None:
    """Print what is built, and which engine serves which device."""
    table = Table("", "", show_header=False, box=None)
    for name, value in facts():
        table.add_row(f"[bold]{name}[/bold]", value)
    Console().print(table)


@app.command()
def plot(
    schedules: Annotated[
        list[str],
        typer.Argument(
            show_default=False,
            help="Schedules, such as 'warmup_cosine(3e-4, warmup_steps=100, total_steps=1000)', "
            "sums and products of them, and schedulers, such as 'StepLR(step_size=30)'.",
        ),
    ],
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default="the largest whole number in the schedules",
            help="The last step to draw.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            show_default="draw in the terminal",
            help="A picture to write: .png, .svg or .pdf.",
        ),
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Draw on a logarithmic axis.")] = False,
    lr: Annotated[float, typer.Option(help="The initial lr of the schedulers.")] = 1.0,
) -> None:
    """Draw schedules over each other, in the terminal or as a picture."""
    console = Console()
    try:
        curves = read_curves(schedules, steps, lr)
        if log and not any(value > 0 for curve in curves for value in curve.values):
            raise ValueError("--log needs values above 0, but there are none")
        if output is not None:
            drawing.write_picture(curves, output, log=log)
            print(f"Wrote {output}")
        else:
            colors = console.is_terminal and not console.no_color
            print(drawing.as_text(curves, console.width, log=log, colors=colors))
    except (ValueError, TypeError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    except ImportError as error:
        raise typer.BadParameter(f"{error}; pip install 'fusedlr[cli]' installs it") from None
