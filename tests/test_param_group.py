"""Param groups: every edit is seen by the next step, every read gives what the step will use."""

import copy
import gc
import io
import json
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from cases import DTYPE, OPTIMIZERS, OptimizerCase, each_optimizer, random_tensor
from lockstep import TRUSTED, random_grads, set_grads

TOLERANCE = DTYPE[torch.float32].tolerance

# How a group can be edited: (group, key, value).
EDITS: dict[str, Callable[[Any, str, Any], Any]] = {
    "item": lambda group, key, value: group.__setitem__(key, value),
    "update with a dict": lambda group, key, value: group.update({key: value}),
    "update with keywords": lambda group, key, value: group.update(**{key: value}),
    "update with pairs": lambda group, key, value: group.update([(key, value)]),
    "or-assignment": lambda group, key, value: group.__ior__({key: value}),
    "pop and item": lambda group, key, value: (group.pop(key), group.__setitem__(key, value)),
    "del and setdefault": lambda group, key, value: (
        group.__delitem__(key),
        group.setdefault(key, value),
    ),
    "setdefault does nothing, then item": lambda group, key, value: (
        group.setdefault(key, "ignored"),
        group.__setitem__(key, value),
    ),
}

# How the lr can be read out of a group.
READS: dict[str, Callable[[Any], Any]] = {
    "item": lambda group: group["lr"],
    "get": lambda group: group.get("lr"),
    "get with default": lambda group: group.get("lr", 9.0),
    "setdefault": lambda group: group.setdefault("lr", 9.0),
    "items": lambda group: dict(group.items())["lr"],
    "values": lambda group: list(group.values())[list(group).index("lr")],
    "iteration": lambda group: {key: group[key] for key in group}["lr"],
    "reversed": lambda group: {key: group[key] for key in reversed(group)}["lr"],
    "reversed keys": lambda group: {key: group[key] for key in reversed(group.keys())}["lr"],
    "reversed items": lambda group: dict(reversed(group.items()))["lr"],
    "reversed values": lambda group: list(reversed(group.values()))[~list(group).index("lr")],
    "dict": lambda group: dict(group)["lr"],
    "dict with keywords": lambda group: dict(group, nickname="head")["lr"],
    "double star": lambda group: {**group}["lr"],
    "keyword arguments": lambda group: (lambda **entries: entries["lr"])(**group),
    "copy": lambda group: group.copy()["lr"],
    "copy.copy": lambda group: copy.copy(group)["lr"],
    "deepcopy": lambda group: copy.deepcopy(group)["lr"],
    "pickle": lambda group: pickle.loads(pickle.dumps(group))["lr"],
    "or": lambda group: (group | {})["lr"],
    "reflected or": lambda group: ({} | group)["lr"],
    "update of another dict": lambda group: _updated({}, group)["lr"],
    "json": lambda group: json.loads(json.dumps({**group, "params": []}))["lr"],
    "format": lambda group: float("{lr}".format(**group)),
    "format_map": lambda group: float("{lr}".format_map(group)),
    "match": lambda group: _matched(group),
    "pop": lambda group: _popped(group),
    "equality": lambda group: next(lr for lr in (0.05, 0.75) if group == {**group, "lr": lr}),
}


def _updated(target: dict[str, Any], group: Any) -> dict[str, Any]:
    target.update(group)
    return target


def _matched(group: Any) -> Any:
    match group:
        case {"lr": lr}:
            return lr


def _popped(group: Any) -> Any:
    lr = group.pop("lr")
    group["lr"] = lr
    return lr


def twins(case: OptimizerCase, **arguments: Any) -> list[Any]:
    """Our optimizer and torch's, of two groups with equal parameters."""
    optimizers = []
    for optimizer_class, flags in ((case.ours, {}), (case.theirs, TRUSTED)):
        generator = torch.Generator().manual_seed(0)
        groups = [
            {"params": [Parameter(random_tensor((5,), torch.float32, generator))]} for _ in range(2)
        ]
        given = copy.deepcopy({**case.arguments, **arguments})
        optimizers.append(optimizer_class(groups, **flags, **given))
    return optimizers


