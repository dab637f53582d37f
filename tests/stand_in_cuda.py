"""What torch.cuda does around a capture, without a GPU.

``torch.cuda.graph`` itself runs, over streams that take notes and graphs that fail where they are
told to. Recorded and replayed are the launches of the walked kernels: what the optimizer and its
schedulers do. What torch computes runs at once, during the capture, and does not run in replays:
each of them steps with the gradients of the capture.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch

from fusedlr import GraphedTrainStep, _backend


class Stream:
    """Remembers which streams it has waited for."""

    def __init__(self) -> None:
        self.has_waited_for: list[Stream] = []

    def wait_stream(self, stream: Stream) -> None:
        self.has_waited_for.append(stream)


class StandInCuda:
    """The stand-ins, and what happened to them.

    Args:
        monkeypatch: puts them in place, until the test ends.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.default = self.current = Stream()
        self.streams: list[Stream] = []
        #: ``"capture_begin"`` or ``"capture_end"``, to raise there as torch does.
        self.fails_in = ""
        monkeypatch.setenv("FUSEDLR_BACKEND", "walked")
        monkeypatch.setattr(GraphedTrainStep, "_can_capture", lambda step: True)
        monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
        for name, stand_in in {
            "Stream": self._new_stream,
            "CUDAGraph": lambda: _Graph(self),
            "device": contextlib.nullcontext,
            "stream": lambda stream: _StreamContext(self, stream),
            "current_stream": lambda: self.current,
            "set_stream": self._set_stream,
            "synchronize": lambda: None,
            "empty_cache": lambda: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)

    def _new_stream(self, device: torch.device) -> Stream:
        self.streams.append(Stream())
        return self.streams[-1]

    def _set_stream(self, stream: Stream) -> None:
        self.current = stream


class _StreamContext:
    """As torch's, which puts nothing back unless it is left."""

    def __init__(self, cuda: StandInCuda, stream: Stream) -> None:
        self._cuda, self._stream = cuda, stream

    def __enter__(self) -> None:
        self._before, self._cuda.current = self._cuda.current, self._stream

    def __exit__(self, *error: Any) -> None:
        self._cuda.current = self._before


class _Graph:
    def __init__(self, cuda: StandInCuda) -> None:
        self._cuda = cuda
        self._walked = _backend.extension.HostGraph()

    def capture_begin(self, **options: Any) -> None:
        self._fail_in("capture_begin")
        self._walked.begin_()

    def capture_end(self) -> None:
        self._walked.end_()
        self._fail_in("capture_end")

    def replay(self) -> None:
        self._walked.replay_()

    def _fail_in(self, method: str) -> None:
        if self._cuda.fails_in == method:
            raise RuntimeError(f"CUDA error: {method} failed")
