"""One training run of the demo, the same code for torch.optim and for fusedlr."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from char_gpt import CharGPT, GPTConfig, param_groups
from stdlib_text import CharDataset


@dataclass(frozen=True)
class Settings:
    steps: int
    batch_size: int
    model: GPTConfig
    device: torch.device
    seed: int
    eval_batches: int = 20

    @property
    def warmup_steps(self) -> int:
        return max(1, self.steps // 10)


@dataclass
class Run:
    name: str
    model: CharGPT
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    losses: list[float] = field(default_factory=list)
    lrs: list[list[float]] = field(default_factory=list)
    update_seconds: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, name: str, library: ModuleType, settings: Settings, seed: int) -> Run:
        """A fresh run; ``library`` is ``torch.optim`` or anything that has its names."""
        torch.manual_seed(seed)
        model = CharGPT(settings.model).to(settings.device)
        optimizer = library.AdamW(param_groups(model), betas=(0.9, 0.95), fused=True)
        scheduler = library.lr_scheduler.LambdaLR(optimizer, warmup_cosine(settings))
        return cls(name, model, optimizer, scheduler)

    def train_step(self, inputs: Tensor, targets: Tensor) -> None:
        loss = self.model.loss(inputs, targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.losses.append(loss.item())
        self.lrs.append([float(lr) for lr in self.scheduler.get_last_lr()])

        synchronize(inputs.device)
        start = time.perf_counter()
        self.optimizer.step()
        self.scheduler.step()
        synchronize(inputs.device)
        self.update_seconds.append(time.perf_counter() - start)

    def save(self, path: Path) -> None:
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
            },
            path,
        )

    def load(self, path: Path) -> None:
        checkpoint = torch.load(path, weights_only=True)
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.scheduler.load_state_dict(checkpoint["scheduler"])

    @torch.no_grad()
    def evaluate(self, data: CharDataset, split: str, settings: Settings) -> float:
        """Mean loss over the same few batches for every run, as one batch alone is noisy."""
        batches = (get_batch(data, split, i, settings) for i in range(settings.eval_batches))
        losses = [self.model.loss(inputs, targets).item() for inputs, targets in batches]
        return sum(losses) / len(losses)


def warmup_cosine(settings: Settings) -> Callable[[int], float]:
    """Factor on every group's own lr: a linear warm-up, then half a cosine down to a tenth."""
    decay_steps = settings.steps - settings.warmup_steps

    def factor(step: int) -> float:
        if step < settings.warmup_steps:
            return (step + 1) / settings.warmup_steps
        progress = (step - settings.warmup_steps) / decay_steps
        return 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2

    return factor


def get_batch(
    data: CharDataset, split: str, step: int, settings: Settings
) -> tuple[Tensor, Tensor]:
    inputs, targets = data.batch(
        split, settings.seed + step, settings.batch_size, settings.model.block_size
    )
    return inputs.to(settings.device), targets.to(settings.device)


def synchronize(device: torch.device) -> None:
    """A kernel launch returns before the kernel ran: wait, or the clock measures the launch."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
