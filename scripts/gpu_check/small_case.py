"""A few steps of one optimizer, small enough for a checker of memory: small_case.py cuda|cpu."""

from __future__ import annotations

import sys
from typing import Any

import torch

import fusedlr
from cases import LAYOUT_SHAPE, LAYOUTS, OPTIMIZERS, Guarded, OptimizerCase, random_tensor

# A checker takes a hundred times as long: the optimizer with the most state, which runs the same
# loops as all others; nothing, a part of a vector, and more than a chunk.
CASE = next(case for case in OPTIMIZERS if case.name == "AdamW")
SHAPES = ((0,), (15,), (70_001,))
DTYPES = (torch.float32, torch.bfloat16, torch.complex64)


def train(case: OptimizerCase, device: str) -> list[torch.Tensor]:
    """Parameters, state and learning rates after some steps."""
    chance = torch.Generator().manual_seed(0)
    groups: list[dict[str, Any]] = []
    placed: list[Guarded] = []
    for dtype in DTYPES:
        tensors = [random_tensor(shape, dtype, chance).to(device) for shape in SHAPES]
        for layout in LAYOUTS:
            placed.append(Guarded(random_tensor(LAYOUT_SHAPE, dtype, chance).to(device), layout))
            tensors.append(placed[-1].view)
        groups.append({"params": [torch.nn.Parameter(one) for one in tensors], "lr": 0.01})
    optimizer = case.ours(groups, **{**case.arguments, **case.with_all_state})
    optimizer.param_groups[0]["weight_decay"] = fusedlr.schedules.linear(0.1, 0.0, steps=4)
    scheduler = fusedlr.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    optimizer.found_inf = torch.zeros((), device=device)
    for step in range(4):
        for group in optimizer.param_groups:
            for param in group["params"]:
                grad = random_tensor(tuple(param.shape), param.dtype, chance).to(device)
                param.grad = None if step == 1 and param.dim() == 1 else grad
        optimizer.found_inf.fill_(float(step == 2))
        optimizer.step()
        scheduler.step()
    if not all(one.is_intact() for one in placed):
        raise RuntimeError("a step has written beside a tensor")
    found = [optimizer.lr]
    for group in optimizer.param_groups:
        for param in group["params"]:
            found += [param, *optimizer.state[param].values()]
    return [one.detach().cpu() for one in found]


def main() -> int:
    (device,) = sys.argv[1:]
    ours, expected = train(CASE, device), train(CASE, "cpu")
    same = [torch.equal(one, other) for one, other in zip(ours, expected, strict=True)]
    print(f"{CASE}: {sum(same)} of {len(same)} tensors have the bits of the CPU engine")
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
