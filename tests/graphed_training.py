"""Ways to train a small network: by a loop written by hand, and by a GraphedTrainStep."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

import fusedlr
from fusedlr import GraphedTrainStep
from fusedlr import schedules as s

STEPS = 12


class Network(nn.Module):
    """Has buffers that each pass changes, and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 16)
        self.norm = nn.BatchNorm1d(16)
        self.dropout = nn.Dropout(0.25)
        self.second = nn.Linear(16, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        hidden = self.dropout(torch.relu(self.norm(self.first(x))))
        return self.second(hidden)  # type: ignore[no-any-return]


class TwoInputs(Network):
    def forward(self, x: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        return scale * super().forward(x)


def mean_loss(outputs: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(outputs.float(), target)


def large_loss(outputs: Tensor, target: Tensor) -> Tensor:
    """Of which gradients overflow when they are scaled much."""
    return 100 * mean_loss(outputs, target)


def adamw(model: Any, **hypers: Any) -> fusedlr.AdamW:
    layers = (model.first, model.norm, model.second)
    return fusedlr.AdamW([{"params": layer.parameters()} for layer in layers], lr=0.02, **hypers)


def adamw_with_schedules(model: Any) -> fusedlr.AdamW:
    optimizer = adamw(model, weight_decay=s.linear(0.3, 0.0, steps=STEPS))
    optimizer.param_groups[1]["lr"] = s.warmup_cosine(0.05, warmup_steps=3, total_steps=STEPS)
    return optimizer


def sgd(model: Any) -> fusedlr.SGD:
    return fusedlr.SGD(model.parameters(), lr=0.05, momentum=0.9)


def one_cycle(optimizer: Any) -> Any:
    return fusedlr.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=STEPS + 4)


def warmup_then_cosine(optimizer: Any) -> Any:
    schedulers = [
        fusedlr.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4),
        fusedlr.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS),
    ]
    return fusedlr.lr_scheduler.SequentialLR(optimizer, schedulers, milestones=[4])


def cosine_of_torch(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)


@dataclass(frozen=True)
class Setup:
    """One way to train."""

    network: type[Network] = Network
    num_inputs: int = 1
    loss_fn: Any = mean_loss
    optimizer: Callable[[Any], Any] = adamw
    scheduler: Callable[[Any], Any] | None = None
    #: Arguments of a GradScaler.
    scaler: dict[str, Any] | None = None
    overflows: bool = False
    max_norm: float | None = None
    amp_dtype: torch.dtype | None = None


# Overflows at once, and whenever the scale has grown.
OVERFLOWING = Setup(
    loss_fn=large_loss, scaler={"init_scale": 2.0**127, "growth_interval": 3}, overflows=True
)

SETUPS = {
    "plain": Setup(),
    "SGD": Setup(optimizer=sgd),
    "schedules as values": Setup(optimizer=adamw_with_schedules),
    "scheduler that moves lr and beta1": Setup(scheduler=one_cycle),
    "scheduler made of two": Setup(scheduler=warmup_then_cosine),
    "scheduler of torch": Setup(scheduler=cosine_of_torch),
    "clipping": Setup(max_norm=0.1),
    "clipping of nothing": Setup(max_norm=1e6),
    "scaler without overflow": Setup(scaler={"init_scale": 2.0**10}),
    "scaler": OVERFLOWING,
    "scaler and schedules as values": replace(OVERFLOWING, optimizer=adamw_with_schedules),
    "scaler and scheduler": replace(OVERFLOWING, scheduler=one_cycle),
    "scaler and clipping": replace(OVERFLOWING, max_norm=0.5, optimizer=sgd),
    "bfloat16": Setup(amp_dtype=torch.bfloat16),
    "two inputs": Setup(network=TwoInputs, num_inputs=2),
    "everything": replace(
        OVERFLOWING,
        network=TwoInputs,
        num_inputs=2,
        scheduler=one_cycle,
        max_norm=0.5,
        amp_dtype=torch.bfloat16,
    ),
}
each_setup = pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)