def all_params(optimizer: Any) -> list[Parameter]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def train(optimizers: list[Any], steps: int = 1, seed: int = 1) -> None:
    for optimizer in optimizers:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            params = all_params(optimizer)
            set_grads(params, random_grads(params, generator))
            optimizer.step()


def assert_alike(optimizers: list[Any]) -> None:
    ours, theirs = map(all_params, optimizers)
    torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


def one_param_optimizer(case: OptimizerCase, lr: Any) -> tuple[Parameter, Any]:
    param = Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    return param, case.ours([param], **{**case.arguments, "lr": lr})


def step_size(param: Parameter, optimizer: Any) -> float:
    """How far a step moves: in proportion to the lr, without decay and earlier state."""
    optimizer.state.clear()
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    before = param.detach().clone()
    optimizer.step()
    return (before - param.detach()).mean().item()


# ------------------------------------------------------------------------------------------- edits


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize(
    ("case", "key"),
    [pytest.param(case, key, id=f"{case}-{key}") for case in OPTIMIZERS for key in case.edits],
)
def test_an_edit_of_any_hyper_by_any_method_is_seen_by_the_next_step(case, key, edit, engine):
    for arguments in ({}, case.with_all_state):
        optimizers = twins(case, **arguments)
        train(optimizers, 2)
        for optimizer in optimizers:
            edit(optimizer.param_groups[1], key, case.edits[key])
            assert optimizer.param_groups[1][key] == case.edits[key]
        before = [param.detach().clone() for param in all_params(optimizers[0])]
        train(optimizers, 2, seed=2)
        assert_alike(optimizers)
        assert not any(map(torch.equal, all_params(optimizers[0]), before))
        assert set(optimizers[0].param_groups[1]) == set(optimizers[1].param_groups[1])


@each_optimizer
def test_augmented_assignment_to_the_lr_is_seen_by_the_next_step(case, engine):
    for lr in (0.05, torch.tensor(0.05), torch.tensor([0.05], dtype=torch.float64)):
        optimizers = twins(case)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = copy.deepcopy(lr)
        for factor in (0.1, 30.0):
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] *= factor
            train(optimizers)
            assert_alike(optimizers)
        assert optimizers[0].lr.tolist() == pytest.approx([0.15, 0.15])


@each_optimizer
def test_an_edit_of_one_group_leaves_the_others_alone(case):
    optimizer, _ = twins(case)
    before = dict(optimizer.param_groups[0])
    for key, value in case.edits.items():
        optimizer.param_groups[1][key] = value
    assert optimizer.param_groups[0] == before


@each_optimizer
def test_unknown_keys_are_kept_and_can_be_removed(case):
    optimizer, _ = twins(case)
    group = optimizer.param_groups[0]
    group["nickname"] = "head"
    assert group["nickname"] == "head"
    assert "nickname" in optimizer.state_dict()["param_groups"][0]
    assert group.pop("nickname") == "head"
    assert "nickname" not in group
    assert group.get("nickname") is None
    assert group.pop("nickname", 7) == 7
    for missing in (lambda: group["nickname"], lambda: group.pop("nickname")):
        with pytest.raises(KeyError, match="nickname"):
            missing()
    group["last"] = 1
    assert group.popitem() == ("last", 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", "fast"),
        ("lr", None),
        ("lr", [0.1]),
        ("lr", torch.tensor([0.1, 0.2])),
        ("weight_decay", "much"),
        ("weight_decay", {}),
    ],
)
@pytest.mark.parametrize("edit", ["item", "update with a dict", "or-assignment"])
@each_optimizer
def test_a_value_of_the_wrong_type_is_refused_by_group_and_key_and_changes_nothing(
    case, edit, key, value
):
    optimizer, _ = twins(case)
    before = optimizer.param_groups[1][key]
    with pytest.raises((TypeError, ValueError), match=rf"param_groups\[1\]\['{key}'\]"):
        EDITS[edit](optimizer.param_groups[1], key, value)
    assert optimizer.param_groups[1][key] == before
    params = [param.detach().clone() for param in all_params(optimizer)]
    train([optimizer])
    assert not any(map(torch.equal, all_params(optimizer), params))


