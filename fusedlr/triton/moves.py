"""How a schedule moves one number of a group: the twin of ``csrc/math/schedule_move.h``."""

from __future__ import annotations

import triton
import triton.language as tl

from fusedlr.triton import layouts


@triton.jit
def apply_move(kind, a, b, value, source, target):
    """A move of one kind, of a block of values; `a` and `b` may differ among them."""
    moved = value
    if kind == layouts.MoveKind.scale:
        moved = value * a
    elif kind == layouts.MoveKind.scale_from:
        moved = source * a
    elif kind == layouts.MoveKind.contract:
        moved = a * (value - b) + b
    elif kind == layouts.MoveKind.add_span:
        moved = value + (source - b) * a / 2
    elif kind == layouts.MoveKind.span_above:
        moved = b + (source - b) * a / 2
    elif kind == layouts.MoveKind.cosine:
        moved = target + (source - target) / 2 * a
    elif kind == layouts.MoveKind.linear:
        moved = (target - source) * a + source
    elif kind == layouts.MoveKind.rise:
        moved = source + (target - source) * a * b
    elif kind == layouts.MoveKind.fall:
        moved = target - (target - source) * a * b
    elif kind == layouts.MoveKind.average:
        start = tl.where(a == 1, target, (value - a * target) / (1 - a))
        moved = target * b + start * (1 - b)
    elif kind == layouts.MoveKind.reduce:
        scaled = value * a
        reduced = tl.where(source > scaled, source, scaled)
        moved = tl.where(value - reduced > b, reduced, value)
    return moved
