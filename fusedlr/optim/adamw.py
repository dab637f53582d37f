"""AdamW."""

from __future__ import annotations

import torch

from fusedlr.optim.adam import Adam


class AdamW(Adam, torch.optim.AdamW):
    r"""AdamW (Loshchilov & Hutter, 2019): Adam with decoupled weight decay.

    A drop-in for :class:`torch.optim.AdamW`: the same arguments, group keys and state.

    .. math::
        \theta \leftarrow (1 - \gamma \lambda) \theta

    replaces the term that weight decay adds to the gradient in :class:`fusedlr.Adam`; everything
    else is the same, and so are the arguments, with ``weight_decay=1e-2`` by default.

    Example:
        >>> import torch, fusedlr
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = fusedlr.AdamW(
        ...     [
        ...         {"params": [model.weight], "weight_decay": 0.1},
        ...         {"params": [model.bias], "weight_decay": 0.0, "lr": 1e-4},
        ...     ],
        ...     lr=1e-3,
        ... )
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.001, 0.0001]

        A hyper follows a schedule, here up to 3e-4 and down again:

        >>> from fusedlr import schedules as s
        >>> optimizer = fusedlr.AdamW(
        ...     model.parameters(), lr=s.warmup_cosine(3e-4, warmup_steps=100, total_steps=1_000)
        ... )
        >>> for _ in range(51):
        ...     optimizer.step()
        >>> optimizer.param_groups[0]["lr"]
        0.00015

    References:
        Loshchilov & Hutter, "Decoupled Weight Decay Regularization",
        https://arxiv.org/abs/1711.05101
    """
