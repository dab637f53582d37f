"""What makes Triton's interpreter usable for tests: where TRITON_INTERPRET=1 was set."""

from __future__ import annotations

import os
from typing import Any

IS_CHOSEN = os.environ.get("TRITON_INTERPRET") == "1"


def prepare() -> None:
    """Lets NumPy be silent about infinities, and calls of device functions be ten times faster.

    The interpreter prepares ``triton.language`` for every call. Kernels' own functions find it
    prepared by their launch; those of Triton's library need it once.
    """
    import numpy
    from triton.runtime import interpreter

    numpy.seterr(all="ignore")
    prepared: set[Any] = set()

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.fn not in prepared and not self.fn.__module__.startswith("fusedlr"):
            prepared.add(self.fn)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call
