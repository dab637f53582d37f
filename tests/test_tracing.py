"""Functions of the step become expressions with the same bits, or a reason why not."""

import bisect
import dataclasses
import functools
import itertools
import math
import random
import struct
import time
from collections import namedtuple
from math import cos as imported_cos
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fusedlr import _backend, tracing
from fusedlr.expression import STEP, apply, compile_, constant, evaluate, select
from fusedlr.tracing import Traced, Untraceable, trace
from fusedlr.tracing.sample import LAST_RANDOM_STEP

# What the functions below read

WARMUP = 10
TOTAL = 100
GAMMA = 0.1
MILESTONES = [30, 60, 80]
FACTORS = [1, 0.5, 0.1]
PER_STEP = tuple(0.99**step for step in range(50))
BY_STEP = {0: 1.0, 10: 0.5, 20: 0.25}
PIECES = [lambda step: step / 10, lambda step: 0.9**step]
CONFIG = SimpleNamespace(warmup=20, decay=SimpleNamespace(power=1.5), kind="cosine")
NUMPY_TOTAL = np.int64(200)
NUMPY_FLOOR = np.float64(0.1)
Point = namedtuple("Point", "x y")
POINT = Point(3, 0.5)
LOG = []
COUNT = 0


def ramp(step, steps=10, *, top=1.0):
    return min(top, step / steps)


def warmup_cosine(step):
    if step < WARMUP:
        return step / WARMUP
    progress = (step - WARMUP) / (TOTAL - WARMUP)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def loop_over_milestones(step):
    factor = 1.0
    for milestone in MILESTONES:
        if step >= milestone:
            factor *= GAMMA
    return factor


def doubling_restarts(step):
    period = 10
    while step >= period:
        step -= period
        period *= 2
    return 0.5 * (1 + math.cos(math.pi * step / period))


def import_inside(step):
    import math as m
    from bisect import bisect_right

    return m.cos(step / 100) * 0.5 ** bisect_right([10, 20], step)


def nested_counter(step):
    total = 0

    def add(amount):
        nonlocal total
        total += amount

    for milestone in MILESTONES:
        add(step >= milestone)
    return GAMMA**total


def handled_error(step):
    try:
        return FACTORS[step // 20]
    except IndexError:
        return FACTORS[-1]


def asserting(step):
    assert step >= 0, f"a negative step: {step}"
    return 1 / (1 + step)


def verbose_off(step, verbose=False):
    if verbose:
        print(step)
    return 0.9**step


def generator_of_parts(step):
    def parts():
        yield 0.5
        if step > 20:
            yield 0.25
        yield step / 100

    return sum(parts())


def structural_match(step):
    match step:
        case 0:
            return 1.0
        case 5 | 6:
            return 0.5
        case n if n > 50:
            return 1 / n
    return 0.1


def local_containers(step):
    values = {}
    values["warm"] = min(1.0, step / 7)
    parts = [0.5]
    parts.append(values["warm"])
    parts[0] = 0.25
    return parts[0] * parts[1]


def recursive(step, depth=4):
    return 1.0 if depth == 0 or step < 5 else 0.5 * recursive(step - 5, depth - 1)


class Warmup:
    scale = 0.5

    def __init__(self, steps):
        self.steps = steps
        self.factors = [1.0, 0.5]

    @property
    def last(self):
        return self.steps - 1

    @staticmethod
    def clip(x):
        return min(x, 1.0)

    @classmethod
    def scaled(cls, x):
        return x * cls.scale

    def decay(self, step):
        return self.factors[1] ** (step - self.last)

    def __call__(self, step):
        if step <= self.last:
            return self.scaled(self.clip(step / self.steps))
        return self.decay(step)


@dataclasses.dataclass(frozen=True)
class Slotted:
    __slots__ = ("power",)
    power: float

    def __call__(self, step):
        return (1 + step) ** -self.power


def cached(function):
    return functools.lru_cache(maxsize=2)(function)


def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs) * 1.0

    return wrapper


HOLDER = SimpleNamespace(decay=Warmup(20).decay)

# The shapes of the schedules of the transformers library (version 5.23, optimization.py)


def constant_with_warmup(step, *, warmup):
    if step < warmup:
        return float(step) / float(max(1.0, warmup))
    return 1.0


def linear_with_warmup(step, *, warmup, total):
    if step < warmup:
        return float(step) / float(max(1, warmup))
    return max(0.0, float(total - step) / float(max(1, total - warmup)))


