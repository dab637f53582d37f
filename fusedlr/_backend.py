"""Picks the engine: the only module that touches the compiled extension ``fusedlr._C``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fusedlr import _version

if TYPE_CHECKING:
    from fusedlr._C import LiveTensors as LiveTensors
    from fusedlr._C import Plan as Plan


def _importer_stacklevel() -> int:
    """The stacklevel of a warning that is to point at whoever imports fusedlr."""
    level = 0
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith("importlib"):  # warnings.warn does not count these either
            level += 1
            if not module.startswith("fusedlr"):
                break
        frame = frame.f_back
    return level


_extension_error: str | None = None
try:
    from fusedlr import _C

    extension: Any = _C
except ImportError as error:
    extension = None
    _extension_error = str(error)
    warnings.warn(
        f"fusedlr runs without its compiled engines, on torch.optim's own functions ({error}). "
        "Build them with `pip install --no-build-isolation -e .` in the source folder "
        "(needs a C++ compiler and ninja).",
        RuntimeWarning,
        stacklevel=_importer_stacklevel(),
    )

#: Storage formats that the compiled engines walk; complex numbers as pairs of reals.
_ENGINE_DTYPES = frozenset(
    {
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float16,
        torch.complex64,
        torch.complex128,
    }
)


def forced_backend() -> str | None:
    """The engine that the environment variable ``FUSEDLR_BACKEND`` asks for, if any."""
    choice = os.environ.get("FUSEDLR_BACKEND") or None
    if choice not in (None, "cpu", "torch"):
        raise ValueError(f"FUSEDLR_BACKEND must be 'cpu' or 'torch', but is {choice!r}")
    return choice


def engine_for(device_type: str) -> tuple[str, str]:
    """The engine for parameters on devices of this type, and the reason for the choice."""
    if forced_backend() == "torch":
        return "torch", "FUSEDLR_BACKEND=torch"
    if extension is None:
        return "torch", f"the compiled extension is missing: {_extension_error}"
    if device_type == "cpu":
        return "cpu", f"compiled, {extension.simd_level()}"
    return "torch", f"this version has no compiled engine for {device_type!r} devices"


def can_update(param: Tensor) -> bool:
    """Whether a compiled engine can update this parameter."""
    return (
        engine_for(param.device.type)[0] != "torch"
        and param.layout == torch.strided
        and param.dtype in _ENGINE_DTYPES
        # A subclass with a dispatch of its own (DTensor, quantized tensors) hides its storage.
        and type(param).__torch_dispatch__ is Tensor.__torch_dispatch__
        and not param.is_conj()
        and not param.is_neg()
    )


def has_observers() -> bool:
    """Whether a profiler or another observer of ranges is active."""
    return extension is None or extension.has_observers()


def backend_info() -> dict[str, Any]:
    """What is built, which engine serves each device, and why not the others.

    Returns:
        A dict with the versions of fusedlr and torch, the path of the compiled extension (or why it
        is missing), the instruction set that its loops use, the number of threads, and under
        ``"devices"`` for each device type of this machine the engine and the reason.

    Example:
        >>> import fusedlr
        >>> fusedlr.backend_info()["devices"]["cpu"]["engine"] in ("cpu", "torch")
        True
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    device_types = ["cpu"] + ([accelerator.type] if accelerator is not None else [])
    engines = {device_type: engine_for(device_type) for device_type in device_types}
    return {
        "fusedlr": _version.__version__,
        "torch": torch.__version__,
        "extension": extension.__file__ if extension is not None else None,
        "extension_error": _extension_error,
        "simd": extension.simd_level() if extension is not None else None,
        "threads": torch.get_num_threads(),
        "devices": {
            device_type: {"engine": engine, "reason": reason}
            for device_type, (engine, reason) in engines.items()
        },
        "not_built": {
            "cuda": "this version has no CUDA engine",
            "triton": "this version has no Triton engine",
        },
    }


def live_tensors_class() -> type[LiveTensors] | None:
    """The compiled ``LiveTensors``, or None."""
    return None if extension is None else extension.LiveTensors


def new_plan(
    groups: list[Any], lr: Tensor, hypers: Tensor, sparse_error: str, capacity: int
) -> Plan:
    """An empty plan over the group table, with room for so many parameters."""
    plan: Plan = extension.Plan(groups, lr, hypers, sparse_error, capacity)
    return plan


def try_step_(plans: list[Plan]) -> str | None:
    """One step over all plans; or what is in its way, ``"stale"`` or ``"needs_state"``.

    Nothing has moved if something is in its way.
    """
    readiness = extension.step_(plans)
    return None if readiness == extension.Readiness.ready else str(readiness.name)


def schedule_(
    lr: Tensor,
    kind: str,
    parameters: dict[str, Any],
    base_lrs: Sequence[Any],
    epoch: float,
    *,
    is_initial: bool,
    is_restarted: bool,
    closed_form: bool,
) -> None:
    """Moves the lr of every group to `epoch`; see ``csrc/math/schedule.h``."""
    schedule = extension.Schedule(getattr(extension.ScheduleKind, kind), **parameters)
    extension.schedule_(lr, schedule, base_lrs, epoch, is_initial, is_restarted, closed_form)


def schedule_lambdas_(
    lr: Tensor, lambdas: Sequence[Any], base_lrs: Sequence[Any], epoch: Any
) -> None:
    """Sets the lr of every group to its base lr times its function of `epoch`."""
    extension.schedule_lambdas_(lr, lambdas, base_lrs, epoch)


def schedule_plateau_(lr: Tensor, factor: float, min_lrs: Sequence[Any], eps: float) -> None:
    """Reduces the lr of every group by `factor`, down to its minimum."""
    extension.schedule_plateau_(lr, factor, min_lrs, eps)
