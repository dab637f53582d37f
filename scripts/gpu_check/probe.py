"""Prints what this interpreter's torch can run on, as JSON."""

from __future__ import annotations

import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

import torch


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


has_gpu = torch.cuda.is_available()
capability = torch.cuda.get_device_capability(0) if has_gpu else None
facts = {
    "python": platform.python_version(),
    "torch": torch.__version__,
    "cuda": torch.version.cuda,
    "setuptools": installed("setuptools"),
    "ninja": shutil.which("ninja"),
    "cores": os.cpu_count(),
    "gpu": torch.cuda.get_device_name(0) if has_gpu else None,
    "gpus": torch.cuda.device_count(),
    "capability": capability,
    # A GPU at hand is built for alone, which takes a third of the time.
    "arch_list": f"{capability[0]}.{capability[1]}" if capability else None,
}
print(json.dumps(facts))
