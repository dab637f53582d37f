"""Fused optimizers and learning-rate schedules for PyTorch, with the learning rate in a tensor.

``fusedlr`` takes the place of ``torch.optim``: the same classes, arguments, state and numbers,
and no Python loop over parameters or groups in ``optimizer.step()`` and ``scheduler.step()``.

Example:
    >>> import torch, fusedlr
    >>> model = torch.nn.Linear(4, 1)
    >>> optimizer = fusedlr.AdamW(model.parameters(), lr=0.05)
    >>> scheduler = fusedlr.lr_scheduler.StepLR(optimizer, step_size=30)
    >>> model(torch.ones(1, 4)).sum().backward()
    >>> optimizer.step()
    >>> scheduler.step()
    >>> optimizer.param_groups[0]["lr"]
    0.05
"""

from fusedlr import lr_scheduler, optim, schedules
from fusedlr._backend import backend_info
from fusedlr._version import __version__
from fusedlr.graphed_train_step import GraphedTrainStep
from fusedlr.history import History
from fusedlr.lr_finder import LRFinder
from fusedlr.optim import SGD, Adam, AdamW, FusedOptimizer

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "FusedOptimizer",
    "GraphedTrainStep",
    "History",
    "LRFinder",
    "__version__",
    "backend_info",
    "lr_scheduler",
    "optim",
    "schedules",
]
