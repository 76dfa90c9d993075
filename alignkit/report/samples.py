"""Figures of draws: pictures, points in the plane, curves, single numbers."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.report.style import AFTER, BEFORE, INK, QUIET, axis_labels, new_figure, title

__all__ = ["Kind", "kind_of", "panel_figures", "sample_figure", "shown_at_once"]

_WIDTH = 9.0
#: Draws of more entries than this are signals, whose entries are not marked one by one.
_MARKED = 12
_PANEL_COLOURS = (BEFORE, AFTER)


class Kind(enum.Enum):
    """How draws of a shape are looked at."""

    PICTURE = "a picture"
    POINT = "a point in the plane"
    NUMBER = "a number"
    CURVE = "a curve over the entries"


def kind_of(shape: tuple[int, ...]) -> Kind:
    """How draws of a shape are looked at.

    Example:
        >>> kind_of((3, 64, 64)).value, kind_of((100,)).value
        ('a picture', 'a curve over the entries')
    """
    if len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3)):
        return Kind.PICTURE
    if shape == (2,):
        return Kind.POINT
    return Kind.NUMBER if math.prod(shape) == 1 else Kind.CURVE


def shown_at_once(shape: tuple[int, ...]) -> int:
    """How many draws of a shape a figure can show well.

    Example:
        >>> shown_at_once((8, 8)), shown_at_once((2,))
        (16, 512)
    """
    return 16 if kind_of(shape) in (Kind.PICTURE, Kind.CURVE) else 512


def sample_figure(panels: dict[str, NDArray[np.floating]], *, is_paired: bool = False) -> Any:
    """One figure of several batches of draws under their names.

    Arguments:
        panels: from a panel's name to its draws, (n, *shape), all of one shape.
        is_paired: whether the draws of every panel are those of the first, moved; then lines show how, in the plane.

    Returns:
        a matplotlib figure, not registered with pyplot: a strip of pictures below another, or panels side by side on
        common axes.
    """
    first = next(iter(panels.values()))
    if kind_of(first.shape[1:]) is Kind.PICTURE:
        return _strips(panels)
    figure, axes = new_figure(1, len(panels), (_WIDTH, 3.4), sharex=True, sharey=True)
    frame = _Frame.around(panels)
    for position, (name, draws) in enumerate(panels.items()):
        _draw_panel(axes[0, position], name, draws, frame, _PANEL_COLOURS[position % 2])
        if position:
            axes[0, position].set_ylabel("")
            if is_paired:
                _draw_moves(axes[0, position], first, draws)
    return figure


def panel_figures(
    panels: dict[str, NDArray[np.floating]], size: tuple[float, float], *, is_paired: bool = False
) -> dict[str, Any]:
    """A figure for each batch of draws that are no pictures, on the same limits.

    Arguments:
        panels, is_paired: as for `sample_figure`.
        size: of each, in inches.
    """
    first = next(iter(panels.values()))
    frame = _Frame.around(panels)
    found = {}
    for position, (name, draws) in enumerate(panels.items()):
        figure, axes = new_figure(1, 1, size)
        _draw_panel(axes[0, 0], name, draws, frame, _PANEL_COLOURS[position % 2])
        if position and is_paired:
            _draw_moves(axes[0, 0], first, draws)
        found[name] = figure
    return found


@dataclass(frozen=True, eq=False)
class _Frame:
    """Limits that panels have in common.

    Arguments:
        low, high: of entries; of each coordinate for points, (2,).
        edges: of the bins of numbers.
    """

    low: Any
    high: Any
    edges: Any

    @staticmethod
    def around(panels: dict[str, NDArray[np.floating]]) -> _Frame:
        kind = kind_of(next(iter(panels.values())).shape[1:])
        flat = np.concatenate([draws.reshape(draws.shape[0], -1) for draws in panels.values()]).astype(np.float64)
        axis = 0 if kind is Kind.POINT else None
        finite = np.where(np.isfinite(flat), flat, np.nan)
        low, high = np.nanmin(finite, axis=axis), np.nanmax(finite, axis=axis)
        margin = np.maximum(0.04 * (high - low), 1e-9 + 0.02 * np.maximum(np.abs(low), np.abs(high)) * (high == low))
        edges = np.histogram_bin_edges(finite[np.isfinite(finite)], "fd") if kind is Kind.NUMBER else None
        if edges is not None and not 12 <= edges.size <= 61:
            edges = np.linspace(float(edges[0]), float(edges[-1]), min(max(edges.size, 12), 61))
        return _Frame(low - margin, high + margin, edges)


def _draw_panel(axes: Any, name: str, draws: NDArray[np.floating], frame: _Frame, colour: str) -> None:
    title(axes, name)
    kind = kind_of(draws.shape[1:])
    if kind is Kind.POINT:
        axes.plot(draws[:, 0], draws[:, 1], ".", color=colour, markersize=4, alpha=0.7)
        axes.set_aspect("equal", adjustable="box")
        axes.set(xlim=(frame.low[0], frame.high[0]), ylim=(frame.low[1], frame.high[1]))
        axis_labels(axes, "x₀", "x₁")
    elif kind is Kind.NUMBER:
        axes.hist(draws.ravel(), bins=frame.edges, weights=np.full(len(draws), 100 / len(draws)), color=colour)
        axis_labels(axes, "x", "share of draws (%)")
    else:
        rows = draws.reshape(draws.shape[0], -1)
        marker = "." if rows.shape[1] <= _MARKED else ""
        axes.plot(rows.T, color=colour, alpha=max(0.15, min(0.7, 8 / len(rows))), linewidth=0.9, marker=marker)
        axes.plot(rows.mean(axis=0), color=INK, linewidth=1.6, label="mean")
        axes.set(ylim=(float(frame.low), float(frame.high)), xlim=(-0.02 * rows.shape[1], 1.02 * rows.shape[1] - 1))
        axes.legend(frameon=False, fontsize=9, labelcolor=QUIET, loc="upper right")
        axis_labels(axes, "entry" if draws.ndim == 2 else "entry, in C order", "value")


def _draw_moves(axes: Any, before: NDArray[np.floating], after: NDArray[np.floating]) -> None:
    """A line from where each point came from, as one path with gaps."""
    if kind_of(before.shape[1:]) is Kind.POINT:
        ways = np.stack([before, after, np.full_like(after, np.nan)], axis=1).reshape(-1, 2)
        axes.plot(ways[:, 0], ways[:, 1], color=BEFORE, linewidth=0.6, alpha=0.6, zorder=1)


def _strips(panels: dict[str, NDArray[np.floating]]) -> Any:
    """Pictures in a row for each batch, on one scale."""
    if next(iter(panels.values())).shape[1] == 1 and next(iter(panels.values())).ndim == 4:
        panels = {name: draws[:, 0] for name, draws in panels.items()}
    shape = next(iter(panels.values())).shape[1:]
    count = max(draws.shape[0] for draws in panels.values())
    # A strip of `count` pictures is about this tall; names stand beside it.
    height = _WIDTH * 0.85 * shape[-2] / (shape[-1] * 1.125 * count) + 0.12
    figure, axes = new_figure(len(panels), 1, (_WIDTH, height * len(panels)))
    # The first panel sets the range of greys: an edit may leave it, and must not fade the others.
    first = next(iter(panels.values()))
    low, high = float(first.min()), float(first.max())
    for one, (name, draws) in zip(axes[:, 0], panels.items(), strict=True):
        one.imshow(_strip(draws, low, high), cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
        one.set_ylabel(name, rotation=0, ha="right", va="center", color=INK)
        one.set(xticks=[], yticks=[])
        one.spines[:].set_visible(False)
    return figure


def _strip(draws: NDArray[np.floating], low: float, high: float) -> NDArray[np.floating]:
    """Pictures side by side with a gap between them, (h, w) or (h, w, 3)."""
    if draws.ndim == 4:
        draws = np.clip(np.moveaxis((draws - low) / max(high - low, 1e-12), 1, -1), 0.0, 1.0)
        low, high = 0.0, 1.0
    padding = [(0, 0), (0, 0), (0, max(1, draws.shape[2] // 8)), *[(0, 0)] * (draws.ndim - 3)]
    padded = np.pad(draws, padding, constant_values=low if draws.ndim == 3 else high)
    return np.concatenate(list(padded), axis=1)
