"""Whatever changes behind an optimizer's back, its next step is the one that torch's makes."""

from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from cases import OptimizerCase, each_optimizer, random_tensor
from lockstep import TRUSTED, random_grads, set_grads

SHAPES = [[(4, 3), (5,)], [(6,)]]

Change = Callable[[Any, OptimizerCase], None]
CHANGES: list[Change] = []


def change(function: Change) -> Change:
    """Adds a row to the table of changes; each is made to fusedlr's optimizer and to torch's."""
    CHANGES.append(function)
    return function


def all_params(optimizer: Any) -> list[Parameter]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def filled(shape: tuple[int, ...], value: float) -> Tensor:
    return torch.linspace(value, value + 1, max(1, torch.Size(shape).numel())).view(shape)


def replace_param(optimizer: Any, place: int, build: Callable[[Tensor], Tensor]) -> None:
    """Replaces a parameter and its state, as code that prunes or grows a model does."""
    group = optimizer.param_groups[0]
    old = group["params"][place]
    state = optimizer.state.pop(old)
    new = Parameter(build(old.detach()))
    for name, value in state.items():
        if name != "step":
            state[name] = build(value)
    group["params"][place] = new
    optimizer.state[new] = state


# ------------------------------------------------------------------------------- groups and lists


@change
def a_group_is_added(optimizer, case):
    optimizer.add_param_group({"params": [Parameter(filled((3,), 0.5))], "lr": 0.01})


@change
def a_parameter_is_replaced_by_a_pruned_one(optimizer, case):
    replace_param(optimizer, 0, lambda old: old[[True, False, True, True]].clone())


@change
def a_parameter_is_replaced_by_a_grown_one(optimizer, case):
    replace_param(optimizer, 0, lambda old: torch.cat([old, torch.zeros(20_000, 3)]))


@change
def a_parameter_is_replaced_without_its_state(optimizer, case):
    optimizer.param_groups[0]["params"][1] = Parameter(filled((5,), 0.5))


@change
def a_parameter_is_appended_to_a_group(optimizer, case):
    optimizer.param_groups[1]["params"].append(Parameter(filled((2, 2), 0.5)))


@change
def a_parameter_is_taken_out_of_a_group(optimizer, case):
    del optimizer.param_groups[0]["params"][0]


@change
def the_parameters_of_a_group_change_places(optimizer, case):
    optimizer.param_groups[0]["params"].reverse()


@change
def a_group_gets_another_list_of_parameters(optimizer, case):
    optimizer.param_groups[1]["params"] = [Parameter(filled((2,), 0.5)), Parameter(filled((), 0.5))]


@change
def a_group_gets_a_tuple_of_parameters(optimizer, case):
    optimizer.param_groups[1]["params"] = tuple(optimizer.param_groups[1]["params"])


@change
def a_group_is_emptied(optimizer, case):
    optimizer.param_groups[0]["params"].clear()


@change
def a_group_is_dropped_from_the_list(optimizer, case):
    optimizer.param_groups.pop(0)


@change
def a_plain_dict_is_appended_to_the_groups(optimizer, case):
    group = {**optimizer.param_groups[0], "params": [Parameter(filled((3,), 0.5))], "lr": 0.02}
    optimizer.param_groups.append(group)


@change
def a_group_is_replaced_by_a_plain_dict(optimizer, case):
    optimizer.param_groups[0] = {**optimizer.param_groups[0], "lr": 0.02}


@change
def the_groups_change_places(optimizer, case):
    optimizer.param_groups[0]["lr"] = 0.02
    optimizer.param_groups.reverse()


@change
def the_list_of_groups_is_replaced(optimizer, case):
    optimizer.param_groups = [{**group, "lr": 0.02} for group in optimizer.param_groups[::-1]]


@change
def the_list_of_groups_is_extended_by_slicing(optimizer, case):
    extra = {**optimizer.param_groups[1], "params": [Parameter(filled((3,), 0.5))]}
    optimizer.param_groups[1:1] = [extra]


