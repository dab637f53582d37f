"""The arithmetic that all engines share: equal bits on every instruction set, torch's rounding."""

import ctypes
import math
import os
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compiling import NATIVE, compile_library, finish, start_compiler

# Instruction sets

#: What /proc/cpuinfo must list for a level of the x86-64 architecture.
LEVELS = {
    "x86-64": {"sse2"},
    "x86-64-v3": {"avx2", "bmi2", "f16c", "fma"},
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}


def levels_of_this_processor():
    """The levels of this machine; none where it is no x86-64 or does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    flags = {
        word for line in text.splitlines() if line.startswith("flags") for word in line.split()
    }
    return [level for level, needed in LEVELS.items() if needed <= flags]


def test_every_instruction_set_of_this_processor_gives_the_same_bits(tmp_path):
    builds = {"the engine's choice": []}
    builds |= {level: ["-DPLAIN_LOOPS", f"-march={level}"] for level in levels_of_this_processor()}
    compilers = [
        start_compiler(NATIVE / "engine_run.cpp", tmp_path / name, *flags)
        for name, flags in builds.items()
    ]
    for compiler in compilers:
        finish(compiler)

    outputs = {
        name: subprocess.run([tmp_path / name], capture_output=True, check=True).stdout
        for name in builds
    }

    chosen = outputs.pop("the engine's choice")
    assert len(chosen) > 1_000_000
    assert [name for name, output in outputs.items() if output != chosen] == []


# Storage formats


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    library = compile_library(NATIVE / "math_functions.cpp", tmp_path_factory.mktemp("native"))
    functions = ctypes.CDLL(os.fspath(library))
    functions.power.argtypes = [ctypes.c_double, ctypes.c_int64]
    functions.modulo.argtypes = [ctypes.c_double, ctypes.c_double]
    functions.power.restype = functions.modulo.restype = ctypes.c_double
    return functions


def convert(function, values, dtype):
    converted = torch.empty(values.shape, dtype=dtype)
    addresses = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (values, converted))
    function(*addresses, ctypes.c_size_t(values.numel()))
    return converted


def assert_same_bits(ours, theirs):
    """Equal bits, where NaNs are all alike."""
    assert torch.equal(ours.isnan(), theirs.isnan())
    numbers = ~theirs.isnan()
    integer = torch.int32 if ours.dtype == torch.float32 else torch.int16
    assert torch.equal(ours[numbers].view(integer), theirs[numbers].view(integer))


HALVES = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


def all_halves(dtype):
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_all_halves_become_the_floats_of_torch(functions, dtype):
    function = getattr(functions, f"{HALVES[dtype]}_to_float32")
    halves = all_halves(dtype)

    assert_same_bits(convert(function, halves, torch.float32), halves.float())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_all_halves_survive_a_round_trip(functions, dtype):
    halves = all_halves(dtype)
    floats = convert(getattr(functions, f"{HALVES[dtype]}_to_float32"), halves, torch.float32)

    assert_same_bits(
        convert(getattr(functions, f"float32_to_{HALVES[dtype]}"), floats, dtype), halves
    )


def dense_floats(dtype):
    """Floats of every sign and exponent, and all ties between halves with both their neighbours."""
    upper = torch.arange(2**16, dtype=torch.int64) << 16
    lower = torch.tensor([0, 1, 0x1000, 0x7FFF, 0x8000, 0x8001, 0xF000, 0xFFFF])
    spread = (upper[:, None] | lower).flatten()
    halves = all_halves(dtype).float()
    halves = halves[halves.isfinite()].sort().values
    ties = (halves[1:].double() + halves[:-1].double()).div(2).float().view(torch.int32).long()
    # Bits of the same sign are ordered as the floats are, so a neighbour is one bit pattern away.
    bits = torch.cat([spread, *(ties + offset for offset in (-1, 0, 1))]) & 0xFFFFFFFF
    random = torch.randint(0, 2**32, (1_000_000,), generator=torch.Generator().manual_seed(0))
    bits = torch.cat([bits, random])
    return torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32).view(torch.float32)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_floats_become_the_halves_of_torch(functions, dtype):
    floats = dense_floats(dtype)
    assert floats.isnan().any()
    assert floats.isinf().any()
    exponents = floats.view(torch.int32).bitwise_right_shift(23).bitwise_and(0xFF)
    assert exponents.unique().numel() == 256

    ours = convert(getattr(functions, f"float32_to_{HALVES[dtype]}"), floats, dtype)

    assert_same_bits(ours, floats.to(dtype))


# Numbers


@given(
    base=st.sampled_from([0.0, 0.5, 0.9, 0.98, 0.999, 0.9999999]),
    exponent=st.integers(0, 3000),
)
@settings(derandomize=True, deadline=None, max_examples=150)
def test_an_integer_power_is_as_exact_as_its_number_of_multiplications_allows(
    functions, base, exponent
):
    exact = Fraction(base) ** exponent
    error = abs(Fraction(functions.power(base, exponent)) - exact)
    smallest_denormal = Fraction(2) ** -1074
    assert error <= max(exponent, 1) * Fraction(2) ** -53 * exact + 2 * smallest_denormal


def test_powers_of_long_trainings_are_close_to_those_of_the_c_library(functions):
    for exponent in (1, 2, 10_000, 10**6, 10**9, 2**53):
        for base in (0.9, 0.999, 1 - 2**-30, 1.0):
            expected = base**exponent
            assert math.isclose(
                functions.power(base, exponent), expected, rel_tol=1e-6, abs_tol=1e-300
            )


@given(
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.floats(allow_nan=False, allow_infinity=False, width=32).filter(bool),
)
@settings(derandomize=True, deadline=None, max_examples=300)
def test_the_modulo_of_schedules_is_that_of_python(functions, a, b):
    assert functions.modulo(a, b) == a % b
