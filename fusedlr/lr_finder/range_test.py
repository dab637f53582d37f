"""What a learning rate range test has measured, and what it suggests."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

#: A curve of fewer iterations has no shape to judge.
MIN_ITERATIONS = 5


@dataclass(frozen=True)
class RangeTest:
    """The losses of a run in which the learning rate rose; :meth:`LRFinder.run` returns one.

    Attributes:
        lrs: the learning rate of each iteration.
        losses: the loss of each iteration, before the step with that learning rate. The last one is
            that at which the run diverged, if it did and the loss was finite.
        smoothed: the average of each loss and its neighbours on both sides, which weigh the less
            the farther they are: `smooth` to the power of the distance. Averaged on both sides, the
            curve does not lag behind the learning rate.
        mode: ``"exp"`` or ``"linear"``, how the learning rate rose.
        diverged: whether the loss rose beyond what was allowed, or became infinite or NaN.
    """

    lrs: list[float] = field(repr=False)
    losses: list[float] = field(repr=False)
    smoothed: list[float] = field(repr=False)
    mode: str
    diverged: bool

    @classmethod
    def from_losses(
        cls,
        lrs: Iterable[float],
        losses: Sequence[float],
        *,
        mode: str = "exp",
        smooth: float = 0.8,
        diverge: float = 5.0,
    ) -> RangeTest:
        """Judges losses that were measured elsewhere.

        Args:
            lrs: the learning rate of each loss, rising; there may be more of them than losses.
            losses: the losses, up to divergence or beyond.
            mode: how the learning rate rose, as for :meth:`LRFinder.run`.
            smooth: how the losses are averaged, as for :meth:`LRFinder.run`.
            diverge: where the run has diverged, as for :meth:`LRFinder.run`.

        Example:
            >>> from fusedlr.lr_finder import RangeTest
            >>> lrs = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0]
            >>> test = RangeTest.from_losses(lrs, [5.0, 4.9, 4.0, 2.0, 1.9, 9.9, 1e5], smooth=0.0)
            >>> test.suggestion(), test.suggestion("valley"), test.losses
            (0.01, 0.01, [5.0, 4.9, 4.0, 2.0, 1.9, 9.9])
        """
        end = divergence(losses, smooth, diverge)
        if end is None:
            kept = list(losses)
        else:
            kept = list(losses[: end + 1] if math.isfinite(losses[end]) else losses[:end])
        return cls(
            lrs=list(islice(lrs, len(kept))),
            losses=kept,
            smoothed=smooth_curve(kept, smooth),
            mode=mode,
            diverged=end is not None,
        )

    def suggestion(self, method: str = "steepest") -> float:
        """A learning rate to train with.

        Args:
            method: ``"steepest"``: where :attr:`smoothed` falls fastest, before its minimum.
                ``"valley"``: the middle of the longest fall of :attr:`losses`, which has as many
                iterations as the longest falling sequence that can be picked from them, and ends
                where that ends.

        Returns:
            The learning rate, one of :attr:`lrs`. For several groups it is that of the group with
            the largest one; the others are to be scaled by the same factor.

        Raises:
            RuntimeError: if the run was too short, or the loss did not fall.
            ValueError: if there is no such method.

        Source: Smith, "Cyclical Learning Rates for Training Neural Networks", 2017,
        https://arxiv.org/abs/1506.01186, for the test; the valley rule is that of ``fastai``.
        """
        if method not in _RULES:
            methods = " or ".join(map(repr, _RULES))
            raise ValueError(f"method must be {methods}, but got {method!r}")
        if len(self.losses) < MIN_ITERATIONS:
            repair = "it diverged: start with a lower start_lr" if self.diverged else "go on longer"
            raise RuntimeError(
                f"the run has {len(self.losses)} iterations with a finite loss, and a suggestion "
                f"needs at least {MIN_ITERATIONS}; {repair}"
            )
        if self.smoothed.index(min(self.smoothed)) == 0:
            repair = "start with a lower start_lr" if self.diverged else "go to a higher end_lr"
            raise RuntimeError(
                f"the loss never fell between the learning rates {self.lrs[0]:.3g} and "
                f"{self.lrs[-1]:.3g}; {repair}"
            )
        return self.lrs[_RULES[method](self.losses, self.smoothed)]

    def plot(self, ax: Any = None, *, method: str | None = "steepest") -> Any:
        """Draws the losses over the learning rate, and marks the suggestion.

        Args:
            ax: the matplotlib axes to draw into; None makes a figure.
            method: the suggestion to mark, as for :meth:`suggestion`; None marks none. Where
                nothing can be suggested, nothing is marked.

        Returns:
            The axes; the learning rate is on a logarithmic axis if it rose exponentially.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        if ax is None:
            try:
                import matplotlib.pyplot as plt
            except ImportError as error:
                raise ImportError("plot() needs matplotlib: pip install matplotlib") from error
            _, ax = plt.subplots(layout="constrained")
        ax.plot(self.lrs, self.losses, color="tab:blue", alpha=0.35, label="loss")
        ax.plot(self.lrs, self.smoothed, color="tab:blue", label="smoothed")
        if method is not None:
            try:
                lr = self.suggestion(method)
            except RuntimeError:
                pass
            else:
                loss = self.smoothed[self.lrs.index(lr)]
                ax.plot([lr], [loss], "o", color="tab:red", label=f"{method}: {lr:.2e}", zorder=3)
        if self.losses:
            # How far the loss explodes is of no interest, and would flatten the rest.
            lowest, highest = min(self.losses), _highest_before_minimum(self.losses, self.smoothed)
            margin = 0.1 * (highest - lowest)
            if max(self.losses) > highest + 3 * margin > lowest:
                ax.set_ylim(lowest - margin, highest + 3 * margin)
        ax.set_xscale("log" if self.mode == "exp" else "linear")
        ax.set_xlabel("learning rate")
        ax.set_ylabel("loss")
        ax.legend()
        return ax