def cosine_with_restarts(step, *, warmup, total, cycles):
    if step < warmup:
        return float(step) / float(max(1, warmup))
    done = float(step - warmup) / float(max(1, total - warmup))
    if done >= 1.0:
        return 0.0
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((float(cycles) * done) % 1.0))))


def cosine_with_floor(step, *, warmup, total, cycles, floor, first=None):
    step, warmup, total = float(step), float(warmup), float(total)
    if step < warmup:
        if first is None:
            return (step + 1.0) / max(1.0, warmup)
        return float(first) + (1.0 - float(first)) * step / max(1, warmup - 1)
    done = (step - warmup + 1.0) / max(1.0, total - warmup)
    factor = 0.5 * (1.0 + math.cos(math.pi * cycles * 2.0 * done))
    return max(0, factor * (1 - floor) + floor)


def polynomial_with_warmup(step, *, warmup, total, end, power, start):
    if step < warmup:
        return float(step) / float(max(1, warmup))
    elif step > total:
        return end / start
    left = 1 - (step - warmup) / (total - warmup)
    return ((start - end) * left**power + end) / start


def inverse_sqrt_with_warmup(step, *, warmup, timescale=None):
    if step < warmup:
        return float(step) / float(max(1, warmup))
    shift = timescale - warmup
    return 1.0 / math.sqrt((step + shift) / timescale)


def warmup_stable_decay(step, *, warmup, stable, decay, kind, floor, cycles):
    shapes = ("linear", "cosine", "1-sqrt")
    if step < warmup:
        done = float(step) / float(max(1, warmup))
        if kind == shapes[0]:
            factor = done
        elif kind == shapes[1]:
            factor = 0.5 * (1.0 - math.cos(math.pi * done))
        elif kind == shapes[2]:
            factor = 1.0 - math.sqrt(1.0 - done)
        return max(0.0, factor * (1.0 - floor) + floor)
    if step < warmup + stable:
        return 1.0
    if step < warmup + stable + decay:
        done = float(step - warmup - stable) / float(max(1, decay))
        if kind == shapes[0]:
            factor = 1.0 - done
        elif kind == shapes[1]:
            factor = 0.5 * (1.0 + math.cos(math.pi * float(cycles) * 2.0 * done))
        elif kind == shapes[2]:
            factor = 1.0 - math.sqrt(done)
        return max(0.0, factor * (1.0 - floor) + floor)
    return floor


