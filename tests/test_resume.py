"""A training with schedules that is killed and resumed ends with the bits of one that was not."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import random
import signal
import time
from typing import Any

import pytest
import torch

import resume_training
from resume_training import ITERATIONS, LR, SAVE_EVERY, WEIGHT_DECAY, Run, save, train

# Processes are forked from one that has imported everything: starting one takes no time.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["torch._dynamo", "fusedlr"])

KILLS = 6
#: Iterations in one life: together fewer than there are, so that none of them gets to the end.
LONGEST_LIFE = ITERATIONS // KILLS - 2

with_and_without_scaler = pytest.mark.parametrize(
    "has_scaler", [False, True], ids=["plain", "scaler"]
)


@pytest.fixture(autouse=True)
def _random_state():
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pt"


def bits(value: Any) -> Any:
    """A value in a form that compares to the last bit."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.reshape(-1).view(torch.uint8).tolist()
    if isinstance(value, dict):
        return {key: bits(one) for key, one in value.items()}
    return [bits(one) for one in value] if isinstance(value, (list, tuple)) else value


def uninterrupted(tmp_path, has_scaler):
    """The end of a run that nothing interrupts, after checks that it did train."""
    end = train(tmp_path / "uninterrupted.pt", has_scaler=has_scaler).checkpoint()
    start = Run.start(has_scaler=has_scaler).model.state_dict()
    for name, weight in end["model"].items():
        assert weight.isfinite().all()
        assert (weight - start[name]).abs().mean() > 0.01
    return bits(end)


def life(path, has_scaler, iterations, delay):
    """Trains in a process that is killed after some iterations and a delay.

    Returns:
        The number of the iteration with which it began.
    """
    ours, theirs = context.Pipe()
    process = context.Process(
        target=resume_training.train_in_process, args=(path, has_scaler, theirs)
    )
    process.start()
    theirs.close()
    with ours:
        first = last = ours.recv()
        while last < first + iterations:
            ours.send("go on")
            last = ours.recv()
        ours.send("go on")
        time.sleep(delay)
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    return first


@with_and_without_scaler
def test_a_run_that_is_killed_at_random_moments_ends_with_the_same_bits(has_scaler, tmp_path, path):
    expected = uninterrupted(tmp_path, has_scaler)
    # An iteration takes about as long as the longest delay: all of its parts get their share.
    chance = random.Random(7 + has_scaler)
    beginnings = [
        life(path, has_scaler, chance.randint(SAVE_EVERY, LONGEST_LIFE), chance.uniform(0.0, 0.004))
        for _ in range(KILLS)
    ]
    run = train(path, has_scaler=has_scaler)

    assert beginnings[0] == 0
    assert beginnings == sorted(set(beginnings))
    assert all(beginning % SAVE_EVERY == 0 for beginning in beginnings)
    assert bits(run.checkpoint()) == expected


class Interruption(Exception):
    pass


def interrupt_after(iterations):
    reports = itertools.count()

    def report(run):
        if next(reports) == iterations:
            raise Interruption

    return report


@with_and_without_scaler
@pytest.mark.parametrize("seed", range(4))
def test_a_run_that_is_interrupted_after_random_iterations_ends_with_the_same_bits(
    has_scaler, seed, tmp_path, path
):
    expected = uninterrupted(tmp_path, has_scaler)
    chance = random.Random(seed)
    runs = 0
    run = None
    while run is None:
        runs += 1
        left = chance.randrange(1, 20)
        with contextlib.suppress(Interruption):
            run = train(path, has_scaler=has_scaler, report=interrupt_after(left))

    assert runs > 3
    assert bits(run.checkpoint()) == expected


def test_schedules_advance_with_the_steps_that_a_scaler_does_not_skip(path):
    trace = []

    def report(run):
        groups = [(group["lr"], group["weight_decay"]) for group in run.optimizer.param_groups]
        trace.append((run.optimizer.completed_steps, run.scaler.get_scale(), groups))

    run = train(path, has_scaler=True, report=report)

    was_skipped = [after[1] < before[1] for before, after in itertools.pairwise(trace)]
    assert 8 <= sum(was_skipped) <= 30
    assert run.optimizer.completed_steps == ITERATIONS - sum(was_skipped)
    for skipped, (before, after) in zip(was_skipped, itertools.pairwise(trace), strict=True):
        if skipped:
            assert (after[0], after[2]) == (before[0], before[2])
        else:
            step = before[0]
            lr, decay = LR(step), WEIGHT_DECAY(step)
            assert (after[0], after[2]) == (step + 1, [(lr, decay), (0.5 * lr, decay)])


def forget_model(checkpoint, start):
    checkpoint["model"] = start["model"]


def forget_averages(checkpoint, start):
    checkpoint["optimizer"]["state"] = {}


def forget_schedules(checkpoint, start):
    for group in checkpoint["optimizer"]["param_groups"]:
        del group["schedules"]


def forget_completed_steps(checkpoint, start):
    for group in checkpoint["optimizer"]["param_groups"]:
        group["completed_steps"] = 0


def forget_scale(checkpoint, start):
    checkpoint["scaler"] = start["scaler"]


def forget_random_state(checkpoint, start):
    checkpoint["random"] = start["random"]


PARTS = [
    forget_model,
    forget_averages,
    forget_schedules,
    forget_completed_steps,
    forget_scale,
    forget_random_state,
]


@pytest.mark.parametrize("forget", PARTS, ids=lambda forget: forget.__name__)
def test_a_resume_that_forgets_a_part_ends_elsewhere(forget, tmp_path, path):
    expected = uninterrupted(tmp_path, has_scaler=True)
    start = Run.start(has_scaler=True).checkpoint()

    with pytest.raises(Interruption):
        train(path, has_scaler=True, report=interrupt_after(ITERATIONS // 2))
    checkpoint = torch.load(path, weights_only=True)
    forget(checkpoint, start)
    save(checkpoint, path)
    run = train(path, has_scaler=True)

    assert bits(run.checkpoint())["model"] != expected["model"]
