"""Draws the schedules: docs/schedules.svg has all of them, docs/schedules/ a picture of each.

python scripts/draw_gallery.py
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from fusedlr import schedules

DOCS = Path(__file__).parent.parent / "docs"
STEPS = 100

#: What is drawn, over 100 steps: the name of the picture, and the schedule.
EXAMPLES = {
    "constant": "constant(0.7)",
    "linear": "linear(1.0, 0.1, steps=80)",
    "cosine": "cosine(1.0, 0.1, steps=80)",
    "polynomial": "polynomial(1.0, steps=80, power=3.0)",
    "one_minus_sqrt": "one_minus_sqrt(1.0, steps=80)",
    "geometric": "geometric(1.0, 0.01, steps=80)",
    "exponential": "exponential(1.0, gamma=0.5, steps=20)",
    "step": "step(1.0, step_size=30, gamma=0.5)",
    "inverse_sqrt": "inverse_sqrt(1.0, timescale=10)",
    "cosine_restarts": "cosine_restarts(1.0, period=15, growth=2)",
    "piecewise_constant": "piecewise_constant([1.0, 0.3, 0.6, 0.1], [25, 50, 75])",
    "piecewise_linear": "piecewise_linear([0.2, 1.0, 0.4, 0.6, 0.0], [20, 50, 70, 100])",
    "warmup_constant": "warmup_constant(1.0, warmup_steps=20)",
    "warmup_linear": "warmup_linear(1.0, warmup_steps=20, total_steps=100)",
    "warmup_cosine": "warmup_cosine(1.0, warmup_steps=20, total_steps=100)",
    "warmup_cosine_cycles": "warmup_cosine(1.0, warmup_steps=20, total_steps=100, cycles=3)",
    "warmup_polynomial": "warmup_polynomial(1.0, warmup_steps=20, total_steps=100, power=3.0)",
    "warmup_inverse_sqrt": "warmup_inverse_sqrt(1.0, warmup_steps=20)",
    "one_cycle": "one_cycle(1.0, total_steps=100)",
    "wsd": "wsd(1.0, warmup_steps=10, decay_steps=40, total_steps=100)",
    "wsd_1-sqrt": "wsd(1.0, warmup_steps=10, decay_steps=40, total_steps=100, decay='1-sqrt')",
    "warmup": "warmup(cosine_restarts(1.0, period=45), steps=20)",
    "join": "join([linear(0.0, 1.0, steps=20), 0.6, cosine(0.8, steps=40)], [20, 60])",
    "product": "warmup_constant(1.0, warmup_steps=20) * step(1.0, step_size=30, gamma=0.5)",
}

#: The titles in the gallery where they are not the name of the schedule.
TITLES = {
    "warmup_cosine_cycles": "warmup_cosine(…, cycles=3)",
    "wsd_1-sqrt": 'wsd(…, decay="1-sqrt")',
    "product": "warmup_constant * step",
}

INK, FAINT, CURVE = "#222222", "#d5d9e0", "#3b6fb5"


class Box(NamedTuple):
    """A rectangle, in pixels from the top left corner."""

    x: float
    y: float
    width: float
    height: float


def polyline(schedule: schedules.Schedule, box: Box) -> str:
    """The curve from step 0 to the last step, and from 0 to the largest value."""
    count = round(box.width)
    values = [schedule(STEPS * place / count) for place in range(count + 1)]
    top = max(values)
    points = " ".join(
        f"{box.x + place:g},{box.y + box.height * (1 - value / top):.1f}"
        for place, value in enumerate(values)
    )
    return f'<polyline points="{points}" fill="none" stroke="{CURVE}" stroke-width="2"/>'


def frame(box: Box) -> str:
    """The two axes."""
    left, right, bottom = box.x, box.x + box.width, box.y + box.height
    path = f"M{left:g} {box.y:g} L{left:g} {bottom:g} L{right:g} {bottom:g}"
    return f'<path d="{path}" fill="none" stroke="{FAINT}" stroke-width="1.5"/>'


def text(x: float, y: float, words: str, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" fill="{INK}" font-size="{size}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )


def document(width: int, height: int, parts: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="Helvetica, Arial, sans-serif">'
    )
    back = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, back, *parts, "</svg>\n"])


def picture(source: str) -> str:
    """One schedule, with its axes labelled."""
    schedule = schedules.parse(source)
    box = Box(50, 14, 400, 140)
    top = max(schedule(step) for step in range(STEPS + 1))
    parts = [frame(box), polyline(schedule, box)]
    parts += [
        text(box.x + box.width * step / STEPS, 172, str(step), "middle")
        for step in (0, STEPS // 2, STEPS)
    ]
    parts += [text(44, 18, f"{top:g}", "end"), text(44, 158, "0", "end")]
    return document(480, 182, parts)


def gallery(columns: int = 4) -> str:
    """All of them, by their names."""
    width, height = 230, 124
    parts = []
    for index, (name, source) in enumerate(EXAMPLES.items()):
        x, y = width * (index % columns), height * (index // columns)
        box = Box(x + 16, y + 34, 198, 72)
        parts += [
            text(x + 16, y + 22, TITLES.get(name, name), size=14),
            frame(box),
            polyline(schedules.parse(source), box),
        ]
    rows = -(-len(EXAMPLES) // columns)
    return document(width * columns, height * rows, parts)


def pictures() -> dict[Path, str]:
    """The text of every picture, by its file."""
    single = {DOCS / "schedules" / f"{name}.svg": picture(text) for name, text in EXAMPLES.items()}
    return {DOCS / "schedules.svg": gallery(), **single}


def main() -> None:
    for path, content in pictures().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
        print(f"{len(content):6d} bytes  {path.relative_to(DOCS.parent)}")


if __name__ == "__main__":
    main()
