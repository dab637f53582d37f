"""``python -m fusedlr``: what it prints, draws and refuses."""

import os
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import fusedlr
from fusedlr import schedules
from fusedlr.__main__ import main
from fusedlr.cli import drawing
from fusedlr.cli.app import app
from fusedlr.cli.curves import MOST_POINTS, read_curves

WARMUP = "warmup_cosine(3e-4, warmup_steps=100, total_steps=1000)"


def run(*arguments, width=100):
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(width), "NO_COLOR": "1"})


def words_of(result):
    """The output without the frame around an error and without line breaks."""
    return " ".join(result.output.replace("│", " ").split())


def test_info_prints_the_backend_in_a_process_of_its_own():
    finished = subprocess.run(
        [sys.executable, "-m", "fusedlr", "info"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "400"},
    )
    assert finished.returncode == 0, finished.stderr
    info = fusedlr.backend_info()
    for value in (info["fusedlr"], info["torch"], info["extension"], info["simd"]):
        assert str(value) in finished.stdout
    for device, choice in info["devices"].items():
        assert f"engine for {device}" in finished.stdout
        assert choice["reason"] in finished.stdout


def without_typer(monkeypatch, *arguments):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.setattr(sys, "argv", ["fusedlr", *arguments])
    main()


def test_info_is_there_without_typer(monkeypatch, capsys):
    without_typer(monkeypatch, "info")
    lines = capsys.readouterr().out.splitlines()[:2]
    facts = dict(line.split(maxsplit=1) for line in lines)
    assert facts["torch"] == torch.__version__
    # However wide the names are, the facts stand below each other.
    assert len({line.index(facts[line.split()[0]]) for line in lines}) == 1


def test_without_typer_other_commands_say_what_to_install(monkeypatch):
    with pytest.raises(SystemExit, match=r"pip install 'fusedlr\[cli\]'"):
        without_typer(monkeypatch, "plot", WARMUP)


def test_without_a_command_there_is_help():
    result = run()
    assert "plot" in result.output
    assert "info" in result.output


# Curves


def test_a_curve_has_the_values_of_its_schedule_up_to_the_largest_number_in_the_text():
    (curve,) = read_curves([WARMUP])
    schedule = schedules.parse(WARMUP)
    assert curve.label == WARMUP
    assert curve.steps == list(range(1001))
    assert curve.values == schedule(curve.steps)


def test_curves_drawn_over_each_other_have_the_same_steps():
    curves = read_curves(["linear(1, 0, steps=2_0)", "0.5 * cosine(1, steps=40)", "0.25"])
    assert [curve.steps for curve in curves] == 3 * [list(range(41))]
    assert [curve.values[20] for curve in curves] == [0.0, 0.25, 0.25]


def test_a_long_curve_is_thinned_out_and_keeps_its_ends():
    (curve,) = read_curves(["linear(1, 0, steps=1000003)"])
    assert len(curve.steps) <= MOST_POINTS + 1
    assert (curve.steps[0], curve.steps[-1]) == (0, 1000003)
    assert curve.values[-1] == 0.0


SCHEDULERS = [
    ("StepLR(30, gamma=0.5)", {}),
    ("CosineAnnealingLR(T_max=50, eta_min=1e-3)", {}),
    ("OneCycleLR(max_lr=0.3, total_steps=60)", {}),
    ("MultiStepLR([10, 30])", {}),
]


@pytest.mark.parametrize("text", [text for text, _ in SCHEDULERS])
def test_a_scheduler_has_the_curve_that_torch_gives(text):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    name, arguments = text.split("(", 1)
    theirs = eval(f"torch.optim.lr_scheduler.{name}(optimizer, {arguments}")
    expected = [0.0] * 61
    for step in range(61):
        expected[step] = theirs.get_last_lr()[0]
        if step < 60:
            optimizer.step()
            theirs.step()

    (curve,) = read_curves([text], steps=60, lr=0.1)

    assert curve.values == expected
    assert len(set(curve.values)) > 1


# Drawing


def test_plot_draws_into_the_terminal():
    result = run("plot", WARMUP, width=110)
    assert result.exit_code == 0, result.output
    assert f"⠤⠤ {WARMUP}" in result.output
    assert "0.0003 |" in result.output
    assert "0         125" in result.output  # eight ticks to 1000
    assert "⠉" in result.output


