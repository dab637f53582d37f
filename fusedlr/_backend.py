"""Picks the engine: the only module that touches the compiled extension ``fusedlr._C``."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fusedlr import _version
from fusedlr._stack import user_stacklevel

if TYPE_CHECKING:
    from fusedlr._C import DeviceTable as DeviceTable
    from fusedlr._C import Expression as Expression
    from fusedlr._C import LiveTensors as LiveTensors
    from fusedlr._C import Plan as Plan
    from fusedlr._C import SchedulerNode as SchedulerNode
    from fusedlr._C import StepClock as StepClock


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
        "(needs a C++ compiler, setuptools 77 or newer, and ninja).",
        RuntimeWarning,
        stacklevel=user_stacklevel(),
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


#: The engines. "walked" is for tests: the kernels of a GPU, walked on the host.
_BACKENDS = ("cpu", "cuda", "triton", "torch", "walked")
#: The engines for each type of device, the best first; and "torch" for every other.
_ENGINES_OF = {"cpu": ("cpu", "walked", "triton"), "cuda": ("cuda", "triton")}
_KERNEL_ENGINES = frozenset({"cuda", "triton", "walked"})
#: Those that serve a device only where they are asked for.
_ON_REQUEST = frozenset({("cpu", "walked"), ("cpu", "triton")})

_WITHOUT_CUDA = (
    "the extension was built without CUDA; build it where torch has CUDA and nvcc is found "
    "(FUSEDLR_CUDA=1 says what is missing)"
)
#: torch 2.11 comes with it. Older ones divide and take roots of float32 without denormals.
_OLDEST_TRITON = (3, 6)


def check_backend(choice: str | None, source: str) -> None:
    """Raises ValueError if `choice`, which `source` has made, is no engine."""
    if choice not in (None, *_BACKENDS):
        names = ", ".join(map(repr, _BACKENDS))
        raise ValueError(f"{source} must be one of {names}, but is {choice!r}")


def forced_backend() -> str | None:
    """The engine that the environment variable ``FUSEDLR_BACKEND`` asks for, if any."""
    choice = os.environ.get("FUSEDLR_BACKEND") or None
    check_backend(choice, "FUSEDLR_BACKEND")
    return choice


def engine_for(device_type: str, backend: str | None = None) -> tuple[str, str]:
    """The engine for parameters on devices of this type, and the reason for the choice.

    Args:
        device_type: as in ``torch.device(...).type``.
        backend: the engine that an optimizer was told to use; it comes before ``FUSEDLR_BACKEND``,
            which is followed only where that engine can serve the device.

    Raises:
        ValueError: if `backend` cannot serve such a device.
    """
    forced = forced_backend()
    if backend is None and forced == "torch":
        return "torch", "FUSEDLR_BACKEND=torch"
    if backend == "torch":
        return "torch", "backend='torch'"
    engines = _ENGINES_OF.get(device_type, ())
    if backend is not None:
        obstacle = _obstacle(backend, device_type)
        if obstacle is not None:
            raise ValueError(
                f"backend={backend!r} cannot update parameters on {device_type!r} devices: "
                f"{obstacle}. Leave `backend` out for the best engine that can"
            )
        return backend, _description(backend)
    obstacles = {engine: _obstacle(engine, device_type) for engine in engines}
    if forced in engines and obstacles[forced] is None:
        return forced, f"FUSEDLR_BACKEND={forced}: {_description(forced)}"
    for engine in engines:
        if obstacles[engine] is None and (device_type, engine) not in _ON_REQUEST:
            return engine, _description(engine)
    if extension is None or not engines:
        return "torch", _obstacle("cpu", device_type) or ""
    return "torch", "; ".join(f"{engine}: {why}" for engine, why in obstacles.items())


def _obstacle(engine: str, device_type: str) -> str | None:
    """Why an engine of ours cannot serve such a device, or None."""
    if extension is None:
        return f"the compiled extension is missing: {_extension_error}"
    if device_type not in _ENGINES_OF:
        return f"there is no compiled engine for {device_type!r} devices"
    if engine not in _ENGINES_OF[device_type]:
        return f"it is no engine for them ({', '.join(_ENGINES_OF[device_type])} are)"
    if engine == "cuda" and "cuda" not in extension.kernel_engines():
        return _WITHOUT_CUDA
    if engine == "triton":
        return _triton_obstacle(device_type)
    return None


def _triton_obstacle(device_type: str) -> str | None:
    version = _triton_version()
    needed = f"Triton {'.'.join(map(str, _OLDEST_TRITON))} or newer"
    if version is None or importlib.util.find_spec("triton") is None:
        return f"Triton is not installed; `pip install triton` ({needed})"
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < _OLDEST_TRITON:
        return f"Triton {version} is too old; install {needed}"
    is_interpreted = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")
    if device_type == "cpu" and not is_interpreted:
        return (
            "on the CPU, Triton's kernels run in its interpreter only, for tests; set "
            "TRITON_INTERPRET=1 before Triton is imported"
        )
    if device_type != "cpu" and is_interpreted:
        return (
            "TRITON_INTERPRET is set, and Triton's interpreter cannot read a GPU's memory; unset it"
        )
    if device_type != "cpu" and not any(
        map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))
    ):
        return "Triton needs a C compiler to start: install gcc or clang, or name one in CC"
    return None


@functools.cache
def _triton_version() -> str | None:
    for name in (
        "triton",
        "triton-rocm",
        "pytorch-triton",
        "pytorch-triton-rocm",
        "triton-windows",
    ):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def _description(engine: str) -> str:
    if engine == "cpu":
        return f"compiled, {extension.simd_level()}"
    if engine == "cuda":
        return f"compiled for CUDA {torch.version.cuda}"
    if engine == "triton":
        return f"kernels of Triton {_triton_version()}, compiled when they are first used"
    return "the kernels of a GPU, one thread at a time"


def can_update(param: Tensor, backend: str | None = None) -> bool:
    """Whether a compiled engine can update this parameter."""
    if engine_for(param.device.type, backend)[0] == "torch":
        return False
    local = _local_tensor(param)
    return (
        local is not None
        and local.layout == torch.strided
        and local.dtype in _ENGINE_DTYPES
        and not local.is_conj()
        and not local.is_neg()
    )


def _local_tensor(param: Tensor) -> Tensor | None:
    """What an engine can see of a parameter: itself, or the part of a DTensor that is here.

    Other subclasses with a dispatch of their own (quantized tensors, say) hide their storage.
    """
    if type(param).__torch_dispatch__ is Tensor.__torch_dispatch__:
        return param
    if type(param) is not dtensor_class() or not extension.has_shard_slots(type(param)):
        return None
    local: Tensor = param._local_tensor  # type: ignore[attr-defined]
    return local if type(local) in (Tensor, torch.nn.Parameter) else None


def dtensor_class() -> type[Tensor] | None:
    """DTensor, if anybody has imported it: that takes a while, so it is not done here."""
    module = sys.modules.get("torch.distributed.tensor")
    return getattr(module, "DTensor", None)


def moves_numbers(backend: str | None = None) -> bool:
    """Whether an engine of ours moves the numbers of the groups, instead of torch's schedulers."""
    return extension is not None and (backend or forced_backend()) != "torch"


