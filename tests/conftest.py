"""Fixtures that the tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Many small torch operations on a thread pool take a hundred times as long when other work
    # keeps the cores busy. Tests of threading ask for threads.
    torch.set_num_threads(1)


@pytest.fixture
def set_num_threads() -> Iterator[Callable[[int], None]]:
    """``torch.set_num_threads``, put back after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def generator() -> torch.Generator:
    """A source of random numbers that gives every test the same ones in every run."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=["cpu", "torch"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The engines that serve CPU tensors: a test that takes this runs on each of them."""
    monkeypatch.setenv("FUSEDLR_BACKEND", request.param)
    return str(request.param)
