"""The table of rules and engines in the README says what the engines have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from cases import VARIANTS
from fusedlr import _backend
from fusedlr.triton.rules import TWINS

README = Path(__file__).parent.parent / "README.md"

#: How each engine is held to what it must compute; see the tests of these names.
PROOFS = {
    "cpu": "at most twice torch's error",  # test_update_values.py
    "cuda": "bits of cpu (walked)",  # test_kernels_walked.py, test_walked_suite.py
    "triton": "bits of cpu (interpreted)",  # test_triton_suite.py
    "torch": "torch's own",  # test_update_values.py
}


def rules_of_engines() -> Mapping[str, set[str]]:
    followed = set()
    for variant in VARIANTS:
        optimizer = variant.case.ours(
            [torch.nn.Parameter(torch.ones(1))],
            **variant.arguments,
        )
        followed.add(optimizer._rule_name(optimizer.param_groups[0]))
    compiled = set(_backend.extension.rules())
    # The CUDA engine is built from the list of the CPU engine's.
    return {"cpu": compiled, "cuda": compiled, "triton": set(TWINS), "torch": followed}


def table() -> str:
    engines = rules_of_engines()
    lines = ["| rule | " + " | ".join(PROOFS) + " |", "|---" * (1 + len(PROOFS)) + "|"]
    for rule in _backend.extension.rules():
        cells = [PROOFS[engine] if rule in engines[engine] else "—" for engine in PROOFS]
        lines.append(f"| `{rule}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def test_the_readme_has_the_table_of_rules_and_engines():
    assert table() in README.read_text(), f"README.md should have\n\n{table()}"


def test_every_engine_has_every_rule():
    assert len(set(map(frozenset, rules_of_engines().values()))) == 1