def has_observers() -> bool:
    """Whether a profiler or another observer of ranges is active."""
    return extension is None or extension.has_observers()


def backend_info() -> dict[str, Any]:
    """What is built, which engine serves each device, and why not the others.

    Returns:
        A dict with the versions of fusedlr and torch, the path of the compiled extension (or why it
        is missing), the instruction set that its loops use, the number of threads, under
        ``"devices"`` for each device type of this machine the engine and the reason, under
        ``"built_for"`` the device types that kernels were compiled for, and under ``"not_built"``
        which engines for GPUs are not there, and why.

    Example:
        >>> import fusedlr
        >>> fusedlr.backend_info()["devices"]["cpu"]["engine"] in ("cpu", "torch")
        True
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    device_types = ["cpu"] + ([accelerator.type] if accelerator is not None else [])
    engines = {device_type: engine_for(device_type) for device_type in device_types}
    kernels = extension.kernel_engines() if extension is not None else {}
    built_for = sorted(
        {place for engine in ("cuda", "walked") for place in kernels.get(engine, ())}
    )
    not_built = {engine: _obstacle(engine, "cuda") for engine in ("cuda", "triton")}
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
        "built_for": built_for,
        "not_built": {engine: why for engine, why in not_built.items() if why is not None},
    }


def new_expression(program: tuple[Sequence[Any], Sequence[float]]) -> Expression | None:
    """A function of the step that the engine evaluates, from what ``compile_`` has compiled.

    None without the compiled extension.

    Raises:
        ValueError: if an instruction is none that the engine can evaluate.
    """
    return None if extension is None else extension.Expression(*program)


def live_tensors_class() -> type[LiveTensors] | None:
    """The compiled ``LiveTensors``, or None."""
    return None if extension is None else extension.LiveTensors


def step_clock_class() -> type[StepClock] | None:
    """The compiled ``StepClock``, or None."""
    return None if extension is None else extension.StepClock


def runs_kernels(place: torch.device, backend: str | None = None) -> bool:
    """Whether the engine for this device launches kernels, which need tables there."""
    return engine_for(place.type, backend)[0] in _KERNEL_ENGINES


def new_device_table(
    place: torch.device, lr: Tensor, hypers: Tensor, backend: str | None = None
) -> DeviceTable:
    """The group table on a device that runs kernels; `lr` and `hypers` are those of the host."""
    engine, _ = engine_for(place.type, backend)
    if engine == "triton":
        import fusedlr.triton.engine  # noqa: F401 (it tells the extension of itself)
    table: DeviceTable = extension.DeviceTable(engine, place, lr, hypers)
    return table


def new_plan(
    groups: list[Any],
    host_tables: tuple[Tensor, Tensor],
    sparse_error: str,
    capacity: int,
    place: torch.device,
    table: DeviceTable | None,
) -> Plan:
    """An empty plan over the group table, with room for so many parameters, all on `place`."""
    plan: Plan = extension.Plan(groups, *host_tables, sparse_error, capacity, place, table)
    return plan


def try_step_(plans: list[Plan], clock: Any) -> str | None:
    """One step over all plans; or what is in its way, ``"stale"`` or ``"needs_state"``.

    Nothing has moved if something is in its way.
    """
    obstacle: str | None = extension.step_(plans, clock)
    return obstacle


def materialize_(plans: list[Plan]) -> str | None:
    """Prepares the next step without making it; or what is in the way, as :func:`try_step_`."""
    obstacle: str | None = extension.materialize_(plans)
    return obstacle


def new_scheduler_node(kind: str, column_names: Sequence[str], counts_steps: bool) -> SchedulerNode:
    """What the engine keeps of a scheduler; `kind` as in ``csrc/math/schedule.h``."""
    node: SchedulerNode = extension.SchedulerNode(kind, column_names, counts_steps)
    return node


def schedule_(
    node: SchedulerNode,
    lr: Tensor,
    hypers: Tensor,
    epoch: Any,
    is_initial: bool,
    is_jump: bool,
    counts: bool,
    metric: Any,
) -> bool:
    """One step of a scheduler: moves the lr of every group, to `epoch` or to the next.

    Returns whether it has done so: not if a part of the scheduler takes part twice.
    """
    done: bool = extension.schedule_(node, lr, hypers, epoch, is_initial, is_jump, counts, metric)
    return done


def schedule_on_(
    node: SchedulerNode,
    table: DeviceTable,
    epoch: Any,
    is_initial: bool,
    is_jump: bool,
    counts: bool,
    metric: Any,
) -> bool:
    """The same on a device, in one launch."""
    done: bool = extension.schedule_on_(node, table, epoch, is_initial, is_jump, counts, metric)
    return done


def materialize_scheduler_(node: SchedulerNode, table: DeviceTable) -> None:
    """Brings to the device what steps of a scheduler read, without making one."""
    extension.materialize_scheduler_(node, table)
