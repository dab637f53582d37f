"""Two phases with two schedulers on one optimizer: StepLR for 20 epochs, then ExponentialLR."""

import torch
from torch import nn

import fusedlr as optim

# In double, so that no printed digit depends on how float32 is rounded.
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
x = torch.randn(256, 4)
y = x @ torch.tensor([[1.0], [-2.0], [3.0], [0.5]]) + 0.1 * torch.randn(256, 1)

model = nn.Linear(4, 1)
optimizer = optim.SGD(model.parameters(), lr=0.1)
scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=0.5)

for epoch in range(40):
    if epoch == 20:
        # The new scheduler goes on from the lr that the first phase ended with: both only ever
        # multiply the lr that they find.
        scheduler = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    loss = nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    name = type(scheduler).__name__
    print(
        f"epoch {epoch:2d}  {name:13s}  lr {scheduler.get_last_lr()[0]!r}  loss {loss.item():.6g}"
    )
    scheduler.step()
