"""Figures of the ways that fits took: from p to q by annealing, and to the price λ that a radius asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alignkit.certificates import RadiusPath
from alignkit.report.style import AFTER, BEFORE, HIGHLIGHT, QUIET, axis_labels, new_figure, title
from alignkit.tilting.fitted import AnnealingStage

__all__ = ["path_figure"]


def path_figure(
    stages: Sequence[AnnealingStage] = (),
    sought: RadiusPath | None = None,
    *,
    distance: str = "",
    size: tuple[float, float] = (6.4, 4.2),
) -> Any:
    """How λ was sought for a radius, and the stages of annealing with the effective sample size that each left.

    Arguments:
        stages: in order; none where nothing was annealed.
        sought: the way to λ; None where it was given.
        distance: what the distances on that way are, with their unit.
        size: in inches, of one of the two.

    Returns:
        a matplotlib figure, not registered with pyplot: a column of two panels for each of those there are.
    """
    columns = (sought is not None) + bool(stages)
    figure, axes = new_figure(2, columns, (size[0] * columns, size[1]), sharex="col")
    if sought is not None:
        _draw_search(axes[:, 0], sought, distance)
    if stages:
        _draw_stages(axes[:, -1], stages)
    return figure


def _draw_search(axes: Any, sought: RadiusPath, distance: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    price, reached = axes
    numbers, weights = np.arange(1, len(sought.weights) + 1), np.array(sought.weights)
    distances = np.array(sought.distances)
    has_law = np.isfinite(distances)
    price.semilogy(numbers, weights, color=AFTER, marker="o", markersize=4)
    if not has_law.all():
        price.semilogy(numbers[~has_law], weights[~has_law], "x", color=HIGHLIGHT, label="no law there")
        price.legend(frameon=False, fontsize=9, labelcolor=QUIET)
    title(price, "The prices that were looked at")
    axis_labels(price, y="λ")
    reached.semilogy(numbers[has_law], distances[has_law], color=AFTER, marker="o", markersize=4)
    reached.axhline(sought.radius, color=BEFORE, linewidth=1.2, label="ρ")
    reached.legend(frameon=False, fontsize=9, labelcolor=QUIET)
    title(reached, "How far the best law is from the base law at each")
    axis_labels(reached, "λ looked at, in order", distance)
    for one in axes:
        # As numbers: exponents would be too small to read on a telephone.
        one.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        one.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        one.yaxis.set_minor_formatter(NullFormatter())
    _whole_numbers(reached, 0.4, len(numbers))


def _draw_stages(axes: Any, stages: Sequence[AnnealingStage]) -> None:
    numbers = list(range(1, len(stages) + 1))
    way, worth = axes
    way.plot([0, *numbers], [0.0, *(stage.share for stage in stages)], color=AFTER, marker="o", markersize=4)
    way.set_ylim(-0.04, 1.08)
    title(way, "How much of the reward is in force")
    axis_labels(way, y="share β of r/λ")
    worth.bar(numbers, [100 * stage.ess / stage.particles for stage in stages], color=BEFORE, width=0.6)
    worth.set_ylim(0, 100)
    title(worth, "How many particles the step leaves in effect")
    axis_labels(worth, "stage of annealing", "ESS (% of particles)")
    _whole_numbers(worth, -0.4, len(stages))


def _whole_numbers(axes: Any, first: float, last: int) -> None:
    axes.set_xlim(first, last + 0.6)
    axes.xaxis.get_major_locator().set_params(integer=True)
