"""Record the lr from ``optimizer.state_dict()`` in every epoch and plot it."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
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
scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=25, eta_min=0.01)

recorded = []
for epoch in range(50):
    lr = optimizer.state_dict()["param_groups"][0]["lr"]
    recorded.append(lr)
    loss = nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"epoch {epoch:2d}  lr {lr!r}  loss {loss.item():.6g}")
    scheduler.step()

plt.plot(recorded, marker=".")
plt.xlabel("epoch")
plt.ylabel("learning rate")
plt.title(type(scheduler).__name__)
plt.savefig("plot_lr.png")
plt.close()
print("wrote plot_lr.png")
