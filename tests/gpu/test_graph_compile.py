"""torch.compile(mode="reduce-overhead") captures what it compiles, and leaves our step alone."""

from __future__ import annotations

import pytest
import torch

import fusedlr

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # torch.compile's own
]


@pytest.fixture(autouse=True)
def _steps_do_not_wait() -> None:
    """Not here: what looks for waiting would be compiled, too."""


def train(mode: str | None) -> tuple[list[float], list[torch.Tensor]]:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1)]
    model = torch.nn.Sequential(*layers).cuda()
    optimizer = fusedlr.AdamW(model.parameters(), lr=0.01)
    scheduler = fusedlr.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    inputs = torch.randn(64, 16, device="cuda")
    targets = inputs.sum(1, keepdim=True)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        scheduler.step()
        return loss.detach()

    run = step if mode is None else torch.compile(step, mode=mode)
    losses = []
    for _ in range(8):
        if mode is not None:
            torch.compiler.cudagraph_mark_step_begin()
        losses.append(run().item())
    assert scheduler.last_epoch == 8
    assert optimizer.completed_steps == 8
    return losses, [param.detach().cpu() for param in model.parameters()]


def test_a_step_compiled_with_reduce_overhead_trains_as_the_eager_one():
    eager_losses, eager_params = train(None)
    compiled_losses, compiled_params = train("reduce-overhead")

    assert compiled_losses == pytest.approx(eager_losses, rel=1e-2)
    torch.testing.assert_close(compiled_params, eager_params, rtol=1e-2, atol=1e-2)
    assert eager_losses[-1] < eager_losses[0]
