"""Places in the group table, for kernels of one program that walk tables a block at a time."""

from __future__ import annotations

import triton
import triton.language as tl

from fusedlr.triton import layouts
from fusedlr.triton.memory import load

#: The rows of a table that the threads of one program share at a time; one for each thread.
LANES = tl.constexpr(128)


@triton.jit
def lanes():
    """A block of 0, 1, 2 ..., an element for each thread."""
    return tl.arange(0, LANES).to(tl.int64)


@triton.jit
def slots(tables, place, mask):
    """The addresses of the numbers at places, and which of these the group table has.

    Column -1 is the lr. A group may have gone, also since a graph was captured.
    """
    group = load(place + layouts.TablePlace.group, tl.int32, mask, 0).to(tl.int64)
    column = load(place + layouts.TablePlace.column, tl.int32, mask, 0)
    lr = load(tables + layouts.StepTables.lr, tl.int64)
    hypers = load(tables + layouts.StepTables.hypers, tl.int64)
    num_hypers = load(tables + layouts.StepTables.num_hypers, tl.int64)
    num_groups = load(tables + layouts.StepTables.num_groups, tl.int64)
    has = mask & (group >= 0) & (group < num_groups)
    return tl.where(column < 0, lr + 8 * group, hypers + 8 * (group * num_hypers + column)), has