# Averages


def _running(losses: Iterable[float], smooth: float) -> Iterator[tuple[float, float]]:
    """The weighted sum of each loss and those before it, and the sum of the weights."""
    total = weight = 0.0
    for loss in losses:
        total = smooth * total + loss
        weight = smooth * weight + 1.0
        yield total, weight


def divergence(losses: Iterable[float], smooth: float, diverge: float) -> int | None:
    """The first iteration at which the run has diverged.

    That is where a loss is not finite, or where the average of the losses so far exceeds `diverge`
    times the lowest such average (for a negative one, as far above it as it were for a positive).
    """
    losses = list(losses)
    lowest = math.inf
    for iteration, (total, weight) in enumerate(_running(losses, smooth)):
        if not math.isfinite(losses[iteration]):
            return iteration
        average = total / weight
        lowest = min(lowest, average)
        if average > lowest + (diverge - 1.0) * abs(lowest):
            return iteration
    return None


def smooth_curve(losses: Sequence[float], smooth: float) -> list[float]:
    """The average of each loss and its neighbours on both sides."""
    if not losses:
        return []
    averages = [total / weight for total, weight in _running(losses, smooth)]
    # An explosion at the end would reach far back.
    highest = _highest_before_minimum(losses, averages)
    capped = [min(loss, highest) for loss in losses]
    before = list(_running(capped, smooth))
    after = reversed(list(_running(reversed(capped), smooth)))
    return [
        (past + future - loss) / (past_weight + future_weight - 1.0)
        for loss, (past, past_weight), (future, future_weight) in zip(
            capped, before, after, strict=True
        )
    ]


def _highest_before_minimum(losses: Sequence[float], averages: Sequence[float]) -> float:
    """The highest loss before the averages rise for good."""
    return max(losses[: averages.index(min(averages)) + 1])


# Rules: the index of the suggestion, given the losses and the smoothed ones, which fall somewhere


def _steepest(losses: Sequence[float], smoothed: Sequence[float]) -> int:
    def slope(index: int) -> float:
        left, right = max(index - 1, 0), min(index + 1, len(smoothed) - 1)
        return (smoothed[right] - smoothed[left]) / (right - left)

    minimum = smoothed.index(min(smoothed))
    return min(range(minimum + 1), key=slope)


def _valley(losses: Sequence[float], smoothed: Sequence[float]) -> int:
    # ends[k] is the highest loss (negated) with which a falling sequence of k + 1 losses can end.
    ends: list[float] = []
    end = 0
    for index, loss in enumerate(losses):
        length = bisect_left(ends, -loss)
        if length == len(ends):
            ends.append(-loss)
            end = index
        else:
            ends[length] = -loss
    return end - len(ends) // 2


_RULES: Mapping[str, Callable[[Sequence[float], Sequence[float]], int]] = {
    "steepest": _steepest,
    "valley": _valley,
}
