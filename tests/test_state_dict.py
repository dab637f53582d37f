"""Checkpoints, copies and pickles: exchanged with torch.optim, and loaded in place."""

import copy
import io
import pickle
from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from cases import DTYPE, each_optimizer, each_variant, random_tensor
from lockstep import TRUSTED, parameters_like, random_grads, set_grads

SHAPES = [[(4, 3), (5,)], [(), (6,)]]
TOLERANCE = DTYPE[torch.float32].tolerance


def new(optimizer_class: Any, **arguments: Any) -> Any:
    """An optimizer of two groups; its parameters are the same in every call."""
    generator = torch.Generator().manual_seed(0)
    groups = [
        {"params": [Parameter(random_tensor(shape, torch.float32, generator)) for shape in shapes]}
        for shapes in SHAPES
    ]
    flags = TRUSTED if optimizer_class.__module__.startswith("torch.") else {}
    return optimizer_class(groups, **{**flags, **arguments})


def all_params(optimizer: Any) -> list[Parameter]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def train(optimizer: Any, steps: int, seed: int = 1) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        params = all_params(optimizer)
        set_grads(params, random_grads(params, generator))
        optimizer.step()
    return optimizer


def copy_params(source: Any, target: Any) -> None:
    for param, other in zip(all_params(source), all_params(target), strict=True):
        other.data.copy_(param.data)


def structure(value: Any) -> Any:
    """Keys in their order, types, and of tensors what describes them."""
    if isinstance(value, dict):
        return {key: structure(one) for key, one in value.items()}, list(value)
    if isinstance(value, (list, tuple)):
        return type(value), [structure(one) for one in value]
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.device, value.requires_grad
    return type(value), value