def test_plot_tells_curves_without_colours_apart_by_digits():
    result = run("plot", "linear(1, 0, steps=50)", "linear(0, 1, steps=50)")
    drawing, legend = result.output.split("Legend:")
    assert "1" in drawing.splitlines()[2]
    assert "2" in drawing.splitlines()[2]
    assert "⠤1⠤ linear(1, 0, steps=50)" in legend
    assert "⠤2⠤ linear(0, 1, steps=50)" in legend


def test_a_coloured_drawing_has_a_colour_for_each_curve(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    curves = read_curves(["linear(1, 0, steps=50)", "linear(0, 1, steps=50)"])
    text = drawing.as_text(curves, 100, colors=True)
    assert "\x1b[94m⠤⠤ linear(1, 0" in text
    assert "\x1b[91m⠤⠤ linear(0, 1" in text
    assert "\x1b" not in drawing.as_text(curves, 100)


@pytest.mark.parametrize("width", [50, 70, 80, 120, 300])
def test_plot_keeps_to_the_width_of_the_terminal(width):
    result = run("plot", "linear(1, 0, steps=50)", width=width)
    assert width / 2 < max(map(len, result.output.splitlines())) <= width


def test_a_logarithmic_plot_labels_values_and_leaves_out_zero():
    result = run("plot", "join([geometric(1, 1e-4, steps=40), 0], [41])", "--log")
    assert result.exit_code == 0, result.output
    assert "0.01 |" in result.output
    assert "0.0001 |" in result.output


@pytest.mark.parametrize("text", ["constant(0)", "constant(-1)", "linear(-1, 1, steps=9)"])
def test_flat_and_negative_curves_are_drawn(text):
    result = run("plot", text)
    assert result.exit_code == 0, result.output
    assert text in result.output


@pytest.mark.parametrize(
    ("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_plot_writes_a_picture(ending, start, tmp_path):
    path = tmp_path / f"curves.{ending}"
    result = run("plot", WARMUP, "StepLR(300)", "--lr", "2e-4", "--log", "-o", str(path))
    assert result.exit_code == 0, result.output
    assert str(path) in result.output.replace("\n", "")
    assert path.read_bytes().startswith(start)


# Refusals


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cosin(1, steps=9)"], "'cosin' to plot; did you mean 'cosine'?"),
        (["StepLr(step_size=30)"], "did you mean 'StepLR'?"),
        (["quux(3)"], "there is no schedule or scheduler 'quux' to plot"),
        (["ReduceLROnPlateau(patience=3)"], "'ReduceLROnPlateau' to plot"),
        (["0.5 * cosin(1, steps=9)"], "did you mean 'cosine'?"),
        (["warmup_cosine(1, warmup_steps=9, total_steps=5)"], "must be greater than warmup_steps"),
        (["linear(1, steps=9)"], "missing a required argument: 'end'"),
        (["StepLR()"], "'step_size'"),
        (["StepLR(step_size=__import__('os'))"], "cannot read"),
        (["StepLR(30) * 2"], "cannot read"),
        (["StepLR(30"], "cannot read"),
        (["import os"], "cannot read 'import os'"),
        (["constant(0)", "--log"], "--log needs values above 0"),
        (["constant(1)", "--steps", "0"], "--steps"),
        ([], "Missing argument"),
    ],
)
def test_plot_refuses_what_it_cannot_draw_and_says_why(arguments, words):
    result = run("plot", *arguments, width=200)
    assert result.exit_code == 2
    assert words in words_of(result)


@pytest.mark.parametrize("name", ["picture.quux", "no/such/folder/picture.png"])
def test_plot_refuses_a_file_that_it_cannot_write(name, tmp_path):
    result = run("plot", WARMUP, "-o", str(tmp_path / name), width=200)
    assert result.exit_code == 2
    assert "quux" in words_of(result) or "No such file" in words_of(result)


@pytest.mark.parametrize(
    ("module", "arguments"), [("plotille", []), ("matplotlib.figure", ["-o", "picture.png"])]
)
def test_plot_without_a_package_says_how_to_install_it(module, arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    result = run("plot", WARMUP, *arguments, width=200)
    assert result.exit_code == 2
    assert "pip install 'fusedlr[cli]'" in words_of(result)
