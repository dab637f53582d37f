"""Saving and loading the state of an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from fusedlr.optim.group_table import GroupTable
from fusedlr.optim.revision import OptimizerState, ParamState


def plain_state(state: Mapping[Any, Any], *, clone_steps: bool = False) -> dict[Any, Any]:
    """The state as plain dicts of the same tensors."""

    def plain(entries: Any) -> Any:
        if not isinstance(entries, ParamState):
            return entries
        copied = dict(entries)
        if clone_steps and isinstance(copied.get("step"), Tensor):
            copied["step"] = copied["step"].clone()
        return copied

    return {key: plain(entries) for key, entries in state.items()}


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


def check(table: GroupTable, saved_groups: list[dict[str, Any]], saved_state: Any) -> None:
    """Raises TypeError or ValueError if a checkpoint cannot be loaded as a whole."""
    for index, saved in enumerate(saved_groups):
        for key in table.keys & saved.keys():
            table.check(index, key, saved[key])
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


def load_group_(group: Any, saved: dict[str, Any]) -> None:
    """Gives a group the entries of a saved one; its parameters stay."""
    loaded = deepcopy({key: value for key, value in saved.items() if key != "params"})
    own, given = group.get("lr"), loaded.get("lr")
    if isinstance(own, Tensor) and isinstance(given, Tensor):
        with torch.no_grad():
            own.fill_(given.item())  # the user's tensor stays the user's, and live
        del loaded["lr"]
    for key in group.keys() - loaded.keys() - {"params", "param_names", "lr"}:
        del group[key]
    group.update(loaded)


@torch.no_grad()
def load_state_(
    state: OptimizerState,
    saved_state: Mapping[Any, Any],
    params: Mapping[Any, Tensor],
    new_steps: Callable[[int], tuple[Tensor, ...]],
) -> None:
    """Loads the state of all parameters into the storage that is there, and creates the rest."""
    loaded_keys = {params.get(key, key) for key in saved_state}
    for key in state.keys() - loaded_keys:
        del state[key]
    steps = new_steps(len(saved_state))
    for (key, saved), new_step in zip(saved_state.items(), steps, strict=True):
        if key not in params:
            state[key] = saved  # belongs to no parameter: kept as it is
            continue
        param = params[key]
        entries = state[param]
        for name in entries.keys() - saved.keys():
            del entries[name]
        for name, value in saved.items():
            if name == "step":
                current = entries.get(name)
                step = current if isinstance(current, Tensor) else new_step
                entries[name] = step.fill_(float(value))
            else:
                entries[name] = _load_entry(value, entries.get(name), param)
        if entries.completed_steps is not None:
            entries.completed_steps.fill_(1)


def _load_entry(value: Any, current: Any, param: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return deepcopy(value)
    if isinstance(current, Tensor) and current.shape == value.shape:
        return current.copy_(value)
    dtype = param.dtype if param.is_floating_point() else value.dtype
    if value.shape == param.shape:
        return torch.zeros_like(param, dtype=dtype).copy_(value)
    return value.to(device=param.device, dtype=dtype, copy=True)
