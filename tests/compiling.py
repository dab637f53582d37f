"""Compiles C++ of this project, with the flags that the extension itself is compiled with."""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
from pathlib import Path

from torch.utils.cpp_extension import get_cxx_compiler

ROOT = Path(__file__).parent.parent
NATIVE = Path(__file__).parent / "native"


def list_in_setup(name: str) -> list[str]:
    """A list of string constants in setup.py; what is no constant there is left out."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id != name:
                continue
            assert isinstance(node.value, ast.List)
            return [item.value for item in node.value.elts if isinstance(item, ast.Constant)]
    raise AssertionError(f"setup.py has no list {name}")


def start(command: list[str | os.PathLike[str]]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )


def finish(compiler: subprocess.Popen[str]) -> str:
    """What the compiler has said."""
    messages, _ = compiler.communicate()
    assert compiler.returncode == 0, messages
    return messages


def start_compiler(source: Path, output: Path, *flags: str) -> subprocess.Popen[str]:
    return start(
        [
            *shlex.split(get_cxx_compiler()),
            "-std=c++17",
            "-O3",
            *list_in_setup("SHARED_CXX_FLAGS"),
            f"-I{ROOT / 'csrc'}",
            *flags,
            source,
            "-o",
            output,
        ]
    )


def compile_library(source: Path, folder: Path) -> Path:
    """A shared library of a source in tests/native, whose C names can be called."""
    library = folder / f"{source.stem}.so"
    finish(start_compiler(source, library, "-fvisibility=default", "-shared", "-fPIC"))
    return library


def find_nvcc() -> Path | None:
    """The compiler of a CUDA toolkit, if there is one."""
    search = subprocess.run(
        [ROOT / "scripts" / "cuda_toolkit.sh"], capture_output=True, text=True, check=False
    )
    return Path(search.stdout.strip()) / "bin" / "nvcc" if search.returncode == 0 else None
