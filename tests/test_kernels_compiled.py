"""What nvcc makes of the kernels: for three architectures, without spills, and as IEEE demands.

Needs the CUDA toolkit, but no GPU. To see the registers of every kernel:
``make test ARGS="-k registers -s"``.
"""

from __future__ import annotations

import re
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.utils.cpp_extension import include_paths

from compiling import ROOT, find_nvcc, finish, list_in_setup, start, start_compiler
from fusedlr import _backend

CSRC = ROOT / "csrc"
SOURCES = sorted((CSRC / "engine").glob("*.cu"))
BINDINGS = sorted((CSRC / "bindings" / "cuda").glob("*.cpp"))

NVCC = find_nvcc()
pytestmark = pytest.mark.skipif(
    NVCC is None, reason="no CUDA toolkit was found: see scripts/cuda_toolkit.sh"
)

#: Ampere, Hopper, Blackwell.
ARCHITECTURES = ("80", "90", "100")


@dataclass
class Kernel:
    """One kernel, as it was compiled for one architecture."""

    name: str  # mangled
    registers: int
    stack_bytes: int
    spilled_bytes: int
    ptx: str

    @property
    def storage(self) -> int | None:
        """The storage that an update is compiled for; None for other kernels."""
        found = re.search(r"update_kernel.*StorageE(\d)", self.name)
        return int(found[1]) if found else None

    def count(self, instruction: str) -> int:
        return len(re.findall(rf"^\s*(?:@\S+ )?{instruction}\b", self.ptx, re.MULTILINE))


ANY_STORAGE = 4


def kernels_of(messages: str, ptx: str) -> list[Kernel]:
    """From what ``ptxas -v`` says, and the code that it was given."""
    bodies = {
        found[1]: found[0] for found in re.finditer(r"\.entry (\w+)\(.*?\n\}", ptx, re.DOTALL)
    }
    facts = re.compile(
        r"Compiling entry function '(\w+)'.*?"
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
        r"Used (\d+) registers",
        re.DOTALL,
    )
    return [
        Kernel(name, int(registers), int(stack), int(stores) + int(loads), bodies[name])
        for name, stack, stores, loads, registers in facts.findall(messages)
    ]


def compile_kernels(architecture: str, folder: Path) -> list[Kernel]:
    kernels = []
    for source in SOURCES:
        messages = finish(
            start(
                [
                    NVCC,
                    "-std=c++17",
                    *list_in_setup("NVCC_FLAGS"),
                    f"-Xcompiler={','.join(list_in_setup('SHARED_CXX_FLAGS'))}",
                    f"-I{CSRC}",
                    f"-gencode=arch=compute_{architecture},code=sm_{architecture}",
                    "-Xptxas=-v",
                    "--keep",
                    f"--keep-dir={folder}",
                    "-c",
                    source,
                    "-o",
                    folder / f"{source.stem}.o",
                ]
            )
        )
        (ptx,) = folder.glob(f"{source.stem}*.ptx")
        kernels += kernels_of(messages, ptx.read_text())
    return kernels


@pytest.fixture(scope="module", params=ARCHITECTURES)
def kernels(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Kernel]:
    known = subprocess.run([NVCC, "--list-gpu-arch"], capture_output=True, text=True, check=True)
    if f"compute_{request.param}" not in known.stdout.split():
        pytest.skip(f"this nvcc is older than compute capability {request.param}")
    return compile_kernels(request.param, tmp_path_factory.mktemp(f"sm_{request.param}"))


def updates(kernels: list[Kernel]) -> list[Kernel]:
    return [kernel for kernel in kernels if kernel.storage is not None]


def test_every_rule_has_an_update_for_every_storage(kernels):
    storages = [kernel.storage for kernel in updates(kernels)]
    num_rules = len(_backend.extension.rules())
    assert sorted(storages) == sorted(list(range(ANY_STORAGE + 1)) * num_rules)


def test_no_kernel_spills_its_registers(kernels):
    report = [
        f"{kernel.registers:4} registers, {kernel.stack_bytes:3} bytes of stack: {kernel.name}"
        for kernel in kernels
    ]
    print("", *report, sep="\n")
    assert [kernel.name for kernel in kernels if kernel.spilled_bytes] == []


def test_updates_keep_everything_in_registers(kernels):
    assert [kernel.name for kernel in updates(kernels) if kernel.stack_bytes] == []


def test_no_update_contracts_a_multiplication_and_an_addition(kernels):
    assert [kernel.name for kernel in updates(kernels) if kernel.count(r"fma")] == []


def test_divisions_and_square_roots_are_rounded_as_ieee_demands(kernels):
    for kernel in updates(kernels):
        assert kernel.count(r"(div|sqrt|rcp|rsqrt)\.(?!rn\.)\S*f(32|64)") == 0, kernel.name
        assert kernel.count(r"\w+\.\S*ftz\S*") == 0, kernel.name
    for exact in (r"div\.rn\.f32", r"div\.rn\.f64", r"sqrt\.rn\.f32", r"sqrt\.rn\.f64"):
        assert any(kernel.count(exact) for kernel in updates(kernels)), exact


def test_aligned_operands_of_one_storage_are_read_and_written_16_bytes_at_a_time(kernels):
    wide = r"(v4\.\w32|v2\.\w64)"
    for kernel in updates(kernels):
        if kernel.storage == ANY_STORAGE:
            continue
        loads, stores = (kernel.count(rf"{way}\.global\.{wide}") for way in ("ld", "st"))
        # Every operand is read, and every one but the gradient is written.
        assert loads > stores > 0, kernel.name
        assert kernel.count(r"(ld|st)\.global\.(v\d\.)?\w8") == 0, f"byte by byte: {kernel.name}"


def test_updates_of_one_storage_know_that_tensors_lie_in_global_memory(kernels):
    for kernel in updates(kernels):
        if kernel.storage != ANY_STORAGE:
            generic = kernel.count(r"(ld|st)\.(v\d\.)?\w\d+")
            # Whether a step is skipped is behind a pointer that is itself in memory.
            assert generic <= 1, kernel.name


@pytest.mark.parametrize("source", BINDINGS, ids=lambda path: path.name)
def test_the_bindings_of_cuda_compile_against_the_installed_torch(source, tmp_path):
    headers = [*include_paths(), sysconfig.get_path("include"), NVCC.parent.parent / "include"]
    flags = [f"-isystem{path}" for path in headers]
    if torch.version.cuda is None:
        # A torch for the CPU has the headers, but for one that says how CUDA was configured.
        flags.append("-DC10_CUDA_NO_CMAKE_CONFIGURE_FILE")
    finish(start_compiler(source, tmp_path / "none", "-std=c++20", "-fsyntax-only", *flags))


def test_there_is_something_to_compile():
    assert SOURCES
    assert BINDINGS
