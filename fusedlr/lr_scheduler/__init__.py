"""Learning-rate schedulers, named as in :mod:`torch.optim.lr_scheduler`.

On a fused optimizer the lr of all groups moves in one engine call, in float64; the numbers are
torch's to the last bit. All schedulers of torch.optim work on fused optimizers, too;
:func:`from_torch` turns one into its twin here.

Where the parameters are on a device that runs kernels, the clock of a scheduler lives there, and
``step()`` is one launch, for all groups and for compositions as a whole; it waits for nothing. A
graph that has captured it makes a step at every replay, from whatever ``last_epoch`` or
``load_state_dict`` have set in between; reading ``last_epoch`` or ``get_last_lr()`` then waits for
the device. Other attributes that were edited by hand count from the next ``step()`` or
``optimizer.materialize()`` on. What only the host can do (call a function, step parts one by one,
read a metric of its own) is refused with a RuntimeError while a graph is captured, and a replay
past the end of OneCycleLR leaves the numbers as they are.
"""

from torch.optim.lr_scheduler import LRScheduler, _LRScheduler

from fusedlr.lr_scheduler.chained_scheduler import ChainedScheduler
from fusedlr.lr_scheduler.constant_lr import ConstantLR
from fusedlr.lr_scheduler.conversion import from_torch
from fusedlr.lr_scheduler.cosine_annealing_lr import CosineAnnealingLR
from fusedlr.lr_scheduler.cosine_annealing_warm_restarts import CosineAnnealingWarmRestarts
from fusedlr.lr_scheduler.cyclic_lr import CyclicLR
from fusedlr.lr_scheduler.exponential_lr import ExponentialLR
from fusedlr.lr_scheduler.lambda_lr import LambdaLR
from fusedlr.lr_scheduler.linear_lr import LinearLR
from fusedlr.lr_scheduler.multi_step_lr import MultiStepLR
from fusedlr.lr_scheduler.multiplicative_lr import MultiplicativeLR
from fusedlr.lr_scheduler.one_cycle_lr import OneCycleLR
from fusedlr.lr_scheduler.polynomial_lr import PolynomialLR
from fusedlr.lr_scheduler.reduce_lr_on_plateau import ReduceLROnPlateau
from fusedlr.lr_scheduler.sequential_lr import SequentialLR
from fusedlr.lr_scheduler.step_lr import StepLR
from fusedlr.lr_scheduler.swalr import SWALR

__all__ = [
    "SWALR",
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
    "_LRScheduler",
    "from_torch",
]
