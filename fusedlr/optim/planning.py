"""Building the plans that a step walks, and the state that their rules need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.optim.optimizer as torch_optimizer
from torch import Tensor

from fusedlr import _backend
from fusedlr.optim.param_group import ParamGroup

if TYPE_CHECKING:
    from fusedlr.optim.optimizer import FusedOptimizer


def build_plans(optimizer: FusedOptimizer) -> tuple[list[_backend.Plan], list[ParamGroup]]:
    """The plans of an optimizer, and the groups that torch.optim's own functions must step.

    Raises:
        KeyError: if a group has lost a hyper.
        RuntimeError: if a parameter cannot be updated, or its state does not fit it.
    """
    table = optimizer._table
    # A parameter that is listed n times is updated n times, one after the other: in n plans, each
    # of one device.
    plans: dict[tuple[torch.device, int], _backend.Plan] = {}
    num_params = sum(len(group["params"]) for group in optimizer.param_groups)
    torch_groups: list[ParamGroup] = []
    occurrences: dict[int, int] = {}
    for index, group in enumerate(optimizer.param_groups):
        if lost := table.keys - group.keys():
            raise KeyError(f"param_groups[{index}] has lost its {sorted(lost)}; assign them again")
        if group["fused"]:
            for param in group["params"]:
                torch_optimizer._device_dtype_check_for_fused(param)
        if group["differentiable"] or not all(map(optimizer._can_update, group["params"])):
            torch_groups.append(group)
            continue
        positions: dict[tuple[torch.device, int], list[int]] = {}
        for position, param in enumerate(group["params"]):
            occurrence = occurrences.get(id(param), 0)
            occurrences[id(param)] = occurrence + 1
            positions.setdefault((param.device, occurrence), []).append(position)
        for key, chosen in positions.items():
            if key not in plans:
                plans[key] = _backend.new_plan(
                    optimizer.param_groups,
                    table.host_tables,
                    optimizer.sparse_error,
                    0 if plans else num_params,
                    key[0],
                    table.devices.get(key[0]),
                )
            _add_params(optimizer, plans[key], index, chosen)
    return in_order_of_steps(optimizer, plans), torch_groups


def in_order_of_steps(
    optimizer: FusedOptimizer, plans: dict[tuple[torch.device, int], _backend.Plan]
) -> list[_backend.Plan]:
    """The plans of the device whose group table counts first; devices one after the other."""
    places = list(optimizer._table.devices)
    order = sorted(
        plans, key=lambda key: (places.index(key[0]) if key[0] in places else -1, key[1])
    )
    return [plans[key] for key in order]


def place_table(optimizer: FusedOptimizer) -> None:
    """Puts the group table and the clock where the steps need them."""
    table = optimizer._table
    params = (param for group in optimizer.param_groups for param in group["params"])
    updated = {param.device: None for param in params if optimizer._can_update(param)}
    places = [place for place in updated if _backend.runs_kernels(place, optimizer._chosen_engine)]
    # The first device has the numbers that count, unless the host steps some parameters itself.
    has_primary = bool(places) and len(places) == len(updated)
    if places == list(table.devices) and has_primary == (table.device is not None):
        return
    devices = {
        place: table.devices.get(place)
        or _backend.new_device_table(place, *table.host_tables, optimizer._chosen_engine)
        for place in places
    }
    table.move_to(devices, devices[places[0]] if has_primary else None)
    optimizer._move_clock(table.device)
    optimizer._revision.bump()


def _add_params(
    optimizer: FusedOptimizer, plan: _backend.Plan, index: int, positions: list[int]
) -> None:
    group = optimizer.param_groups[index]
    row = plan.num_tensors
    plan.add_params_(index, optimizer._rule_name(group), group["params"], positions)
    if not optimizer._state_names(group):
        return
    for offset, position in enumerate(positions):
        state = _complete_state(optimizer, group, group["params"][position])
        if state is not None:
            plan.set_state_(row + offset, *state)


def _complete_state(
    optimizer: FusedOptimizer, group: ParamGroup, param: Tensor
) -> tuple[Tensor | None, list[Tensor]] | None:
    """The step count and the state tensors of a parameter, if all of them exist."""
    state: Any = optimizer.state.get(param)
    if state is None:
        return None
    buffers = [state.get(name) for name in optimizer._state_names(group)]
    if any(buffer is None for buffer in buffers):
        return None
    place = step_place(optimizer, param)
    if not optimizer.step_is_visible:
        if state.completed_steps is None:  # the buffers come from outside: they have been used
            state.completed_steps = optimizer._new_steps(1, place)[0].fill_(1)
        state.completed_steps = state.completed_steps.to(place)
        return state.completed_steps, buffers
    step = state.get("step")
    if step is None:
        return None
    if not isinstance(step, Tensor) or not step.is_floating_point():
        count = float(step)
        step = optimizer._new_steps(1, place)[0].fill_(count)
        state.set_unnoticed("step", step)
    elif step.device != place:
        step = step.to(place)
        state.set_unnoticed("step", step)
    return step, buffers


def new_steps(optimizer: FusedOptimizer, params: Sequence[Tensor]) -> Iterator[Tensor]:
    """A step count of 0 for each parameter, where it must be: views of one tensor per device."""
    places = [step_place(optimizer, param) for param in params]
    steps = {place: iter(optimizer._new_steps(places.count(place), place)) for place in set(places)}
    return (next(steps[place]) for place in places)


def step_place(optimizer: FusedOptimizer, param: Tensor) -> torch.device:
    """Where the step count of a parameter must be."""
    return param.device if optimizer._can_update(param) else torch.device("cpu")


def configure_clock(optimizer: FusedOptimizer) -> None:
    """Tells the clock of an optimizer what goes by it: schedules, and records of the steps."""
    table = optimizer._table
    for recorder in optimizer._recorders:
        recorder.fit(table)
    clock: Any = optimizer._clock
    if table.device is None:
        clock.set_table(*table.host_tables)
    table.records = [recorder.record(table) for recorder in optimizer._recorders]
    clock.configure(table.formulas(), table.records)
    clock.ends_with_plans = not optimizer._torch_groups


@torch.no_grad()
def create_missing_state(optimizer: FusedOptimizer, plan: _backend.Plan) -> None:
    """Creates the state of the parameters that have a gradient for the first time."""
    missing = plan.missing
    steps = optimizer._new_steps(len(missing), plan.place)
    for (row, index, position), step in zip(missing, steps, strict=True):
        group = optimizer.param_groups[index]
        param = group["params"][position]
        state: Any = optimizer.state[param]
        names = optimizer._state_names(group)
        if optimizer.step_is_visible:
            if state.get("step") is None:
                state.set_unnoticed("step", step)
        elif state.get(names[0]) is None:
            state.completed_steps = step
        for name in names:
            if state.get(name) is None:
                zeros = torch.zeros_like(param, memory_format=torch.preserve_format)
                state.set_unnoticed(name, zeros)
        complete = _complete_state(optimizer, group, param)
        if complete is not None:
            # A parameter that is listed twice takes its first step twice where torch does, too:
            # a count out of sight belongs to the row, not to the parameter.
            plan.set_state_(row, complete[0] if optimizer.step_is_visible else step, complete[1])
