"""Graphs that are captured by hand and by torch's own wrappers, around models and our steps."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import fusedlr
from cases import each_optimizer

pytestmark = pytest.mark.gpu


def new_model() -> torch.nn.Sequential:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)]
    return torch.nn.Sequential(*layers).cuda()


def train_model(model: Any, forward: Any, optimizer: Any, scheduler: Any, steps: int = 10) -> Any:
    torch.manual_seed(1)
    for _ in range(steps):
        inputs = torch.randn(8, 16, device="cuda")
        optimizer.zero_grad(set_to_none=True)
        forward(inputs).square().mean().backward()
        optimizer.step()
        scheduler.step()
    return [param.detach().clone() for param in model.parameters()]


@each_optimizer
def test_a_model_of_make_graphed_callables_trains_as_the_eager_one(case):
    results = []
    for is_graphed in (False, True):
        model = new_model()
        optimizer = case.ours(model.parameters(), **case.arguments)
        scheduler = fusedlr.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
        forward = model
        if is_graphed:
            sample = (torch.randn(8, 16, device="cuda"),)
            forward = torch.cuda.make_graphed_callables(model, sample)
        results.append(train_model(model, forward, optimizer, scheduler))
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-6)
    assert not torch.equal(results[1][0], new_model()[0].weight)


@each_optimizer
def test_a_whole_training_step_may_be_captured_by_hand(case):
    results = []
    for is_graphed in (False, True):
        model = new_model()
        optimizer = case.ours(model.parameters(), **case.arguments)
        scheduler = fusedlr.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
        inputs = torch.zeros(8, 16, device="cuda")

        def step(model=model, optimizer=optimizer, scheduler=scheduler, inputs=inputs):
            optimizer.zero_grad(set_to_none=True)
            model(inputs).square().mean().backward()
            optimizer.step()
            scheduler.step()

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # parts of the training, as a graph of torch's documentation has it
                step()
        torch.cuda.current_stream().wait_stream(stream)
        replay = step
        if is_graphed:
            graph = torch.cuda.CUDAGraph()
            optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph):
                step()
            replay = graph.replay
        torch.manual_seed(1)
        for _ in range(10):
            inputs.copy_(torch.randn(8, 16))
            replay()
        results.append([param.detach().cpu() for param in model.parameters()])
        assert scheduler.last_epoch == 13
        assert optimizer.param_groups[0]["lr"] == pytest.approx(case.arguments["lr"] * 0.9**13)
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-6)
    assert not torch.equal(results[1][0], new_model()[0].weight.detach().cpu())


@each_optimizer
def test_gradients_dropped_before_the_capture_are_made_anew_by_each_replay(case):
    model = new_model()
    optimizer = case.ours(model.parameters(), **{**case.arguments, "lr": 0.0})
    inputs = torch.randn(8, 16, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model(inputs).square().mean().backward()
    torch.cuda.current_stream().wait_stream(side)
    optimizer.zero_grad(set_to_none=True)
    optimizer.materialize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(inputs).square().mean().backward()
        optimizer.step()
    for _ in range(3):
        graph.replay()
    replayed = [param.grad.clone() for param in model.parameters()]
    optimizer.zero_grad(set_to_none=True)
    model(inputs).square().mean().backward()
    for grad, param in zip(replayed, model.parameters(), strict=True):
        torch.testing.assert_close(grad, param.grad, rtol=1e-5, atol=1e-7)
        assert grad.abs().max() > 0
    assert optimizer.completed_steps == 3


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
@each_optimizer
def test_a_capture_without_state_is_refused_and_says_what_to_call_first(case):
    param = Parameter(torch.ones(5, device="cuda"))
    optimizer = case.ours([param], **case.arguments, **case.with_all_state)
    param.grad = torch.ones_like(param)
    with (
        pytest.raises(RuntimeError, match=r"materialize\(\)"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        optimizer.step()
    assert torch.equal(param.detach().cpu(), torch.ones(5))

    optimizer.step()
    assert not torch.equal(param.detach().cpu(), torch.ones(5))


WAITING = """
import torch, fusedlr
model = torch.nn.Linear(4, 1).cuda()
optimizer = fusedlr.SGD(model.parameters(), lr=0.1)
def waiting_loss(outputs, target):
    return outputs.mean() * (outputs - target).abs().max().item()
x, y = torch.randn(8, 4, device="cuda"), torch.randn(8, 1, device="cuda")
try:
    fusedlr.GraphedTrainStep(model, waiting_loss, optimizer, example_inputs=(x, y))
except RuntimeError as error:
    print("refused:", error)
print("gradients:", [param.grad for param in model.parameters()])
print("default stream:", torch.cuda.current_stream() == torch.cuda.default_stream())
"""


def test_a_loss_that_waits_for_the_device_is_refused_with_the_reason():
    # In a process of its own: CUDA may be unusable after a capture that failed.
    finished = subprocess.run(
        [sys.executable, "-c", WAITING], capture_output=True, text=True, timeout=120
    )
    assert "refused: the training step could not be captured" in finished.stdout, finished.stderr
    assert ".item()" in finished.stdout
    assert "restart the process" in finished.stdout
    assert "gradients: [None, None]" in finished.stdout
    assert "default stream: True" in finished.stdout
