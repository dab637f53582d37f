"""Learning-rate schedulers, named as in :mod:`torch.optim.lr_scheduler`.

On a fused optimizer the lr of all groups moves in one engine call, in float64; the numbers are
torch's to the last bit. All schedulers of torch.optim work on fused optimizers, too.
"""

from torch.optim.lr_scheduler import LRScheduler, _LRScheduler

from fusedlr.lr_scheduler.cosine_annealing_lr import CosineAnnealingLR
from fusedlr.lr_scheduler.exponential_lr import ExponentialLR
from fusedlr.lr_scheduler.lambda_lr import LambdaLR
from fusedlr.lr_scheduler.multi_step_lr import MultiStepLR
from fusedlr.lr_scheduler.reduce_lr_on_plateau import ReduceLROnPlateau
from fusedlr.lr_scheduler.step_lr import StepLR

__all__ = [
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "MultiStepLR",
    "ReduceLROnPlateau",
    "StepLR",
    "_LRScheduler",
]
