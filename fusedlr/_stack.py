"""Whose call it was."""

from __future__ import annotations

import sys
from types import FrameType


def user_stacklevel() -> int:
    """The stacklevel of a warning that is to point at whoever called fusedlr, or imported it."""
    level = 0
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith("importlib"):  # warnings.warn does not count these either
            level += 1
            if not module.startswith(("fusedlr", "torch.optim")):
                break
        frame = frame.f_back
    return level
