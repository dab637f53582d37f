"""Builds the extension `fusedlr._C`; everything else about the package is in pyproject.toml.

Environment variables
    FUSEDLR_EXTENSION=0       install without the extension: pure Python, on the torch engine
    FUSEDLR_CUDA=0|1          never | always build the CUDA engine (default: where it can be built)
    FUSEDLR_WERROR=1          warnings are errors, as in the Makefile's builds; elsewhere a compiler
                              that is newer than this code may warn, and costs nobody the build
    TORCH_CUDA_ARCH_LIST      the GPU architectures to build for
    MAX_JOBS                  how many compilers run at once (default: one per core)
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import setuptools
from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent

# An isolated build would bring its own. An older one stumbles over pyproject.toml, and what it says
# then helps nobody; 65 is what Python 3.11 puts into a new environment.
if int(setuptools.__version__.partition(".")[0]) < 77:
    raise SystemExit(
        f"fusedlr is built by setuptools 77 or newer, but this is {setuptools.__version__}: "
        'pip install "setuptools>=77.0.3" ninja'
    )


def switch(name: str) -> bool | None:
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"{name}={value}: expected 0, 1 or nothing.")
    return None if value == "" else value == "1"


WARNINGS_ARE_ERRORS = switch("FUSEDLR_WERROR")

# No -std: torch's builder adds the one that its own headers need (C++17 for torch 2.11, C++20 since
# 2.12), and either is enough for ours.
SHARED_CXX_FLAGS = [
    "-ffp-contract=off",  # a fused multiply-add on some machines only would break equal bits
    "-fno-math-errno",  # with errno, sqrtf is a call and the update loop stays scalar
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    *(["-Werror"] if WARNINGS_ARE_ERRORS else []),
]
CXX_FLAGS = [
    "-O3",
    *SHARED_CXX_FLAGS,
    "-g0",  # Python's own flags ask for debug symbols: 25 times the size, thrice the compile time
]
NVCC_FLAGS = [
    "-O3",
    "--fmad=false",  # the same bits as on the CPU
    "--expt-relaxed-constexpr",  # numeric_limits in device code
    *(["--Werror=all-warnings"] if WARNINGS_ARE_ERRORS else []),
    *(f"-Xcompiler={flag}" for flag in SHARED_CXX_FLAGS),
]

# ATen's parallel_for is a header that runs serially unless it is compiled with OpenMP. The flag is
# for the compiler only, never for the linker: the OpenMP calls are then found in the runtime that
# torch has loaded, whatever its file name, and its thread pool is shared. To see it: `readelf -d`
# lists no libgomp for the extension, and /proc/self/maps of a process that ran both holds torch's
# copy alone.
if sys.platform == "linux":
    CXX_FLAGS.append("-fopenmp")


def sources(*patterns: str) -> list[str]:
    return sorted(str(p.relative_to(ROOT)) for pattern in patterns for p in ROOT.glob(pattern))


CPU_SOURCES = sources("csrc/bindings/*.cpp", "csrc/engine/*.cpp")
CUDA_SOURCES = sources("csrc/bindings/cuda/*.cpp", "csrc/engine/*.cu")


def nvcc_version(cuda_home: str) -> tuple[int, int] | None:
    try:
        text = subprocess.check_output([f"{cuda_home}/bin/nvcc", "--version"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    release = re.search(r"release (\d+)\.(\d+)", text)
    return (int(release[1]), int(release[2])) if release else None


def cuda_obstacle() -> str | None:
    """What keeps the CUDA engine from being built here, or None."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if not CUDA_SOURCES:
        return "this source tree has no CUDA sources"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} has no CUDA; install a CUDA build of torch"
    if CUDA_HOME is None:
        return "nvcc was not found; install the CUDA toolkit or set CUDA_HOME"
    found = nvcc_version(CUDA_HOME)
    if found is None:
        return f"{CUDA_HOME}/bin/nvcc does not run; set CUDA_HOME to a CUDA toolkit"
    headers = ("include/cuda_runtime_api.h", "targets/*/include/cuda_runtime_api.h")
    if not any(match for pattern in headers for match in Path(CUDA_HOME).glob(pattern)):
        return f"{CUDA_HOME} has nvcc but no CUDA headers; set CUDA_HOME to a CUDA toolkit"
    if found[0] != int(torch.version.cuda.split(".")[0]):
        return (
            f"torch needs a CUDA {torch.version.cuda} toolkit, but the one in {CUDA_HOME} is "
            f"{found[0]}.{found[1]}; set CUDA_HOME to one of the same major version"
        )
    return None