@pytest.mark.parametrize("value", [0.9, (0.9,), (0.9, 0.9, 0.9), ("a", 0.9), (0.9, None), None])
@pytest.mark.parametrize("case", [row for row in OPTIMIZERS if "betas" in row.edits], ids=str)
def test_a_value_that_is_no_pair_of_betas_is_refused_by_group(case, value):
    optimizer, _ = twins(case)
    before = optimizer.param_groups[1]["betas"]
    with pytest.raises((TypeError, ValueError), match=r"param_groups\[1\]\['betas'\]"):
        optimizer.param_groups[1]["betas"] = value
    assert optimizer.param_groups[1]["betas"] == before


# ------------------------------------------------------------------------------------------- reads


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@each_optimizer
def test_every_way_of_reading_gives_the_lr_that_the_next_step_uses(case, read, engine):
    _, optimizer = one_param_optimizer(case, 0.05)
    group = optimizer.param_groups[0]
    assert read(group) == 0.05
    optimizer.lr.fill_(0.75)
    assert read(group) == 0.75
    assert type(read(group)) is float
    group["lr"] = 0.05
    assert read(group) == 0.05


@pytest.mark.parametrize(
    "given",
    [0.05, 1, 0, 1e-300, np.float64(0.1), np.float32(0.1), np.int64(1), True],
    ids=lambda value: f"{type(value).__name__} {value}",
)
@each_optimizer
def test_a_number_reads_back_as_it_was_given(case, given, engine):
    _, optimizer = one_param_optimizer(case, 0.3)
    optimizer.param_groups[0]["lr"] = given
    assert type(optimizer.param_groups[0]["lr"]) is type(given)
    assert optimizer.param_groups[0]["lr"] == given
    assert optimizer.lr.item() == float(given)


@each_optimizer
def test_a_float_lr_keeps_all_its_digits(case, engine):
    param, optimizer = one_param_optimizer(case, 0.05)
    assert repr(optimizer.param_groups[0]["lr"]) == "0.05"
    for _ in range(3):
        optimizer.step()
    assert repr(optimizer.param_groups[0]["lr"]) == "0.05"
    assert optimizer.lr.dtype == torch.float64
    assert optimizer.lr.item() == 0.05
    assert optimizer.lr.device == param.device


@each_optimizer
def test_a_group_equals_a_dict_and_prints_as_one(case):
    optimizer, reference = twins(case)
    for group, other in zip(optimizer.param_groups, reference.param_groups, strict=True):
        plain = {**other, "params": group["params"], "foreach": None, "fused": None}
        assert group == plain
        assert plain == group
        assert group != {**plain, "lr": 7.0}
        assert repr(group) == repr(plain)
        assert isinstance(group, dict)


# ---------------------------------------------------------------------------------- the lr tensor


@each_optimizer
def test_the_lr_tensor_holds_the_lr_of_every_group(case, engine):
    optimizer, _ = twins(case)
    optimizer.param_groups[1]["lr"] = 0.5
    assert optimizer.lr.tolist() == [case.arguments["lr"], 0.5]
    optimizer.add_param_group({"params": [Parameter(torch.ones(1))], "lr": 2})
    assert optimizer.lr.tolist() == [case.arguments["lr"], 0.5, 2.0]
    assert optimizer.lr.shape == (3,)


@pytest.mark.parametrize(
    "write",
    [
        lambda lr: lr.fill_(0.3),
        lambda lr: lr.mul_(6.0),
        lambda lr: lr.__setitem__(slice(None), 0.3),
        lambda lr: lr.copy_(torch.tensor([0.3, 0.3])),
        lambda lr: lr[0].fill_(0.3) + lr[1].fill_(0.3),
    ],
)
@each_optimizer
def test_writing_into_the_lr_tensor_is_seen_by_the_next_step_and_by_the_groups(case, write, engine):
    check_that_a_write_is_seen(case, write)


