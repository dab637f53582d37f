"""Includes and imports go one way, and what is written down twice agrees."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
import torch

import fusedlr
from cases import VARIANTS, Variant
from fusedlr import _backend
from schedule_cases import SCHEDULERS

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "fusedlr"

SOURCES = sorted(path for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh"))
MODULES = sorted(PACKAGE.rglob("*.py"))

#: The folders of csrc, each with those that it may include from.
MAY_INCLUDE = {
    "math": {"math"},
    "engine": {"engine", "math"},
    "bindings": {"bindings", "engine", "math"},
}
#: Parts of the package (a file or a folder of fusedlr/), each with those that it may import.
MAY_IMPORT = {
    "_version": set(),
    "_stack": set(),
    "_backend": {"_version", "_stack", "_C", "triton"},
    "triton": {"triton", "expression", "_C"},
    "expression": set(),
    "schedules": {"schedules", "expression"},
    "tracing": {"tracing", "expression"},
    "optim": {"optim", "lr_scheduler", "schedules", "expression", "_backend"},
    "lr_scheduler": {"lr_scheduler", "optim", "tracing", "expression", "_backend", "_stack"},
    "history": {"optim", "schedules"},
    "restoring": set(),
    "lr_finder": {"lr_finder", "optim", "schedules", "history", "restoring"},
    "batch_signature": set(),
    "graphed_train_step": {
        "optim",
        "lr_scheduler",
        "batch_signature",
        "restoring",
        "_backend",
        "_stack",
    },
    "cli": {"cli", "schedules", "lr_scheduler", "optim", "_backend"},
    "__main__": {"cli"},
    "__init__": {
        "optim",
        "lr_scheduler",
        "schedules",
        "history",
        "lr_finder",
        "graphed_train_step",
        "_backend",
        "_version",
    },
}

TORCH_HEADER = re.compile(r"(ATen|c10|torch|caffe2|pybind11)/|Python\.h")
CUDA_HEADER = re.compile(r"cuda|cub/|thrust/|cooperative_groups|nv")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def layer_of(path):
    return path.relative_to(CSRC).parts[0]


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def includes(path):
    """The headers that a source includes: (is ours, name)."""
    found = re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', path.read_text(), re.MULTILINE)
    return [(bracket == '"', header) for bracket, header in found]


def imports(path):
    """Every module of fusedlr that a module imports, also within functions, as a dotted name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: write imports in full"
            if node.module == "fusedlr":
                names |= {f"fusedlr.{alias.name}" for alias in node.names}
            else:
                names.add(node.module)
    return {name for name in names if name.split(".")[0] == "fusedlr"}


each_source = pytest.mark.parametrize("path", SOURCES, ids=name_of)
each_module = pytest.mark.parametrize("path", MODULES, ids=name_of)


def test_there_are_sources_and_modules_to_look_at():
    assert {layer_of(path) for path in SOURCES} == set(MAY_INCLUDE)
    assert {part_of(path) for path in MODULES} == set(MAY_IMPORT)
    assert any(includes(path) for path in SOURCES)
    assert imports(PACKAGE / "__init__.py")


@each_source
def test_includes_go_from_bindings_to_engine_to_math(path):
    for is_ours, header in includes(path):
        if is_ours or (CSRC / header).exists():
            assert (CSRC / header).exists(), f"{name_of(path)} includes {header}, which is not ours"
            layer = header.split("/")[0]
            assert layer in MAY_INCLUDE[layer_of(path)], f"{name_of(path)} includes {header}"


@each_source
def test_only_bindings_include_headers_of_torch(path):
    if layer_of(path) != "bindings":
        for _, header in includes(path):
            assert not TORCH_HEADER.match(header), f"{name_of(path)} includes {header}"


@each_source
def test_math_includes_no_header_of_cuda(path):
    if layer_of(path) == "math":
        for _, header in includes(path):
            assert not CUDA_HEADER.match(header), f"{name_of(path)} includes {header}"


@each_module
def test_imports_go_from_the_public_names_to_the_backend_to_the_extension(path):
    for imported in imports(path):
        part = [*imported.split("."), "__init__"][1]
        assert part in MAY_IMPORT[part_of(path)], f"{name_of(path)} imports {imported}"