# ----------------------------------------------------------------------------------- parameters


@change
def a_parameter_gets_other_storage(optimizer, case):
    param = all_params(optimizer)[0]
    param.data = filled(param.shape, 0.5)


@change
def a_parameter_gets_another_layout(optimizer, case):
    param = all_params(optimizer)[0]
    param.data = param.data.t().contiguous().t()


@change
def a_parameter_gets_another_shape_and_fresh_state(optimizer, case):
    param = all_params(optimizer)[0]
    param.data = filled((7, 2), 0.5)
    optimizer.state.pop(param)


@change
def a_parameter_gets_another_shape_and_state_to_match(optimizer, case):
    param = all_params(optimizer)[0]
    param.data = param.data.view(2, 6)
    for name in case.state_names:
        optimizer.state[param][name] = optimizer.state[param][name].view(2, 6)


@change
def all_parameters_and_state_become_double(optimizer, case):
    for param in all_params(optimizer):
        param.data = param.data.double()
        for name in case.state_names:
            optimizer.state[param][name] = optimizer.state[param][name].double()


@change
def the_state_becomes_double_behind_the_dict(optimizer, case):
    for param in all_params(optimizer):
        param.data = param.data.double()
        for name in case.state_names:
            buffer = optimizer.state[param][name]
            buffer.data = buffer.data.double()


@change
def a_parameter_is_swapped_for_another_object(optimizer, case):
    param = all_params(optimizer)[1]
    torch.utils.swap_tensors(param, Parameter(filled(param.shape, 0.5)))


@change
def a_parameter_no_longer_requires_grad(optimizer, case):
    all_params(optimizer)[0].requires_grad_(False)


@change
def a_parameter_moves_into_shared_memory(optimizer, case):
    all_params(optimizer)[0].share_memory_()


@change
def the_values_of_a_parameter_are_overwritten(optimizer, case):
    with torch.no_grad():
        all_params(optimizer)[2].fill_(0.25)


# ----------------------------------------------------------------------------------------- state


@change
def the_state_of_a_parameter_is_deleted(optimizer, case):
    del optimizer.state[all_params(optimizer)[0]]


@change
def the_state_of_a_parameter_is_popped_and_put_back(optimizer, case):
    param = all_params(optimizer)[0]
    state = optimizer.state.pop(param)
    optimizer.state[param] = dict(state)


@change
def the_state_of_a_parameter_is_emptied(optimizer, case):
    optimizer.state[all_params(optimizer)[0]].clear()


@change
def all_state_is_cleared(optimizer, case):
    optimizer.state.clear()


@change
def the_state_is_replaced_by_a_new_defaultdict(optimizer, case):
    optimizer.state = defaultdict(dict)


@change
def the_state_is_replaced_by_a_copy(optimizer, case):
    optimizer.state = defaultdict(
        dict, {param: deepcopy(entries) for param, entries in optimizer.state.items()}
    )


@change
def a_state_entry_is_replaced(optimizer, case):
    param = all_params(optimizer)[0]
    for name in case.state_names:
        optimizer.state[param][name] = filled(param.shape, 0.5)


@change
def a_state_entry_is_updated_in_place(optimizer, case):
    optimizer.state[all_params(optimizer)[0]][case.state_names[0]].mul_(0.5)


@change
def a_state_entry_gets_other_storage(optimizer, case):
    param = all_params(optimizer)[0]
    optimizer.state[param][case.state_names[0]].data = filled(param.shape, 0.5)


@change
def the_state_of_two_parameters_is_exchanged_by_update(optimizer, case):
    first, second = all_params(optimizer)[1:]
    second.data = second.data[:5].clone()
    for name in case.state_names:
        optimizer.state[second][name] = optimizer.state[second][name][:5].clone()
    optimizer.state.update({first: optimizer.state[second], second: optimizer.state[first]})


