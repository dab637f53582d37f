"""ReduceLROnPlateau: halve the lr when the validation loss has stopped falling for a while."""

import torch
from torch import nn

import fusedlr as optim

# In double, so that no printed digit depends on how float32 is rounded.
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
x = torch.randn(128, 8)
y = x.norm(dim=1, keepdim=True) + 0.2 * torch.randn(128, 1)
(train_x, val_x), (train_y, val_y) = x.chunk(2), y.chunk(2)

model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
optimizer = optim.AdamW(model.parameters(), lr=3e-2)
scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="min", factor=0.5, patience=3)

for epoch in range(50):
    loss = nn.functional.mse_loss(model(train_x), train_y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        val_loss = nn.functional.mse_loss(model(val_x), val_y).item()
    lr = optimizer.param_groups[0]["lr"]
    print(f"epoch {epoch:2d}  lr {lr!r}  validation {val_loss:.6g}  loss {loss.item():.6g}")
    scheduler.step(val_loss)
