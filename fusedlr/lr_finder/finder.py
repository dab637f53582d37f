"""The learning rate range test."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from contextlib import closing, contextmanager
from copy import deepcopy
from itertools import chain, islice
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from fusedlr import schedules
from fusedlr.lr_finder.range_test import RangeTest, divergence
from fusedlr.optim import FusedOptimizer
from fusedlr.restoring import restored_modules, restored_random_states
from fusedlr.schedules import Schedule

#: How the learning rate rises.
_RAMPS: Mapping[str, Callable[..., Schedule]] = {
    "exp": schedules.geometric,
    "linear": schedules.linear,
}

#: Where the peak of a schedule is looked for: warmups end before.
_PEAK_STEPS = 100_000


class LRFinder:
    r"""The learning rate range test: a short run in which the learning rate rises.

    Iteration :math:`i` of :math:`n` trains with the learning rate

    .. math::
        \gamma_i = \gamma_0 \left(\frac{\gamma_1}{\gamma_0}\right)^{i/(n-1)}
        \quad \text{or} \quad
        \gamma_i = \gamma_0 + (\gamma_1 - \gamma_0) \frac{i}{n-1}

    and its loss is recorded. While the learning rate is too small the loss stands still, then it
    falls, and in the end it diverges. A good learning rate lies where it falls.

    The learning rate follows a schedule on the device and the losses are kept there: nothing in the
    loop waits for the device, but for a look at the losses every `check_every` iterations.

    A test leaves no trace, also when it raises or is interrupted. Parameters, buffers, gradients
    and modes of the modules come back bit for bit, in the same tensors. The steps are taken by a
    copy of the optimizer over the same parameters, which begins with the optimizer's state and
    hypers and is dropped afterwards: state, hypers, schedules and clock of the optimizer itself
    are never touched, and no scheduler moves. Random numbers come back as well: torch's (also those
    of a generator given to a ``DataLoader``), Python's, and NumPy's if it is loaded. Out of reach
    are those that the workers of a ``DataLoader`` with ``persistent_workers=True`` have drawn in
    their processes. Meanwhile this takes the memory of a second copy of parameters, buffers and
    optimizer state.

    The step pre-hooks of the optimizer run, as they may clip gradients. Its post-hooks do not: an
    average of the weights, or a log, is not to see the test.

    With several groups the ratios of their learning rates stay as they are, and the ramp is that of
    the largest one. What counts is ``group["initial_lr"]`` where a scheduler has left it, otherwise
    the peak of the group's schedule, otherwise ``group["lr"]``. If all of them are 0, all groups
    follow the ramp.

    Args:
        model: called with the inputs of a batch, in training mode.
        optimizer: of fusedlr or of ``torch.optim``, with a step that needs no closure.
        criterion: called with what the model returns and with the targets; returns the loss, a
            tensor with one element. A module is restored like the model.
        forward: called with the model and a batch, returns the loss; takes the place of `criterion`
            for batches that are not pairs, for autocast, or for a loss of your own.
        device: where batches are moved; None is the device of the first parameter.

    Raises:
        TypeError: if model or optimizer is something else, or criterion or forward is not callable.
        ValueError: unless exactly one of `criterion` and `forward` is given.

    Example:
        >>> import torch, fusedlr
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = fusedlr.SGD(model.parameters(), lr=0.1)
        >>> inputs = torch.randn(64, 4)
        >>> batches = [{"x": inputs, "y": inputs.sum(1)}]
        >>> def loss(model, batch):
        ...     return (model(batch["x"])[:, 0] - batch["y"]).square().mean()
        >>> finder = fusedlr.LRFinder(model, optimizer, forward=loss)
        >>> finder.run(batches, 1e-4, 10.0, num_iter=60, progress=False)
        RangeTest(mode='exp', diverged=True)

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", 2017,
    https://arxiv.org/abs/1506.01186.
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        criterion: Callable[[Any, Any], Tensor] | None = None,
        *,
        forward: Callable[[Any, Any], Tensor] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if not isinstance(model, Module):
            raise TypeError(f"model must be a torch.nn.Module, but is {model!r}")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, but is {optimizer!r}")
        if (criterion is None) == (forward is None):
            raise ValueError(
                "give either criterion, which is called with outputs and targets, "
                "or forward=, which is called with the model and a batch"
            )
        for name, value in (("criterion", criterion), ("forward", forward)):
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be callable, but is {value!r}")
        self.model = model
        self.optimizer = optimizer
        self.criterion = criterion
        self.forward = forward
        self.device = None if device is None else torch.device(device)

    def run(
        self,
        loader: Iterable[Any],
        start_lr: float = 1e-7,
        end_lr: float = 10.0,
        num_iter: int = 100,
        mode: str = "exp",
        *,
        smooth: float = 0.8,
        diverge: float = 5.0,
        check_every: int | None = 10,
        accumulation_steps: int = 1,
        progress: bool = True,
    ) -> RangeTest:
        """Trains with a rising learning rate, and puts everything back.

        Args:
            loader: gives batches, pairs of inputs and targets (tensors, or tuples, lists and dicts
                of them), or whatever `forward` takes. It is iterated again when it ends.
            start_lr: the learning rate of the first iteration.
            end_lr: the learning rate of the last iteration.
            num_iter: the number of iterations, at least 2.
            mode: ``"exp"`` for equal factors, ``"linear"`` for equal differences.
            smooth: how much a neighbour in the curve of losses weighs compared to the loss itself,
                from 0, no smoothing, to below 1.
            diverge: the run ends when the average of the losses, weighted in the same way, exceeds
                this factor times its lowest value, and when a loss is infinite or NaN. Greater
                than 1; infinity goes on as long as losses are finite.
            check_every: the number of iterations after which losses are read to see whether the run
                has diverged; None reads them once, at the end. The result is the same, as what
                follows divergence is left out. With 1, nothing follows: for models that raise
                when their parameters are NaN.
            accumulation_steps: the number of batches whose gradients are averaged for each step.
            progress: show a progress bar, if ``rich`` is installed and the output is a terminal.

        Returns:
            The losses, from which :meth:`RangeTest.suggestion` picks a learning rate.

        Raises:
            TypeError: if a batch is no pair although there is no `forward`, or the loss no tensor.
            ValueError: if an argument is out of its range, the loss has several elements, a
                parameter is not initialized, or the loader ends and cannot be iterated again.
        """
        _check(start_lr, end_lr, num_iter, mode, smooth, diverge, check_every, accumulation_steps)
        ramp = _RAMPS[mode](start_lr, end_lr, steps=num_iter - 1)
        lrs = [ramp(iteration) for iteration in range(num_iter)]

        params = [param for group in self.optimizer.param_groups for param in group["params"]]
        modules = [one for one in (self.model, self.criterion) if isinstance(one, Module)]
        everything = [*params, *chain.from_iterable(module.parameters() for module in modules)]
        if any(map(is_lazy, everything)):
            raise ValueError("a parameter is not initialized; call the model once before the test")
        device = self.device or everything[0].device
        with (
            restored_random_states({device, *(param.device for param in everything)}, loader),
            restored_modules(modules, params),
            closing(_batches(loader)) as batches,
            _progress(num_iter, progress) as advance,
        ):
            # Whatever else the test does to an optimizer, it does to this copy.
            optimizer = deepcopy(self.optimizer, {id(param): param for param in params})
            optimizer._optimizer_step_pre_hooks = self.optimizer._optimizer_step_pre_hooks
            set_lr = _follow(optimizer, ramp, lrs)
            self.model.train()
            recorded = torch.empty(0)
            for iteration in range(num_iter):
                if iteration > 0 and check_every is not None and iteration % check_every == 0:
                    losses = recorded[:iteration].tolist()
                    if divergence(losses, smooth, diverge) is not None:
                        break
                optimizer.zero_grad()
                loss = self._backward(batches, accumulation_steps, device)
                if iteration == 0:
                    dtype = torch.promote_types(loss.dtype, torch.float32)
                    recorded = torch.full((num_iter,), math.nan, dtype=dtype, device=loss.device)
                recorded[iteration] = loss
                set_lr(iteration)
                optimizer.step()
                advance()
            else:
                losses = recorded.tolist()
        return RangeTest.from_losses(lrs, losses, mode=mode, smooth=smooth, diverge=diverge)

    def _backward(self, batches: Iterator[Any], count: int, device: torch.device) -> Tensor:
        """Computes the gradients of the mean loss of the next batches, and returns that loss."""
        losses = []
        for batch in islice(batches, count):
            with torch.enable_grad():
                loss = self._loss(_moved(batch, device)) / count
                torch.autograd.backward(loss)
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _loss(self, batch: Any) -> Tensor:
        if self.forward is not None:
            loss: Any = self.forward(self.model, batch)
        elif self.criterion is not None and isinstance(batch, (tuple, list)) and len(batch) == 2:
            inputs, targets = batch
            loss = self.criterion(self.model(inputs), targets)
        else:
            what = type(batch).__name__
            if isinstance(batch, Sized):
                what += f" of {len(batch)}"
            raise TypeError(
                f"a batch must be a pair of inputs and targets, but is a {what}; "
                "give LRFinder a forward=, a function of the model and a batch"
            )
        if not isinstance(loss, Tensor):
            raise TypeError(f"the loss must be a tensor, but is {loss!r}")
        if loss.numel() != 1:
            raise ValueError(
                f"the loss must have one element, but has the shape {tuple(loss.shape)}; "
                "take the mean"
            )
        return loss.reshape(())