TRACEABLE = {
    # arithmetic
    "constant": lambda e: 1,
    "exponential": lambda e: 0.95**e,
    "inverse time": lambda e: 1 / (1 + 0.1 * e),
    "linear warmup": lambda e: min(1.0, (e + 1) / 500),
    "noam": lambda e: min((e + 1) ** -0.5, (e + 1) * 4000**-1.5),
    "polynomial, complex after step 100": lambda e: (1 - e / 100) ** 0.9,
    "step table": lambda e: 0.1 ** (e // 30),
    "quadratic": lambda e: e**2 / 1000,
    "negative power of an int": lambda e: 2**-e,
    "alternating": lambda e: (-1) ** e,
    "power of a bounded int": lambda e: 1 / 10 ** min(e // 10, 8),
    "negated int": lambda e: -e / 10,
    "negative multiple": lambda e: (-2) * e + 0.0,
    "integer zero times a negative": lambda e: e * -3,
    "floor of a negative": lambda e: (5 - e) // 3,
    "remainder of a negative": lambda e: (5 - e) % 3,
    "remainder with a negative": lambda e: e % -7,
    "float remainder": lambda e: (0.3 * e) % 1.0,
    "float floor division": lambda e: (0.3 * e) // 0.7,
    "divmod": lambda e: divmod(e, 7)[0] + divmod(100, e + 1)[1],
    "unary plus": lambda e: +e * 0.5,
    "abs": lambda e: abs(e - 20) / 10,
    "int truncates": lambda e: int(-e / 7),
    "round, half to even": lambda e: round(e / 2),
    "round an int to digits": lambda e: round(e, 2),
    "float": lambda e: float(e) / float(TOTAL),
    "walrus": lambda e: (x := e + 1) * x / 100,
    "names of numbers": lambda e: NUMPY_FLOOR + e / NUMPY_TOTAL,
    "overflow": lambda e: 1 / (1 + math.exp(0.5 * (e - 50))),
    # math
    "cosine": lambda e: 0.5 * (1 + math.cos(math.pi * e / TOTAL)),
    "imported name": lambda e: imported_cos(e / 100),
    "sine": lambda e: math.sin(e),
    "tangent": lambda e: math.tan(e / 1000),
    "hyperbolic tangent": lambda e: math.tanh(e / 1000),
    "exp": lambda e: math.exp(-e / 100),
    "log": lambda e: math.log(e + 1),
    "log to a base": lambda e: math.log(e + 1, 10),
    "sqrt": lambda e: math.sqrt(e),
    "sqrt itself": math.sqrt,
    "math.pow": lambda e: math.pow(e + 1, -0.5),
    "fabs": lambda e: math.fabs(e - 7),
    "fmod": lambda e: math.fmod(e, 7),
    "degrees and radians": lambda e: math.sin(math.radians(e)) + math.degrees(e),
    "floor, ceil, trunc": lambda e: (
        math.floor(e / 7) + 100 * math.ceil(-e / 7) + 10_000 * math.trunc(-e / 3)
    ),
    "math of ordinary numbers": lambda e: e * math.log10(TOTAL) + math.hypot(3, 4),
    "product": lambda e: math.prod([0.5, e, 0.1]),
    # comparisons and branches
    "warmup and cosine": warmup_cosine,
    "conditional": lambda e: e / 5 if e < 5 else 1.0,
    "and, or": lambda e: (e < 5 and 0.1) or 1.0,
    "not": lambda e: 1.0 if not e > 5 else 0.5,
    "chained comparison": lambda e: 1.0 if 3 <= e < 7 else 0.5,
    "comparison as a number": lambda e: (e > 5) * 0.5 + (e <= 2) + (e == 9) - (e != 12),
    "and of comparisons": lambda e: ((e > 5) & (e < 9)) * 0.5 + ((e < 2) | (e == 30)),
    "equality": lambda e: 1.0 if e == 0 else 0.5 if e == 5 else 0.1,
    "truth of the step": lambda e: 1.0 if e else 0.5,
    "truth of a float": lambda e: 1.0 if e / 10 - 1 else 0.5,
    "periodic": lambda e: 1.0 if e % 10 == 0 else 0.5,
    "periodic, twice the same condition": lambda e: (e % 10 < 3 and 1.0) or (e % 10 < 3) + 0.5,
    "branch on a float": lambda e: 1.0 if e / 1000 < 0.1 else 0.5,
    "branch that is never taken": lambda e: 1.0 if e < 2e9 else 0.5,
    "equality with a float": lambda e: 1.0 if e == 2.5 or e == 3.0 else 0.5,
    "comparison with infinity": lambda e: 1.0 if e < math.inf else 0.5,
    "comparison with None": lambda e: 1.0 if e is None or e == None else 0.5,  # noqa: E711
    "branch on a sum of both sides": lambda e: 1.0 if 3 * e < e + 20 else 0.5,
    "match": structural_match,
    "assertion": asserting,
    "handled IndexError": handled_error,
    "isinstance": lambda e: e * 0.5 if isinstance(e, int) and not isinstance(e, float) else 7.0,
    "isinstance of one of several": lambda e: 0.5 if isinstance(float(e), (str, float)) else 7.0,
    # loops
    "loop over milestones": loop_over_milestones,
    "while": doubling_restarts,
    "generator expression": lambda e: GAMMA ** sum(1 for m in MILESTONES if e >= m),
    "sum of comparisons": lambda e: GAMMA ** sum(e >= m for m in MILESTONES),
    "any, all": lambda e: any(e >= m for m in MILESTONES) + 0.5 * all(e > m for m in MILESTONES),
    "list comprehension": lambda e: max([e / m for m in MILESTONES]),
    "minimum of an iterable": lambda e: min(e / m - m for m in MILESTONES),
    "minimum by a key": lambda e: min(MILESTONES, key=lambda m: abs(m - e)),
    "minimum of int and float": lambda e: min(e, 7.5, 12) + max(True, e),
    "range up to a bounded step": lambda e: sum(0.5**i for i in range(min(e, 4))),
    "enumerate, zip": lambda e: sum(
        f for i, (m, f) in enumerate(zip(MILESTONES, FACTORS, strict=True)) if e > m + i
    ),
    "reduce": lambda e: functools.reduce(lambda a, b: a * 0.5 + b * e, (1, 2, 3)),
    "accumulate": lambda e: list(itertools.accumulate([e, 0.5, 0.25]))[-1],
    "bounded recursion": recursive,
    "generator": generator_of_parts,
    "local function that sets a variable": nested_counter,
    "local containers": local_containers,
    # containers
    "bisect": lambda e: 0.1 ** bisect.bisect_right([30, 60], e),
    "bisect of a global list": lambda e: FACTORS[min(2, bisect.bisect(MILESTONES, e))],
    "list of constants": lambda e: [1, 0.5, 0.1][min(e // 10, 2)],
    "list of constants, in a cycle": lambda e: [1, 0.5, 0.1][e % 3],
    "global list": lambda e: FACTORS[min(e // 10, 2)],
    "global list, from its end": lambda e: FACTORS[-1 - min(e // 10, 2)],
    "global list, IndexError later": lambda e: PER_STEP[e],
    "list of functions": lambda e: PIECES[e >= 10](e - 10 * (e >= 10)),
    "dict": lambda e: BY_STEP.get(e, 0.1),
    "dict and in": lambda e: BY_STEP[e] if e in BY_STEP else e / 7,
    "dict by text": lambda e: {"a": 0.9, "b": 0.5}["a"] ** e,
    "in a set": lambda e: 0.1 if e in {30, 60} else 1.0,
    "in a tuple": lambda e: 0.1 if e in (30, 60) else 1.0,
    "in a list": lambda e: 0.1 if e in MILESTONES else 1.0,
    "in a range": lambda e: 0.1 if e in list(range(3)) else 1.0,
    "slice": lambda e: sum(MILESTONES[1:]) / (1 + e),
    "method of a dict": {step: 0.5**step for step in range(33)}.__getitem__,
    "method of a list": [0.5**step for step in range(33)].__getitem__,
    # functions and objects
    "helper": lambda e: ramp(e, 20) * ramp(e, top=0.5),
    "partial": functools.partial(ramp, steps=7),
    "nested partial": functools.partial(functools.partial(ramp, top=0.5), steps=7),
    "default argument": lambda e, steps=MILESTONES: min(1.0, e / steps[0]),
    "keyword-only default": lambda e, *, steps=50: min(1.0, e / steps),
    "decorated": logged(warmup_cosine),
    "lru_cache": cached(lambda e: 0.9**e),
    "callable object": Warmup(20),
    "bound method": Warmup(20).decay,
    "bound method in an attribute": lambda e: HOLDER.decay(e),
    "bound method in a list": lambda e: [HOLDER.decay][0](e),
    "static method": Warmup.clip,
    "class attribute": lambda e: Warmup.scale**e,
    "object with slots": Slotted(0.5),
    "attributes of an object": lambda e: (
        min(1.0, e / CONFIG.warmup) ** CONFIG.decay.power if CONFIG.kind == "cosine" else 0.0
    ),
    "attribute that is absent": lambda e: 0.5 if hasattr(CONFIG, "missing") else 1 / (1 + e),
    "attribute with a default": lambda e: getattr(CONFIG, "missing", 0.9) ** e,
    "named tuple": lambda e: POINT.y**e,
    "constants of a module": lambda e: math.cos(np.pi * e / 100) + math.tau,
    "import inside": import_inside,
    "print on a path that is not taken": verbose_off,
    # of the transformers library
    "transformers constant with warmup": functools.partial(constant_with_warmup, warmup=7),
    "transformers linear": functools.partial(linear_with_warmup, warmup=7, total=90),
    "transformers linear, no warmup": functools.partial(linear_with_warmup, warmup=0, total=90),
    "transformers hard restarts": functools.partial(
        cosine_with_restarts, warmup=7, total=90, cycles=3
    ),
    "transformers cosine with min lr": functools.partial(
        cosine_with_floor, warmup=7, total=90, cycles=0.5, floor=0.1
    ),
    "transformers cosine with min lr, warmup rate": functools.partial(
        cosine_with_floor, warmup=7, total=90, cycles=0.5, floor=0.1, first=0.01
    ),
    "transformers polynomial": functools.partial(
        polynomial_with_warmup, warmup=7, total=90, end=1e-7, power=2.0, start=1e-3
    ),
    "transformers inverse sqrt": functools.partial(
        inverse_sqrt_with_warmup, warmup=7, timescale=20
    ),
    **{
        f"transformers warmup-stable-decay, {kind}": functools.partial(
            warmup_stable_decay, warmup=7, stable=30, decay=20, kind=kind, floor=0.1, cycles=0.5
        )
        for kind in ("linear", "cosine", "1-sqrt")
    },
}


def bits(number):
    return "nan" if math.isnan(number) else struct.pack("d", number)


def value_of(function, step):
    """The number that a function gives, or None."""
    try:
        return float(function(step))
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None


def traced(function, **options):
    """The trace of a function, which must have one."""
    trace_ = trace(function, **options)
    assert isinstance(trace_, Traced), trace_
    return trace_


def reason_of(function, **options):
    """Why a function cannot be traced."""
    trace_ = trace(function, **options)
    assert isinstance(trace_, Untraceable), compile_(trace_.expression).code
    return trace_.reason


each_traceable = pytest.mark.parametrize("function", TRACEABLE.values(), ids=TRACEABLE)


@each_traceable
def test_a_function_its_trace_and_the_engine_give_equal_bits(function):
    program = compile_(traced(function).expression)
    engine = _backend.new_expression(program)
    generator = random.Random(1)  # other steps than those that the trace was checked at
    steps = [*range(300), 999, 1000, 1001, *(generator.randrange(10**6) for _ in range(50))]
    values = {step: value_of(function, step) for step in steps}

    assert sum(value is not None for value in values.values()) > 16
    for step, value in values.items():
        if value is not None:
            assert bits(evaluate(program, step)) == bits(value), step
            assert bits(engine(step)) == bits(value), step


@each_traceable
def test_a_new_trace_is_current(function):
    trace_ = traced(function)

    assert trace_.is_current()
    function(0)
    assert trace_.is_current()


def untraceable_recursion(step):
    return 1.0 if step < 1 else 0.9 * untraceable_recursion(step - 1)


def endless(step):
    while step > 10:
        step -= 10
    return step


def many_paths(step):
    bits_of_step = [step // 2**i % 2 for i in range(12)]
    return sum(0.5**i for i, bit in enumerate(bits_of_step) if bit)


def stop_after_ten(step):
    if step > 10:
        raise RuntimeError("no more")
    return 1.0


def import_not_loaded(step):
    import this_is_not_loaded

    return this_is_not_loaded.factor


async def coroutine(step):
    return 1.0


class Computed:
    def __getattr__(self, name):
        return 0.5


class OwnLength:
    def __len__(self):
        return 0


THREE = 3
COMPUTED = Computed()
OWN_LENGTH = OwnLength()
ITERATOR = iter([1.0] * 1000)
ARRAY = np.ones(5)
TENSOR = torch.tensor(0.5)
LONG = [0.5] * 20_000
EXACT_BEYOND_FLOAT = 10**20

#: Functions with a part of the reason why they cannot be traced.
UNTRACEABLE = {
    # what is called
    "print": (lambda e: print(e) or 1.0, "it uses print"),
    "numpy": (lambda e: np.cos(e), "it uses np.cos of numpy, whose arithmetic need not be"),
    "numpy array": (lambda e: ARRAY[0] * e, "it uses ARRAY of numpy"),
    "torch": (lambda e: torch.cos(torch.tensor(e)).item(), "of torch, whose arithmetic need not"),
    "tensor": (lambda e: TENSOR * e, "it uses TENSOR of torch"),
    "random": (lambda e: random.random(), "random, whose values are not a function of the step"),
    "random.uniform": (lambda e: random.uniform(0, 1), "values are not a function of the step"),
    "time": (lambda e: time.time(), "time.time of time, whose values are not a function of"),
    "other functions of math": (lambda e: math.log10(e + 1), "math.log10, which engines do not"),
    "fmod of a negative": (lambda e: math.fmod(-e, 3), "it calls math.fmod of what may be"),
    "a class of its own": (lambda e: SimpleNamespace(x=e).x, "it uses SimpleNamespace"),
    "a name that is not there": (lambda e: not_there, "it raises NameError"),  # noqa: F821
    "import of what is not loaded": (import_not_loaded, "it imports this_is_not_loaded"),
    # what is done with the step
    "text": (lambda e: float(f"{e}"), "it turns the step into text"),
    "text by str": (lambda e: float(str(e)), "it turns the step into text"),
    "digits": (lambda e: round(e / 10, 2), "it rounds to a number of digits"),
    "range": (lambda e: sum(0.1 for _ in range(e)), "it uses the step, without a bound"),
    "unbounded index": (lambda e: [1, 0.5, 0.1][e // 10], "it uses the step, without a bound"),
    "key of a dict": (lambda e: {0: 1, 10: 0.1}.get(e, 0.5), "as a key of a dict or set"),
    "attribute of a number": (lambda e: e.bit_length(), "it raises AttributeError"),
    "shift": (lambda e: 1 >> e, "it raises TypeError (unsupported operand type(s) for >>"),
    "float as an index": (lambda e: FACTORS[e / 10], "it raises TypeError"),
    "float as a bounded index": (lambda e: [1, 2][min(e / 10, 1)], "it raises TypeError"),
    # what comes out
    "None": (lambda e: None, "it gives NoneType, which is not a number"),
    "tuple": (lambda e: (e,), "it gives tuple, which is not a number"),
    "class": (lambda e: SimpleNamespace, "it gives type, which is not a number"),
    "text out": (lambda e: "0.5", "it gives str, which is not a number"),
    "complex": (lambda e: 1j, "it gives complex, which is not a number"),
    "coroutine": (coroutine, "it is asynchronous"),
    "division by zero": (lambda e: 1 / (4 - e), "it has no value at step 4 (ZeroDivisionError"),
    "division by zero, late": (lambda e: 1 / (54_321 - e), "it has no value at step 54321 ("),
    "remainder by zero, late": (lambda e: 7 % (54_321 - e), "it has no value at step 54321 ("),
    "always raises": (lambda e: 1 / 0, "it has no value at step 0 (ZeroDivisionError"),
    "raises at step 0": (lambda e: math.log(e), "it has no value at step 0 (ValueError"),
    "raises at most steps": (lambda e: FACTORS[e], "it has no value at step 3 (IndexError"),
    "raises on purpose": (stop_after_ten, "it raises RuntimeError (no more)"),
    "exits": (lambda e: exit(), "it raises SystemExit"),
    "takes no argument": (lambda: 1.0, "it raises TypeError"),
    "is no function": (0.5, "it raises TypeError"),
    # limits
    "too many paths": (many_paths, "it has more than 1,000 paths"),
    "endless loop": (endless, "its paths take more than 200,000 operations"),
    "endless recursion": (untraceable_recursion, "its paths take more than"),
    "too long a list": (lambda e: LONG[e], "a tuple needs no watching"),
    # what the comparison with the function finds
    "an int beyond float64": (lambda e: e**4 / EXACT_BEYOND_FLOAT, "but the function itself"),
    "a power beyond float64": (lambda e: 1 / 10 ** (e // 30), "but the function itself"),
    "zero that is an int or a float": (lambda e: -min(e, e / 2), "trace gives -0.0 at step 0"),
    "identity of ints": (lambda e: 1.0 if e is THREE else 0.5, "its trace gives 0.5 at step 3"),
    # what cannot be watched or is not known
    "computed attribute": (lambda e: COMPUTED.x, "COMPUTED.x, which is computed when it is read"),
    "truth of an object": (lambda e: 1.0 if OWN_LENGTH else 0.5, "whether OWN_LENGTH is true"),
    "iterator": (lambda e: next(ITERATOR), "it uses ITERATOR, a list_iterator"),
    "object that cannot be called": (lambda e: CONFIG(e), "it uses CONFIG, a SimpleNamespace"),
}


@pytest.mark.parametrize(("function", "fragment"), UNTRACEABLE.values(), ids=UNTRACEABLE)
def test_what_cannot_be_traced_has_a_reason(function, fragment):
    assert fragment in reason_of(function)


# A trace changes nothing


def effect_on_global():
    def function(step):
        global COUNT
        COUNT += 1
        return COUNT

    return function, lambda: COUNT


def effect_on_new_global():
    def function(step):
        global new_global
        new_global = None
        return 1.0

    return function, lambda: "new_global" in globals()


def effect_on_closure():
    count = 0

    def function(step):
        nonlocal count
        count += 1
        return count

    return function, lambda: count


def effect_of_deletion():
    count = 0

    def function(step):
        nonlocal count
        del count
        return 1.0

    return function, lambda: count


def effect_on_list():
    return lambda step: LOG.append(step) or 1.0, lambda: LOG.copy()


def effect_on_list_by_its_method():
    log = []
    append = log.append
    return lambda step: append(step) or 1.0, log.copy


def effect_on_nested_list():
    log = [[]]
    return lambda step: log[0].append(step) or 1.0, lambda: log[0].copy()


def effect_on_entry():
    best = [0.0]

    def function(step):
        best[0] = 1.0
        return 1.0

    return function, best.copy


def effect_on_dict():
    seen = {}

    def function(step):
        seen["last"] = 1.0
        return 1.0

    return function, seen.copy


def effect_on_set():
    seen = set()
    return lambda step: seen.add(1) or 1.0, seen.copy


def effect_on_default():
    def function(step, log=[]):  # noqa: B006
        log.append(1)
        return 1.0

    return function, lambda: function.__defaults__[0].copy()


def effect_on_attribute():
    box = SimpleNamespace(count=0)

    def function(step):
        box.count += 1
        return box.count

    return function, lambda: box.count


def effect_on_itself():
    class Counter:
        count = 0

        def __call__(self, step):
            self.count += 1
            return self.count

    counter = Counter()
    return counter, lambda: counter.count


def effect_on_class():
    class Counter:
        count = 0

        def __call__(self, step):
            Counter.count += 1
            return 1.0

    return Counter(), lambda: Counter.count


def effect_in_helper():
    log = []

    def helper(x):
        log.append(1)
        return x

    return lambda step: helper(step) / 2, log.copy


def effect_on_iterator():
    numbers = itertools.count()
    return lambda step: next(numbers), lambda: str(numbers)


def effect_whose_refusal_is_handled():
    log = []

    class Log:
        def write(self, text):
            log.append(text)

    written = SimpleNamespace(log=Log(), text="x")

    def function(step):
        try:
            print(step, file=written.log)
        except BaseException:
            written.text  # noqa: B018
        return 0.9**step

    return function, log.copy


def effect_on_one_path():
    log = []
    return lambda step: (log.append(1) or 0.5) if step > 20 else 1.0, log.copy


EFFECTS = [value for name, value in list(globals().items()) if name.startswith("effect_")]


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda effect: effect.__name__)
def test_a_function_that_changes_something_is_refused_before_it_runs(effect):
    function, observe = effect()
    before = observe()

    reason_of(function)

    assert observe() == before
    for step in range(20, 24):
        function(step)
        if effect is effect_of_deletion:
            return
    assert observe() != before


@pytest.mark.parametrize(
    ("function", "last_step"),
    [
        (lambda e: 2**e, 2 * 1024),
        (lambda e: (-2) ** (e // 10), 2 * 10_240),
        (lambda e: 2 ** (e % 10), None),
        (lambda e: 2.0**e, None),
        (lambda e: 2**-e, None),
    ],
)
def test_a_function_is_not_called_where_it_computes_very_many_digits(
    function, last_step, monkeypatch
):
    arguments = []
    monkeypatch.setattr(tracing, "refuse_disagreement", lambda *given: arguments.append(given))

    traced(function)

    if last_step is None:
        assert arguments[0][-1] > LAST_RANDOM_STEP
    else:
        assert arguments[0][-1] == pytest.approx(last_step)


# Paths


def operations(function):
    """How often each operation stands in the trace of a function."""
    counts = {}
    for instruction in compile_(traced(function).expression).code:
        counts[instruction.op] = counts.get(instruction.op, 0) + 1
    return counts


@pytest.mark.parametrize("size", [1, 2, 20, 100])
def test_a_loop_over_milestones_has_one_path_more_than_milestones(size):
    milestones = tuple(range(10, 10 * size + 1, 10))

    def function(step):
        factor = 1.0
        for milestone in milestones:
            if step >= milestone:
                factor *= 0.9
        return factor

    counts = operations(function)
    assert counts["select"] == size
    assert counts["less"] == size


def test_conditions_that_follow_from_others_make_no_path():
    def function(step):
        if step < 0:
            return math.nan
        if step >= 10:
            if step > 9 and step / 10 >= 1 and not 2 * step + 1 < 21:
                return 1.0
            return 0.0
        return 0.5 if step <= 9 else 0.25

    assert operations(function)["select"] == 1


def test_min_and_max_make_no_path():
    assert operations(lambda e: max(0.0, min(1.0, math.cos(e), e / 10))) == {
        "constant": 3, "step": 1, "cos": 1, "div": 1, "min": 2, "max": 1,
    }  # fmt: skip


def test_an_index_into_a_list_of_numbers_is_a_table():
    assert operations(lambda e: PER_STEP[min(e, len(PER_STEP) - 1)]) == {
        "constant": 1, "step": 1, "min": 1, "table": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("condition", "turns_at"),
    [
        (lambda e: e < 1_000_003, 1_000_003),
        (lambda e: e <= 1_000_003, 1_000_004),
        (lambda e: 0.1 * e < 0.3, 3),  # 0.1 * 3 > 0.3
        (lambda e: e / 3 < 333_333.4, 1_000_001),
        (lambda e: e // 30 < 7, 210),
        (lambda e: -e > -77, 77),
        (lambda e: (7 - e) / 2 > -100, 207),
        (lambda e: min(e, 100) < 55.5, 56),
        (lambda e: round(e / 10) < 3, 26),
        (lambda e: 2**53 - e > 5, 2**53 - 5),
    ],
)
def test_a_condition_that_turns_once_becomes_a_comparison_with_that_step(condition, turns_at):
    expression = traced(lambda e: 1.0 if condition(e) else 2.0).expression

    assert [instruction.op for instruction in compile_(expression).code] == [
        "step", "constant", "less", "constant", "constant", "select",
    ]  # fmt: skip
    assert expression.args[0].args[1].value == turns_at


def test_first_step_is_where_the_function_begins():
    reciprocal = lambda step: 1.0 if step == 0 else 2.0 if step <= 4 else 1 / step  # noqa: E731
    assert "step 0" in reason_of(lambda step: 1 / step + math.log(step))

    assert operations(reciprocal)["select"] == 2
    code = compile_(traced(reciprocal, first_step=1).expression).code
    assert [instruction.op for instruction in code].count("select") == 1
    traced(lambda step: 1 / step + math.log(step), first_step=1)


# Schedules


class Schedule:
    """Anything with an expression, called or not."""

    def __init__(self, expression):
        self._expression = expression

    @property
    def expression(self):
        return self._expression


def test_a_schedule_gives_its_own_expression():
    expression = select(apply("less", STEP, 10), 1.0, 0.5)

    trace_ = traced(Schedule(expression))

    assert trace_.expression is expression
    assert trace_.is_current()


def test_a_function_may_call_schedules():
    ramp_ = apply("min", apply("div", STEP, 7), 1)
    table = tracing.tabulate(lambda step: 0.5**step, 5)
    parts = [Schedule(ramp_), Schedule(table)]
    for part in parts:
        part.__class__.__call__ = lambda self, step: evaluate(compile_(self.expression), step)

    program = compile_(
        traced(lambda e: 0.5 * parts[0](e) + parts[1](e - 3) * parts[0](3)).expression
    )

    for step in range(30):
        expected = 0.5 * min(step / 7, 1) + 0.5 ** min(max(step - 3, 0), 5) * (3 / 7)
        assert evaluate(program, step) == expected


def test_a_trace_of_an_expression_is_current():
    trace_ = Traced.of(constant(0.5))
    assert trace_.is_current()
    assert trace_.expression.value == 0.5


# tabulate


def test_a_table_holds_the_values_and_then_the_last_one():
    random_values = random.Random(0)
    values = [random_values.random() for _ in range(11)]
    calls = []

    def function(step):
        calls.append(step)
        return torch.tensor(values[step], dtype=torch.float64)

    program = compile_(tracing.tabulate(function, 10))

    assert calls == list(range(11))
    assert [evaluate(program, step) for step in range(11)] == values
    assert evaluate(program, 11) == evaluate(program, 10**6) == values[-1]


def test_a_table_of_no_steps_is_the_first_value():
    assert evaluate(compile_(tracing.tabulate(lambda step: 0.5 + step, 0)), 7) == 0.5


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda e: None if e == 3 else 1.0, TypeError, "gives None at step 3, which is not a num"),
        (lambda e: (1 - e) ** 0.5, TypeError, r"at step 2, which is not a number"),
        (lambda e: "high" if e == 2 else 1.0, TypeError, "gives 'high' at step 2"),
        (lambda e: math.nan if e == 4 else 1.0, ValueError, "gives NaN at step 4"),
        (lambda e: 1 / (2 - e), ValueError, "raises ZeroDivisionError at step 2"),
    ],
)
def test_tabulate_names_the_function_and_the_step_without_a_value(function, error, message):
    with pytest.raises(error, match=message) as caught:
        tracing.tabulate(function, 5)
    assert tracing.name_of(function) in str(caught.value)


def test_tabulate_names_a_horizon_that_is_none():
    with pytest.raises(ValueError, match="total_steps must be 0 or more, but got -1"):
        tracing.tabulate(math.sqrt, -1)


# name_of


@pytest.mark.parametrize(
    ("function", "start"),
    [
        (ramp, "test_tracing.ramp ("),
        (functools.partial(functools.partial(ramp, steps=3), top=1), "test_tracing.ramp ("),
        (TRACEABLE["exponential"], "test_tracing.<lambda> ("),
        (Warmup(3).decay, "test_tracing.Warmup.decay ("),
        (Warmup(3), "test_tracing.Warmup ("),
        (cached(ramp), "test_tracing.ramp ("),
        (math.sqrt, "math.sqrt"),
        ([].__getitem__, "list.__getitem__"),
        (0.5, "builtins.float"),
    ],
)
def test_a_function_has_a_name_and_a_place(function, start):
    name = tracing.name_of(function)

    assert name.startswith(start)
    if start.endswith("("):
        path, _, line = name[len(start) : -1].rpartition(":")
        assert path == __file__
        assert int(line) > 1
