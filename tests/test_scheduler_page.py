"""The page about the schedulers beside torch's shows what was measured, and nothing else."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "report", raising=False)  # the examples have one, too
    return importlib.import_module("scheduler_page")


def test_the_committed_page_is_what_the_script_writes(script):
    written = script.PAGE.read_text(encoding="utf-8")
    assert written == script.page(), "run benchmarks/scheduler_page.py"
    for case in script.CASES:
        assert written.count(f"\n| {case.name} |") == 5, case.name


def test_the_page_shows_the_newest_results(script, monkeypatch, tmp_path):
    for path in script.RESULTS.glob("*-scheduler-*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    newest = json.loads(max(tmp_path.glob("*-equality.json")).read_text(encoding="utf-8"))
    newest["results"][0]["largest_difference"] = 0.125
    newest["results"][0]["most_calls"] = 7
    (tmp_path / "9999-12-31-scheduler-equality.json").write_text(json.dumps(newest))
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    row = next(line for line in script.page().splitlines() if line.startswith("| LambdaLR"))
    assert "| 0.125 | 0 |" in row
    assert row.endswith("| 1-7 |")
