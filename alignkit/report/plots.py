"""Plots of results, as matplotlib figures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Plots", "sample_figure"]

_GREY = "#9a9a9a"
_BLUE = "#1f5fbf"
_WIDTH = 9.0


@dataclass(frozen=True)
class Plots:
    """The pictures of one result.

    Arguments:
        before_and_after: `(n, seed) → (base draws, aligned draws)`, each (n, *shape).
    """

    before_and_after: Callable[[int, int], tuple[Any, Any]]

    def samples(self, n: int = 16, *, seed: int = 0) -> Any:
        """Draws before and after alignment, side by side (paired under transport).

        Arguments:
            n: how many of each.
            seed: fixes them.

        Returns:
            a matplotlib figure: pictures for (h, w) and (channels, h, w), a scatter for (2,), a
            histogram for single numbers, else curves.

        Example:
            >>> import alignkit as ak
            >>> x = ak.Variable((2,))
            >>> problem = ak.Problem(ak.sum(x), ak.base.Gaussian([0.0, 0.0], 1.0), ak.KL(weight=1.0))
            >>> figure = problem.solve(seed=0).plot.samples()
        """
        before, after = self.before_and_after(n, seed)
        return sample_figure({"before": before, "after": after})


def sample_figure(panels: dict[str, NDArray[np.floating]]) -> Any:
    """One figure of several batches of draws under their names.

    Arguments:
        panels: from a panel's name to its draws, (n, *shape), all of one shape.

    Returns:
        a matplotlib figure, not registered with pyplot.
    """
    from matplotlib.figure import Figure

    shape = next(iter(panels.values())).shape[1:]
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
        panels = {name: draws[:, 0] for name, draws in panels.items()}
    pictures = len(shape) == 2 or (len(shape) == 3 and shape[0] == 3)
    count = max(draws.shape[0] for draws in panels.values())
    # A strip of `count` pictures is about this tall; names stand beside it.
    height = _WIDTH * 0.85 * shape[-2] / (shape[-1] * 1.125 * count) + 0.12 if pictures else 3.0
    figure = Figure(figsize=(_WIDTH, height * len(panels)), layout="constrained")
    # The first panel sets the range of greys: an edit may leave it, and must not fade the others.
    first = next(iter(panels.values()))
    low, high = float(first.min()), float(first.max())
    if pictures:
        for axes, (name, draws) in zip(
            figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True
        ):
            axes.imshow(_strip(draws, low, high), cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
            axes.set_ylabel(name, rotation=0, ha="right", va="center")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    else:
        drawn = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (name, draws), colour in zip(drawn, panels.items(), _colours(len(panels)), strict=True):
            axes.set_title(name)
            if shape == (2,):
                axes.plot(draws[:, 0], draws[:, 1], ".", color=colour)
                axes.set_aspect("equal", adjustable="box")
            elif math.prod(shape) == 1:
                axes.hist(draws.ravel(), bins="auto", color=colour)
            else:
                axes.plot(draws.reshape(draws.shape[0], -1).T, color=colour, alpha=0.5, linewidth=0.8)
    return figure


def _colours(count: int) -> list[str]:
    return [_GREY if number % 2 == 0 else _BLUE for number in range(count)]


def _strip(draws: NDArray[np.floating], low: float, high: float) -> NDArray[np.floating]:
    """Pictures side by side with a gap between them, (h, w) or (h, w, 3)."""
    if draws.ndim == 4:
        draws = np.clip(np.moveaxis((draws - low) / max(high - low, 1e-12), 1, -1), 0.0, 1.0)
        low, high = 0.0, 1.0
    padding = [(0, 0), (0, 0), (0, max(1, draws.shape[2] // 8)), *[(0, 0)] * (draws.ndim - 3)]
    padded = np.pad(draws, padding, constant_values=low if draws.ndim == 3 else high)
    return np.concatenate(list(padded), axis=1)