def _check(
    start_lr: float,
    end_lr: float,
    num_iter: int,
    mode: str,
    smooth: float,
    diverge: float,
    check_every: int | None,
    accumulation_steps: int,
) -> None:
    """Raises a ValueError about the first argument that is out of its range."""
    for name, lr in (("start_lr", start_lr), ("end_lr", end_lr)):
        if not 0 < lr < math.inf:
            raise ValueError(f"{name} must be a positive number, but is {lr!r}")
    if not start_lr < end_lr:
        raise ValueError(
            f"start_lr must be less than end_lr, but start_lr is {start_lr!r} and end_lr {end_lr!r}"
        )
    if mode not in _RAMPS:
        raise ValueError(f"mode must be {' or '.join(map(repr, _RAMPS))}, but is {mode!r}")
    if not 0 <= smooth < 1:
        raise ValueError(f"smooth must be at least 0 and less than 1, but is {smooth!r}")
    if not diverge > 1:
        raise ValueError(f"diverge must be greater than 1, but is {diverge!r}")
    counts: dict[str, tuple[Any, int]] = {
        "num_iter": (num_iter, 2),
        "check_every": (1 if check_every is None else check_every, 1),
        "accumulation_steps": (accumulation_steps, 1),
    }
    for name, (count, least) in counts.items():
        if not isinstance(count, Integral) or count < least:
            raise ValueError(f"{name} must be an integer of at least {least}, but is {count!r}")


