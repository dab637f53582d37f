"""Interleaved timing on a device: the device's time and the host's, apart, in the same rounds."""

from __future__ import annotations

import gc
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

import torch

from measure import MAX_ROUNDS, MIN_ROUNDS, Contender, Samples, without_garbage_collection

# Kineto announces every profiler on stderr unless told otherwise before its first use.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

Name = TypeVar("Name")

# A sample repeats the call for so long on the device. Longer, and the queue of launches could fill:
# the host would wait for the device, and its time would be the device's.
MIN_SAMPLE_SECONDS = 4e-3
# The first launch reaches the device late: several calls share that.
MIN_REPETITIONS, MAX_REPETITIONS = 4, 128


@dataclass(frozen=True)
class Timing:
    """Seconds per call of one contender, one entry per round."""

    device: Samples
    host: Samples


@dataclass(frozen=True)
class Stopwatch:
    """Times calls on ``"cuda"``; or on ``"cpu"``, where the host's time is the device's as well."""

    device: str

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def sample(self, call: Contender, repetitions: int) -> tuple[float, float]:
        """Seconds per call: of the device, from the first launch to the end of the last, and of
        the host, until it has launched everything."""
        if self.device != "cuda":
            start = perf_counter()
            for _ in range(repetitions):
                call()
            seconds = (perf_counter() - start) / repetitions
            return seconds, seconds
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        start = perf_counter()
        for _ in range(repetitions):
            call()
        host = perf_counter() - start
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3 / repetitions, host / repetitions


def interleave(
    contenders: Mapping[Name, Contender],
    stopwatch: Stopwatch,
    seconds: float,
    on_round: Callable[[int], None] = lambda done: None,
) -> dict[Name, Timing]:
    """Times every contender once a round, for about so long. Warm-up calls are not counted."""
    names = list(contenders)
    device: dict[Name, list[float]] = {name: [] for name in names}
    host: dict[Name, list[float]] = {name: [] for name in names}
    with without_garbage_collection():
        repetitions = {name: _calibrate(call, stopwatch) for name, call in contenders.items()}
        start, done = perf_counter(), 0
        while done < MIN_ROUNDS or (done < MAX_ROUNDS and perf_counter() - start < seconds):
            first = done % len(names)
            for name in names[first:] + names[:first]:
                of_device, of_host = stopwatch.sample(contenders[name], repetitions[name])
                device[name].append(of_device)
                host[name].append(of_host)
            done += 1
            on_round(done)
    return {name: Timing(Samples(device[name]), Samples(host[name])) for name in names}


def _calibrate(call: Contender, stopwatch: Stopwatch) -> int:
    """Warms the contender up and finds how many calls make a sample."""
    for _ in range(3):
        call()
    stopwatch.synchronize()
    repetitions = MIN_REPETITIONS
    while repetitions < MAX_REPETITIONS:
        device, host = stopwatch.sample(call, repetitions)
        if max(device, host) * repetitions >= MIN_SAMPLE_SECONDS:
            break
        repetitions *= 2
    return repetitions


def captured(step: Contender) -> Contender:
    """What replays a step that has been made before, as a graph."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    graph.replay()
    torch.cuda.synchronize()
    return graph.replay


def free_memory(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _is_kernel(event: Any) -> bool:
    """Of the events of a device: not a copy, and not a range that somebody has named."""
    is_named = getattr(event, "is_user_annotation", False)
    return not is_named and not event.name.startswith(("Memcpy", "Memset", "Optimizer."))


# What the host asks of the driver in a call: launches, copies, waiting.
_LAUNCH = re.compile(r"cu(da)?Launch(CooperativeKernel|Kernel|Graph)|cudaGraphLaunch|cuGraphLaunch")
_COPY = re.compile(r"cu(da)?(Memcpy|Memset)")
_WAIT = re.compile(r"cu(da)?(Stream|Event|Ctx)Synchronize")


@dataclass(frozen=True)
class Launches:
    """What one call makes the driver do, as torch's profiler has seen it."""

    launches: int
    copies: int
    waits: int
    #: How often each kernel has run, and the seconds that all kernels together took.
    kernels: dict[str, int] = field(default_factory=dict)
    kernel_seconds: float = 0.0


def count_launches(call: Contender, stopwatch: Stopwatch) -> Launches:
    """Profiles one call, after some that it does not count."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    for _ in range(3):
        call()
    stopwatch.synchronize()
    activities = [ProfilerActivity.CPU]
    if stopwatch.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, acc_events=True) as recorded:
        call()
        stopwatch.synchronize()
    asked: Counter[str] = Counter()
    kernels: Counter[str] = Counter()
    microseconds = 0.0
    for event in recorded.events() or ():
        if event.device_type == DeviceType.CPU:
            for what, pattern in (("launches", _LAUNCH), ("copies", _COPY), ("waits", _WAIT)):
                asked[what] += bool(pattern.match(event.name))
        elif _is_kernel(event):
            kernels[event.name.split("<")[0][:80]] += 1
            microseconds += event.time_range.elapsed_us()
    return Launches(
        launches=asked["launches"],
        copies=asked["copies"],
        waits=asked["waits"],
        kernels=dict(kernels),
        kernel_seconds=microseconds * 1e-6,
    )