# Memory of a device is none of NumPy's.
@pytest.mark.parametrize("backend", ["cpu", "torch"])
@each_optimizer
def test_numpy_can_write_into_the_lr_tensor_of_the_host(case, backend, monkeypatch):
    monkeypatch.setenv("FUSEDLR_BACKEND", backend)
    check_that_a_write_is_seen(case, lambda lr: lr.numpy().fill(0.3))


def check_that_a_write_is_seen(case, write):
    optimizers = twins(case)
    train(optimizers)
    write(optimizers[0].lr)
    for group in optimizers[1].param_groups:
        group["lr"] = 0.3
    assert [group["lr"] for group in optimizers[0].param_groups] == pytest.approx([0.3, 0.3])
    train(optimizers, 2)
    assert_alike(optimizers)
    saved = optimizers[0].state_dict()["param_groups"]
    assert [group["lr"] for group in saved] == pytest.approx([0.3, 0.3])


@each_optimizer
def test_an_lr_of_zero_freezes_a_group_and_only_that(case, engine):
    optimizer, _ = twins(case)
    frozen, moving = all_params(optimizer)
    before = [param.detach().clone() for param in (frozen, moving)]
    optimizer.param_groups[0]["lr"] = 0.0
    train([optimizer], 3)
    assert torch.equal(frozen, before[0])
    assert not torch.equal(moving, before[1])
    optimizer.param_groups[0]["lr"] = 0.05
    train([optimizer])
    assert not torch.equal(frozen, before[0])


# ---------------------------------------------------------------------------------- tensors as lr

LR_TENSORS = {
    "0-dim": torch.tensor(0.05),
    "1-dim": torch.tensor([0.05]),
    "2-dim": torch.tensor([[0.05]]),
    "float64": torch.tensor(0.05, dtype=torch.float64),
    "bfloat16": torch.tensor(0.05, dtype=torch.bfloat16),
    "float16": torch.tensor(0.05, dtype=torch.float16),
    "part of a larger tensor": torch.full((3,), 0.05)[1],
}

each_lr_tensor = pytest.mark.parametrize("lr", LR_TENSORS.values(), ids=LR_TENSORS)


@each_lr_tensor
@each_optimizer
def test_a_group_keeps_the_tensor_that_the_user_gave(case, lr, engine):
    lr = lr.clone()
    param, optimizer = one_param_optimizer(case, lr)
    value = lr.item()
    for _ in range(2):
        assert optimizer.param_groups[0]["lr"] is lr
        assert dict(optimizer.param_groups[0])["lr"] is lr
        assert lr.item() == value
        optimizer.step()
    assert optimizer.lr.item() == value
    assert not torch.equal(param, torch.ones(3))


@pytest.mark.parametrize(
    "write",
    [
        lambda lr: lr.fill_(0.25),
        lambda lr: lr.mul_(5).clamp_(0.25, 0.25),
        lambda lr: lr.copy_(torch.tensor(0.25)),
        lambda lr: lr.data.fill_(0.25),
        lambda lr: lr.view(-1)[0].fill_(0.25),
        lambda lr: lr.untyped_storage().copy_(torch.full_like(lr, 0.25).untyped_storage()),
    ],
)
@each_lr_tensor
@each_optimizer
def test_writing_into_the_tensor_of_the_user_is_seen_by_the_next_step(case, lr, write, engine):
    lr = lr.clone()
    param, optimizer = one_param_optimizer(case, lr)
    _, reference = one_param_optimizer(case, 0.25)
    optimizer.step()
    write(lr)
    assert optimizer.lr.item() == 0.25
    assert step_size(param, optimizer) == pytest.approx(
        step_size(all_params(reference)[0], reference), rel=1e-5
    )
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == 0.25