class Training:
    """Model, optimizer, scheduler and scaler of a setup, on some device."""

    def __init__(self, setup: Setup, device: torch.device | str = "cpu") -> None:
        self.setup = setup
        self.device = torch.device(device)
        torch.manual_seed(0)
        self.model = setup.network().to(self.device)
        self.optimizer = setup.optimizer(self.model)
        self.scheduler = setup.scheduler(self.optimizer) if setup.scheduler else None
        self.scaler = None
        if setup.scaler is not None:
            self.scaler = torch.amp.GradScaler(self.device.type, **setup.scaler)

    @property
    def parts(self) -> dict[str, Any]:
        parts = {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def state(self) -> dict[str, Any]:
        return copy.deepcopy({name: part.state_dict() for name, part in self.parts.items()})

    def load(self, state: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(copy.deepcopy(state[name]))

    def new_batch(self) -> tuple[Tensor, ...]:
        inputs = [torch.randn(8, 6), 1 + torch.rand(8, 1)][: self.setup.num_inputs]
        return tuple(one.to(self.device) for one in (*inputs, torch.randint(3, (8,))))

    def graphed(self, **changes: Any) -> GraphedTrainStep:
        arguments: dict[str, Any] = {
            "scaler": self.scaler,
            "max_norm": self.setup.max_norm,
            "amp_dtype": self.setup.amp_dtype,
        }
        arguments.update(changes)
        if "example_inputs" not in arguments:
            arguments["example_inputs"] = self.new_batch()
        return GraphedTrainStep(
            self.model, self.setup.loss_fn, self.optimizer, self.scheduler, **arguments
        )

    def step_by_hand(self, *batch: Tensor) -> Tensor:
        setup, scaler = self.setup, self.scaler
        *inputs, target = batch
        self.optimizer.zero_grad()
        is_amp = setup.amp_dtype is not None
        with torch.autocast(self.device.type, dtype=setup.amp_dtype, enabled=is_amp):
            loss: Tensor = setup.loss_fn(self.model(*inputs), target)
        torch.autograd.backward(loss if scaler is None else scaler.scale(loss))
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        if setup.max_norm is not None:
            clip_grad_norm_(self.model.parameters(), setup.max_norm)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        if self.scheduler is not None:
            self.scheduler.step()
        return loss.detach()


def train(training: Training, step: Callable[..., Tensor], steps: int = STEPS) -> list[Tensor]:
    """The losses of training on batches that are the same in every run."""
    torch.manual_seed(1)
    return [step(*training.new_batch()) for _ in range(steps)]


def bits(value: Any) -> Any:
    """A value in a form that compares to the last bit."""
    if isinstance(value, Tensor):
        raw = value.detach().contiguous().reshape(-1).view(torch.uint8)
        return value.dtype, tuple(value.shape), raw.tolist()
    if isinstance(value, dict):
        return {key: bits(one) for key, one in value.items()}
    return [bits(one) for one in value] if isinstance(value, (list, tuple)) else value


def mean_move(training: Training, start: dict[str, Any]) -> float:
    """How far the parameters have gone, on average."""
    moves = [
        (value - start["model"][name]).abs().mean()
        for name, value in training.model.named_parameters()
    ]
    return torch.stack(moves).mean().item()


def everything(training: Training) -> Any:
    """All that building a step might change, but for Python's own attributes."""
    grads = [None if p.grad is None else p.grad.clone() for p in training.model.parameters()]
    random_states = [torch.get_rng_state(), random.getstate()]
    if numpy_random := sys.modules.get("numpy.random"):  # where there is no NumPy, all works, too
        random_states.append(numpy_random.get_state()[1].tolist())
    if training.device.type == "cuda":
        random_states.append(torch.cuda.get_rng_state(training.device))
    modes = [module.training for module in training.model.modules()]
    counts = training.optimizer.completed_steps, training.optimizer.skipped_steps
    return bits([training.state(), grads, random_states, modes, counts])
