"""Records what the schedules of transformers and optax give, for the tests to compare with.

    pip install torch transformers optax
    python scripts/record_schedules.py      # writes tests/data/recorded_schedules.json

optax runs with jax_enable_x64, because in its default float32 it would say little about float64.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
import torch
import transformers

TARGET = Path(__file__).parent.parent / "tests" / "data" / "recorded_schedules.json"
LR = 3e-4  # of the optimizer, for transformers
TOTAL = 100
#: Both sides of every boundary of the rows below, and some steps between them.
BOUNDARIES = (0, 10, 20, 30, 40, 50, 60, 70, 80, 85, 100)
STEPS = sorted(
    {*range(0, TOTAL + 1, 6)}
    | {step + side for step in BOUNDARIES for side in (-1, 0, 1) if 0 <= step + side <= TOTAL}
)


class Row(NamedTuple):
    function: str
    arguments: dict[str, Any]
    ours: str
    ulps: int = 0  # the largest difference allowed, in ulps of the largest value
    last: int = TOTAL  # the last step that is recorded


WARM = {"num_warmup_steps": 10}
RUN = {**WARM, "num_training_steps": TOTAL}
WSD = {**WARM, "num_stable_steps": 50, "num_decay_steps": 40}

TRANSFORMERS = [
    Row("get_constant_schedule", {}, "constant(3e-4)"),
    Row("get_constant_schedule_with_warmup", WARM, "warmup_constant(3e-4, warmup_steps=10)"),
    Row(
        "get_linear_schedule_with_warmup",
        RUN,
        "warmup_linear(3e-4, warmup_steps=10, total_steps=100)",
    ),
    Row(
        "get_linear_schedule_with_warmup",
        {**RUN, "num_warmup_steps": 0},
        "linear(3e-4, 0.0, steps=100)",
    ),
    Row(
        "get_cosine_schedule_with_warmup",
        RUN,
        "warmup_cosine(3e-4, warmup_steps=10, total_steps=100)",
    ),
    Row(
        "get_cosine_with_hard_restarts_schedule_with_warmup",
        {**RUN, "num_cycles": 3},
        "warmup_cosine(3e-4, warmup_steps=10, total_steps=100, cycles=3)",
    ),
    Row(
        "get_cosine_with_min_lr_schedule_with_warmup",
        {**RUN, "min_lr_rate": 0.1},
        "3e-4 * warmup_cosine(1.0, warmup_steps=10, total_steps=100, end=0.1)",
    ),
    Row(
        "get_cosine_with_min_lr_schedule_with_warmup",
        {**RUN, "min_lr": 3e-5},
        "warmup_cosine(3e-4, warmup_steps=10, total_steps=100, end=3e-5)",
        ulps=1,
    ),
    Row(  # one step ahead; past its end, transformers' cosine rises again
        "get_cosine_with_min_lr_schedule_with_warmup_lr_rate",
        {**RUN, "min_lr_rate": 0.1},
        "warmup_cosine(3e-4, warmup_steps=9, total_steps=99, init=3e-5, end=3e-5)",
        ulps=1,
        last=99,
    ),
    Row(
        "get_polynomial_decay_schedule_with_warmup",
        {**RUN, "lr_end": 1e-7, "power": 2.0},
        "warmup_polynomial(3e-4, warmup_steps=10, total_steps=100, power=2.0, end=1e-7)",
        ulps=1,
    ),
    Row("get_inverse_sqrt_schedule", WARM, "warmup_inverse_sqrt(3e-4, warmup_steps=10)"),
    Row(
        "get_inverse_sqrt_schedule",
        {**WARM, "timescale": 30},
        "warmup_inverse_sqrt(3e-4, warmup_steps=10, timescale=30)",
    ),
    Row(
        "get_wsd_schedule",
        WSD,
        "wsd(3e-4, warmup_steps=10, decay_steps=40, total_steps=100)",
    ),
    Row(
        "get_wsd_schedule",
        {**WSD, "decay_type": "linear"},
        "wsd(3e-4, warmup_steps=10, decay_steps=40, total_steps=100, decay='linear')",
        ulps=1,
    ),
    Row(
        "get_wsd_schedule",
        {**WSD, "warmup_type": "1-sqrt", "decay_type": "1-sqrt", "min_lr_ratio": 0.1},
        "3e-4 * wsd(1.0, warmup_steps=10, decay_steps=40, total_steps=100, init=0.1, end=0.1, "
        "warmup='1-sqrt', decay='1-sqrt')",
        ulps=1,
    ),
    Row(
        "get_wsd_schedule",
        {**WSD, "warmup_type": "cosine", "min_lr_ratio": 0.1},
        "3e-4 * wsd(1.0, warmup_steps=10, decay_steps=40, total_steps=100, init=0.1, end=0.1, "
        "warmup='cosine')",
        ulps=1,
    ),
]

LINE = {"init_value": 0.1, "end_value": 0.01, "transition_steps": 80}
DECAY = {"init_value": 0.1, "transition_steps": 20, "decay_rate": 0.5}
PEAK = {"init_value": 0.01, "peak_value": 0.1, "warmup_steps": 10}
CYCLE = {"transition_steps": TOTAL, "peak_value": 0.1}

# The compiler behind optax orders and approximates operations in its own way: 2 ulps.
OPTAX = [
    Row("constant_schedule", {"value": 0.1}, "constant(0.1)"),
    Row(
        "linear_schedule",
        LINE,
        "linear(0.1, 0.01, steps=80)",
    ),
    Row(
        "linear_schedule",
        {**LINE, "transition_begin": 20},
        "join([0.1, linear(0.1, 0.01, steps=80)], [20])",
    ),
    Row(
        "polynomial_schedule",
        {**LINE, "power": 2.0},
        "polynomial(0.1, 0.01, steps=80, power=2.0)",
    ),
    Row(
        "polynomial_schedule",
        {"init_value": 0.01, "end_value": 0.1, "transition_steps": 80, "power": 3.0},
        "polynomial(0.01, 0.1, steps=80, power=3.0)",
    ),
    Row(
        "cosine_decay_schedule",
        {"init_value": 0.1, "decay_steps": 80},
        "cosine(0.1, steps=80)",
    ),
    Row(
        "cosine_decay_schedule",
        {"init_value": 0.1, "decay_steps": 80, "alpha": 0.1, "exponent": 2.0},
        "cosine(0.1, 0.01, steps=80, exponent=2.0)",
    ),
    Row(
        "exponential_decay",
        DECAY,
        "exponential(0.1, gamma=0.5, steps=20)",
    ),
    Row(
        "exponential_decay",
        {**DECAY, "end_value": 0.02},
        "exponential(0.1, gamma=0.5, steps=20, end=0.02)",
    ),
    Row(
        "exponential_decay",
        {**DECAY, "staircase": True},
        "step(0.1, step_size=20, gamma=0.5)",
    ),
    Row(
        "piecewise_constant_schedule",
        {"init_value": 0.1, "boundaries_and_scales": {30: 0.5, 70: 0.1}},
        "piecewise_constant([0.1, 0.05, 0.005], [30, 70])",
    ),
    Row(
        "piecewise_interpolate_schedule",
        {
            "interpolate_type": "linear",
            "init_value": 0.1,
            "boundaries_and_scales": {30: 0.5, 70: 0.1},
        },
        "piecewise_linear([0.1, 0.05, 0.005], [30, 70])",
    ),
    Row(
        "piecewise_interpolate_schedule",
        {
            "interpolate_type": "cosine",
            "init_value": 0.1,
            "boundaries_and_scales": {30: 0.5, 70: 0.1},
        },
        "join([cosine(0.1, 0.05, steps=30), cosine(0.05, 0.005, steps=40)], [30])",
    ),
    Row(
        "warmup_constant_schedule",
        PEAK,
        "warmup_constant(0.1, warmup_steps=10, init=0.01)",
    ),
    Row(
        "warmup_cosine_decay_schedule",
        {**PEAK, "decay_steps": TOTAL, "end_value": 0.001},
        "warmup_cosine(0.1, warmup_steps=10, total_steps=100, init=0.01, end=0.001)",
    ),
    Row(
        "warmup_exponential_decay_schedule",
        {**PEAK, "transition_steps": 20, "decay_rate": 0.5},
        "warmup(exponential(0.1, gamma=0.5, steps=20), steps=10, init=0.01)",
    ),
    Row(
        "sgdr_schedule",
        {
            "cosine_kwargs": [
                {**PEAK, "decay_steps": 40},
                {**PEAK, "peak_value": 0.05, "decay_steps": 60},
            ]
        },
        "join([warmup_cosine(0.1, warmup_steps=10, total_steps=40, init=0.01), "
        "warmup_cosine(0.05, warmup_steps=10, total_steps=60, init=0.01)], [40])",
    ),
    Row(
        "cosine_onecycle_schedule",
        CYCLE,
        "join([cosine(0.004, 0.1, steps=30), cosine(0.1, 4e-7, steps=70)], [30])",
    ),
    Row(
        "linear_onecycle_schedule",
        CYCLE,
        "piecewise_linear([0.004, 0.1, 0.004, 4e-7], [30, 85, 100])",
    ),
]


def steps_of(row: Row) -> list[int]:
    return [step for step in STEPS if step <= row.last]


def transformers_values(row: Row) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = getattr(transformers.optimization, row.function)(optimizer, **row.arguments)
    values = []
    for _ in range(TOTAL + 1):
        values.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return [values[step] for step in steps_of(row)]


def optax_values(row: Row) -> list[float]:
    schedule = getattr(optax, row.function)(**row.arguments)
    return [float(schedule(step)) for step in steps_of(row)]


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    recorded = [
        {"library": library, **row._asdict(), "steps": steps_of(row), "values": values(row)}
        for library, rows, values in (
            ("transformers", TRANSFORMERS, transformers_values),
            ("optax", [row._replace(ulps=2) for row in OPTAX], optax_values),
        )
        for row in rows
    ]
    versions = {module.__name__: module.__version__ for module in (transformers, optax, jax, torch)}
    head = {"source": "scripts/record_schedules.py", "versions": versions}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    rows = ",\n".join(map(json.dumps, recorded))
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text("{" + ",\n".join([*lines, f'"rows": [\n{rows}\n]']) + "}\n")
    print(f"{len(recorded)} schedules at {len(STEPS)} steps each in {TARGET}")


if __name__ == "__main__":
    main()
