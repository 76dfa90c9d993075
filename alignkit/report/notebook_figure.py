"""A figure that notebooks show; imports matplotlib, and so is imported only when a figure is drawn."""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure

__all__ = ["NotebookFigure"]


class NotebookFigure(Figure):
    """A matplotlib figure that is shown when a cell ends with it, as those of pyplot are, of which it does not know."""

    def _repr_png_(self) -> bytes:
        written = BytesIO()
        self.savefig(written, format="png", dpi=120)
        return written.getvalue()
