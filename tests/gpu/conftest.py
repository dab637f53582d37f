"""What the tests of a GPU, and of its kernels walked or interpreted on the host, share."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from places import CPU, CUDA, INTERPRETED, TRITON, WALKED, Place
from torch.optim.lr_scheduler import LRScheduler

import fusedlr
import interpreter

PLACES = [
    WALKED,
    pytest.param(CUDA, marks=pytest.mark.gpu),
    pytest.param(TRITON, marks=[pytest.mark.gpu, pytest.mark.triton]),
]


@pytest.fixture(params=[INTERPRETED] if interpreter.IS_CHOSEN else PLACES, ids=str)
def place(request: pytest.FixtureRequest) -> Place:
    """Where the steps of a test run: a test that takes this runs at each place."""
    place: Place = request.param
    is_rehearsal = request.config.getoption("--rehearse") and not torch.cuda.is_available()
    return CPU if is_rehearsal and place.device.type == "cuda" else place


def _classes_with_a_step() -> list[Any]:
    schedulers = [getattr(fusedlr.lr_scheduler, name) for name in fusedlr.lr_scheduler.__all__]
    bases = [base for one in schedulers if isinstance(one, type) for base in one.__mro__]
    return [
        owner
        for owner in dict.fromkeys([fusedlr.FusedOptimizer, LRScheduler, *bases])
        if "step" in vars(owner)
    ]


def _without_waiting(step: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but raising where the host would wait for the device."""

    @functools.wraps(step)
    def checked(*args: Any, **kwargs: Any) -> Any:
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(*args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode(before)

    return checked


@pytest.fixture(autouse=True)
def _steps_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets every step of an optimizer or a scheduler raise where it would wait for the device."""
    if not torch.cuda.is_available():
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that the mode is a prototype
        torch.cuda.set_sync_debug_mode("default")
    for owner in _classes_with_a_step():
        monkeypatch.setattr(owner, "step", _without_waiting(owner.step))
