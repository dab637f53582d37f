"""An lr of 0 freezes a group: train the head alone, then set the body's lr to thaw it."""

import torch
from torch import nn

import fusedlr as optim

# In double, so that no printed digit depends on how float32 is rounded.
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
x = torch.randn(256, 8)
y = x[:, :1] * x[:, 1:2]

body = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
head = nn.Linear(32, 1)
model = nn.Sequential(body, head)
optimizer = optim.Adam(
    [{"params": body.parameters(), "lr": 0.0}, {"params": head.parameters(), "lr": 1e-2}]
)
frozen = [p.detach().clone() for p in body.parameters()]

for epoch in range(40):
    if epoch == 20:
        optimizer.param_groups[0]["lr"] = 1e-2
    loss = nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    unchanged = all(map(torch.equal, frozen, body.parameters()))
    rates = "  ".join(repr(group["lr"]) for group in optimizer.param_groups)
    print(f"epoch {epoch:2d}  lr {rates}  body unchanged: {unchanged}  loss {loss.item():.6g}")