# The learning rates of groups


def _follow(optimizer: Optimizer, ramp: Schedule, lrs: list[float]) -> Callable[[int], None]:
    """Lets all groups follow the ramp; returns what is to be called before each step."""
    base_lrs = [_base_lr(group) for group in optimizer.param_groups]
    largest = max(base_lrs)
    shares = [base_lr / largest if largest > 0 else 1.0 for base_lr in base_lrs]

    if isinstance(optimizer, FusedOptimizer):
        completed = optimizer.completed_steps
        for group, share in zip(optimizer.param_groups, shares, strict=True):
            schedule = share * ramp
            group["lr"] = schedules.join([0.0, schedule], [completed]) if completed else schedule
        return lambda iteration: None

    def set_lr(iteration: int) -> None:
        for group, share in zip(optimizer.param_groups, shares, strict=True):
            lr = share * lrs[iteration]
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    return set_lr


def _base_lr(group: Any) -> float:
    """The learning rate that a group was meant to have, whatever it has at this step."""
    if "initial_lr" in group:
        return float(group["initial_lr"])
    schedule = getattr(group, "schedules", {}).get("lr")
    if schedule is not None:
        return float(schedule(torch.arange(_PEAK_STEPS)).max())
    return float(group["lr"])


# Batches


def _batches(loader: Iterable[Any]) -> Generator[Any]:
    """The batches of a loader, over and over."""
    count = 0
    while True:
        before = count
        for batch in loader:
            count += 1
            yield batch
        if count == before:
            what = (
                f"ended after {count} batches and cannot be iterated again" if count else "is empty"
            )
            raise ValueError(f"the loader {what}")


def _moved(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on the device."""
    if hasattr(batch, "to"):
        # Copies to the CPU must wait: it would read what has not arrived yet.
        return batch.to(device, non_blocking=device.type != "cpu")
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        values = (_moved(value, device) for value in batch)
        return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
    return batch


# The progress bar


@contextmanager
def _progress(total: int, show: bool) -> Iterator[Callable[[], None]]:
    """What is to be called after each iteration."""
    bar = _progress_bar() if show else None
    if bar is None:
        yield lambda: None
    else:
        with bar:
            task = bar.add_task("learning rate range test", total=total)
            yield lambda: bar.advance(task)


def _progress_bar() -> Any:
    """A bar on stderr, or None if rich is not installed or nobody is looking."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        return None
    console = Console(stderr=True)
    is_seen = console.is_terminal or console.is_jupyter
    return Progress(console=console, transient=True) if is_seen else None
