"""torch.compile around a training step calls our step as it is."""

import pytest
import torch

import fusedlr


def train(compiled):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = fusedlr.AdamW(model.parameters(), lr=0.1)
    scheduler = fusedlr.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    x = torch.randn(8, 4)

    def step():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    run = torch.compile(step, backend="eager") if compiled else step
    losses = []
    for _ in range(4):
        losses.append(run().item())
        scheduler.step()
    return losses


@pytest.mark.filterwarnings("default")  # torch.compile's own
def test_a_compiled_training_step_gives_what_the_eager_one_gives():
    compiled, eager = train(compiled=True), train(compiled=False)
    assert compiled == pytest.approx(eager, rel=1e-6)
    assert eager[-1] < eager[0]
