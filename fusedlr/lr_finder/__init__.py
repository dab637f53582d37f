"""The learning rate range test: one short run in which the learning rate rises.

Example:
    >>> import torch, fusedlr
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Linear(4, 1)
    >>> optimizer = fusedlr.SGD(model.parameters(), lr=0.1)
    >>> inputs = torch.randn(64, 4)
    >>> loader = [(inputs, inputs.sum(1, keepdim=True))]
    >>> finder = fusedlr.LRFinder(model, optimizer, torch.nn.functional.mse_loss)
    >>> test = finder.run(loader, start_lr=1e-4, end_lr=10.0, num_iter=60, progress=False)
    >>> test.diverged
    True
    >>> test.lrs[0] < test.suggestion() < test.lrs[-1]
    True
    >>> optimizer.param_groups[0]["lr"]
    0.1
"""

from fusedlr.lr_finder.finder import LRFinder
from fusedlr.lr_finder.range_test import RangeTest

__all__ = ["LRFinder", "RangeTest"]
