"""The table of the schedules of fusedlr.schedules: a row for each variant of each of them."""

import math
from typing import NamedTuple


class Case(NamedTuple):
    """A schedule, and what is known about it without its formula."""

    text: str
    values: dict[int, float]
    """Values at some steps: exact, as far as float64 can give them."""
    moves: dict[tuple[int, int], str]
    """How it goes from step to step: ``"rises"``, ``"falls"`` or ``"stays"``."""
    settles: int | None = None
    """The step from which on it keeps its value, if there is one."""

    @property
    def name(self) -> str:
        return self.text.split("(")[0]


UP, DOWN, FLAT = "rises", "falls", "stays"

CASES = [
    Case("constant(0.3)", {0: 0.3, 10**9: 0.3}, {(0, 50): FLAT}, settles=0),
    Case("linear(0.1, 0.02, steps=50)", {0: 0.1, 25: 0.06, 50: 0.02}, {(0, 50): DOWN}, 50),
    Case("linear(0.02, 0.1, steps=50)", {0: 0.02, 25: 0.06, 50: 0.1}, {(0, 50): UP}, 50),
    Case("linear(-1.0, 1.0, steps=4)", {0: -1, 1: -0.5, 2: 0, 4: 1}, {(0, 4): UP}, 4),
    Case("cosine(0.4, steps=60)", {0: 0.4, 20: 0.3, 30: 0.2, 40: 0.1, 60: 0}, {(0, 60): DOWN}, 60),
    Case("cosine(0.1, 0.5, steps=60)", {0: 0.1, 20: 0.2, 30: 0.3, 60: 0.5}, {(0, 60): UP}, 60),
    Case(
        "cosine(1.0, steps=60, exponent=2.0)",
        {0: 1.0, 20: 0.5625, 30: 0.25, 40: 0.0625, 60: 0.0},
        {(0, 60): DOWN},
        60,
    ),
    Case(
        "cosine(1.0, 0.2, steps=90, cycles=3)",
        {0: 1.0, 15: 0.6, 30: 1.0, 40: 0.8, 60: 1.0, 75: 0.6, 90: 0.2},
        {(0, 29): DOWN, (29, 30): UP, (30, 59): DOWN, (60, 90): DOWN},
        90,
    ),
    Case(
        "cosine_restarts(1.0, 0.2, period=30)",
        {0: 1.0, 15: 0.6, 30: 1.0, 40: 0.8, 3 * 10**9 + 20: 0.4},
        {(0, 29): DOWN, (29, 30): UP, (30, 59): DOWN},
    ),
    Case(
        "cosine_restarts(1.0, 0.2, period=10, growth=3)",
        {0: 1.0, 5: 0.6, 10: 1.0, 25: 0.6, 40: 1.0, 85: 0.6, 130: 1.0, 10 * (3**15 - 1) // 2: 1.0},
        {(0, 9): DOWN, (9, 10): UP, (10, 39): DOWN, (39, 40): UP, (40, 129): DOWN},
    ),
    Case(
        "polynomial(1.0, 0.5, steps=40, power=2.0)",
        {0: 1.0, 20: 0.625, 30: 0.53125, 40: 0.5},
        {(0, 40): DOWN},
        40,
    ),
    Case("polynomial(1.0, steps=40)", {0: 1.0, 10: 0.75, 40: 0.0}, {(0, 40): DOWN}, 40),
    Case(
        "polynomial(0.5, 1.0, steps=40, power=0.5)",
        {0: 0.5, 30: 0.75, 40: 1.0},
        {(0, 40): UP},
        40,
    ),
    Case(
        "one_minus_sqrt(0.8, steps=100)",
        {0: 0.8, 1: 0.72, 25: 0.4, 64: 0.16, 100: 0.0},
        {(0, 100): DOWN},
        100,
    ),
    Case("one_minus_sqrt(0, 0.8, steps=100)", {0: 0, 25: 0.4, 100: 0.8}, {(0, 100): UP}, 100),
    Case(
        "geometric(1.0, 1e-4, steps=40)", {0: 1, 10: 0.1, 20: 0.01, 40: 1e-4}, {(0, 40): DOWN}, 40
    ),
    Case("geometric(-1, -16, steps=8)", {0: -1, 2: -2, 4: -4, 8: -16}, {(0, 8): DOWN}, 8),
    Case("exponential(0.8, gamma=0.5)", {0: 0.8, 1: 0.4, 3: 0.1}, {(0, 60): DOWN}),
    Case(
        "exponential(0.8, gamma=0.25, steps=10, end=0.1)",
        {0: 0.8, 5: 0.4, 10: 0.2, 15: 0.1},
        {(0, 15): DOWN},
        15,
    ),
    Case(
        "exponential(1.0, gamma=4.0, steps=10, end=8.0)",
        {0: 1.0, 5: 2.0, 10: 4.0, 15: 8.0},
        {(0, 15): UP},
        15,
    ),
    Case(
        "step(0.8, step_size=20, gamma=0.5)",
        {0: 0.8, 19: 0.8, 20: 0.4, 39: 0.4, 40: 0.2},
        {(0, 19): FLAT, (19, 20): DOWN, (20, 39): FLAT},
    ),
    Case(
        "step(1.0, step_size=3, gamma=-1.0)",
        {0: 1.0, 2: 1.0, 3: -1.0, 5: -1.0, 6: 1.0},
        {(0, 2): FLAT, (2, 3): DOWN, (5, 6): UP},
    ),
    Case(
        "inverse_sqrt(0.6, timescale=25)",
        {0: 0.6, 75: 0.3, 200: 0.2},
        {(0, 100): DOWN},
    ),
    Case(
        "join([linear(0, 1, steps=10), 0.5, cosine(1.0, steps=40)], [10, 30])",
        {0: 0.0, 9: 0.9, 10: 0.5, 29: 0.5, 30: 1.0, 50: 0.5, 70: 0.0},
        {(0, 9): UP, (10, 29): FLAT, (30, 70): DOWN},
        70,
    ),
    Case("join([0.25], [])", {0: 0.25, 7: 0.25}, {(0, 9): FLAT}, 0),
    Case("join([1, 2, 3], [4, 4])", {3: 1.0, 4: 3.0}, {(0, 3): FLAT, (3, 4): UP}, 4),
    Case(
        "piecewise_constant([0.1, 0.01, 0.05], [20, 60])",
        {0: 0.1, 19: 0.1, 20: 0.01, 59: 0.01, 60: 0.05},
        {(0, 19): FLAT, (19, 20): DOWN, (20, 59): FLAT},
        60,
    ),
    Case("piecewise_constant([0.1], [])", {0: 0.1}, {(0, 9): FLAT}, 0),
    Case(
        "piecewise_linear([0.0, 1.0, 0.5, 0.5], [10, 60, 80])",
        {0: 0.0, 5: 0.5, 10: 1.0, 35: 0.75, 60: 0.5},
        {(0, 10): UP, (10, 60): DOWN},
        60,
    ),
    Case(
        "warmup(exponential(0.8, gamma=0.5, steps=10), steps=20, init=0.2)",
        {0: 0.2, 10: 0.5, 20: 0.8, 30: 0.4},
        {(0, 20): UP, (20, 90): DOWN},
    ),
    Case("warmup(linear(1, 0, steps=4), steps=0)", {0: 1.0, 2: 0.5}, {(0, 4): DOWN}, 4),
    Case(
        "warmup_constant(0.4, warmup_steps=20)",
        {0: 0.0, 5: 0.1, 20: 0.4},
        {(0, 20): UP},
        20,
    ),
    Case("warmup_constant(0.4, warmup_steps=0)", {0: 0.4}, {(0, 9): FLAT}, 0),
    Case(
        "warmup_linear(0.4, warmup_steps=20, total_steps=100, end=0.04)",
        {0: 0.0, 5: 0.1, 20: 0.4, 60: 0.22, 100: 0.04},
        {(0, 20): UP, (20, 100): DOWN},
        100,
    ),
    Case(
        "warmup_cosine(3e-4, warmup_steps=20, total_steps=140, init=1e-4)",
        {0: 1e-4, 10: 2e-4, 20: 3e-4, 80: 1.5e-4, 140: 0.0},
        {(0, 20): UP, (20, 140): DOWN},
        140,
    ),
    Case(
        "warmup_cosine(1.0, warmup_steps=20, total_steps=80, cycles=2)",
        {0: 0.0, 20: 1.0, 35: 0.5, 50: 1.0, 65: 0.5, 80: 0.0},
        {(0, 20): UP, (20, 49): DOWN, (49, 50): UP, (50, 80): DOWN},
        80,
    ),
    Case(
        "warmup_cosine(1.0, warmup_steps=20, total_steps=80, exponent=2.0)",
        {0: 0.0, 20: 1.0, 50: 0.25, 80: 0.0},
        {(0, 20): UP, (20, 80): DOWN},
        80,
    ),
    Case(
        "warmup_polynomial(1.0, warmup_steps=20, total_steps=60, power=3.0)",
        {0: 0.0, 20: 1.0, 40: 0.125, 60: 0.0},
        {(0, 20): UP, (20, 60): DOWN},
        60,
    ),
    Case(
        "warmup_inverse_sqrt(0.6, warmup_steps=25)",
        {0: 0.0, 5: 0.12, 25: 0.6, 100: 0.3, 225: 0.2},
        {(0, 25): UP, (25, 100): DOWN},
    ),
    Case(
        "warmup_inverse_sqrt(0.6, warmup_steps=10, timescale=5)",
        {10: 0.6, 25: 0.3},
        {(0, 10): UP, (10, 100): DOWN},
    ),
    Case(
        "wsd(1.0, warmup_steps=10, decay_steps=40, total_steps=100)",
        {0: 0.0, 5: 0.5, 10: 1.0, 60: 1.0, 80: 0.5, 100: 0.0},
        {(0, 10): UP, (10, 60): FLAT, (60, 100): DOWN},
        100,
    ),
    Case(
        "wsd(1.0, warmup_steps=16, decay_steps=64, total_steps=100, init=0.2, end=0.2, "
        "warmup='1-sqrt', decay='1-sqrt')",
        {0: 0.2, 12: 0.6, 16: 1.0, 36: 1.0, 52: 0.6, 100: 0.2},
        {(0, 16): UP, (16, 36): FLAT, (36, 100): DOWN},
        100,
    ),
    Case(
        "wsd(1.0, warmup_steps=0, decay_steps=40, total_steps=100, decay='linear')",
        {0: 1.0, 60: 1.0, 70: 0.75, 100: 0.0},
        {(0, 60): FLAT, (60, 100): DOWN},
        100,
    ),
    Case(
        "wsd(1.0, warmup_steps=30, decay_steps=30, total_steps=60, warmup='cosine')",
        {0: 0.0, 15: 0.5, 30: 1.0, 45: 0.5, 60: 0.0},
        {(0, 30): UP, (30, 60): DOWN},
        60,
    ),
    Case(
        "one_cycle(1.0, total_steps=100)",
        {0: 0.04, 29: 1.0, 64: (1 + 4e-6) / 2, 99: 4e-6},
        {(0, 29): UP, (29, 99): DOWN},
        99,
    ),
    Case(
        "one_cycle(1.0, total_steps=21, pct_start=0.5, div_factor=10.0, shape='linear')",
        {0: 0.1, 9: 0.1 + 0.9 * 9 / 9.5, 20: 1e-5},
        {(0, 9): UP, (10, 20): DOWN},
        20,
    ),
    Case(
        "one_cycle(1.0, total_steps=100, three_phase=True, shape='linear')",
        {0: 0.04, 29: 1.0, 58: 0.04, 99: 4e-6},
        {(0, 29): UP, (29, 58): DOWN, (58, 99): DOWN},
        99,
    ),
    Case(
        "one_cycle(1.0, total_steps=11, pct_start=0.0, shape='linear')",
        {1: 1 - (1 - 4e-6) * 2 / 11, 10: 4e-6},
        {(0, 10): DOWN},
        10,
    ),
]

#: Sums and products, with the function of the step that they are.
OPERATIONS = [
    ("2.0 * linear(1.0, 0.0, steps=8)", lambda t: 2 * (1 - t / 8)),
    ("linear(1.0, 0.0, steps=8) * -0.5", lambda t: -0.5 * (1 - t / 8)),
    ("linear(1.0, 0.0, steps=8) / 4.0", lambda t: (1 - t / 8) / 4),
    ("1.0 / linear(1.0, 9.0, steps=8)", lambda t: 1 / (1 + t)),
    ("1.0 - linear(1.0, 0.0, steps=8)", lambda t: t / 8),
    ("linear(1.0, 0.0, steps=8) - 0.5", lambda t: 0.5 - t / 8),
    ("linear(1.0, 0.0, steps=8) + 0.5", lambda t: 1.5 - t / 8),
    ("0.5 + linear(1.0, 0.0, steps=8)", lambda t: 1.5 - t / 8),
    ("-linear(1.0, 0.0, steps=8)", lambda t: t / 8 - 1),
    ("-(linear(1.0, 0.0, steps=8) + 0.5)", lambda t: t / 8 - 1.5),
    (
        "linear(0.0, 8.0, steps=8) * linear(8.0, 0.0, steps=8) - linear(0.0, 1.0, steps=8)",
        lambda t: t * (8 - t) - t / 8,
    ),
    (
        "linear(0.0, 8.0, steps=8) - (linear(0.0, 8.0, steps=8) - 3.0)",
        lambda t: 3.0,
    ),
    (
        "linear(0.0, 8.0, steps=8) / (4.0 / linear(1.0, 9.0, steps=8))",
        lambda t: t * (1 + t) / 4,
    ),
    ("(linear(0.0, 8.0, steps=8) + 1.0) * 0.5", lambda t: (t + 1) / 2),
    (
        "warmup(0.5 * linear(1.0, 0.0, steps=8), steps=2)",
        lambda t: t / 4 if t < 2 else 0.5 * (1 - (t - 2) / 8),
    ),
    (
        "step(1.0, step_size=4, gamma=0.5) * cosine(1.0, steps=8)",
        lambda t: 0.5 ** (t // 4) * (1 + math.cos(math.pi * t / 8)) / 2,
    ),
]


class Refusal(NamedTuple):
    """A call that is refused, and words that the message must have."""

    text: str
    error: type[Exception]
    words: tuple[str, ...]


REFUSALS = [
    Refusal("linear(0.1, 0.0, steps=0)", ValueError, ("linear(0.1, 0.0, steps=0)", "at least 1")),
    Refusal("linear(0.1, 0.0, steps=-3)", ValueError, ("linear: steps", "-3")),
    Refusal("linear(0.1, 0.0, steps=2.5)", ValueError, ("linear: steps", "whole", "2.5")),
    Refusal("linear(0.1, 0.0, steps='9')", TypeError, ("linear: steps", "'9'")),
    Refusal("linear('a', 0.0, steps=9)", TypeError, ("linear: init", "number", "'a'")),
    Refusal("linear(True, 0.0, steps=9)", TypeError, ("linear: init", "number", "True")),
    Refusal("linear(1e999, 0.0, steps=9)", ValueError, ("linear: init", "finite", "inf")),
    Refusal("linear(0.1, steps=9)", TypeError, ("'end'", "linear(init, end, *, steps)")),
    Refusal("linear(0.1, 0, 9)", TypeError, ("positional", "linear(init, end, *, steps)")),
    Refusal("constant(1" + 400 * "0" + ")", ValueError, ("constant: value", "finite")),
    Refusal("constant(None)", TypeError, ("constant: value", "None")),
    Refusal("cosine(0.1, steps=9, exponent=0)", ValueError, ("exponent", "greater than 0")),
    Refusal("cosine(0.1, steps=9, cycles=0)", ValueError, ("cycles", "at least 1")),
    Refusal("cosine_restarts(0.1, period=0)", ValueError, ("period", "at least 1")),
    Refusal("cosine_restarts(0.1, period=5, growth=0)", ValueError, ("growth", "at least 1")),
    Refusal("polynomial(0.1, steps=9, power=-1)", ValueError, ("power", "greater than 0")),
    Refusal("one_minus_sqrt(0.1, steps=0)", ValueError, ("steps", "at least 1")),
    Refusal("geometric(0.1, 0.0, steps=9)", ValueError, ("one sign", "linear")),
    Refusal("geometric(0.1, -0.1, steps=9)", ValueError, ("one sign", "linear")),
    Refusal("exponential(0.1, gamma=0)", ValueError, ("gamma", "greater than 0")),
    Refusal("exponential(0.1, gamma=0.5, steps=0)", ValueError, ("steps", "at least 1")),
    Refusal("step(0.1, step_size=0)", ValueError, ("step_size", "at least 1")),
    Refusal("inverse_sqrt(0.1, timescale=0)", ValueError, ("timescale", "at least 1")),
    Refusal("join([], [])", ValueError, ("at least one schedule",)),
    Refusal("join([1, 2], [3, 4])", ValueError, ("2 schedules", "2 boundaries")),
    Refusal("join([1, 2, 3], [4, 3])", ValueError, ("ascending", "[3, 4]")),
    Refusal("join([1, 'a'], [3])", TypeError, ("join: schedules[1]", "'a'")),
    Refusal("join(5, [])", TypeError, ("join: schedules", "list", "5")),
    Refusal("join('ab', [3])", TypeError, ("join: schedules", "list", "'ab'")),
    Refusal("piecewise_constant([1, 2], [])", ValueError, ("2 values", "0 boundaries")),
    Refusal("piecewise_constant([], [])", ValueError, ("0 values", "0 boundaries")),
    Refusal("piecewise_linear([1, 2, 3], [4, 4])", ValueError, ("boundaries", "greater")),
    Refusal("piecewise_linear([1, 2], [0])", ValueError, ("boundaries", "greater than 0")),
    Refusal("warmup(0.1, steps=3)", TypeError, ("warmup: schedule", "0.1")),
    Refusal(
        "warmup_cosine(0.1, warmup_steps=9, total_steps=9)",
        ValueError,
        ("warmup_cosine(0.1, warmup_steps=9, total_steps=9)", "greater", "warmup_constant"),
    ),
    Refusal("warmup_linear(0.1, warmup_steps=9, total_steps=5)", ValueError, ("total_steps",)),
    Refusal("warmup_polynomial(0.1, warmup_steps=9, total_steps=5)", ValueError, ("total_steps",)),
    Refusal("warmup_inverse_sqrt(0.1, warmup_steps=0)", ValueError, ("timescale", "at least 1")),
    Refusal("wsd(0.1, warmup_steps=5, decay_steps=6, total_steps=10)", ValueError, ("5 + 6", "10")),
    Refusal("wsd(1, warmup_steps=5, decay_steps=0, total_steps=9)", ValueError, ("decay_steps",)),
    Refusal(
        "wsd(1, warmup_steps=5, decay_steps=4, total_steps=9, decay='sqrt')",
        ValueError,
        ("decay", "'linear', 'cosine', '1-sqrt'"),
    ),
    Refusal("one_cycle(0.1, total_steps=1)", ValueError, ("total_steps", "at least 2")),
    Refusal("one_cycle(0.1, total_steps=9, pct_start=1.5)", ValueError, ("between 0 and 1",)),
    Refusal("one_cycle(0.1, total_steps=9, div_factor=0)", ValueError, ("div_factor",)),
    Refusal("one_cycle(0.1, total_steps=9, three_phase=1)", TypeError, ("three_phase", "True")),
    Refusal(
        "one_cycle(0.1, total_steps=9, pct_start=0.6, three_phase=True)",
        ValueError,
        ("pct_start", "at most 0.5"),
    ),
    Refusal("linear(1, 0, steps=9) / 0", ValueError, ("linear(1.0, 0.0, steps=9) / 0", "by 0")),
    Refusal("cosin(0.1, steps=9)", ValueError, ("'cosin'", "did you mean 'cosine'")),
    Refusal("quux(0.1)", ValueError, ("'quux'", "warmup_cosine")),
]
