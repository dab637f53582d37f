"""Which engine serves what, and life without the compiled one."""

import copy
import importlib.metadata
import json
import os
import runpy
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import Any

import pytest
import setuptools
import torch

import fusedlr
from cases import OPTIMIZERS, OptimizerCase
from fusedlr import _backend
from schedule_cases import REPRESENTATIVES, ScheduleCase
from schedule_lockstep import LR_KINDS, lrs, make_optimizer

ROOT = Path(__file__).parent.parent


# What backend_info tells


def test_backend_info_tells_what_serves_the_cpu_and_why():
    info = fusedlr.backend_info()

    assert info["fusedlr"] == fusedlr.__version__
    assert info["torch"] == torch.__version__
    assert Path(info["extension"]).name.startswith("_C.")
    assert info["extension_error"] is None
    assert info["threads"] == torch.get_num_threads()
    assert info["devices"]["cpu"]["engine"] == "cpu"
    assert info["simd"] in info["devices"]["cpu"]["reason"]
    assert "cpu" in info["built_for"]
    assert set(info["built_for"]).isdisjoint(info["not_built"])
    assert all(info["not_built"].values())
    json.dumps(info)


def test_backend_info_tells_of_a_forced_engine(monkeypatch):
    monkeypatch.setenv("FUSEDLR_BACKEND", "torch")
    assert fusedlr.backend_info()["devices"]["cpu"] == {
        "engine": "torch",
        "reason": "FUSEDLR_BACKEND=torch",
    }


def test_an_unknown_engine_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("FUSEDLR_BACKEND", "abacus")
    with pytest.raises(ValueError, match=r"FUSEDLR_BACKEND must be .*'abacus'"):
        fusedlr.backend_info()


def test_devices_without_an_engine_of_ours_say_so():
    engine, reason = _backend.engine_for("xpu")
    assert engine == "torch"
    assert "'xpu'" in reason


def test_an_optimizer_is_told_its_engine_which_is_no_part_of_its_state(monkeypatch):
    monkeypatch.setenv("FUSEDLR_BACKEND", "walked")
    param = torch.nn.Parameter(torch.ones(2))
    optimizer = fusedlr.Adam([param], backend="cpu")
    param.grad = torch.ones(2)
    optimizer.step()
    copied = copy.deepcopy(optimizer)

    assert all(one._table.device is None for one in (optimizer, copied))
    assert "backend" not in repr(optimizer.state_dict())
    assert fusedlr.Adam([param])._table.device is not None
    by_torch = fusedlr.Adam([param], backend="torch")
    by_torch.step()
    assert by_torch._plans == []


@pytest.mark.parametrize(
    ("backend", "repair"),
    [
        ("abacus", r"must be one of 'cpu', 'cuda', 'triton'"),
        ("cuda", r"cannot update parameters on 'cpu' devices.*Leave `backend` out"),
        ("triton", r"TRITON_INTERPRET=1"),
    ],
)
def test_an_engine_that_cannot_update_the_parameters_is_refused(backend, repair):
    with pytest.raises(ValueError, match=repair):
        fusedlr.SGD([torch.nn.Parameter(torch.ones(2))], backend=backend)


@pytest.mark.parametrize(
    ("version", "problem"), [(None, "not installed"), ("3.5.1", "Triton 3.5.1 is too old")]
)
def test_without_a_triton_that_is_new_enough_the_best_other_engine_is_chosen(
    version, problem, monkeypatch
):
    monkeypatch.setattr(_backend, "_triton_version", lambda: version)
    engine, reason = _backend.engine_for("cuda")
    assert engine == "cuda" or (engine == "torch" and problem in reason)
    with pytest.raises(ValueError, match=problem):
        _backend.engine_for("cuda", "triton")


def test_a_gpu_without_the_cuda_engine_gets_triton(monkeypatch):
    monkeypatch.setattr(_backend, "_triton_version", lambda: "3.6.0")
    monkeypatch.setattr(_backend.extension, "kernel_engines", lambda: {"triton": ["cuda"]})
    assert _backend.engine_for("cuda")[0] == "triton"
    monkeypatch.setenv("FUSEDLR_BACKEND", "torch")
    assert _backend.engine_for("cuda")[0] == "torch"


def test_without_triton_everything_else_works():
    code = """
        import sys
        sys.modules["triton"] = None
        import torch, fusedlr
        param = torch.nn.Parameter(torch.ones(2))
        param.grad = torch.ones(2)
        fusedlr.SGD([param], lr=1.0).step()
        print(param.tolist(), any(name.startswith("fusedlr.triton") for name in sys.modules))
    """
    assert run_python(textwrap.dedent(code)).strip() == "[0.0, 0.0] False"


def test_the_version_of_the_package_is_written_down_once():
    settings = (ROOT / "pyproject.toml").read_text()
    assert 'version = { attr = "fusedlr._version.__version__" }' in settings
    for distribution in importlib.metadata.distributions(name="fusedlr"):
        assert distribution.version == fusedlr.__version__


# The torch engine


def trained(library, optimizer_case: OptimizerCase, case: ScheduleCase, lr_kind: str):
    """What a short training leaves: parameters, learning rates and the scheduler's state."""
    optimizer = make_optimizer(library, lr=LR_KINDS[lr_kind], name=optimizer_case.name)
    scheduler = case.build(library, optimizer)
    for step in range(1, 13):
        optimizer.step()
        scheduler.step(*case.step_arguments(step))
    params = [group["params"][0].tolist() for group in optimizer.param_groups]
    assert params != [[1.0, 1.0]] * 3
    return params, [float(lr) for lr in lrs(optimizer)], sorted(scheduler.state_dict())


