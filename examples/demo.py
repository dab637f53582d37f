"""Train one character-level GPT twice from one seed: with torch.optim and with fusedlr.

    python examples/demo.py            # about a minute and a half on one core
    python examples/demo.py --quick    # a few steps of a tiny model

Prints how both runs ended and what a step cost them, draws both loss curves and every group's
lr, and proves that a checkpoint taken half way continues with the same bits. The exit code is 1
when the two curves part, or when the continued run is not the uninterrupted one.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

import fusedlr
from char_gpt import GPTConfig
from report import plot_curves, progress_bar, summary_table
from stdlib_text import CharDataset, read_stdlib
from training import Run, Settings, get_batch

# Two correct AdamWs round differently in the last bit of a float32, and training amplifies that,
# more or less depending on seed and length: 7e-5 nats were the most seen in this training. A
# mistake parts the curves further: a beta2 of 0.951 instead of 0.95, by 1e-2 within 120 steps.
MAX_LOSS_DIFFERENCE = 1e-3


def describe(run: Run, settings: Settings) -> str:
    parameters = list(run.model.parameters())
    return (
        f"{sum(p.numel() for p in parameters) / 1e6:.2f} M parameters, {len(parameters)} tensors, "
        f"{len(run.optimizer.param_groups)} groups; {settings.steps} steps of "
        f"{settings.batch_size} x {settings.model.block_size} characters; {settings.device}"
    )


def train_in_lockstep(
    runs: Sequence[Run],
    data: CharDataset,
    settings: Settings,
    checkpoint: Path,
    progress: Progress,
) -> None:
    """Train all runs at once, a step of each in turn; save the last one half way.

    One after the other, the runs would be timed under whatever else the machine does in that
    minute. In turn they share it. And since the one that follows finds warmer or colder caches than
    the one that leads, they take turns in leading too.
    """
    task = progress.add_task("both runs, in turn", total=settings.steps, loss=float("nan"))
    for step in range(settings.steps):
        if step == settings.steps // 2:
            runs[-1].save(checkpoint)
        batch = get_batch(data, "train", step, settings)
        for run in runs if step % 2 == 0 else reversed(runs):
            run.train_step(*batch)
        progress.update(task, advance=1, loss=runs[-1].losses[-1])


def resume(
    run: Run, data: CharDataset, settings: Settings, checkpoint: Path, progress: Progress
) -> None:
    """Continue from the checkpoint to the end in a run that has taken no step of its own."""
    start = settings.steps // 2
    task = progress.add_task("resumed half way", total=settings.steps - start, loss=float("nan"))
    run.load(checkpoint)
    for step in range(start, settings.steps):
        run.train_step(*get_batch(data, "train", step, settings))
        progress.update(task, advance=1, loss=run.losses[-1])


def largest_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, int]:
    """How far apart two loss curves are at the worst step, and which step that is."""
    return max((abs(x - y), step) for step, (x, y) in enumerate(zip(a, b, strict=True)))


def find_problems(theirs: Run, ours: Run, resumed: Run) -> list[str]:
    """What contradicts the claims of this demo, in words; nothing if all is well."""
    problems = []
    difference, step = largest_difference(theirs.losses, ours.losses)
    # "not <=" rather than ">", so that a NaN counts as a problem too.
    if not difference <= MAX_LOSS_DIFFERENCE:
        problems.append(
            f"the loss curves are {difference:.2g} apart at step {step}, "
            f"but rounding alone keeps them within {MAX_LOSS_DIFFERENCE:g}"
        )
    start = len(ours.losses) - len(resumed.losses)
    for step, (straight, again) in enumerate(
        zip(ours.losses[start:], resumed.losses, strict=True), start
    ):
        if straight != again:
            problems.append(
                f"resuming at step {start} gave another loss at step {step}: "
                f"{again!r} instead of {straight!r}"
            )
            break
    for name, weight in ours.model.state_dict().items():
        if not torch.equal(weight, resumed.model.state_dict()[name]):
            problems.append(f"resuming at step {start} ended with other weights in {name}")
            break
    return problems


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small GPT: torch.optim beside fusedlr.")
    parser.add_argument("--steps", type=int, help="training steps (default 400; 12 with --quick)")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it works")
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="folder for results")
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="CPU threads (default 1: a model this small gains little from more, and on a busy "
        "machine every parallel loop waits for a thread that is not running)",
    )
    parser.add_argument(
        "--device",
        type=torch.device,
        default=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )
    args = parser.parse_args(argv)
    if args.steps is None:
        args.steps = 12 if args.quick else 400
    if args.steps < 4:
        parser.error(f"--steps {args.steps}: at least 4, to have a half way to resume from")
    return args


def make_settings(args: argparse.Namespace, vocab_size: int) -> Settings:
    if args.quick:
        model = GPTConfig(vocab_size, block_size=16, n_layer=1, n_head=2, n_embd=16)
        return Settings(args.steps, 4, model, args.device, args.seed, eval_batches=2)
    return Settings(args.steps, 8, GPTConfig(vocab_size), args.device, args.seed)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    if args.device.type == "cuda":
        # The resume proof compares bits, so every kernel must add in a fixed order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)

    console = Console()
    data = CharDataset.from_text(read_stdlib(max_chars=2_000_000))
    settings = make_settings(args, vocab_size=len(data.vocab))
    theirs = Run.start("torch.optim", torch.optim, settings, settings.seed)
    ours = Run.start("fusedlr", fusedlr, settings, settings.seed)
    # Another seed: whatever the checkpoint fails to bring back shows in the losses.
    resumed = Run.start("fusedlr, resumed half way", fusedlr, settings, settings.seed + 1)
    console.print(describe(ours, settings))

    checkpoint, picture = args.out / "checkpoint.pt", args.out / "curves.png"
    with progress_bar(console) as progress:
        train_in_lockstep([theirs, ours], data, settings, checkpoint, progress)
        resume(resumed, data, settings, checkpoint, progress)

    difference, step = largest_difference(theirs.losses, ours.losses)
    console.print(summary_table([theirs, ours], data, settings))
    console.print(
        f"Largest difference between the loss curves: {difference:.2g} at step {step} "
        f"(bound {MAX_LOSS_DIFFERENCE:g})"
    )
    plot_curves(picture, theirs, ours, resumed, MAX_LOSS_DIFFERENCE)
    console.print(f"Wrote {picture} and {checkpoint}")

    problems = find_problems(theirs, ours, resumed)
    for problem in problems:
        console.print(f"[red]FAILED:[/] {problem}")
    if not problems:
        console.print(
            f"[green]Resume proof:[/] the checkpoint of step {settings.steps // 2}, loaded into "
            f"fresh objects, gave the same {len(resumed.losses)} losses and the same weights, "
            "bit for bit"
        )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
