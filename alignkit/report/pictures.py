"""Draws as small PNG files inside a page."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ink"]

#: The longest side of a picture on a page, in pixels; larger ones are averaged down.
_LONGEST = 128


@dataclass(frozen=True)
class Ink:
    """The scale on which pictures are drawn.

    Arguments:
        low, high: the values that are left blank, and drawn in full; of colours, that are black and white.
    """

    low: float
    high: float

    @staticmethod
    def of(draws: NDArray[np.floating]) -> Ink:
        """The range of finite values in draws."""
        finite = draws[np.isfinite(draws)]
        return Ink(float(finite.min()), float(finite.max())) if finite.size else Ink(0.0, 1.0)

    def data_uri(self, draw: NDArray[np.floating]) -> str:
        """A draw, (h, w), (1, h, w) or (3, h, w), as `data:image/png;base64,…`."""
        from matplotlib.image import imsave

        picture = draw[0] if draw.ndim == 3 and draw.shape[0] == 1 else draw
        shares = np.nan_to_num((picture.astype(np.float64) - self.low) / max(self.high - self.low, 1e-12))
        shares = _averaged(np.clip(shares, 0.0, 1.0))
        # Grey pictures are dark on light, as digits are.
        colours = np.moveaxis(shares, 0, -1) if shares.ndim == 3 else np.repeat(1.0 - shares[..., None], 3, axis=2)
        file = io.BytesIO()
        imsave(file, np.round(255 * colours).astype(np.uint8), format="png")
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _averaged(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """A picture (…, h, w) whose longer side is short enough, as means of squares of pixels."""
    factor = math.ceil(max(picture.shape[-2:]) / _LONGEST)
    if factor == 1:
        return picture
    rows, columns = (-length % factor for length in picture.shape[-2:])
    widths = [(0, 0)] * (picture.ndim - 2) + [(0, rows), (0, columns)]
    padded = np.pad(picture, widths, mode="edge")
    height, width = padded.shape[-2] // factor, padded.shape[-1] // factor
    found: NDArray[np.float64] = padded.reshape(*padded.shape[:-2], height, factor, width, factor).mean(axis=(-3, -1))
    return found
