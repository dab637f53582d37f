"""Fixtures that the tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import interpreter
import own_process

if interpreter.IS_CHOSEN:
    interpreter.prepare()

#: The engines that serve CPU tensors; Triton's only where its kernels are interpreted.
COMPILED_ENGINES = ["triton"] if interpreter.IS_CHOSEN else ["cpu", "walked"]
ENGINES = ["triton"] if interpreter.IS_CHOSEN else ["cpu", "torch", "walked"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rehearse",
        action="store_true",
        help="without a GPU, run on the CPU what can be run of its tests: finds mistakes in them",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out tests that were not asked for, or have no device, rather than skipping them."""
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        (kept if _is_wanted(item, config) else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.getoption("collectonly"):
        return
    for item in session.items:
        begin = getattr(getattr(item, "module", None), "begin", None)
        if begin is not None:
            begin(item)


def pytest_sessionfinish() -> None:
    own_process.end_runs()


def _is_wanted(item: pytest.Item, config: pytest.Config) -> bool:
    if item.get_closest_marker("gpu") is None or torch.cuda.is_available():
        return True
    return bool(config.getoption("--rehearse")) and "place" in getattr(item, "fixturenames", ())


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


@pytest.fixture(params=COMPILED_ENGINES)
def compiled_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The CPU engine, and the kernels of a device, walked: a test that takes this runs on both."""
    monkeypatch.setenv("FUSEDLR_BACKEND", request.param)
    return str(request.param)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The engines that serve CPU tensors: a test that takes this runs on each of them."""
    monkeypatch.setenv("FUSEDLR_BACKEND", request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def ranks() -> Iterator[Any]:
    """Processes that train together; see ``rank_processes``."""
    from rank_processes import RankProcesses

    processes = RankProcesses()
    yield processes
    processes.stop()
