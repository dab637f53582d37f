"""Find a learning rate for a network that reads handwritten digits, and train with it.

    make finder                       # sets up what it needs, then runs this; a few seconds
    python examples/lr_finder.py      # where fusedlr, matplotlib and rich are installed

Draws the range test and marks the suggested learning rate; then trains with it, and with ones that
are a hundred times smaller and larger. The exit code is 1 unless the suggested one alone reaches
95 % on digits that were held out, and unless the test has left the model as it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fusedlr
from digits import Digits, load_digits
from fusedlr.lr_finder import RangeTest

GOAL = 0.95


def make_model(seed: int) -> nn.Module:
    """A small convolutional network, with everything that a range test has to put back."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(32 * 4 * 4, 10),
    )


def make_optimizer(model: nn.Module) -> fusedlr.SGD:
    return fusedlr.SGD(model.parameters(), lr=0.1, momentum=0.9)


@dataclass
class Training:
    lr: float
    #: On the held-out digits, before the first epoch and after each.
    accuracies: list[float]


def train(
    model: nn.Module, data: tuple[Digits, Digits], lr: float, args: argparse.Namespace
) -> Training:
    """Trains a copy of the model."""
    training_digits, held_out = data
    torch.manual_seed(args.seed)
    model = deepcopy(model)
    optimizer = make_optimizer(model)
    optimizer.param_groups[0]["lr"] = lr
    accuracies = [accuracy(model, held_out)]
    for _ in range(args.epochs):
        model.train()
        for images, digits in training_digits.batches(args.batch_size):
            optimizer.zero_grad()
            cross_entropy(model(images), digits).backward()
            optimizer.step()
        accuracies.append(accuracy(model, held_out))
    return Training(lr, accuracies)


@torch.no_grad()
def accuracy(model: nn.Module, data: Digits) -> float:
    model.eval()
    return (model(data.images).argmax(1) == data.digits).float().mean().item()


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All that a range test moves, as copies."""
    state = [value for entries in optimizer.state.values() for value in entries.values()]
    return [one.detach().clone() for one in (*model.parameters(), *model.buffers(), *state)]


def draw(path: Path, test: RangeTest, trainings: Sequence[Training]) -> None:
    figure, (test_axes, training_axes) = plt.subplots(
        1, 2, figsize=(11, 4.2), layout="constrained", width_ratios=[3, 2]
    )
    test.plot(test_axes)
    test_axes.set_title("Learning rate range test")
    for training, color in zip(trainings, ("tab:gray", "tab:red", "tab:brown"), strict=True):
        training_axes.plot(training.accuracies, "o-", color=color, label=f"lr {training.lr:.1e}")
    training_axes.axhline(GOAL, color="black", ls=":", lw=1)
    training_axes.set_title("Training with the suggestion, and far from it")
    training_axes.set_xlabel("epochs")
    training_axes.set_ylabel("accuracy on held-out digits")
    training_axes.set_ylim(0, 1.02)
    training_axes.legend(loc="lower right")
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Find a learning rate, and train with it.")
    parser.add_argument("--picture", type=Path, default=Path("demo_output/lr_finder.png"))
    parser.add_argument("--method", choices=("steepest", "valley"), default="steepest")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    console = Console()
    data = load_digits()

    model = make_model(args.seed)
    optimizer = make_optimizer(model)
    before = everything(model, optimizer)
    finder = fusedlr.LRFinder(model, optimizer, cross_entropy)
    test = finder.run(data[0].batches(args.batch_size), start_lr=1e-6, end_lr=10.0)
    suggestion = test.suggestion(args.method)
    after = everything(model, optimizer)
    is_restored = len(before) == len(after) and all(map(torch.equal, before, after))
    console.print(f"{len(test.losses)} iterations; suggested learning rate: {suggestion:.2e}")

    trainings = [train(model, data, factor * suggestion, args) for factor in (0.01, 1.0, 100.0)]
    table = Table(title=f"Accuracy on {len(data[1].digits)} held-out digits")
    table.add_column("learning rate", justify="right")
    for epoch in range(args.epochs + 1):
        table.add_column(f"epoch {epoch}", justify="right")
    for training in trainings:
        table.add_row(f"{training.lr:.2e}", *(f"{one:.1%}" for one in training.accuracies))
    console.print(table)
    draw(args.picture, test, trainings)
    console.print(f"Wrote {args.picture}")

    reached = [training.accuracies[-1] > GOAL for training in trainings]
    if not is_restored:
        console.print("[red]FAILED:[/] the range test has changed the model or the optimizer")
    if reached != [False, True, False]:
        console.print(f"[red]FAILED:[/] not the suggested learning rate alone reached {GOAL:.0%}")
    return 0 if is_restored and reached == [False, True, False] else 1


if __name__ == "__main__":
    sys.exit(main())
