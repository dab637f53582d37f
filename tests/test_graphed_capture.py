"""What a GraphedTrainStep does around its graph; torch.cuda is a stand-in (see there)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import OptState

import fusedlr
from fusedlr import GraphedTrainStep
from graphed_training import SETUPS, Setup, Training, bits, mean_loss, train
from stand_in_cuda import StandInCuda


@pytest.fixture(autouse=True)
def cuda(monkeypatch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield StandInCuda(monkeypatch)


def values(training: Training) -> list[Tensor]:
    return [param.detach().clone() for param in training.model.parameters()]


def trained(training: Training) -> Any:
    """All that the stand-in of a capture leaves alone: it runs forward and backward for once."""
    of_params = [None if grad is None else grad.clone() for grad in grads(training)]
    return bits([values(training), training.optimizer.state_dict(), of_params])


def grads(training: Training) -> list[Any]:
    return [param.grad for param in training.model.parameters()]


# ------------------------------------------------------------------------------- what replays read


def test_a_lr_tensor_that_the_device_does_not_read_by_itself_is_live_in_replays():
    # As one on the CPU where the parameters are on a GPU; here its dtype keeps it on the host.
    lr = torch.tensor(0)
    training = Training(Setup(optimizer=lambda model: fusedlr.SGD(model.parameters(), lr=lr)))
    step = training.graphed()
    before = values(training)
    train(training, step, 2)
    assert bits(values(training)) == bits(before)

    lr.fill_(1)
    train(training, step, 1)

    moved = [one - grad for one, grad in zip(before, grads(training), strict=True)]
    assert bits(values(training)) == bits(moved) != bits(before)
    assert training.optimizer.param_groups[0]["lr"] is lr


def test_inputs_that_require_gradients_leave_nothing_of_autograd_behind():
    training = Training(Setup())
    x, target = training.new_batch()
    step = training.graphed(example_inputs=(x.requires_grad_(), target))
    for _ in range(2):
        step(2 * x, target)  # which autograd knows the origin of
    buffer = step._captured.batch[0]
    assert torch.equal(buffer, 2 * x)
    assert buffer.grad_fn is None
    assert not buffer.requires_grad
    assert x.grad is None


class OfItsInputs(nn.Module):
    """Asks for gradients of its inputs, as a physics-informed network does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x.requires_grad_()
        outputs: Tensor = self.layer(x)
        (slope,) = torch.autograd.grad(outputs.square().sum(), x, create_graph=True)
        return outputs + slope.sum()


def test_a_model_may_ask_for_gradients_of_its_inputs():
    model = OfItsInputs()
    optimizer = fusedlr.SGD(model.parameters(), lr=0.1)
    batch = Training(Setup()).new_batch()
    step = GraphedTrainStep(model, mean_loss, optimizer, example_inputs=batch)
    before = model.layer.weight.detach().clone()
    step(*batch)
    step(*batch)
    assert not torch.equal(model.layer.weight, before)
    assert batch[0].grad is None


