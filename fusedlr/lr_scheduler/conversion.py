"""Turning a scheduler of torch into one that the engine runs."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from fusedlr import tracing
from fusedlr.lr_scheduler.composition import CompositeScheduler
from fusedlr.lr_scheduler.device_scheduler import (
    DeviceScheduler,
    device_table,
    refuse_scheduled_groups,
)


def _twin_of(torch_class: type) -> type[DeviceScheduler] | None:
    """Our class of a class of torch: the one that has it as its second base."""
    candidates = DeviceScheduler.__subclasses__()
    for candidate in candidates:
        if candidate.__module__.startswith("fusedlr."):
            if torch_class in candidate.__bases__[1:]:
                return candidate
            candidates += candidate.__subclasses__()
    return None


def from_torch(scheduler: Any, *, total_steps: int | None = None) -> DeviceScheduler:
    """The scheduler of fusedlr that goes on where a scheduler of torch stands.

    For schedulers that other code has built on a fused optimizer, such as the warmup schedules of
    transformers. The lr does not move; use the result in the place of the original from now on.

    Args:
        scheduler: an instance of a class of :mod:`torch.optim.lr_scheduler` or of
            :class:`torch.optim.swa_utils.SWALR`, at any step; nested ones are converted, too.
        total_steps: the horizon for functions that have to become tables; see
            :class:`fusedlr.lr_scheduler.LambdaLR`.

    Raises:
        TypeError: if the scheduler's class is another one (also a subclass: it may compute what it
            likes), its optimizer is not a fused one, or a function cannot reach the engine.
        ValueError: if a parameter is one that torch divides by zero with later, or the lr of a
            group is a schedule.

    Example:
        >>> import torch, fusedlr
        >>> optimizer = fusedlr.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> built = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        >>> scheduler = fusedlr.lr_scheduler.from_torch(built)
        >>> optimizer.step()
        >>> scheduler.step()
        >>> scheduler.get_last_lr()
        [0.5]
    """
    converted: dict[int, DeviceScheduler] = {}

    def convert(original: Any) -> DeviceScheduler:
        if isinstance(original, DeviceScheduler):
            return original
        if id(original) not in converted:
            converted[id(original)] = _convert(original)
        return converted[id(original)]

    def _convert(original: Any) -> DeviceScheduler:
        twin = _twin_of(type(original))
        if twin is None:
            name = f"{type(original).__module__}.{type(original).__qualname__}"
            raise TypeError(
                f"cannot convert a {name}: only the classes of torch.optim.lr_scheduler themselves "
                "have a formula that is known; keep using it as it is"
            )
        _check_optimizer(original.optimizer)
        ours = twin.__new__(twin)
        ours.__dict__.update(
            {name: list(v) if type(v) is list else v for name, v in vars(original).items()}
        )
        if isinstance(ours, CompositeScheduler):
            ours._schedulers = [convert(part) for part in original._schedulers]
        else:
            refuse_scheduled_groups(ours.optimizer, "lr", ours._momentum_name())
            ours._parameters()  # raises if torch would divide by zero one day
        _check_functions(ours, total_steps)
        ours._join_optimizer()
        return ours

    return convert(scheduler)


def _check_optimizer(optimizer: Optimizer) -> None:
    if device_table(optimizer) is None:
        name = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
        raise TypeError(
            f"the scheduler's optimizer is a {name}, whose lr no engine of fusedlr holds; build a "
            "fused optimizer, and the scheduler on that one"
        )


def _check_functions(scheduler: DeviceScheduler, total_steps: int | None) -> None:
    """Raises TypeError if a function of the user's would have to run on the host."""
    functions = list(getattr(scheduler, "lr_lambdas", []))
    if functions:
        scheduler.__dict__["_total_steps"] = total_steps
    if (scale_fn := getattr(scheduler, "_scale_fn_custom", None)) is not None:
        functions, total_steps = [scale_fn], None
    for function in {id(one): one for one in functions}.values():
        trace = tracing.trace(function)
        if isinstance(trace, tracing.Untraceable) and total_steps is None:
            raise TypeError(
                f"cannot bring {tracing.name_of(function)} to the engine, because {trace.reason}; "
                "give total_steps= to have a function of LambdaLR or MultiplicativeLR tabulated, "
                "or keep using the scheduler as it is"
            )
