"""Figures of draws: pictures, scatters and curves."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import alignkit as ak
from alignkit.report.samples import sample_figure


def draws(shape, n=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *shape))


def pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


SHAPES = [(8, 8), (4, 6), (1, 5, 4), (3, 5, 4), (2,), (7,), (2, 3, 4), (2, 1, 1), (1,), ()]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_makes_a_figure_that_is_not_blank(shape):
    figure = sample_figure({"before": draws(shape, 20), "after": draws(shape, 20, seed=1) + 1})
    assert isinstance(figure, Figure)
    picture = pixels(figure)[::-1]
    for axes in figure.axes:
        box = axes.get_window_extent()
        inside = picture[int(box.y0) + 5 : int(box.y1) - 5, int(box.x0) + 5 : int(box.x1) - 5]
        assert (inside != 255).any(axis=2).mean() > 0.002


@pytest.mark.parametrize("shape", [(8, 8), (3, 5, 4)], ids=str)
def test_pictures_stand_side_by_side_in_a_row_per_batch(shape):
    figure = sample_figure({"before": draws(shape), "after": draws(shape)})
    assert [axes.get_ylabel() for axes in figure.axes] == ["before", "after"]
    (image,) = figure.axes[0].images
    height, width = image.get_array().shape[:2]
    assert height == shape[-2] and width >= 5 * shape[-1]


def test_the_first_panel_sets_the_scale_of_all_and_pictures_keep_their_pixels():
    before, after = draws((8, 8)), 10 + draws((8, 8))
    figure = sample_figure({"before": before, "after": after})
    limits = {axes.images[0].get_clim() for axes in figure.axes}
    assert limits == {(before.min(), before.max())}
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array()[:, :8], after[0])


def test_one_channel_looks_like_none():
    batch = draws((6, 6))
    plain = sample_figure({"x": batch})
    channel = sample_figure({"x": batch[:, None]})
    np.testing.assert_array_equal(pixels(plain), pixels(channel))


def test_points_are_scattered_on_shared_axes():
    before = draws((2,), 50)
    figure = sample_figure({"before": before, "after": draws((2,), 50) + 5})
    (line,) = figure.axes[0].lines
    np.testing.assert_array_equal(line.get_xydata(), before)
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["before", "after"]


@pytest.mark.parametrize("shape", [(7,), (200,), (2, 3, 4)], ids=str)
def test_vectors_and_signals_are_curves_with_their_mean(shape):
    batch = draws(shape)
    (axes,) = sample_figure({"x": batch}).axes
    *curves, mean = axes.lines
    for curve, draw in zip(curves, batch, strict=True):
        np.testing.assert_array_equal(curve.get_ydata(), draw.ravel())
    np.testing.assert_allclose(mean.get_ydata(), batch.mean(axis=0).ravel())
    assert axes.get_xlabel().startswith("entry") and axes.get_ylabel() == "value"


def test_constant_pictures_are_drawn():
    pixels(sample_figure({"x": np.zeros((3, 4, 4))}))
    pixels(sample_figure({"x": np.zeros((3, 3, 4, 4))}))


@pytest.mark.parametrize("closeness", [ak.KL(weight=1.0), ak.Wasserstein(weight=1.0)], ids=["KL", "Wasserstein"])
def test_results_plot_before_and_after(closeness):
    x = ak.Variable((2,))
    base = ak.base.Gaussian([0.0, 0.0], 1.0)
    figure = ak.Problem(4 * x[0], base, closeness).solve(seed=0).plot.samples(100, seed=3)
    before, after = (axes.lines[0].get_xydata() for axes in figure.axes)
    np.testing.assert_array_equal(before, base.sample(100, seed=3))
    assert (after - before)[:, 0].mean() == pytest.approx(4.0, abs=0.6)


def test_pyplot_is_left_alone():
    import matplotlib.pyplot as plt

    open_before = plt.get_fignums()
    sample_figure({"x": draws((2,))})
    assert plt.get_fignums() == open_before


def test_moves_in_the_plane_are_drawn():
    before = draws((2,), 40)
    after = before + np.array([1.0, 0.0])
    first, second = sample_figure({"before": before, "after": after}, is_paired=True).axes
    assert len(first.lines) == 1
    ways = second.lines[1].get_xydata().reshape(40, 3, 2)
    np.testing.assert_array_equal(ways[:, 0], before)
    np.testing.assert_array_equal(ways[:, 1], after)
    assert np.isnan(ways[:, 2]).all()


def test_notebooks_show_what_a_cell_ends_with():
    """As a picture, of which they look for `_repr_png_`."""
    shown = sample_figure({"x": draws((8, 8))})._repr_png_()
    picture = Image.open(BytesIO(shown))
    assert picture.format == "PNG" and min(picture.size) > 100
    assert len(np.unique(np.asarray(picture.convert("L")))) > 20