class WithGaps(nn.Module):
    """Its weight is a view of every second column, which gets gradients without gaps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 12)[:, ::2])

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


def test_a_parameter_with_gaps_in_memory_can_be_captured():
    model = WithGaps()
    assert not model.weight.is_contiguous()
    optimizer = fusedlr.SGD(model.parameters(), lr=1.0)
    batch = Training(Setup()).new_batch()
    step = GraphedTrainStep(model, mean_loss, optimizer, example_inputs=batch)
    before = model.weight.detach().clone()
    step(*batch)
    assert model.weight.grad.is_contiguous()
    assert torch.equal(model.weight, before - model.weight.grad)
    assert not torch.equal(model.weight, before)


# --------------------------------------------------------------------------------- gradients


def test_building_a_step_changes_nothing_gradients_included():
    training = Training(Setup())
    train(training, training.step_by_hand, 2)
    example = training.new_batch()
    of_user = grads(training)
    before = trained(training)

    step = training.graphed(example_inputs=example)

    assert step.is_captured
    assert trained(training) == before
    assert all(one is other for one, other in zip(grads(training), of_user, strict=True))


def drop(training: Training, step: Any) -> None:
    training.optimizer.zero_grad()


def replace(training: Training, step: Any) -> None:
    for param in training.model.parameters():
        param.grad = torch.ones_like(param)


def step_by_hand(training: Training, step: Any) -> None:
    train(training, training.step_by_hand, 1)


def step_with_another_graph(training: Training, step: Any) -> None:
    train(training, training.graphed(), 1)


@pytest.mark.parametrize(
    "between", [drop, replace, step_by_hand, step_with_another_graph], ids=lambda one: one.__name__
)
def test_after_each_call_the_gradients_are_those_of_the_graph(between):
    training = Training(Setup())
    step = training.graphed()
    train(training, step, 1)
    of_graph = grads(training)
    between(training, step)
    assert not any(one is other for one, other in zip(grads(training), of_graph, strict=True))

    train(training, step, 1)

    assert None not in of_graph
    assert all(one is other for one, other in zip(grads(training), of_graph, strict=True))


def test_a_parameter_that_the_loss_does_not_reach_has_no_gradient_after_a_call():
    training = Training(Setup())
    training.model.unused = nn.Parameter(torch.ones(2))
    step = training.graphed()
    training.model.unused.grad = torch.ones(2)
    train(training, step, 1)
    assert training.model.unused.grad is None


# --------------------------------------------------------------------------- a capture that fails

HOW_IT_FAILS = ["capture_begin", "capture_end"]


@pytest.mark.parametrize("fails_in", HOW_IT_FAILS)
@pytest.mark.parametrize("name", ["plain", "scaler without overflow"])
def test_a_capture_that_fails_leaves_nothing_behind(name, fails_in, cuda):
    training = Training(SETUPS[name])
    train(training, training.step_by_hand, 2)
    example = training.new_batch()
    before = trained(training)
    of_user = grads(training)
    cuda.fails_in = fails_in

    with pytest.raises(RuntimeError, match=r"could not be captured .* restart the process") as info:
        training.graphed(example_inputs=example)

    assert str(info.value.__cause__) == f"CUDA error: {fails_in} failed"
    assert cuda.current is cuda.default
    assert trained(training) == before
    assert all(one is other for one, other in zip(grads(training), of_user, strict=True))
    cuda.fails_in = ""
    train(training, training.step_by_hand, 1)  # a scaler refuses to unscale twice
    assert trained(training) != before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_step_that_raises_during_its_capture_leaves_nothing_behind(error, cuda):
    training = Training(SETUPS["scaler without overflow"])
    example = training.new_batch()

    def failing_step(closure: Any = None) -> None:
        assert training.scaler._per_optimizer_states[id(training.optimizer)]["stage"] is (
            OptState.UNSCALED
        )
        raise error("of the step")

    before = grads(training), bits(training.scaler.state_dict())
    training.optimizer.step = failing_step
    with pytest.raises(error, match="of the step"):
        training.graphed(example_inputs=example)
    del training.optimizer.step

    assert cuda.current is cuda.default
    assert (grads(training), bits(training.scaler.state_dict())) == before
    assert id(training.optimizer) not in training.scaler._per_optimizer_states
    train(training, training.step_by_hand, 1)


def test_the_current_stream_waits_for_a_warm_up_that_raises(cuda):
    training = Training(Setup())
    waited_before_the_error = []

    def failing_loss(outputs: Tensor, target: Tensor) -> Tensor:
        waited_before_the_error.append(cuda.streams[0] in cuda.default.has_waited_for)
        raise ArithmeticError("of the loss")

    with pytest.raises(ArithmeticError, match="of the loss"):
        GraphedTrainStep(
            training.model,
            failing_loss,
            training.optimizer,
            example_inputs=training.new_batch(),
        )
    assert waited_before_the_error == [False]
    assert cuda.default.has_waited_for == cuda.streams
    assert cuda.current is cuda.default
