"""The schedules give the numbers of transformers, optax (recorded) and torch (installed)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from fusedlr.schedules import parse

RECORDED = json.loads((Path(__file__).parent / "data" / "recorded_schedules.json").read_text())

#: A scheduler of torch, how it is written, and the schedule that gives its lr from 0.1 on.
TORCH = [
    ("ConstantLR", {"factor": 0.25, "total_iters": 20}, "piecewise_constant([0.025, 0.1], [20])"),
    ("LinearLR", {"start_factor": 0.25, "total_iters": 20}, "linear(0.025, 0.1, steps=20)"),
    ("StepLR", {"step_size": 30, "gamma": 0.5}, "step(0.1, step_size=30, gamma=0.5)"),
    (
        "MultiStepLR",
        {"milestones": [30, 70], "gamma": 0.5},
        "piecewise_constant([0.1, 0.05, 0.025], [30, 70])",
    ),
    ("ExponentialLR", {"gamma": 0.97}, "exponential(0.1, gamma=0.97)"),
    ("PolynomialLR", {"total_iters": 80, "power": 2.0}, "polynomial(0.1, steps=80, power=2.0)"),
    ("CosineAnnealingLR", {"T_max": 100, "eta_min": 0.01}, "cosine(0.1, 0.01, steps=100)"),
    (
        "CosineAnnealingWarmRestarts",
        {"T_0": 25, "eta_min": 0.01},
        "cosine_restarts(0.1, 0.01, period=25)",
    ),
    (
        "CosineAnnealingWarmRestarts",
        {"T_0": 7, "T_mult": 3, "eta_min": 0.01},
        "cosine_restarts(0.1, 0.01, period=7, growth=3)",
    ),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 101}, "one_cycle(0.1, total_steps=101)"),
    (
        "OneCycleLR",
        {
            "max_lr": 0.1,
            "total_steps": 101,
            "pct_start": 0.37,
            "div_factor": 10.0,
            "final_div_factor": 50.0,
            "anneal_strategy": "linear",
        },
        "one_cycle(0.1, total_steps=101, pct_start=0.37, div_factor=10.0, final_div_factor=50.0, "
        "shape='linear')",
    ),
    (
        "OneCycleLR",
        {"max_lr": 0.1, "total_steps": 101, "three_phase": True},
        "one_cycle(0.1, total_steps=101, three_phase=True)",
    ),
]


def differences(values, schedule, steps):
    """The largest difference in ulps of the largest value, called one by one and with an array."""
    ulp = np.spacing(np.abs(values).max())
    one_by_one = np.array([schedule(step) for step in steps])
    at_once = schedule(np.array(steps))
    return [np.abs(one_by_one - values).max() / ulp, np.abs(at_once - values).max() / ulp]


def test_the_record_is_whole_and_says_where_it_is_from():
    functions = [row["function"] for row in RECORDED["rows"]]
    assert len(functions) == 35
    assert set(RECORDED["versions"]) == {"transformers", "optax", "jax", "torch"}


@pytest.mark.parametrize(
    "row", RECORDED["rows"], ids=lambda row: f"{row['function']}-{row['ours']}"
)
def test_a_schedule_gives_the_recorded_numbers(row):
    values = np.array(row["values"])
    assert len(row["steps"]) == len(values) > 40

    one_by_one, at_once = differences(values, parse(row["ours"]), row["steps"])

    assert one_by_one <= row["ulps"]
    assert at_once <= row["ulps"] + 1  # the vectorised cosine and power


def test_most_schedules_of_transformers_are_met_to_the_last_bit():
    exact = [row["library"] == "transformers" and row["ulps"] == 0 for row in RECORDED["rows"]]
    assert sum(exact) == 10


@pytest.mark.parametrize(("name", "arguments", "text"), TORCH, ids=[text for *_, text in TORCH])
def test_a_schedule_gives_the_numbers_of_the_installed_torch(name, arguments, text):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    momentum = {"cycle_momentum": False} if name == "OneCycleLR" else {}
    scheduler = getattr(lr_scheduler, name)(optimizer, **arguments, **momentum)
    values = []
    for step in range(101):
        values.append(scheduler.get_last_lr()[0])
        optimizer.step()
        if step < 100:
            scheduler.step()

    one_by_one, at_once = differences(np.array(values), parse(text), range(101))

    # Most of torch's schedulers go from lr to lr, with a rounding in each step.
    assert max(one_by_one, at_once) <= 4