def assert_trains_exactly_as_torch(optimizer_case, case, lr_kind):
    assert _backend.engine_for("cpu")[0] == "torch"
    ours = trained(fusedlr, optimizer_case, case, lr_kind)
    assert ours == trained(torch.optim, optimizer_case, case, lr_kind)


@pytest.mark.parametrize("lr_kind", LR_KINDS)
@pytest.mark.parametrize("optimizer_case", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("case", REPRESENTATIVES, ids=str)
def test_the_torch_engine_trains_exactly_as_torch(case, optimizer_case, lr_kind, monkeypatch):
    monkeypatch.setenv("FUSEDLR_BACKEND", "torch")
    assert_trains_exactly_as_torch(optimizer_case, case, lr_kind)


def check_everything_on_the_torch_engine():
    """What a process of its own runs, in which the torch engine is all there is."""
    for optimizer_case in OPTIMIZERS:
        for case in REPRESENTATIVES:
            for lr_kind in LR_KINDS:
                assert_trains_exactly_as_torch(optimizer_case, case, lr_kind)
    print(json.dumps(fusedlr.backend_info()))


def run_python(code, **environment):
    """What code prints in a fresh interpreter that finds the package and the tests' modules."""
    paths = [ROOT / "tests", Path(fusedlr.__file__).parent.parent, os.environ.get("PYTHONPATH", "")]
    finished = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), **environment},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_an_environment_variable_forces_the_torch_engine():
    printed = run_python(
        "import test_backend; test_backend.check_everything_on_the_torch_engine()",
        FUSEDLR_BACKEND="torch",
    )
    info = json.loads(printed)
    assert info["devices"]["cpu"]["engine"] == "torch"
    assert info["extension"] is not None


BLOCK_THE_EXTENSION = """
import sys, warnings

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "fusedlr._C":
            raise ImportError("the extension was hidden")

sys.meta_path.insert(0, Blocker())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fusedlr
    import fusedlr.lr_scheduler, fusedlr.optim
    import test_backend
for warning in caught:
    if "fusedlr" in str(warning.message):
        print(warning.category.__name__, warning.filename, warning.message)
"""


def test_without_the_extension_the_package_warns_once_and_works():
    lines = run_python(
        BLOCK_THE_EXTENSION + "test_backend.check_everything_on_the_torch_engine()"
    ).splitlines()

    warning, info = lines[0], json.loads(lines[1])
    assert len(lines) == 2
    assert warning.startswith("RuntimeWarning")
    assert "the extension was hidden" in warning
    assert "pip install --no-build-isolation -e ." in warning
    assert info["extension"] is None
    assert info["extension_error"] == "the extension was hidden"
    assert info["simd"] is None
    assert info["devices"]["cpu"]["engine"] == "torch"
    assert "the extension was hidden" in info["devices"]["cpu"]["reason"]


def test_a_setuptools_that_is_too_old_is_named_with_what_to_install(monkeypatch):
    too_old = types.ModuleType("setuptools")
    too_old.__version__, too_old.Extension, too_old.setup = "65.5.0", None, None
    monkeypatch.setitem(sys.modules, "setuptools", too_old)
    with pytest.raises(SystemExit, match=r'65\.5\.0: pip install "setuptools>=77\.0\.3" ninja'):
        runpy.run_path(str(ROOT / "setup.py"))


@pytest.mark.parametrize(("wanted", "are_errors"), [("1", True), ("0", False), ("", False)])
def test_warnings_are_errors_in_builds_that_ask_for_it_only(wanted, are_errors, monkeypatch):
    built: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **settings: built.update(settings))
    monkeypatch.setenv("FUSEDLR_CUDA", "0")
    monkeypatch.setenv("MAX_JOBS", "1")
    monkeypatch.setenv("FUSEDLR_WERROR", wanted)
    runpy.run_path(str(ROOT / "setup.py"))
    flags = built["ext_modules"][0].extra_compile_args
    assert ("-Werror" in flags["cxx"]) == are_errors
    assert ("--Werror=all-warnings" in flags["nvcc"]) == are_errors
    assert ("-Xcompiler=-Werror" in flags["nvcc"]) == are_errors
    assert "-Wextra" in flags["cxx"]


def check_training_under_another_default_device():
    """Tables, steps and state lie where the parameters do, not where new tensors go by default."""
    for optimizer_case in OPTIMIZERS:
        params = []
        for library in (fusedlr, torch.optim):
            param = torch.nn.Parameter(torch.ones(3))
            param.grad = torch.tensor([1.0, -2.0, 0.5])
            last = torch.ones(1)
            # torch 2.11 itself puts its step counts on the default device.
            with torch.device("meta" if library is fusedlr else "cpu"):
                optimizer = getattr(library, optimizer_case.name)([param], lr=0.1)
                scheduler = library.lr_scheduler.ExponentialLR(optimizer, 0.5)
                for _ in range(3):
                    optimizer.step()
                    scheduler.step()
                    optimizer.load_state_dict(optimizer.state_dict())
                optimizer.add_param_group({"params": [torch.nn.Parameter(last)]})
                optimizer.step()
            params.append(param.detach())
        torch.testing.assert_close(*params)
        assert (params[0] != 1).all()


def test_another_default_device_changes_nothing():
    """In a process of its own: a table on a device would be read as memory of the host."""
    run_python("import test_backend; test_backend.check_training_under_another_default_device()")
