"""Figures of what single draws are like: their rewards, the costs of their moves, and the gaps of these."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.report.numerals import power_of_ten, three_digits
from alignkit.report.style import AFTER, BEFORE, HIGHLIGHT, INK, axis_labels, new_figure, title

__all__ = ["cost_histogram", "gap_histogram", "gaps_figure", "rewards_figure"]

Floats = NDArray[np.float64]

_FEWEST_BINS, _MOST_BINS = 12, 48
#: The smallest gap on a logarithmic axis: rounding leaves nothing below it.
_FLOOR = 1e-17
_SHARE = "share of draws (%)"


def rewards_figure(before: Floats, after: Floats, *, size: tuple[float, float] = (6.4, 3.8)) -> Any:
    """Histograms of the reward before and after alignment, one over the other on a common axis.

    Arguments:
        before, after: r of base draws and of aligned draws, (n,) each, in units of reward; infinities are left out, and
            counted in the title.
        size: in inches.

    Returns:
        a matplotlib figure, not registered with pyplot.
    """
    figure, axes = new_figure(2, 1, size, sharex=True)
    edges = _edges(np.concatenate([before, after]))
    for one, name, values, colour in zip(
        axes[:, 0], ("Base draws", "Aligned draws"), (before, after), (BEFORE, AFTER), strict=True
    ):
        _histogram(one, values, edges, colour)
        title(one, f"{name}: {_described(values)}")
    axis_labels(axes[0, 0], y=_SHARE)
    axis_labels(axes[1, 0], "reward r(x)", _SHARE)
    return figure


def gaps_figure(gaps: Floats, costs: Floats, *, tolerance: float = 0.0, size: tuple[float, float] = (9.0, 3.0)) -> Any:
    """Histograms of the gap and of the cost of every move, side by side.

    Arguments:
        gaps: relative, (n,): by how much a better move could at most improve on T(x).
        costs: c(x, T(x)), (n,), in units of cost.
        tolerance: the relative gap that was asked for; 0 where none was.
        size: in inches.

    Returns:
        a matplotlib figure, not registered with pyplot.
    """
    figure, axes = new_figure(1, 2, size)
    gap_histogram(axes[0, 0], gaps, tolerance=tolerance)
    title(axes[0, 0], "How far a move may be from the best")
    cost_histogram(axes[0, 1], costs)
    title(axes[0, 1], "How far draws are moved")
    return figure


def gap_histogram(axes: Any, gaps: Floats, *, tolerance: float = 0.0) -> None:
    """Relative gaps on a logarithmic axis, with the tolerance; see `gaps_figure`."""
    bounded = np.maximum(gaps, _FLOOR)
    finite = bounded[np.isfinite(bounded)]
    low, high = (np.log10(finite.min()), np.log10(finite.max())) if finite.size else (-7.0, -6.0)
    if tolerance > 0:
        high = max(high, np.log10(tolerance))
    edges = np.logspace(np.floor(low), max(np.ceil(high), np.floor(low) + 1), _MOST_BINS + 1)
    axes.set_xscale("log")
    # Exponents of matplotlib's own are too small to read on a phone.
    axes.xaxis.set_major_formatter(lambda gap, _: power_of_ten(round(math.log10(gap))))
    axes.minorticks_off()
    _histogram(axes, bounded, edges, AFTER, mean=False)
    if tolerance > 0:
        axes.axvline(tolerance, color=HIGHLIGHT, linewidth=1.5, linestyle=(0, (4, 2)))
        axes.annotate(
            "tolerance ", (tolerance, 1.0), xycoords=("data", "axes fraction"), ha="right", va="top",
            fontsize=9, color=HIGHLIGHT,
        )  # fmt: skip
    lost = gaps.size - finite.size
    axis_labels(axes, f"relative gap{f' ({lost} draws without a bound)' if lost else ''}", _SHARE)


def cost_histogram(axes: Any, costs: Floats) -> None:
    """Costs of moves, with their mean; see `gaps_figure`."""
    _histogram(axes, costs, _edges(costs), AFTER)
    axis_labels(axes, f"cost c(x, T(x)), {_described(costs)}", _SHARE)


def _histogram(axes: Any, values: Floats, edges: Floats, colour: str, *, mean: bool = True) -> None:
    finite = values[np.isfinite(values)]
    counts, _ = np.histogram(finite, edges)
    axes.stairs(100 * counts / max(1, values.size), edges, fill=True, color=colour, alpha=0.85)
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", nbins=4)
    if mean and finite.size:
        axes.axvline(float(finite.mean()), color=INK, linewidth=1.5)


def _edges(values: Floats) -> Floats:
    """Edges of bins for finite values."""
    finite = values[np.isfinite(values)]
    if not finite.size or np.ptp(finite) <= 1e-9 * max(1.0, float(np.abs(finite).max())):
        centre = float(finite.mean()) if finite.size else 0.0
        half = 0.5 * max(1.0, abs(centre))
        return np.linspace(centre - half, centre + half, _FEWEST_BINS + 2)
    wanted = np.histogram_bin_edges(finite, "fd").size - 1
    return np.linspace(finite.min(), finite.max(), min(max(wanted, _FEWEST_BINS), _MOST_BINS) + 1)


def _described(values: Floats) -> str:
    finite = values[np.isfinite(values)]
    lost = values.size - finite.size
    note = f", {lost} without a finite value" if lost else ""
    return f"mean {three_digits(float(finite.mean()))}{note}" if finite.size else f"no finite value among {values.size}"
