"""Fused optimizers, named as in :mod:`torch.optim`; ``from fusedlr import optim`` replaces it."""

from fusedlr import lr_scheduler
from fusedlr.optim.adam import Adam
from fusedlr.optim.adamw import AdamW
from fusedlr.optim.optimizer import FusedOptimizer
from fusedlr.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "FusedOptimizer", "lr_scheduler"]
