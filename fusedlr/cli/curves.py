"""From the text of a schedule to the curve that ``plot`` draws."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import Parameter
from torch.optim.lr_scheduler import LRScheduler

from fusedlr import lr_scheduler, optim, schedules

#: Of longer curves only every so many steps are taken that about this many points are left.
MOST_POINTS = 10_000


class Curve(NamedTuple):
    """The values at some steps."""

    label: str
    steps: list[int]
    values: list[float]


def read_curves(texts: Sequence[str], steps: int | None = None, lr: float = 1.0) -> list[Curve]:
    """The curves of some texts over the same steps.

    Args:
        texts: schedules as :func:`fusedlr.schedules.parse` reads them, or schedulers of
            :mod:`fusedlr.lr_scheduler` without their optimizer, such as ``"StepLR(step_size=30)"``.
        steps: the last step; without it, the largest whole number in the texts.
        lr: the initial lr of the schedulers.

    Raises:
        ValueError, TypeError: if a text is neither, or if it does not have such arguments.
    """
    functions = [_function(text, lr) for text in texts]
    if steps is None:
        numbers = re.findall(r"(?<![\w.])\d[\d_]*(?![\w.])", " ".join(texts))
        steps = max(map(int, numbers), default=0) or 100
    every = max(1, -(-steps // MOST_POINTS))
    points = [*range(0, steps, every), steps]
    return [
        Curve(text, points, function(points))
        for text, function in zip(texts, functions, strict=True)
    ]


def _function(text: str, lr: float) -> Callable[[list[int]], list[float]]:
    """The values at ascending steps."""
    called = re.match(r"\s*(\w+)\s*\(", text)
    name = called[1] if called else ""
    if name in _schedulers():
        return _scheduler(text, name, lr)
    if name and name not in schedules.__all__:
        meant = difflib.get_close_matches(name, [*schedules.__all__, *_schedulers()], n=1)
        hint = f"; did you mean {meant[0]!r}?" if meant else ""
        raise ValueError(f"there is no schedule or scheduler {name!r} to plot{hint}")
    schedule = schedules.parse(text)
    return lambda points: schedule(points)


def _schedulers() -> dict[str, Any]:
    """The schedulers that numbers describe: not functions, other schedulers, or a metric."""
    exported = {name: getattr(lr_scheduler, name) for name in lr_scheduler.__all__}
    return {
        name: scheduler
        for name, scheduler in exported.items()
        if isinstance(scheduler, type)
        and issubclass(scheduler, LRScheduler)
        and not name.endswith("LRScheduler")
        and not {"lr_lambda", "schedulers"} & set(inspect.signature(scheduler).parameters)
        and "metrics" not in inspect.signature(scheduler.step).parameters
    }


def _scheduler(text: str, name: str, lr: float) -> Callable[[list[int]], list[float]]:
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError("it is not one call")
        args = [ast.literal_eval(arg) for arg in call.args]
        kwargs = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"cannot read {text!r} as {name} with numbers: {error}") from None
    optimizer = optim.SGD([Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    scheduler = _schedulers()[name](optimizer, *args, **kwargs)

    def values(points: list[int]) -> list[float]:
        found = []
        for point in points:
            while scheduler.last_epoch < point:
                optimizer.step()
                scheduler.step()
            found.append(optimizer.param_groups[0]["lr"])
        return found

    return values
