"""The page about schedules and its pictures show every schedule as it is."""

import importlib
import json
import re
from pathlib import Path

import pytest

from fusedlr import schedules

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "schedules.md").read_text(encoding="utf-8")
FUNCTIONS = sorted(set(schedules.__all__) - {"Schedule", "parse"})


@pytest.fixture
def gallery(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("draw_gallery")


def called(text):
    """The functions that a text calls."""
    return set(re.findall(r"(\w+)\(", text))


def test_the_gallery_shows_every_public_schedule_under_its_name(gallery):
    assert set(FUNCTIONS) <= set(gallery.EXAMPLES)
    for name in FUNCTIONS:
        assert schedules.parse(gallery.EXAMPLES[name]).name == name
    text = gallery.gallery()
    for name in FUNCTIONS:
        assert f">{name}</text>" in text
    assert text.count("<polyline") == len(gallery.EXAMPLES)


def test_the_committed_pictures_are_what_the_script_draws(gallery):
    pictures = gallery.pictures()
    for path, content in pictures.items():
        assert path.read_text(encoding="utf-8") == content, f"run scripts/draw_gallery.py: {path}"
    assert set(pictures) == {*(ROOT / "docs" / "schedules").iterdir(), ROOT / "docs/schedules.svg"}
    assert sum(map(len, pictures.values())) < 300_000


def test_a_picture_follows_its_schedule(gallery):
    def heights(text):
        points = re.search(r'points="([^"]*)"', gallery.picture(text))[1]
        return [float(point.split(",")[1]) for point in points.split()]

    falling, rising = heights("linear(1, 0, steps=100)"), heights("linear(0, 1, steps=100)")
    assert falling == sorted(falling)
    assert rising == falling[::-1]
    assert len(set(falling)) > 100


def test_the_page_has_every_schedule_with_its_example_and_picture(gallery):
    headings = re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)
    assert sorted(headings) == FUNCTIONS
    for name, text in gallery.EXAMPLES.items():
        with_module = re.sub(r"\b([a-z_]+)\(", r"s.\1(", text)
        assert f"\n`{with_module}`\n" in PAGE
        assert f"](schedules/{name}.svg)" in PAGE


def test_the_code_of_the_page_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})
    printed = capsys.readouterr().out.strip()
    assert f"# {printed}" in PAGE


def test_the_tables_of_the_page_have_every_recorded_schedule_and_only_our_names():
    recorded = json.loads((ROOT / "tests/data/recorded_schedules.json").read_text())
    tables = PAGE[PAGE.index("## Coming from transformers") :]
    for row in recorded["rows"]:
        assert f"`{row['function']}" in tables
    rows = re.findall(r"^\| `?[^|]*\| ([^|]*) \|$", tables, re.MULTILINE)
    ours = set().union(*map(called, rows))
    assert len(rows) > 30
    assert ours <= set(FUNCTIONS)
