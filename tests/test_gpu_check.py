"""What the check on a GPU says before it builds."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts" / "gpu_check"
FOUND = {"setuptools": "80.9.0", "ninja": "/usr/bin/ninja", "cuda_home": "/usr/local/cuda"}

LACKS = {
    "nothing": ({}, []),
    "a new setuptools": ({"setuptools": "65.5.0"}, ["found: 65.5.0.*pip install"]),
    "any setuptools": ({"setuptools": None}, ["found: None.*pip install"]),
    "ninja": ({"ninja": None}, ["pip install ninja"]),
    "nvcc": ({"cuda_home": None}, ["nvcc .*CUDA_HOME"]),
    "two": ({"ninja": None, "cuda_home": None}, ["pip install ninja", "nvcc"]),
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.delitem(sys.modules, "pytest_output", raising=False)
    return runpy.run_path(str(SCRIPTS / "run.py"))


@pytest.mark.parametrize(("facts", "said"), LACKS.values(), ids=LACKS)
def test_what_the_build_lacks_is_said_with_the_repair(facts, said, run):
    missing = run["missing_for_build"]({**FOUND, **facts}, needs_cuda=True)
    assert len(missing) == len(said)
    for one, pattern in zip(missing, said, strict=True):
        assert re.search(pattern, one)
