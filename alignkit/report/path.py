"""The figure of the way from p to q that annealing took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignkit.report.style import AFTER, BEFORE, axis_labels, new_figure, title
from alignkit.tilting.fitted import AnnealingStage

__all__ = ["path_figure"]


def path_figure(stages: Sequence[AnnealingStage], *, size: tuple[float, float] = (6.4, 4.2)) -> Any:
    """The share β of the reward after each stage, and the effective sample size that its weights left.

    Arguments:
        stages: in order, at least one.
        size: in inches.

    Returns:
        a matplotlib figure, not registered with pyplot.
    """
    figure, axes = new_figure(2, 1, size, sharex=True)
    numbers = list(range(1, len(stages) + 1))
    way, worth = axes[:, 0]
    way.plot([0, *numbers], [0.0, *(stage.share for stage in stages)], color=AFTER, marker="o", markersize=4)
    way.set_ylim(-0.04, 1.08)
    title(way, "How much of the reward is in force")
    axis_labels(way, y="share β of r/λ")
    worth.bar(numbers, [100 * stage.ess / stage.particles for stage in stages], color=BEFORE, width=0.6)
    worth.set_ylim(0, 100)
    title(worth, "How many particles the step leaves in effect")
    axis_labels(worth, "stage of annealing", "ESS (% of particles)")
    worth.set_xlim(-0.4, len(stages) + 0.6)
    worth.xaxis.get_major_locator().set_params(integer=True)
    return figure
