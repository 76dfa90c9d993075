"""The tilts that an aligned law under KL is made of, and figures of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats
from alignkit.noise import fold_seed
from alignkit.report.samples import Kind, kind_of
from alignkit.report.style import AFTER, HIGHLIGHT, INK, QUIET, RULE, axis_labels, new_figure, title
from alignkit.tilting.annealed import AnnealedTilt
from alignkit.tilting.direct import DirectTilt, RejectionTilt
from alignkit.tilting.fitted import FittedTilt
from alignkit.tilting.law_request import Measured
from alignkit.tilting.pooled import PooledTilt

__all__ = ["Tilts", "draw_mean_tilt", "draw_tilt_weights", "tilts_figure", "tilts_of"]

#: A measure of no more nodes is drawn node by node.
_FEW = 60
#: The largest mark of a tilt, in square points.
_LARGEST_MARK = 240.0
#: That of a draw of a tilt, and how many of them are shown.
_SMALL_MARK, _MOST_DRAWS = 9.0, 512
#: A measure's outermost nodes hold next to nothing, and would set the scale.
_LEFT_OUT = 1e-3


@dataclass(frozen=True, eq=False)
class Tilts:
    """A mixture of laws p·exp⟨Qᵀθ + h, x⟩.

    Arguments:
        nodes: θ, (j, k), in units of 1/w; k is 0 where the law is one tilt.
        weights: their shares of the mixture before any draw is rejected, (j,), summing to 1.
        mean: of Qᵀθ + h, of the shape of x, in units of 1/x.
        are_draws: whether the nodes are draws of a law of θ rather than all there are.
    """

    nodes: Floats
    weights: Floats
    mean: Floats
    are_draws: bool

    @property
    def dimension(self) -> int:
        """k."""
        return int(self.nodes.shape[1])


def tilts_of(fitted: FittedTilt, shape: tuple[int, ...]) -> Tilts | None:
    """The tilts of a fitted law; None where it is drawn without any.

    Arguments:
        fitted: the engine's sampler.
        shape: of x.
    """
    if isinstance(fitted, Measured):
        return tilts_of(fitted.sampler, shape)
    if isinstance(fitted, DirectTilt):
        mean = (fitted.coordinates @ fitted.directions).reshape(shape)
        return Tilts(np.zeros((1, 0)), np.ones(1), mean, are_draws=False)
    if isinstance(fitted, RejectionTilt):
        mixture = fitted.mixture
        coordinates, weights = mixture.target.tilts(mixture.measure.nodes), mixture.shares
        target = mixture.target
    elif isinstance(fitted, PooledTilt):
        coordinates, weights, target = fitted.coordinates, fitted.weights, fitted.path.target
    elif isinstance(fitted, AnnealedTilt):
        target = fitted.path.target
        # A particle determines the law of its tilt, not the tilt.
        coordinates = fitted.path.draw_tilts(fitted.features, 1.0, seed=fold_seed(0, "tilts for a figure"))
        weights = fitted.weights if len(coordinates) == len(fitted.weights) else np.ones(1)
    else:
        return None
    mean = (weights @ coordinates @ target.program.directions).reshape(shape)
    nodes = target.coordinates_of(coordinates)
    return Tilts(nodes, weights, mean, are_draws=not isinstance(fitted, RejectionTilt))


def tilts_figure(tilts: Tilts) -> Any:
    """The weights over θ, and the mean tilt as draws are looked at.

    Arguments:
        tilts: of a fitted law.

    Returns:
        a matplotlib figure, not registered with pyplot; of one panel where the law is a single tilt.
    """
    has_weights = tilts.dimension > 0
    figure, axes = new_figure(1, 1 + has_weights, (9.0 if has_weights else 4.8, 3.4))
    if has_weights:
        draw_tilt_weights(axes[0, 0], tilts)
        title(axes[0, 0], "How much of the law each tilt makes up")
    draw_mean_tilt(axes[0, -1], tilts.mean)
    title(axes[0, -1], "Where the law is pushed on average" if has_weights else "Where the law is pushed")
    return figure


def draw_tilt_weights(axes: Any, tilts: Tilts) -> None:
    """Weights over θ on axes: stems or a histogram for k = 1, marks in the plane of the widest spread for more."""
    if tilts.dimension == 1:
        _draw_line(axes, tilts)
        return
    shown = _shown(tilts)
    places, is_whole = _widest(shown)
    largest = _LARGEST_MARK if len(places) <= _FEW else _SMALL_MARK
    sizes = largest * shown.weights / shown.weights.max()
    axes.axhline(0, color=RULE, linewidth=0.8, zorder=0)
    axes.axvline(0, color=RULE, linewidth=0.8, zorder=0)
    axes.scatter(places[:, 0], places[:, 1], s=np.maximum(sizes, 1.0), color=AFTER, alpha=0.6, linewidths=0)
    # Space around the outermost marks, the largest of which are wide.
    axes.margins(0.12)
    names = ("θ₀", "θ₁") if is_whole else ("θ along its widest spread", "along the second")
    axis_labels(axes, f"{names[0]} (1/w)", f"{names[1]} (1/w)")


def draw_mean_tilt(axes: Any, mean: Floats) -> None:
    """A direction in the space of draws on axes: as a picture, an arrow, or bars over the entries."""
    kind = kind_of(mean.shape)
    if kind is Kind.PICTURE:
        # Of colours, what they have in common.
        picture = mean.mean(axis=0) if mean.ndim == 3 else mean
        reach = float(np.abs(picture).max()) or 1.0
        image = axes.imshow(picture, cmap="PuOr_r", vmin=-reach, vmax=reach, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.9)
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=RULE, labelcolor=QUIET, labelsize=9, length=3)
        bar.set_label("tilt (1/x)", color=QUIET, fontsize=9)
    elif kind is Kind.POINT:
        reach = 1.25 * float(np.abs(mean).max()) or 1.0
        axes.axhline(0, color=RULE, linewidth=0.8, zorder=0)
        axes.axvline(0, color=RULE, linewidth=0.8, zorder=0)
        axes.annotate("", tuple(mean), (0.0, 0.0), arrowprops={"arrowstyle": "-|>", "color": HIGHLIGHT, "linewidth": 2})
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
        axes.set_aspect("equal", adjustable="box")
        axis_labels(axes, "tilt of x₀ (1/x)", "tilt of x₁ (1/x)")
    else:
        entries = mean.ravel()
        axes.axhline(0, color=RULE, linewidth=0.8)
        if entries.size <= _FEW:
            axes.bar(np.arange(entries.size), entries, color=HIGHLIGHT, width=0.8)
        else:
            axes.plot(entries, color=HIGHLIGHT, linewidth=1.2)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axis_labels(axes, "entry", "tilt (1/x)")


def _shown(tilts: Tilts) -> Tilts:
    """The tilts to mark: equal ones once, none of next to no weight, and of draws so many as can be told apart."""
    nodes, places = np.unique(tilts.nodes.round(9), axis=0, return_inverse=True)
    weights = np.zeros(len(nodes))
    np.add.at(weights, places.ravel(), tilts.weights)
    if tilts.are_draws and len(nodes) > _MOST_DRAWS:
        ends = np.cumsum(tilts.weights)
        chosen = np.searchsorted(ends, (np.arange(_MOST_DRAWS) + 0.5) / _MOST_DRAWS * ends[-1])
        return replace(tilts, nodes=tilts.nodes[chosen], weights=np.full(_MOST_DRAWS, 1 / _MOST_DRAWS))
    order = np.argsort(weights)
    order = order[np.cumsum(weights[order]) >= _LEFT_OUT]
    return replace(tilts, nodes=nodes[order], weights=weights[order])


def _draw_line(axes: Any, tilts: Tilts) -> None:
    found = _shown(tilts)
    if len(found.weights) <= _FEW:
        places, weights = found.nodes[:, 0], found.weights
        axes.vlines(places, 0, 100 * weights, color=AFTER, linewidth=2)
        axes.plot(places, 100 * weights, "o", color=AFTER, markersize=4)
        axes.margins(x=0.08)
        axis_labels(axes, "tilt θ (1/w)", "weight (%)")
    else:
        axes.hist(tilts.nodes[:, 0], bins=40, weights=100 * tilts.weights, color=AFTER, alpha=0.85)
        axis_labels(axes, "tilt θ (1/w)", "weight (%)")
    axes.axvline(float(tilts.weights @ tilts.nodes[:, 0]), color=INK, linewidth=1.5)
    axes.set_ylim(bottom=0)


def _widest(tilts: Tilts) -> tuple[NDArray[np.float64], bool]:
    """Tilts in two coordinates, and whether these are all: else those along which they spread most."""
    if tilts.dimension == 2:
        return tilts.nodes, True
    centred = (tilts.nodes - tilts.weights @ tilts.nodes) * np.sqrt(tilts.weights)[:, None]
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    if len(axes) < 2:
        axes = np.vstack([axes, np.zeros_like(axes)])
    # The sign of a singular vector is arbitrary: its largest entry is taken to be positive.
    signs = np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=1, keepdims=True), axis=1))
    found = tilts.nodes @ (axes * np.where(signs == 0, 1.0, signs))[:2].T
    return np.asarray(found), False
