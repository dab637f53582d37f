"""Interleaved timing: every round times each contender once, so that noise hits all alike.

On a shared machine the speed of memory changes by half from one second to the next, so an absolute
time says nothing. What is reported is therefore the ratio of two contenders within each round, and
the quartiles of that ratio over the rounds.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from statistics import quantiles
from time import perf_counter
from typing import TypeVar

import torch

Contender = Callable[[], object]
Name = TypeVar("Name")

# A sample repeats the call until it lasts this long: clock, loop and the caches that the contender
# before has left cold then cost little of it.
MIN_SAMPLE_SECONDS = 10e-3
# Quartiles of fewer rounds are noise; more than the maximum no longer changes a median.
MIN_ROUNDS, MAX_ROUNDS = 5, 51


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*quantiles(values, n=4, method="inclusive"))


@dataclass(frozen=True)
class Samples:
    """Seconds per call of one contender, one entry per round."""

    seconds: list[float]

    @property
    def spread(self) -> Spread:
        return Spread.of(self.seconds)

    def times_faster_than(self, other: Samples) -> Spread:
        """How many times longer `other` took, round by round."""
        return Spread.of([b / a for a, b in zip(self.seconds, other.seconds, strict=True)])


def interleave(
    contenders: Mapping[Name, Contender],
    rounds: int | None = None,
    budget_seconds: float = 10.0,
    on_round: Callable[[int], None] = lambda done: None,
) -> dict[Name, Samples]:
    """Times every contender once a round; without `rounds`, for about `budget_seconds`.

    Warm-up calls, among them those that build state and plans, are not in the samples.
    """
    order = list(contenders)
    seconds: dict[Name, list[float]] = {name: [] for name in order}
    shuffle = Random(0).shuffle
    with without_garbage_collection():
        repetitions = {name: _calibrate(call) for name, call in contenders.items()}
        start, done = perf_counter(), 0
        while not _enough(done, rounds, perf_counter() - start, budget_seconds):
            # A new order every round: no contender always finds the caches of the same one before.
            shuffle(order)
            for name in order:
                sample = _sample(contenders[name], repetitions[name])
                seconds[name].append(sample / repetitions[name])
            done += 1
            on_round(done)
    return {name: Samples(values) for name, values in seconds.items()}


def _enough(done: int, rounds: int | None, elapsed: float, budget: float) -> bool:
    if rounds is not None:
        return done >= rounds
    return done >= MIN_ROUNDS and (elapsed >= budget or done >= MAX_ROUNDS)


def in_place_roof(elements: int, state_buffers: int) -> Contender:
    """The fastest way torch has to read and write in place what one optimizer step must.

    A step reads the parameter, the gradient and each state buffer, and writes all but the
    gradient. So does this: `param.add_(grad)`, then `mul_` on each state buffer, over one flat
    tensor for each, whatever the number of tensors of the workload. It moves exactly the same
    bytes with the same share of writes, none of them without a read (a plain copy would add the
    hidden read of the line it overwrites), and has no arithmetic to wait for. What is left is the
    memory, or the cache where the workload fits in one.
    """
    param, grad, *state = (torch.full((elements,), 0.5) for _ in range(2 + state_buffers))

    def in_place_pass() -> None:
        param.add_(grad)
        for buffer in state:
            buffer.mul_(1.0)

    return in_place_pass


def _calibrate(call: Contender) -> int:
    """Warms the contender up and finds how many calls make a sample."""
    call()
    repetitions = 1
    while _sample(call, repetitions) < MIN_SAMPLE_SECONDS:
        repetitions *= 2
    return repetitions


def _sample(call: Contender, repetitions: int) -> float:
    if repetitions > 1:
        call()  # a short call finds its data in the cache, as in any loop over it
    start = perf_counter()
    for _ in range(repetitions):
        call()
    return perf_counter() - start


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