def assert_goes_on_alike(one: Any, other: Any, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Both optimizers make the same steps from now on."""
    before = [param.detach().clone() for param in all_params(one)]
    for optimizer in (one, other):
        train(optimizer, 2, seed=2)
    torch.testing.assert_close(all_params(one), all_params(other), rtol=rtol, atol=atol)
    assert not any(map(torch.equal, all_params(one), before))


# --------------------------------------------------------------------- the dict, and torch.optim's


@each_variant
def test_the_state_dict_has_the_structure_and_values_of_torch(variant):
    case = variant.case
    ours = train(new(case.ours, **variant.arguments, **TRUSTED), 2)
    theirs = train(new(case.theirs, **variant.arguments), 2)
    our_state, their_state = ours.state_dict(), theirs.state_dict()
    assert structure(our_state) == structure(their_state)
    assert type(our_state["param_groups"][0]) is dict
    assert all(type(entries) is dict for entries in our_state["state"].values())
    for key, entries in their_state["state"].items():
        torch.testing.assert_close(our_state["state"][key], entries, rtol=TOLERANCE, atol=TOLERANCE)


@each_optimizer
def test_the_state_dict_of_an_untrained_optimizer_is_that_of_torch(case):
    ours, theirs = new(case.ours, **case.arguments, **TRUSTED), new(case.theirs, **case.arguments)
    assert ours.state_dict() == theirs.state_dict()


@each_variant
def test_training_goes_on_from_a_checkpoint_of_torch(variant, engine):
    case = variant.case
    theirs = train(new(case.theirs, **variant.arguments), 3)
    ours = new(case.ours, lr=9.0)
    copy_params(theirs, ours)
    ours.load_state_dict(theirs.state_dict())
    assert_goes_on_alike(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


@each_variant
def test_training_goes_on_in_torch_from_our_checkpoint(variant):
    case = variant.case
    ours = train(new(case.ours, **variant.arguments), 3)
    theirs = new(case.theirs, lr=9.0)
    copy_params(ours, theirs)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))  # torch shares what it loads
    assert_goes_on_alike(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


@each_variant
def test_a_checkpoint_survives_a_file_that_holds_only_weights(variant):
    case = variant.case
    optimizer = train(new(case.ours, **variant.arguments), 2)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert structure(saved) == structure(optimizer.state_dict())
    other = train(new(case.ours, **variant.arguments), 4, seed=5)
    copy_params(optimizer, other)
    other.load_state_dict(saved)
    assert_goes_on_alike(optimizer, other)


@each_optimizer
def test_state_tensors_alias_and_hypers_are_snapshots(case):
    optimizer = new(
        case.ours, **{**case.arguments, "lr": torch.tensor(0.05)}, **case.with_all_state
    )
    train(optimizer, 1)
    saved = optimizer.state_dict()
    for entries, param in zip(saved["state"].values(), all_params(optimizer), strict=True):
        for name in case.state_names:
            assert entries[name].data_ptr() == optimizer.state[param][name].data_ptr()
    optimizer.lr.fill_(7.0)
    train(optimizer, 1)
    assert saved["param_groups"][0]["lr"] == torch.tensor(0.05)
    for group in saved["param_groups"]:
        group["lr"].fill_(3.0)
    assert optimizer.lr.tolist() == [7.0, 7.0]
    saved["param_groups"][0]["weight_decay"] = 5.0
    saved["state"].clear()
    assert optimizer.param_groups[0]["weight_decay"] != 5.0
    assert len(optimizer.state) == 4


# ----------------------------------------------------------------------------------------- loading


@each_optimizer
def test_loading_writes_into_the_existing_storage(case, engine):
    source = train(new(case.theirs, **case.arguments, **case.with_all_state), 3)
    optimizer = train(new(case.ours, **case.arguments, **case.with_all_state), 1, seed=8)
    before = {
        (param, name): (value, value.data_ptr())
        for param, entries in optimizer.state.items()
        for name, value in entries.items()
    }
    table, groups = optimizer.lr, list(optimizer.param_groups)

    optimizer.load_state_dict(source.state_dict())

    assert optimizer.lr.data_ptr() == table.data_ptr()
    assert all(ours is was for ours, was in zip(optimizer.param_groups, groups, strict=True))
    for (param, name), (value, address) in before.items():
        assert optimizer.state[param][name] is value
        assert value.data_ptr() == address
    for ours, theirs in zip(all_params(optimizer), all_params(source), strict=True):
        torch.testing.assert_close(
            dict(optimizer.state[ours]), source.state[theirs], rtol=0, atol=0
        )


@each_optimizer
def test_loading_copies_so_that_the_checkpoint_stays_as_it_is(case, engine):
    source = train(new(case.theirs, **case.arguments, **case.with_all_state), 2)
    saved = source.state_dict()
    kept = copy.deepcopy(saved)
    optimizer = new(case.ours, **case.arguments)
    optimizer.load_state_dict(saved)
    train(optimizer, 2)
    torch.testing.assert_close(saved["state"], kept["state"], rtol=0, atol=0)
    assert saved["param_groups"] == kept["param_groups"]


@each_optimizer
def test_loading_takes_the_groups_hypers_and_extra_keys(case, engine):
    source = new(case.theirs, **case.arguments, **case.with_all_state)
    for key, value in case.edits.items():
        source.param_groups[1][key] = value
    source.param_groups[1].update(initial_lr=0.5, nickname=["head"])
    results = []
    for optimizer_class in (case.ours, case.theirs):
        optimizer = train(new(optimizer_class, lr=9.0), 1)
        optimizer.param_groups[0]["forgotten"] = 1
        optimizer.load_state_dict(copy.deepcopy(source.state_dict()))
        results.append(optimizer)
    for ours, theirs in zip(results[0].param_groups, results[1].param_groups, strict=True):
        assert {key: value for key, value in ours.items() if key != "params"} == {
            key: value for key, value in theirs.items() if key != "params"
        }
    assert_goes_on_alike(*results, rtol=TOLERANCE, atol=TOLERANCE)


@each_optimizer
def test_a_tensor_lr_stays_the_tensor_of_the_user_when_a_checkpoint_is_loaded(case, engine):
    lr = torch.tensor(0.05)
    param = Parameter(torch.ones(2))
    optimizer = case.ours([param], lr=lr)
    source = case.theirs([Parameter(torch.ones(2))], lr=torch.tensor(0.25), foreach=False)
    optimizer.load_state_dict(source.state_dict())
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == 0.25
    lr.fill_(0.0)
    param.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(param, torch.ones(2))


@pytest.mark.parametrize(
    ("own", "loaded"), [(0.05, torch.tensor(0.25)), (torch.tensor(0.05), 0.25)]
)
@each_optimizer
def test_float_and_tensor_lr_replace_each_other_as_in_torch(case, own, loaded, engine):
    results = []
    for optimizer_class in (case.ours, case.theirs):
        source = new(case.theirs, **{**case.arguments, "lr": copy.deepcopy(loaded)})
        optimizer = new(optimizer_class, **{**case.arguments, "lr": copy.deepcopy(own)})
        optimizer.load_state_dict(source.state_dict())
        results.append(optimizer)
    for ours, theirs in zip(results[0].param_groups, results[1].param_groups, strict=True):
        assert type(ours["lr"]) is type(theirs["lr"])
        assert ours["lr"] == theirs["lr"]
    assert_goes_on_alike(*results, rtol=TOLERANCE, atol=TOLERANCE)


def one_group_less(saved: dict[str, Any]) -> None:
    saved["param_groups"].pop()


def one_parameter_more(saved: dict[str, Any]) -> None:
    saved["param_groups"][1]["params"].append(9)


@pytest.mark.parametrize("spoil", [one_group_less, one_parameter_more], ids=lambda f: f.__name__)
@each_optimizer
def test_a_checkpoint_that_does_not_fit_raises_the_text_of_torch_and_changes_nothing(case, spoil):
    texts = []
    for optimizer_class in (case.theirs, case.ours):
        optimizer = train(new(optimizer_class, **case.arguments, **case.with_all_state), 1)
        saved = copy.deepcopy(train(new(case.theirs, lr=0.5), 2, seed=3).state_dict())
        spoil(saved)
        before = copy.deepcopy(optimizer.state_dict())
        with pytest.raises(ValueError, match="loaded state dict") as error:
            optimizer.load_state_dict(saved)
        texts.append(str(error.value))
        torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)
    assert texts[0] == texts[1]


def impossible_lr(saved: dict[str, Any]) -> None:
    saved["param_groups"][1]["lr"] = "fast"


def state_that_is_no_dict(saved: dict[str, Any]) -> None:
    saved["state"][3] = 1.0


@pytest.mark.parametrize(
    "spoil", [impossible_lr, state_that_is_no_dict], ids=lambda spoil: spoil.__name__
)
@each_optimizer
def test_a_checkpoint_that_cannot_be_loaded_changes_nothing(case, spoil):
    optimizer = train(new(case.ours, **case.arguments, **case.with_all_state), 1)
    source = train(new(case.ours, **case.arguments, **case.with_all_state), 2, seed=3)
    source.param_groups[0]["lr"] = 0.75
    saved = copy.deepcopy(source.state_dict())
    spoil(saved)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises((TypeError, ValueError, AttributeError)):
        optimizer.load_state_dict(saved)
    torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)


@each_optimizer
def test_checkpoints_of_older_versions_of_torch_are_loaded_as_torch_loads_them(case, engine):
    results = []
    for optimizer_class in (case.ours, case.theirs):
        saved = copy.deepcopy(train(new(case.theirs, **case.arguments), 2).state_dict())
        for group in saved["param_groups"]:
            for key in ("maximize", "foreach", "capturable", "differentiable", "fused"):
                group.pop(key, None)
        for entries in saved["state"].values():
            if "step" in entries:
                entries["step"] = int(entries["step"])
        optimizer = train(new(optimizer_class, **case.arguments), 1)
        optimizer.load_state_dict(saved)
        results.append(optimizer)
    ours, theirs = results
    for our_group, their_group in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert set(our_group) == set(their_group)
    assert_goes_on_alike(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


@each_optimizer
def test_entries_that_the_optimizer_does_not_know_are_kept(case, engine):
    results = []
    for optimizer_class in (case.ours, case.theirs):
        optimizer = train(new(optimizer_class, **case.arguments, **case.with_all_state), 1)
        for index, param in enumerate(all_params(optimizer)):
            optimizer.state[param].update(note=index, history=[torch.ones(2), 3])
        optimizer.state["global"] = {"epoch": 3}
        other = new(optimizer_class, **case.arguments)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        results.append(other.state_dict())
    assert structure(results[0]["state"]) == structure(results[1]["state"])
    assert results[0]["state"]["global"] == {"epoch": 3}
    assert results[0]["state"][2]["note"] == 2


@each_optimizer
def test_names_of_parameters_are_loaded_as_in_torch(case):
    def named(optimizer_class: Any, prefix: str | None) -> Any:
        params = [Parameter(torch.ones(2)), Parameter(torch.ones(3))]
        given = params if prefix is None else [(f"{prefix}{i}", p) for i, p in enumerate(params)]
        return optimizer_class(given, **case.arguments)

    for own, loaded in ((None, "b"), ("a", None), ("a", "b")):
        results = []
        for optimizer_class in (case.ours, case.theirs):
            optimizer = named(optimizer_class, own)
            optimizer.load_state_dict(named(case.theirs, loaded).state_dict())
            results.append(optimizer.param_groups[0].get("param_names"))
        assert results[0] == results[1]


@each_optimizer
def test_a_parameter_that_moved_between_groups_keeps_the_order_of_ids(case):
    optimizer = train(new(case.ours, **case.arguments), 1)
    optimizer.param_groups.reverse()
    saved = optimizer.state_dict()
    assert [group["params"] for group in saved["param_groups"]] == [[0, 1], [2, 3]]


# ------------------------------------------------------------------------------ copies and pickles


def deep_copied(value: Any) -> Any:
    return copy.deepcopy(value)


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def saved_and_loaded(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


each_copier = pytest.mark.parametrize(
    "copier", [deep_copied, pickled, saved_and_loaded], ids=lambda copier: copier.__name__
)


@pytest.mark.parametrize("steps_before", [0, 2])
@each_copier
@each_variant
def test_a_copy_goes_on_as_the_original_and_apart_from_it(variant, copier, steps_before):
    optimizer = train(new(variant.case.ours, **variant.arguments), steps_before)
    twin = copier(optimizer)
    assert type(twin) is type(optimizer)
    assert repr(twin) == repr(optimizer)
    assert twin.defaults == optimizer.defaults
    frozen = [param.detach().clone() for param in all_params(optimizer)]
    train(twin, 2, seed=2)
    assert all(map(torch.equal, all_params(optimizer), frozen))
    assert not any(map(torch.equal, all_params(twin), frozen))
    train(optimizer, 2, seed=2)
    assert all(map(torch.equal, all_params(optimizer), all_params(twin)))
    twin.param_groups[0]["lr"] = 0.0
    assert optimizer.lr[0] != 0.0


@each_copier
@each_optimizer
def test_a_model_and_its_optimizer_are_copied_together(case, copier):
    model = torch.nn.Linear(3, 2)
    optimizer = case.ours(model.parameters(), **case.arguments)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    model_copy, optimizer_copy = copier((model, optimizer))
    assert optimizer_copy.param_groups[0]["params"][0] is model_copy.weight
    before = model_copy.weight.detach().clone()
    model_copy(torch.ones(1, 3)).sum().backward()
    optimizer_copy.step()
    assert not torch.equal(model_copy.weight, before)


@each_copier
@each_optimizer
def test_a_copy_is_a_whole_optimizer(case, copier):
    twin = copier(train(new(case.ours, **case.arguments), 1))
    calls: list[str] = []
    twin.register_step_post_hook(lambda *_: calls.append("step"))
    twin.register_state_dict_pre_hook(lambda *_: calls.append("save"))
    twin.add_param_group({"params": [Parameter(torch.ones(1))]})
    train(twin, 1)
    twin.load_state_dict(twin.state_dict())
    twin.zero_grad()
    scheduler = torch.optim.lr_scheduler.StepLR(twin, 1)
    train(twin, 1)
    scheduler.step()
    assert calls == ["step", "save", "step"]
    assert twin.lr[0] == pytest.approx(case.arguments["lr"] / 10)


@pytest.mark.parametrize(
    "copier",
    [copy.copy, copy.deepcopy, pickled, lambda state: state.copy(), lambda state: state | {}],
)
@each_optimizer
def test_a_copy_of_the_state_alone_is_a_defaultdict_as_in_torch(case, copier):
    results = []
    for optimizer_class in (case.ours, case.theirs):
        optimizer = train(new(optimizer_class, **case.arguments, **case.with_all_state), 1)
        twin = copier(optimizer.state)
        assert isinstance(twin, defaultdict)
        twin["new"]["note"] = 1
        assert "new" not in optimizer.state
        twin.clear()
        assert len(optimizer.state) == 4
        entries = copier(optimizer.state[all_params(optimizer)[0]])
        entries.pop(case.state_names[0])
        assert case.state_names[0] in optimizer.state[all_params(optimizer)[0]]
        results.append(optimizer)
    assert_goes_on_alike(*results, rtol=TOLERANCE, atol=TOLERANCE)


@each_optimizer
def test_a_pickle_does_not_hold_packed_storage_more_than_once(case):
    params = [Parameter(torch.ones(1)) for _ in range(200)]
    optimizer = case.ours(params, **case.arguments, **case.with_all_state)
    set_grads(params, params)
    optimizer.step()
    reference = case.theirs(parameters_like(params), **case.arguments, **case.with_all_state)
    set_grads(all_params(reference), params)
    reference.step()
    assert len(pickle.dumps(optimizer)) < 1.2 * len(pickle.dumps(reference))
    sizes = []
    for one in (optimizer, reference):
        file = io.BytesIO()
        torch.save(one.state_dict(), file)
        sizes.append(file.tell())
    assert sizes[0] < 1.2 * sizes[1]
