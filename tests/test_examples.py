"""The scripts of examples/ run, and the tutorials print what they print with torch.optim."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"
TUTORIALS = sorted((EXAMPLES / "tutorials").glob("*.py"))

OUR_IMPORT = "import fusedlr as optim"
TORCH_IMPORT = "import torch.optim as optim"


@pytest.fixture
def run_tutorial(tmp_path, monkeypatch, capsys):
    """Execute a script's source as ``python script.py`` would and return what it prints."""
    dtype = torch.get_default_dtype()
    monkeypatch.chdir(tmp_path)

    def run(source: str, path: Path) -> str:
        with torch.random.fork_rng():
            exec(compile(source, str(path), "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out

    yield run
    torch.set_default_dtype(dtype)


def with_torch_optim(source: str) -> str:
    assert source.count(OUR_IMPORT) == 1
    replaced = source.replace(OUR_IMPORT, TORCH_IMPORT)
    assert "fusedlr" not in replaced
    return replaced


def values_of(word: str, printed: str) -> list[str]:
    return re.findall(rf"\b{word} (\S+)", printed)


def test_there_is_a_tutorial_for_each_classic_shape():
    assert len(TUTORIALS) >= 6


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_prints_exactly_what_its_torch_optim_version_prints(path, run_tutorial):
    source = path.read_text()

    ours = run_tutorial(source, path)
    theirs = run_tutorial(with_torch_optim(source), path)

    assert ours == theirs


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_shows_a_loss_that_falls_and_an_lr_that_moves(path, run_tutorial):
    printed = run_tutorial(path.read_text(), path)

    losses = [float(loss) for loss in values_of("loss", printed)]
    assert len(losses) >= 40
    assert losses[-1] < 0.6 * losses[0]
    assert len(set(values_of("lr", printed))) >= 2


def test_the_freezing_tutorial_shows_frozen_weights_unchanged_until_they_thaw(run_tutorial):
    path = EXAMPLES / "tutorials" / "freeze_by_zero_lr.py"
    assert values_of("unchanged:", run_tutorial(path.read_text(), path)) == 20 * ["True"] + 20 * [
        "False"
    ]


def test_the_plotting_tutorial_writes_its_picture(run_tutorial, tmp_path):
    path = EXAMPLES / "tutorials" / "plot_lr.py"
    run_tutorial(path.read_text(), path)
    assert (tmp_path / "plot_lr.png").read_bytes().startswith(b"\x89PNG")


def run_demo(*args: object) -> subprocess.CompletedProcess[str]:
    # The child finds what this interpreter finds, also where fusedlr is not installed.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, EXAMPLES / "demo.py", "--quick", *map(str, args)],
        capture_output=True,
        text=True,
        env=environment,
    )


def test_the_quick_demo_succeeds_and_writes_its_picture_and_checkpoint(tmp_path):
    finished = run_demo("--out", tmp_path)

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "Resume proof" in finished.stdout
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert set(torch.load(tmp_path / "checkpoint.pt")) == {"model", "optimizer", "scheduler"}


def test_the_demo_refuses_too_few_steps_and_says_how_many_it_needs(tmp_path):
    finished = run_demo("--steps", 3, "--out", tmp_path)

    assert finished.returncode == 2
    assert "--steps 3: at least 4" in finished.stderr


class FrozenAdamW(torch.optim.AdamW):
    def step(self, closure=None):
        return None


class ForgetfulAdamW(torch.optim.AdamW):
    def load_state_dict(self, state_dict):
        pass


# What is wrong with the second library, and what the demo has to say about it.
BROKEN_LIBRARIES = [
    pytest.param(FrozenAdamW, "the loss curves are", id="frozen"),
    pytest.param(ForgetfulAdamW, "resuming at step 6 gave another loss", id="forgetful"),
]


@pytest.mark.parametrize(("adamw", "complaint"), BROKEN_LIBRARIES)
def test_the_demo_fails_on_a_broken_optimizer(adamw, complaint, monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    demo = importlib.import_module("demo")
    library = SimpleNamespace(AdamW=adamw, lr_scheduler=torch.optim.lr_scheduler)
    monkeypatch.setattr(demo, "fusedlr", library)

    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        code = demo.main(["--quick", "--out", str(tmp_path)])
    torch.set_num_threads(threads)

    assert code == 1
    assert complaint in " ".join(capsys.readouterr().out.split())