@each_optimizer
def test_a_tensor_may_be_assigned_replaced_by_a_float_and_is_then_let_go(case, engine):
    param, optimizer = one_param_optimizer(case, 0.05)
    lr = torch.tensor(0.5)
    optimizer.param_groups[0]["lr"] = lr
    assert optimizer.param_groups[0]["lr"] is lr
    large = step_size(param, optimizer)
    optimizer.param_groups[0]["lr"] = 0.05
    lr.fill_(123.0)
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert step_size(param, optimizer) == pytest.approx(large / 10, rel=1e-5)
    assert lr.item() == 123.0


@each_optimizer
def test_writing_into_the_lr_tensor_reaches_the_tensor_of_the_user(case, engine):
    lr = torch.tensor(0.05)
    param, optimizer = one_param_optimizer(case, lr)
    small = step_size(param, optimizer)
    optimizer.lr.fill_(0.5)
    assert optimizer.param_groups[0]["lr"].item() == 0.5
    assert optimizer.state_dict()["param_groups"][0]["lr"].item() == 0.5
    assert step_size(param, optimizer) == pytest.approx(10 * small, rel=1e-5)
    assert lr.item() == 0.5
    lr.fill_(0.05)
    assert step_size(param, optimizer) == pytest.approx(small, rel=1e-5)


@pytest.mark.parametrize("case", [row for row in OPTIMIZERS if "betas" in row.edits], ids=str)
def test_tensor_betas_stay_live(case, engine):
    betas = torch.tensor(0.9), torch.tensor(0.99)
    optimizers = twins(case, betas=(0.9, 0.99))
    optimizers[0].param_groups[0]["betas"] = betas
    train(optimizers)
    betas[0].fill_(0.5)
    betas[1].fill_(0.8)
    optimizers[1].param_groups[0]["betas"] = (0.5, 0.8)
    train(optimizers, 2)
    ours, theirs = (optimizer.param_groups[0]["params"] for optimizer in optimizers)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert optimizers[0].param_groups[0]["betas"][0] is betas[0]


@each_optimizer
def test_a_tensor_weight_decay_stays_live(case, engine):
    optimizers = twins(case, weight_decay=0.1)
    weight_decay = torch.tensor(0.1, dtype=torch.float64)
    optimizers[0].param_groups[0]["weight_decay"] = weight_decay
    for value in (0.1, 0.4):
        weight_decay.fill_(value)
        optimizers[1].param_groups[0]["weight_decay"] = value
        train(optimizers, 2)
        assert_alike(optimizers)


# --------------------------------------------------------------------------- snapshots and files


@pytest.mark.parametrize("lr", [0.05, torch.tensor(0.05)], ids=["float", "tensor"])
@each_optimizer
def test_a_saved_group_never_changes_with_the_optimizer(case, lr, engine):
    _, optimizer = one_param_optimizer(case, copy.deepcopy(lr))
    saved = [
        optimizer.state_dict()["param_groups"][0],
        copy.deepcopy(optimizer.param_groups[0]),
        pickle.loads(pickle.dumps(optimizer.param_groups[0])),
    ]
    optimizer.lr.fill_(0.5)
    optimizer.step()
    for group in saved:
        assert type(group) is dict
        assert group["lr"] == lr
        if isinstance(lr, Tensor):
            group["lr"].fill_(9.0)
    assert optimizer.lr.item() == 0.5


@each_optimizer
def test_a_group_survives_torch_save(case):
    _, optimizer = one_param_optimizer(case, 0.05)
    optimizer.lr.fill_(0.5)
    file = io.BytesIO()
    torch.save({**optimizer.param_groups[0], "params": []}, file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["lr"] == 0.5


@each_optimizer
def test_an_optimizer_belongs_to_no_reference_cycle(case):
    param, optimizer = one_param_optimizer(case, torch.tensor(0.05))
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    watched = weakref.ref(optimizer)
    gc.collect()
    gc.disable()
    try:
        del optimizer
        assert watched() is None
    finally:
        gc.enable()
    assert param.grad is not None
