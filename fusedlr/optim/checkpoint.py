"""Saving and loading the state of an optimizer."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from fusedlr import _backend
from fusedlr.optim.group_table import GroupTable
from fusedlr.optim.revision import OptimizerState, ParamState
from fusedlr.schedules import Schedule

# Entries that a saved group has besides those of torch.optim, if it has schedules.
_SCHEDULES, _COMPLETED_STEPS = "schedules", "completed_steps"


def plain_state(
    state: Mapping[Any, Any], names: Collection[str], *, clone_steps: bool = False
) -> dict[Any, Any]:
    """The state as plain dicts of the same tensors.

    `names` are entries whose uses are counted out of sight; before the first use there are none, as
    in torch.optim.
    """
    copied: dict[Any, Any] = {}
    for key, entries in state.items():
        if not isinstance(entries, ParamState):
            copied[key] = entries
            continue
        count = entries.completed_steps
        unused = names if count is not None and count.item() == 0 else ()
        plain = {name: entries[name] for name in entries if name not in unused}
        if unused and not plain:
            continue
        if clone_steps and isinstance(plain.get("step"), Tensor):
            plain["step"] = plain["step"].clone()
        copied[key] = plain
    return copied


def match_params(groups: list[Any], saved_groups: list[dict[str, Any]]) -> dict[Any, Tensor]:
    """Maps the parameter ids of a checkpoint to the parameters of an optimizer.

    Raises:
        ValueError: if the number of groups or of their parameters differs.
    """
    if len(groups) != len(saved_groups):
        raise ValueError("loaded state dict has a different number of parameter groups")
    for group, saved in zip(groups, saved_groups, strict=True):
        if len(group["params"]) != len(saved["params"]):
            raise ValueError(
                "loaded state dict contains a parameter group "
                "that doesn't match the size of optimizer's group"
            )
    ids = chain.from_iterable(saved["params"] for saved in saved_groups)
    params = chain.from_iterable(group["params"] for group in groups)
    return dict(zip(ids, params, strict=True))


def add_schedules_(saved_groups: list[dict[str, Any]], groups: list[Any], completed: int) -> None:
    """Adds their schedules to the saved groups that have any, with the steps they go by."""
    for saved, group in zip(saved_groups, groups, strict=True):
        if group.schedules:
            data = {name: schedule.to_json() for name, schedule in group.schedules.items()}
            saved.update({_SCHEDULES: data, _COMPLETED_STEPS: completed})


def _schedules_in(saved: Mapping[str, Any]) -> dict[str, Schedule]:
    data = saved.get(_SCHEDULES, {})
    return {name: _schedule_from(json.dumps(one)) for name, one in data.items()}


# Groups that shared a schedule share it again, and so it is evaluated once for all of them.
@functools.lru_cache(maxsize=64)
def _schedule_from(text: str) -> Schedule:
    return Schedule.from_json(json.loads(text))


def completed_steps(saved_groups: list[dict[str, Any]]) -> int | None:
    """The steps that the optimizer of a checkpoint had completed, if it had schedules."""
    counts = [saved[_COMPLETED_STEPS] for saved in saved_groups if _COMPLETED_STEPS in saved]
    return max(counts, default=None)


def warn_of_ending_schedules(groups: list[Any], saved_groups: list[dict[str, Any]]) -> None:
    """Warns if schedules are about to end because a checkpoint has never heard of any."""
    if any(_SCHEDULES in saved for saved in saved_groups):
        return
    ending = [
        f"param_groups[{index}]: {', '.join(group.schedules)}"
        for index, group in enumerate(groups)
        if group.schedules
    ]
    if ending:
        warnings.warn(
            "The loaded state dict has no schedules, so hypers become the numbers that it has, and "
            f"these schedules end ({'; '.join(ending)}). To go on with a schedule, assign it again "
            "(group['lr'] = schedule), and set optimizer.completed_steps.",
            UserWarning,
            stacklevel=4,
        )


def check(table: GroupTable, saved_groups: list[dict[str, Any]], saved_state: Any) -> None:
    """Raises TypeError or ValueError if a checkpoint cannot be loaded as a whole."""
    for index, saved in enumerate(saved_groups):
        for key in table.keys & saved.keys():
            table.check(index, key, saved[key])
        _check_schedules(table, index, saved)
    ids = {key for saved in saved_groups for key in saved["params"]}
    for key in ids & saved_state.keys():
        if not isinstance(saved_state[key], Mapping):
            raise TypeError(
                f"the state of parameter {key} in the loaded state dict must be a dict, "
                f"but is {saved_state[key]!r}"
            )
        step = saved_state[key].get("step", 0)
        if not isinstance(step, (int, float)) and not (
            isinstance(step, Tensor) and step.numel() == 1
        ):
            raise TypeError(
                f"'step' of parameter {key} in the loaded state dict must be a number or a "
                f"1-element tensor, but is {step!r}"
            )


def check_sharding(saved_state: Any, params: Mapping[Any, Tensor]) -> None:
    """Raises ValueError if a tensor of a checkpoint is a DTensor and its parameter is not.

    Or the other way round, or if their meshes differ: one process alone cannot bring the one to the
    other.
    """
    dtensor = _backend.dtensor_class()
    if dtensor is None:
        return
    for key in params.keys() & saved_state.keys():
        is_sharded = isinstance(params[key], dtensor)
        for name, value in saved_state[key].items():
            per_element = isinstance(value, Tensor) and value.shape == params[key].shape
            if name == "step" or not per_element:
                continue
            kinds = ("no DTensor", "one") if is_sharded else ("a DTensor", "none")
            if isinstance(value, dtensor) and is_sharded:
                meshes: Any = value.device_mesh, params[key].device_mesh  # type: ignore[attr-defined]
                kinds = f"a DTensor on {meshes[0]}", f"one on {meshes[1]}"
                if meshes[0] == meshes[1]:
                    continue
            elif isinstance(value, dtensor) == is_sharded:
                continue
            raise ValueError(
                f"{name!r} of parameter {key} in the loaded state dict is {kinds[0]}, but the "
                f"parameter is {kinds[1]}; load it with "
                "torch.distributed.checkpoint.state_dict.set_optimizer_state_dict "
                "(StateDictOptions(full_state_dict=True) for the state of whole tensors)"
            )


def _check_schedules(table: GroupTable, index: int, saved: Mapping[str, Any]) -> None:
    where = f"of param_groups[{index}] in the loaded state dict"
    data = saved.get(_SCHEDULES, {})
    if not isinstance(data, Mapping):
        raise TypeError(f"'{_SCHEDULES}' {where} must be a dict, but is {data!r}")
    try:
        schedules = _schedules_in(saved)
    except (TypeError, ValueError) as error:
        raise ValueError(f"'{_SCHEDULES}' {where} cannot be read: {error}") from error
    if unknown := schedules.keys() - table.scheduled_names():
        raise ValueError(
            f"'{_SCHEDULES}' {where} has {sorted(unknown)}, but schedules can only be given for "
            f"{sorted(table.scheduled_names())}"
        )
    completed = saved.get(_COMPLETED_STEPS, 0)
    if not isinstance(completed, int) or completed < 0:
        raise TypeError(
            f"'{_COMPLETED_STEPS}' {where} must be a number of steps, but is {completed!r}"
        )


def load_group_(group: Any, saved: dict[str, Any]) -> None:
    """Gives a group the entries and the schedules of a saved one; its parameters stay."""
    own_keys = {"params", _SCHEDULES, _COMPLETED_STEPS}
    loaded = deepcopy({key: value for key, value in saved.items() if key not in own_keys})
    own, given = group.get("lr"), loaded.get("lr")
    if isinstance(own, Tensor) and isinstance(given, Tensor):
        with torch.no_grad():
            own.fill_(given.item())  # the user's tensor stays the user's, and live
        del loaded["lr"]
    for key in group.keys() - loaded.keys() - {"params", "param_names", "lr"}:
        del group[key]
    group.end_schedules(loaded.keys())
    group.update(loaded)
    group.update(group.values_with(_schedules_in(saved)))


@torch.no_grad()
def load_state_(
    state: OptimizerState,
    saved_state: Mapping[Any, Any],
    params: Mapping[Any, Tensor],
    new_steps: Callable[[list[Tensor]], Iterator[Tensor]],
    keeps_memory: bool,
) -> None:
    """Loads the state of all parameters into the storage that is there, and creates the rest.

    With `keeps_memory`, for graphs that know it by address, what is not in the saved state begins
    anew where it is, at zero; otherwise it is deleted.
    """
    loaded_keys = {params.get(key, key) for key in saved_state}
    for key in state.keys() - loaded_keys:
        if keeps_memory and isinstance(state[key], ParamState):
            _reset_(state[key])
        else:
            del state[key]
    steps = new_steps([params[key] for key in saved_state if key in params])
    for key, saved in saved_state.items():
        if key not in params:
            state[key] = saved  # belongs to no parameter: kept as it is
            continue
        param, new_step = params[key], next(steps)
        entries = state[param]
        for name in entries.keys() - saved.keys():
            if keeps_memory and isinstance(entries[name], Tensor):
                entries[name].zero_()
            else:
                del entries[name]
        for name, value in saved.items():
            if name == "step":
                current = entries.get(name)
                step = current if isinstance(current, Tensor) else new_step
                entries[name] = step.fill_(float(value))
            else:
                entries[name] = _load_entry(value, entries.get(name), param)
        if entries.completed_steps is not None:
            has_been_used = any(isinstance(value, Tensor) for value in saved.values())
            entries.completed_steps.fill_(1 if has_been_used else 0)


def _reset_(entries: ParamState) -> None:
    """The state of a parameter before its first step, in the memory that is there."""
    for one in (*entries.values(), entries.completed_steps):
        if isinstance(one, Tensor):
            one.zero_()


def _load_entry(value: Any, current: Any, param: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return deepcopy(value)
    if isinstance(current, Tensor) and current.shape == value.shape:
        return current.copy_(value)
    dtype = param.dtype if param.is_floating_point() else value.dtype
    if value.shape == param.shape:
        return torch.zeros_like(param, dtype=dtype).copy_(value)
    return value.to(device=param.device, dtype=dtype, copy=True)
