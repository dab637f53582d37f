"""Building the plans that a step walks, and the state that their rules need."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
import torch.optim.optimizer as torch_optimizer
from torch import Tensor

from fusedlr import _backend
from fusedlr.expression import compile_, evaluate
from fusedlr.optim.param_group import ParamGroup
from fusedlr.optim.step_clock import Place
from fusedlr.schedules import Schedule

if TYPE_CHECKING:
    from fusedlr.optim.optimizer import FusedOptimizer


def build_plans(optimizer: FusedOptimizer) -> tuple[list[_backend.Plan], list[ParamGroup]]:
    """The plans of an optimizer, and the groups that torch.optim's own functions must step.

    Raises:
        KeyError: if a group has lost a hyper.
        RuntimeError: if a parameter cannot be updated, or its state does not fit it.
    """
    table = optimizer._table
    plans: list[_backend.Plan] = []
    num_params = sum(len(group["params"]) for group in optimizer.param_groups)
    torch_groups: list[ParamGroup] = []
    # A parameter that is listed n times is updated n times, one after the other: in n plans.
    occurrences: dict[int, int] = {}
    for index, group in enumerate(optimizer.param_groups):
        if lost := table.keys - group.keys():
            raise KeyError(f"param_groups[{index}] has lost its {sorted(lost)}; assign them again")
        if group["fused"]:
            for param in group["params"]:
                torch_optimizer._device_dtype_check_for_fused(param)
        if group["differentiable"] or not all(map(_backend.can_update, group["params"])):
            torch_groups.append(group)
            continue
        positions: dict[int, list[int]] = {}
        for position, param in enumerate(group["params"]):
            occurrence = occurrences.get(id(param), 0)
            occurrences[id(param)] = occurrence + 1
            positions.setdefault(occurrence, []).append(position)
        for occurrence, chosen in positions.items():
            if occurrence == len(plans):
                capacity = 0 if plans else num_params
                plans.append(
                    _backend.new_plan(
                        optimizer.param_groups,
                        table.lr,
                        table.hypers,
                        optimizer.sparse_error,
                        capacity,
                    )
                )
            _add_params(optimizer, plans[occurrence], index, chosen)
    return plans, torch_groups


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
    if not optimizer.step_is_visible:
        if state.completed_steps is None:  # the buffers come from outside: they have been used
            state.completed_steps = torch.ones((), dtype=torch.float32, device="cpu")
        return state.completed_steps, buffers
    step = state.get("step")
    if step is None:
        return None
    if not isinstance(step, Tensor) or not step.is_floating_point():
        count = float(step)
        step = optimizer._new_steps(1)[0].fill_(count)
        state.set_unnoticed("step", step)
    return step, buffers


def configure_clock(optimizer: FusedOptimizer) -> None:
    """Tells the clock of an optimizer what goes by it: schedules, and records of the steps."""
    table = optimizer._table
    places: dict[int, list[Place]] = {}  # that a schedule fills, by its id
    for place, schedule in table.schedules.items():
        places.setdefault(id(schedule), []).append(place)
    formulas = optimizer._formulas
    optimizer._formulas = {
        id(schedule): formulas.get(id(schedule)) or (schedule, _formula_of(schedule))
        for schedule in table.schedules.values()
    }
    for recorder in optimizer._recorders:
        recorder.fit(table)
    optimizer._clock.configure(
        table.lr,
        table.hypers,
        [(optimizer._formulas[key][1], filled) for key, filled in places.items()],
        [recorder.record(table) for recorder in optimizer._recorders],
    )
    optimizer._clock.ends_with_plans = not optimizer._torch_groups


def _formula_of(schedule: Schedule) -> Any:
    """A function of the step, of the engine if there is one."""
    program = compile_(schedule.expression)
    return _backend.new_expression(program) or functools.partial(evaluate, program)


@torch.no_grad()
def create_missing_state(optimizer: FusedOptimizer, plan: _backend.Plan) -> None:
    """Creates the state of the parameters that have a gradient for the first time."""
    missing = plan.missing
    steps = optimizer._new_steps(len(missing))
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
