"""Which engine serves what, and life without the compiled one."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from schedule_cases import SCHEDULES, each_representative
from schedule_lockstep import LR_KINDS, lrs, make_optimizer

import fusedlr
from cases import OPTIMIZERS, each_optimizer
from fusedlr import _backend

TESTS = Path(__file__).parent


def run_python(code, **environment):
    """Runs code in a fresh interpreter that finds the package and the tests' modules."""
    paths = [os.fspath(TESTS), os.fspath(Path(fusedlr.__file__).parent.parent)]
    if "PYTHONPATH" in os.environ:
        paths.append(os.environ["PYTHONPATH"])
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


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
    assert all(reason for reason in info["not_built"].values())
    json.dumps(info)


def test_backend_info_tells_of_a_forced_engine(monkeypatch):
    monkeypatch.setenv("FUSEDLR_BACKEND", "torch")
    assert fusedlr.backend_info()["devices"]["cpu"] == {
        "engine": "torch",
        "reason": "FUSEDLR_BACKEND=torch",
    }


def test_an_unknown_engine_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("FUSEDLR_BACKEND", "abacus")
    with pytest.raises(ValueError, match="FUSEDLR_BACKEND must be .*'abacus'"):
        fusedlr.backend_info()


def test_devices_without_an_engine_of_ours_say_so():
    engine, reason = _backend.engine_for("xpu")
    assert engine == "torch"
    assert "'xpu'" in reason


def test_the_version_is_that_of_the_installed_package():
    assert fusedlr.__version__ == importlib.metadata.version("fusedlr")


# The torch engine


def trained(library, optimizer_name, case, lr_kind="float", steps=12):
    """Parameters and learning rates of a short training."""
    optimizer = make_optimizer(library, lr=LR_KINDS[lr_kind], name=optimizer_name)
    scheduler = case.build(library, optimizer)
    for step in range(1, steps + 1):
        optimizer.step()
        scheduler.step(*case.step_arguments(step))
    params = [group["params"][0].tolist() for group in optimizer.param_groups]
    assert params != [[1.0, 1.0]] * 3
    return params, [float(lr) for lr in lrs(optimizer)], scheduler.state_dict().keys()


@pytest.mark.parametrize("lr_kind", LR_KINDS)
@each_representative
@each_optimizer
def test_the_torch_engine_gives_exactly_what_torch_gives(case, lr_kind, monkeypatch, request):
    monkeypatch.setenv("FUSEDLR_BACKEND", "torch")
    schedule = request.getfixturevalue("schedule")
    ours, theirs = (trained(library, case.name, schedule, lr_kind) for library in (fusedlr, torch.optim))
    assert ours == theirs
