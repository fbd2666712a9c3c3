"""Draws the triangle of the README: what each family of models learns of the solution map, and what sampling uses.

    python benchmarks/triangle.py [FILE]

A point (s, t) of the triangle stands for the jump from time s down to time t. A walk from noise to data begins in the
upper corner; each of its steps goes down from (s, s) to (s, t) and left to (t, t), where the next one begins.
"""

import matplotlib.patheffects as effects
import sys

from collections.abc import Sequence
from itertools import pairwise
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pathlib import Path

FILE = Path(__file__).parent / "results" / "triangle.png"
PAPER, INK, QUIET, FILL, BORDER = "#ffffff", "#2b2f36", "#6b7280", "#f0ecf7", "#d3cbe2"
BLUE, ORANGE, GREEN, PURPLE = "#2563a8", "#d9622b", "#23854f", "#6d4c9f"
SOLVER_STEPS = 10
U = 0.56  # the time between the two jumps


def main(file: Path = FILE) -> Path:
    """Writes the figure, and returns its file."""
    figure = Figure(figsize=(11.6, 5.6), facecolor=PAPER)
    left, right = figure.subplots(
        1, 2, gridspec_kw={"left": 0.03, "right": 0.99, "bottom": 0.05, "top": 0.94, "wspace": 0.08}
    )
    learned(left)
    used(right)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=105, bbox_inches="tight")
    return file


def learned(axes: Axes) -> None:
    """The parts of the map, by who learns them, and the semigroup property."""
    frame(axes, "What is learned: each point (s, t) is one jump")
    axes.plot([0, 1], [0, 1], color=BLUE, linewidth=5, solid_capstyle="round", zorder=3)
    axes.plot([0, 1], [0, 0], color=ORANGE, linewidth=5, solid_capstyle="round", zorder=3)
    say(axes, 0.405, 0.555, "the diagonal, t = s\nflow matching, diffusion", BLUE, rotation=45)
    say(axes, 0.50, -0.06, "the edge, t = 0:  consistency models", ORANGE)
    say(axes, 0.60, 0.075, "the whole triangle:  mean flow", PURPLE)
    s, u, t = 0.91, 0.62, 0.20
    axes.plot([s, s, u, u, s], [s, t, t, u, u], color=QUIET, linewidth=1.1, linestyle=(0, (4, 3)), zorder=2)
    for place, color, name in (((s, u), GREEN, r"s\to u"), ((u, t), GREEN, r"u\to t"), ((s, t), PURPLE, r"s\to t")):
        axes.plot(*place, "o", color=color, markersize=10, zorder=5)
        say(axes, place[0] - 0.022, place[1] + 0.05, rf"$\Psi_{{{name}}}$", color, size=13.5, ha="right")
    axes.plot(u, u, "o", color=PAPER, markeredgecolor=BLUE, markeredgewidth=1.6, markersize=8, zorder=5)
    say(axes, (s + u) / 2, 0.45, "two short jumps\nmake the\nlong one", INK, size=9.5)


def used(axes: Axes) -> None:
    """The walks from noise to data: many small steps, two jumps, one jump."""
    frame(axes, "What sampling uses: each coloured dot is a network call")
    solver(axes, [1 - k / SOLVER_STEPS for k in range(SOLVER_STEPS + 1)])
    jumps(axes, [1, U, 0], GREEN, -0.011)
    jumps(axes, [1, 0], ORANGE, 0.011)
    say(axes, 0.405, 0.555, "a solver: many small steps\nalong the diagonal", BLUE, rotation=45)
    say(axes, 0.79, U - 0.055, "two jumps", GREEN)
    say(axes, 0.50, -0.06, "one jump:  noise to data in one call", ORANGE)
    for place, name, shift in ((1, "noise", 0.035), (0, "data", -0.035)):
        axes.plot(place, place, "s", color=INK, markersize=8, zorder=8)
        axes.text(place + shift, place, name, ha="left" if place else "right", va="center", color=INK, fontsize=11)


def solver(axes: Axes, times: Sequence[float]) -> None:
    """Draws small steps; each calls the network on the diagonal, for the slope there."""
    for s, t in pairwise(times):
        axes.plot([s, s, t], [s, t, t], color=BLUE, linewidth=1.5, zorder=3)
        axes.plot(s, s, "o", color=BLUE, markersize=5, zorder=9)


def jumps(axes: Axes, times: Sequence[float], color: str, aside: float) -> None:
    """Draws jumps of the map; each calls the network once, at (s, t). `aside` keeps walks that share a side apart."""
    for s, t in pairwise(times):
        x, y = (s + aside, t - aside) if s == 1 and t == 0 else (s + aside * (s == 1), t - aside * (t == 0))
        axes.plot([x, x, t], [s, y, y], color=color, linewidth=2.6, solid_joinstyle="round", zorder=5)
        arrow(axes, (x, 0.42 * s + 0.58 * y), (x, s), color)
        arrow(axes, (0.42 * x + 0.58 * t, y), (x, y), color)
        axes.plot(x, y, "o", color=color, markersize=10, zorder=6)


def arrow(axes: Axes, tip: tuple[float, float], tail: tuple[float, float], color: str) -> None:
    """Draws the head of an arrow."""
    shape = {"arrowstyle": "-|>,head_width=0.32,head_length=0.65", "color": color, "mutation_scale": 17, "shrinkB": 0}
    axes.annotate("", tip, tail, arrowprops={**shape, "linewidth": 0.1}, zorder=6)


def frame(axes: Axes, title: str) -> None:
    """Prepares one triangle."""
    axes.set(xlim=(-0.1, 1.12), ylim=(-0.1, 1.04), aspect="equal", xticks=[], yticks=[])
    axes.fill([0, 1, 1], [0, 0, 1], color=FILL, zorder=0)
    axes.plot([0, 1, 1, 0], [0, 0, 1, 0], color=BORDER, linewidth=1, zorder=1)
    axes.spines[:].set_visible(False)
    axes.set_title(title, color=INK, fontsize=13)
    axes.set_xlabel("source time s   (noisier to the right)", color=QUIET, fontsize=10.5)
    axes.set_ylabel("target time t   (0 is clean data)", color=QUIET, fontsize=10.5)


def say(
    axes: Axes, x: float, y: float, text: str, color: str, size: float = 11.5, ha: str = "center", rotation: float = 0
) -> None:
    """Writes on the figure, readable over lines."""
    halo = [effects.withStroke(linewidth=3, foreground=FILL if 0 < y < x else PAPER)]
    axes.text(
        x, y, text, color=color, fontsize=size, ha=ha, va="center", rotation=rotation, path_effects=halo, zorder=7
    )


if __name__ == "__main__":
    print(main(*map(Path, sys.argv[1:2])))
