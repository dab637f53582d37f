"""A step on a device never waits for it, the first one included: on kernels on the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode

import fusedlr
import interpreter
from cases import VARIANTS, Variant
from fusedlr import _backend, lr_scheduler
from fusedlr import schedules as s
from schedule_cases import REPRESENTATIVES, cases
from schedule_lockstep import make_optimizer

BY_ITSELF = cases(takes_metric=False, among=REPRESENTATIVES)


@pytest.fixture(autouse=True)
def _walked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEDLR_BACKEND", interpreter.KERNELS_ON_HOST)


class WithoutWaiting(TorchDispatchMode):
    """Within it nobody may ask a tensor for its number, or the device for anything."""

    def __enter__(self) -> Any:
        self._num_waits = num_waits()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if error[0] is None:
            assert num_waits() == self._num_waits

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        assert function is not torch.ops.aten._local_scalar_dense.default, "a number is asked for"
        return function(*args, **(kwargs or {}))


def num_waits() -> int:
    return _backend.extension.num_waits(interpreter.KERNELS_ON_HOST, torch.device("cpu"))


def device_tensor(number: float) -> torch.Tensor:
    """Of a dtype that the host can only read through torch, as it would read a device."""
    return torch.tensor(number, dtype=torch.bfloat16)


def params(*shapes: tuple[int, ...]) -> list[Parameter]:
    made = [Parameter(torch.ones(shape)) for shape in shapes]
    for param in made:
        param.grad = torch.full_like(param, 0.5)
    return made


def step_without_waiting(optimizer: Any, *schedulers: Any, steps: int = 3) -> None:
    before = [
        param.detach().clone() for group in optimizer.param_groups for param in group["params"]
    ]
    for _ in range(steps):
        with WithoutWaiting():
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
    after = [param for group in optimizer.param_groups for param in group["params"]]
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_no_step_of_an_optimizer_waits(variant: Variant) -> None:
    groups = [{"params": params((3, 5), (7,))}, {"params": params((1,)), "lr": 0.05}]
    step_without_waiting(variant.case.ours(groups, **variant.arguments))


@pytest.mark.parametrize("lr_kind", [float, device_tensor])
@pytest.mark.parametrize("case", BY_ITSELF, ids=str)
def test_no_step_of_a_scheduler_waits(case: Any, lr_kind: Any) -> None:
    optimizer = make_optimizer(fusedlr, lr=lr_kind, name=case.optimizer)
    scheduler = case.build(fusedlr, optimizer)
    optimizer.step()
    scheduler.step()
    step_without_waiting(optimizer, scheduler)


@pytest.mark.parametrize("num_groups", [1, 3])
def test_a_step_with_a_tensor_of_the_device_as_lr_does_not_wait(num_groups: int) -> None:
    lr = device_tensor(0.5)
    optimizer = fusedlr.SGD([{"params": params((3,))} for _ in range(num_groups)], lr=lr)
    step_without_waiting(optimizer)
    lr.fill_(0.25)
    assert [group["lr"].item() for group in optimizer.param_groups] == [0.25] * num_groups


def test_a_step_with_schedules_and_a_history_does_not_wait() -> None:
    optimizer = fusedlr.SGD(params((3,)), lr=s.cosine(0.5, 0.1, steps=10))
    with fusedlr.History(optimizer, 10) as history:
        step_without_waiting(optimizer)
    assert len(history) == 3


def test_a_step_after_steps_were_loaded_from_the_host_does_not_wait() -> None:
    optimizer = fusedlr.AdamW(params((3,)))
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    step_without_waiting(optimizer)


def test_sgd_builds_its_plans_without_asking_where_its_momentum_stands() -> None:
    optimizer = fusedlr.SGD(params((3,)), lr=0.5)
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    step_without_waiting(optimizer, scheduler)
    optimizer.add_param_group({"params": params((2,)), "lr": 0.5, "initial_lr": 0.5})
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    step_without_waiting(optimizer, scheduler)


def test_a_group_that_nobody_has_moved_is_read_without_waiting() -> None:
    optimizer = fusedlr.AdamW(params((3,)), weight_decay=s.linear(0.1, 0.0, steps=4))
    optimizer.step()
    first = optimizer.param_groups[0]["weight_decay"]
    before = num_waits()
    assert optimizer.param_groups[0]["weight_decay"] == first
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert num_waits() == before
    optimizer.step()
    assert optimizer.param_groups[0]["weight_decay"] != first


def test_reading_while_a_graph_records_is_refused_by_name() -> None:
    optimizer = fusedlr.AdamW(params((3,)))
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    optimizer.step()
    scheduler.step()
    graph = _backend.extension.HostGraph()
    graph.begin_()
    try:
        scheduler.step()
        with pytest.raises(RuntimeError, match="before or after the capture"):
            scheduler.get_last_lr()
    finally:
        graph.end_()
