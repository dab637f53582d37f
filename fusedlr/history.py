"""A record of what the steps of an optimizer have used."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer

from fusedlr.optim import FusedOptimizer
from fusedlr.optim.recorder import COUNTERS, Recorder

if TYPE_CHECKING:
    from types import TracebackType

    import pandas
    from matplotlib.axes import Axes


def _nothing_to_detach() -> None:
    """What detaches a copy, which no optimizer knows."""


class History:
    """Records each step of an optimizer, in a ring buffer that the step itself writes.

    A row has the number of completed steps when the step began (what schedules are called with),
    how many steps were skipped so far (:attr:`~fusedlr.FusedOptimizer.found_inf`; a skipped step
    has a row, too), the lr of every group, and every other hyper of a group that follows a schedule
    of :mod:`fusedlr.schedules`; the momentum that a scheduler such as OneCycleLR moves is not one.
    Recording needs no Python and no reading from the device; reading is one copy.

    Groups and schedules that come later get columns of their own, with NaN in the rows before. A
    record belongs to this object: it is not part of the optimizer's state, and copies and pickles
    of the optimizer record nothing. A copy or a pickle of the record keeps what there was.

    Args:
        optimizer: a fused optimizer.
        capacity: how many steps are kept, the last ones; at 8 bytes per column.

    Raises:
        TypeError: if the optimizer is no fused one.
        ValueError: if the capacity is not positive.

    Example:
        >>> import torch, fusedlr
        >>> from fusedlr import schedules as s
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = fusedlr.SGD([weight], lr=s.linear(1.0, 0.0, steps=4))
        >>> with fusedlr.History(optimizer, capacity=100) as history:
        ...     for _ in range(3):
        ...         optimizer.step()
        >>> history.to_dict()
        {'step': [0, 1, 2], 'skipped_steps': [0, 0, 0], 'lr[0]': [1.0, 0.75, 0.5]}
    """

    def __init__(self, optimizer: Optimizer, capacity: int) -> None:
        if not isinstance(optimizer, FusedOptimizer):
            raise TypeError(
                f"History records steps of the optimizers of fusedlr, but got {optimizer!r}"
            )
        if operator.index(capacity) < 1:
            raise ValueError(f"capacity must be at least 1, but got {capacity}")
        self._recorder = Recorder(capacity)
        self._detach = optimizer._attach(self._recorder)

    @property
    def capacity(self) -> int:
        """How many steps are kept."""
        return self._recorder.capacity

    def __len__(self) -> int:
        """How many steps are in the record now."""
        return len(self._recorder)

    @property
    def columns(self) -> list[str]:
        """The names of the columns: the counters, and hypers by group, as in ``lr[0]``."""
        return [*COUNTERS, *(self._recorder.names[place] for place in self._places())]

    def _places(self) -> list[int]:
        """The columns of the recorder after the counters, sorted by hyper and group."""
        places = self._recorder.places
        return sorted(range(len(places)), key=lambda i: (places[i][1], places[i][0]))

    def rows(self) -> Tensor:
        """The record: float64 ``[steps, columns]`` on the CPU, oldest step first."""
        columns = [*range(len(COUNTERS)), *(len(COUNTERS) + place for place in self._places())]
        return self._recorder.rows()[:, columns]

    def to_dict(self) -> dict[str, list[Any]]:
        """The columns by name; counters are ints."""
        columns = dict(zip(self.columns, self.rows().T.tolist(), strict=True))
        return {**columns, **{name: list(map(int, columns[name])) for name in COUNTERS}}

    def to_pandas(self) -> pandas.DataFrame:
        """The record as a data frame.

        Raises:
            ImportError: if pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("History.to_pandas needs pandas: pip install pandas") from error
        return pandas.DataFrame(self.to_dict())

    def plot(self, axes: Axes | None = None, *, hyper: str = "lr") -> Axes:
        """Draws a hyper over the steps, one line for each group.

        Args:
            axes: where to draw; None makes a new figure.
            hyper: ``"lr"``, or another one that was recorded: ``"weight_decay"``, ``"beta1"``…

        Raises:
            ValueError: if the hyper was not recorded.
            ImportError: if matplotlib is not installed.
        """
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise ImportError("History.plot needs matplotlib: pip install matplotlib") from error
        columns = self.to_dict()
        lines = {name: line for name, line in columns.items() if name.startswith(f"{hyper}[")}
        if not lines:
            recorded = sorted({name.split("[")[0] for name in columns if "[" in name})
            raise ValueError(f"{hyper!r} was not recorded; these were: {', '.join(recorded)}")
        if axes is None:
            axes = pyplot.subplots()[1]
        for name, line in lines.items():
            axes.plot(columns["step"], line, label=name.replace(f"{hyper}[", "group ")[:-1])
        axes.set_xlabel("step")
        axes.set_ylabel(hyper)
        axes.legend()
        return axes

    def detach(self) -> None:
        """Ends the recording; what was recorded stays."""
        self._detach()

    def __getstate__(self) -> dict[str, Any]:
        return {"_recorder": self._recorder, "_detach": _nothing_to_detach}

    def __enter__(self) -> History:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()