@each_module
def test_only_the_backend_and_its_engine_touch_the_extension(path):
    if part_of(path) not in ("_backend", "triton"):
        touches = re.findall(r"\bfusedlr\._C\b|\bimport _C\b|_backend\.extension", path.read_text())
        assert not touches, f"{name_of(path)}: {touches}"


# What is written down twice


def group_of(variant: Variant):
    optimizer = variant.case.ours([torch.nn.Parameter(torch.ones(1))], **variant.arguments)
    return optimizer, optimizer.param_groups[0]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_rule_and_its_optimizer_class_agree_on_hypers_and_state(variant):
    optimizer, group = group_of(variant)
    rule = _backend.extension.rules()[optimizer._rule_name(group)]

    assert list(rule["hypers"]) == list(optimizer.hyper_names)
    assert rule["states"] == len(optimizer._state_names(group))
    assert set(optimizer._state_names(group)) <= set(variant.case.state_names)


def test_every_rule_has_an_optimizer_that_follows_it():
    followed = {optimizer._rule_name(group) for optimizer, group in map(group_of, VARIANTS)}
    assert followed == set(_backend.extension.rules())


def test_every_public_optimizer_and_scheduler_has_its_row_in_the_tables():
    optimizers = {name for name in fusedlr.optim.__all__ if name[0].isupper()} - {"FusedOptimizer"}
    assert optimizers == {variant.case.name for variant in VARIANTS}
    names = (name for name in fusedlr.lr_scheduler.__all__ if name[0].isupper())
    schedulers = {name for name in names if name != "LRScheduler"}
    assert schedulers == {scheduler.name for scheduler in SCHEDULERS}


def defined_names(node):
    """What the body of a module or class of the type stub defines."""
    for member in node.body:
        if isinstance(member, (ast.ClassDef, ast.FunctionDef)):
            yield member.name
        elif isinstance(member, ast.AnnAssign):
            yield member.target.id
        elif isinstance(member, ast.Assign):
            yield from (target.id for target in member.targets)


def test_the_type_stub_and_the_extension_define_the_same_names():
    stub = ast.parse((PACKAGE / "_C.pyi").read_text())
    compiled = {name for name in dir(_backend.extension) if not name.startswith("__")}
    assert set(defined_names(stub)) == compiled
    for node in stub.body:
        if isinstance(node, ast.ClassDef):
            missing = set(defined_names(node)) - set(dir(getattr(_backend.extension, node.name)))
            assert not missing, f"{node.name}: {missing}"


# The repository speaks of the project alone

BINARY_SUFFIXES = {".gif", ".gz", ".jpg", ".pdf", ".png", ".pt", ".pyc", ".so"}
MACHINE_PATH = re.compile(
    r"(?<![\w.~$}/-])/(?:home|root|Users|work|workspace|mnt|scratch|opt|tmp|var/folders)/[\w.-]+"
    r"|\b[A-Z]:\\\\?Users\b"
)


def tracked_files():
    """Everything that git would commit; without git, everything in the folders of sources."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0 and listed.stdout:
        return [ROOT / line for line in listed.stdout.splitlines()]
    folders = ("csrc", "fusedlr", "tests", "examples", "benchmarks", "scripts")
    return [path for folder in folders for path in (ROOT / folder).rglob("*")]


def test_no_file_names_a_path_of_some_machine():
    files = [
        path for path in tracked_files() if path.is_file() and path.suffix not in BINARY_SUFFIXES
    ]
    assert len(files) > 50
    found = {
        f"{name_of(path)}: {match}"
        for path in files
        if path != Path(__file__)
        for match in MACHINE_PATH.findall(path.read_text())
    }
    assert found == set()


def test_machine_paths_are_recognised():
    for text in ("/home/somebody/fusedlr", "cd /tmp/scratch", r"C:\Users\somebody"):
        assert MACHINE_PATH.search(text), text
    for text in ("https://host/home/page", "a/tmp/b", "$HOME/x", "/usr/bin/env", "/proc/cpuinfo"):
        assert not MACHINE_PATH.search(text), text
