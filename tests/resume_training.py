"""A training run that may be killed at any moment, and that goes on from its last checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fusedlr
from fusedlr import schedules as s

ITERATIONS = 60
SAVE_EVERY = 3

LR = s.warmup_cosine(0.02, warmup_steps=10, total_steps=ITERATIONS)
WEIGHT_DECAY = s.linear(0.1, 0.0, steps=ITERATIONS)


def make_optimizer(model: nn.Sequential, **hypers: Any) -> fusedlr.AdamW:
    return fusedlr.AdamW(
        ({"params": layer.parameters()} for layer in (model[0], model[3])), **hypers
    )


@dataclass
class Run:
    """The objects of a training.

    With a scaler, gradients overflow float32 at once, and again whenever the scale has grown.
    """

    model: nn.Sequential
    optimizer: fusedlr.AdamW
    scaler: torch.amp.GradScaler
    iteration: int = 0

    @classmethod
    def fresh(cls, *, has_scaler: bool, **hypers: Any) -> Run:
        model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10))
        scaler = torch.amp.GradScaler(
            "cpu", init_scale=2.0**127, growth_interval=5, enabled=has_scaler
        )
        return cls(model, make_optimizer(model, **hypers), scaler)

    @classmethod
    def start(cls, *, has_scaler: bool) -> Run:
        torch.manual_seed(0)
        run = cls.fresh(has_scaler=has_scaler, lr=LR, weight_decay=WEIGHT_DECAY)
        run.optimizer.param_groups[1]["lr"] = 0.5 * LR
        return run

    @classmethod
    def resume(cls, checkpoint: dict[str, Any], *, has_scaler: bool) -> Run:
        """Builds everything anew, and knows of no schedule: that comes from the checkpoint."""
        torch.manual_seed(1)
        run = cls.fresh(has_scaler=has_scaler)
        run.model.load_state_dict(checkpoint["model"])
        run.optimizer.load_state_dict(checkpoint["optimizer"])
        run.scaler.load_state_dict(checkpoint["scaler"])
        torch.set_rng_state(checkpoint["random"])
        run.iteration = checkpoint["iteration"]
        return run

    def checkpoint(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "iteration": self.iteration,
        }

    def train_step(self) -> None:
        digits = torch.randint(10, (64,))
        inputs = torch.randn(64, 32) + digits[:, None] / 5
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model(inputs), digits, reduction="sum")
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.iteration += 1


def save(checkpoint: dict[str, Any], path: Path) -> None:
    """Replaces the file at once: whoever is killed meanwhile leaves the old one."""
    unfinished = path.with_suffix(".tmp")
    torch.save(checkpoint, unfinished)
    os.replace(unfinished, path)


def train(path: Path, *, has_scaler: bool, report: Callable[[Run], None] = lambda run: None) -> Run:
    """Trains to the end, from the checkpoint if there is one; saves every few iterations.

    Args:
        path: of the checkpoint.
        has_scaler: scale the loss, so that steps are skipped.
        report: called before the first iteration and after each.
    """
    if path.exists():
        checkpoint = torch.load(path, weights_only=True)
        run = Run.resume(checkpoint, has_scaler=has_scaler)
    else:
        run = Run.start(has_scaler=has_scaler)
    report(run)
    while run.iteration < ITERATIONS:
        run.train_step()
        if run.iteration % SAVE_EVERY == 0:
            save(run.checkpoint(), path)
        report(run)
    return run


def train_in_process(path: Path, has_scaler: bool, connection: Connection) -> None:
    """Trains, and asks the other end of the connection before each iteration."""
    torch.set_num_threads(1)

    def report(run: Run) -> None:
        connection.send(run.iteration)
        connection.recv()

    train(path, has_scaler=has_scaler, report=report)
