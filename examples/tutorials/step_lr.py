"""Fit y = 2x; StepLR halves the lr every 20 epochs."""

import torch
from torch import nn

import fusedlr as optim

# In double, so that no printed digit depends on how float32 is rounded.
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
x = torch.linspace(-1, 1, 64).unsqueeze(1)
y = 2 * x + 0.1 * torch.randn_like(x)

model = nn.Linear(1, 1)
optimizer = optim.SGD(model.parameters(), lr=0.2)
scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=20, gamma=0.5)

for epoch in range(60):
    loss = nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"epoch {epoch:2d}  lr {scheduler.get_last_lr()[0]!r}  loss {loss.item():.6g}")
    scheduler.step()

print(f"y = {model.weight.item():.4f} x {model.bias.item():+.4f}")
