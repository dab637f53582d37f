"""What Triton makes of its kernels: for three architectures, as IEEE demands, 16 bytes at a time.

Needs no GPU. Nor does the last test: it runs the engine with kernels that are compiled, loaded by
a stand-in for the driver, and never launched.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fusedlr.triton import layouts, rules, storage, update_kernel, write_kernels
from fusedlr.triton.prologue_kernel import prologue_kernel
from fusedlr.triton.schedule_kernel import schedule_kernel

TESTS = Path(__file__).parent
#: Where this process has found the package.
PACKAGE = Path(layouts.__file__).parents[2]

#: Ampere, Hopper, Blackwell.
ARCHITECTURES = (80, 90, 100)

RULES = tuple(rules.TWINS)
STORAGES = tuple(vars(layouts.Storage))
OPTIONS = {"enable_fp_fusion": False, "num_warps": 4}

#: How often the threads of a kernel of phases wait for each other. Where one of these is missing is
#: a race, which no interpreter shows.
BARRIERS = {"prologue_kernel": 8, "schedule_kernel": 17}

each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def compiled(kernel: Any, architecture: int, **constants: int) -> Mapping[str, Any]:
    """The forms of a kernel, by name; Triton keeps them on disk until a source changes."""
    signature = {
        param.name: "constexpr" if param.is_constexpr else param.annotation_type
        for param in kernel.params
    }
    names = list(signature)
    source = ASTSource(
        kernel, signature, {(names.index(name),): value for name, value in constants.items()}
    )
    made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=OPTIONS)
    forms: Mapping[str, Any] = made.asm
    return forms


def memory_of_threads(cubin: bytes, folder: Path) -> set[str]:
    """How many bytes of stack and of local memory a kernel's threads have: what is spilled."""
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    command = [tool, "-res-usage", file]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(?:STACK|LOCAL):\d+", usage))


def count(ptx: str, instruction: str) -> int:
    return len(re.findall(rf"^\s*(?:@\S+ )?{instruction}\b", ptx, re.MULTILINE))


@each_architecture
@pytest.mark.parametrize("storage_", STORAGES)
@pytest.mark.parametrize("rule", RULES)
def test_an_update_computes_as_ieee_demands_and_moves_16_bytes_at_a_time(
    rule, storage_, architecture, tmp_path
):
    index, kind = RULES.index(rule), STORAGES.index(storage_)
    forms = compiled(update_kernel.update_kernel, architecture, rule=index, storage_=kind)
    ptx = forms["ptx"]

    assert count(ptx, r"fma\.\S+") == 0
    assert not re.search(r"\.approx|div\.full|\.ftz", ptx)
    if rule.startswith("adam"):
        assert count(ptx, r"div\.rn\.f(32|64)") > 0
        assert count(ptx, r"sqrt\.rn\.f(32|64)") > 0
    assert count(ptx, r"(ld|st)\.local\S*") == 0
    assert memory_of_threads(forms["cubin"], tmp_path) == {"STACK:0", "LOCAL:0"}

    if storage_ != "any":
        operands = 2 + rules.RULES[index].num_states
        element = storage.ELEMENTS[kind]
        assert element.primitive_bitwidth == 8 * storage.SIZES[kind]
        vector = "v2.b64" if element.primitive_bitwidth == 64 else "v4.b32"
        assert count(ptx, rf"ld\.global\.{vector}") >= operands
        assert count(ptx, rf"st\.global\.{vector}") >= operands - 1


@each_architecture
@pytest.mark.parametrize(
    "kernel", [write_kernels.write_numbers_kernel, write_kernels.set_grads_kernel]
)
def test_kernels_that_write_are_compiled_for_every_architecture(kernel, architecture):
    assert "st.global" in compiled(kernel, architecture)["ptx"]


@each_architecture
@pytest.mark.parametrize("kernel", [prologue_kernel, schedule_kernel])
def test_kernels_of_phases_wait_between_them_and_divide_as_ieee_demands(kernel, architecture):
    forms = compiled(kernel, architecture)
    ptx = forms["ptx"]
    assert len(re.findall(r"\bbarrier\b", forms["ttir"])) == BARRIERS[kernel.__name__]
    assert count(ptx, r"bar\.sync") > 0
    assert count(ptx, r"div\.rn\.f64") > 0
    # libdevice's functions begin with approximations, which they refine; nothing else does.
    assert not re.search(r"div\.(full|approx)|sqrt\.approx", ptx)


def test_every_rule_has_its_twin():
    assert rules.TWINS.keys() == layouts.Rule.__dict__.keys()
    assert len(rules.RULES) == rules.NUM_RULES.value == len(RULES)


# What a stand-in for a driver shows


class _Utils:
    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32}

    def load_binary(self, *arguments: Any) -> tuple[int, int, int, int, int]:
        return 1, 1, 32, 0, 1024


class _Driver:
    """A GPU that loads kernels and runs none."""

    utils = _Utils()
    num_launches = 0

    def __init__(self) -> None:
        self.launcher_cls = lambda source, metadata: self._launch

    def _launch(self, *arguments: Any) -> None:
        self.num_launches += 1

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", ARCHITECTURES[0], 32)


def check_that_later_steps_compile_nothing() -> None:
    import torch

    import fusedlr
    from fusedlr import _backend
    from fusedlr import schedules as s

    driver = _Driver()
    triton.runtime.driver.set_active(driver)
    _backend._triton_obstacle = lambda device_type: None
    compilations: list[Any] = []
    triton.knobs.runtime.jit_post_compile_hook = lambda **what: compilations.append(what["repr"])

    params = [torch.nn.Parameter(torch.ones(size)) for size in (1, 5, 16, 4097)]
    decay = s.linear(0.1, 0.0, steps=9)
    optimizer = fusedlr.AdamW(params[:2], weight_decay=decay, backend="triton")
    scheduler = fusedlr.lr_scheduler.StepLR(optimizer, 1)

    def step() -> None:
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        scheduler.step()

    step()
    assert len(compilations) == 5, compilations  # two that write, two of phases, one update
    launched = driver.num_launches
    compilations.clear()

    step()
    optimizer.param_groups[0]["eps"] = 1e-6
    step()
    optimizer.add_param_group({"params": params[2:], "lr": 1e-3})
    step()
    params[0].data = torch.zeros(1 << 20)[1:]
    optimizer.state.clear()
    step()
    assert driver.num_launches > launched
    assert compilations == []


def test_later_steps_compile_nothing_whatever_is_edited():
    # In a process of its own: what Triton keeps of a kernel would be the stand-in's.
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "import test_triton_compiled as tests; tests.check_that_later_steps_compile_nothing()",
        ],
        cwd=TESTS,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(Path(layouts.__file__).parents[2])]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-5000:]