@change
def the_step_is_set_back(optimizer, case):
    for entries in optimizer.state.values():
        if "step" in entries:
            entries["step"] = torch.tensor(1.0)


@change
def the_step_is_set_in_place(optimizer, case):
    for entries in optimizer.state.values():
        if "step" in entries:
            entries["step"].fill_(100)


# --------------------------------------------------------------------------- saving and restoring


@change
def its_own_state_is_loaded(optimizer, case):
    optimizer.load_state_dict(deepcopy(optimizer.state_dict()))


@change
def its_own_live_state_is_loaded(optimizer, case):
    optimizer.load_state_dict(optimizer.state_dict())


@change
def its_state_is_set_as_unpickling_does(optimizer, case):
    optimizer.__setstate__(optimizer.__getstate__())


@change
def a_state_without_entries_is_loaded(optimizer, case):
    saved = optimizer.state_dict()
    optimizer.load_state_dict({"state": {}, "param_groups": saved["param_groups"]})


@change
def nothing_happens(optimizer, case):
    pass


# ----------------------------------------------------------------------------------------- tests


def train(optimizer: Any, steps: int, generator: torch.Generator) -> None:
    for _ in range(steps):
        params = all_params(optimizer)
        set_grads(params, random_grads(params, generator))
        optimizer.step()


def start(optimizer_class: Any, case: OptimizerCase, **flags: bool) -> Any:
    generator = torch.Generator().manual_seed(0)
    groups = [
        {"params": [Parameter(random_tensor(shape, torch.float32, generator)) for shape in shapes]}
        for shapes in SHAPES
    ]
    return optimizer_class(groups, **case.arguments, **case.with_all_state, **flags)


@pytest.mark.parametrize("make_change", CHANGES, ids=lambda change: change.__name__)
@each_optimizer
def test_the_next_steps_are_those_of_torch_after(case, make_change, engine):
    results = []
    for optimizer_class, flags in ((case.ours, {}), (case.theirs, TRUSTED)):
        optimizer = start(optimizer_class, case, **flags)
        generator = torch.Generator().manual_seed(1)
        train(optimizer, 2, generator)
        make_change(optimizer, case)
        before = [param.detach().clone() for param in all_params(optimizer)]
        train(optimizer, 2, generator)
        after = all_params(optimizer)
        assert not any(map(torch.equal, after, before))
        state = [dict(optimizer.state[param]) for param in after]
        results.append((after, state, [group["lr"] for group in optimizer.param_groups]))

    ours, theirs = results
    torch.testing.assert_close(ours[0], theirs[0], rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(ours[1], theirs[1], rtol=2e-6, atol=2e-6)
    assert ours[2] == theirs[2]


@each_optimizer
def test_a_parameter_that_was_replaced_is_let_go(case):
    optimizer = start(case.ours, case)
    train(optimizer, 1, torch.Generator().manual_seed(0))
    old = all_params(optimizer)[0]
    replace_param(optimizer, 0, lambda value: value[:2].clone())
    frozen = old.detach().clone()
    train(optimizer, 2, torch.Generator().manual_seed(0))
    assert torch.equal(old, frozen)
    assert old not in optimizer.state


@each_optimizer
def test_noticing_a_change_does_not_disturb_parameters_without_gradient(case):
    optimizer = start(case.ours, case)
    train(optimizer, 1, torch.Generator().manual_seed(0))
    frozen, moving, _ = all_params(optimizer)
    before = frozen.detach().clone()
    state = {name: value.clone() for name, value in optimizer.state[frozen].items()}
    frozen.grad = None
    moving.data = moving.data.clone()
    optimizer.add_param_group({"params": [Parameter(torch.ones(2))]})
    optimizer.step()
    assert torch.equal(frozen, before)
    for name, value in state.items():
        assert torch.equal(optimizer.state[frozen][name], value)
