"""How figures look: colours that the colour-blind tell apart, plain axes, titles on the left."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["AFTER", "BEFORE", "HIGHLIGHT", "INK", "QUIET", "RULE", "axis_labels", "new_figure", "title"]

#: Of draws of the base law, of draws of the aligned law, and of what needs attention (M. Okabe and K. Ito's palette).
BEFORE, AFTER, HIGHLIGHT = "#8a929b", "#0072b2", "#d55e00"
#: Of text, of text beside it, and of lines that carry no data.
INK, QUIET, RULE = "#1f2329", "#5b636d", "#cdd3da"

_TEXT = 9.0


def new_figure(rows: int, columns: int, size: tuple[float, float], **subplots: Any) -> tuple[Any, Any]:
    """A figure that pyplot does not know of, with plain axes.

    Arguments:
        rows, columns: of axes.
        size: of the figure, in inches.
        subplots: as for `Figure.subplots`.

    Returns:
        the figure, and its axes, (rows, columns).
    """
    from alignkit.report.notebook_figure import NotebookFigure

    figure = NotebookFigure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **subplots)
    for one in np.ravel(axes):
        one.spines[["top", "right"]].set_visible(False)
        one.spines[:].set_color(RULE)
        one.tick_params(colors=RULE, labelcolor=QUIET, labelsize=_TEXT, length=3)
        for axis in (one.xaxis, one.yaxis):
            axis.offsetText.set(color=QUIET, fontsize=_TEXT)
    return figure, axes


def title(axes: Any, text: str) -> None:
    """Put a title over axes, on their left."""
    axes.set_title(text, loc="left", fontsize=_TEXT + 1, color=INK)


def axis_labels(axes: Any, x: str = "", y: str = "") -> None:
    """Name the axes, with units."""
    axes.set_xlabel(x, fontsize=_TEXT, color=QUIET)
    axes.set_ylabel(y, fontsize=_TEXT, color=QUIET)
