"""A different rate for every layer: small for the pretrained body, large for the new head."""

import torch
from torch import nn

import fusedlr as optim

# In double, so that no printed digit depends on how float32 is rounded.
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
x = torch.randn(256, 8)
y = torch.sin(x[:, :1]) + x[:, 1:2]

body = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
head = nn.Linear(32, 1)
model = nn.Sequential(body, head)
optimizer = optim.AdamW(
    [
        {"params": body[0].parameters(), "lr": 1e-4},
        {"params": body[2].parameters(), "lr": 1e-3},
        {"params": head.parameters()},
    ],
    lr=1e-2,  # for every group that names no lr of its own
)
scheduler = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.95)

for epoch in range(40):
    loss = nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    rates = "  ".join(repr(group["lr"]) for group in optimizer.param_groups)
    print(f"epoch {epoch:2d}  lr {rates}  loss {loss.item():.6g}")
    scheduler.step()