def with_cuda() -> bool:
    wanted = switch("FUSEDLR_CUDA")
    if wanted is False:
        return False
    obstacle = cuda_obstacle()
    if wanted and obstacle:
        raise SystemExit(f"FUSEDLR_CUDA=1, but the CUDA engine cannot be built: {obstacle}.")
    print(f"fusedlr: CUDA engine: {f'no ({obstacle})' if obstacle else 'yes'}", file=sys.stderr)
    return obstacle is None


def extension() -> Extension:
    from torch.utils.cpp_extension import CUDA_HOME, CppExtension, CUDAExtension, include_paths

    cuda = with_cuda()
    # Warnings are about our code: as system headers, torch's and CUDA's raise no warning.
    header_paths = include_paths("cuda" if cuda else "cpu")
    system_headers = [flag for path in header_paths for flag in ("-isystem", path)]
    if cuda:
        # Ampere, Hopper, Blackwell and what follows; nvcc knows Blackwell since 12.8.
        blackwell = (nvcc_version(CUDA_HOME) or (0, 0)) >= (12, 8)
        os.environ.setdefault(
            "TORCH_CUDA_ARCH_LIST", "8.0;9.0;10.0+PTX" if blackwell else "8.0;9.0+PTX"
        )
        ext = CUDAExtension("fusedlr._C", [*CPU_SOURCES, *CUDA_SOURCES])
        ext.define_macros.append(("FUSEDLR_WITH_CUDA", None))
    else:
        ext = CppExtension("fusedlr._C", CPU_SOURCES)
    ext.include_dirs = [str(ROOT / "csrc")]
    ext.extra_compile_args = {
        "cxx": [*CXX_FLAGS, *system_headers],
        "nvcc": [*NVCC_FLAGS, *system_headers],
    }
    return ext


def build_settings() -> dict:
    if switch("FUSEDLR_EXTENSION") is False:
        return {}
    try:
        from torch.utils.cpp_extension import BuildExtension, get_cxx_compiler
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"fusedlr is compiled against the torch that it will run with, but: {error}. "
            'Install torch 2.11 to 2.13, and `pip install "setuptools>=77.0.3" ninja`, then: '
            "pip install --no-build-isolation . "
            "(FUSEDLR_EXTENSION=0 installs without the compiled extension.)"
        ) from None

    class BuildExt(BuildExtension):
        def finalize_options(self) -> None:
            # An editable install would compile everything anew in a temporary directory. Objects
            # that stay let ninja compile only what changed.
            if self.build_temp is None:
                self.build_temp = str(ROOT / "build" / f"objects-{sys.implementation.cache_tag}")
            super().finalize_options()

        def build_extensions(self) -> None:
            compiler = shlex.split(get_cxx_compiler())[0]
            if shutil.which(compiler) is None:
                raise SystemExit(
                    f"The C++ compiler {compiler} was not found: install one, or name it in CXX. "
                    "(FUSEDLR_EXTENSION=0 installs without the compiled extension.)"
                )
            super().build_extensions()

    # A compiler that reads torch's headers takes a gigabyte, and ninja starts two more than cores.
    os.environ.setdefault("MAX_JOBS", str(os.cpu_count()))
    return {"ext_modules": [extension()], "cmdclass": {"build_ext": BuildExt}}


setup(**build_settings())
