"""Measures over tilts against the functions they are to be, and their conditional laws against derivatives."""

from __future__ import annotations

import numpy as np
import pytest

from alignkit.errors import ImproperTargetError, ParameterError, ShapeError
from alignkit.tilting.lattice import gaussian_lattice
from alignkit.tilting.measures import FiniteMeasure, GaussianMeasure, LabelsMeasure, PointMeasure, ProductMeasure

RNG = np.random.default_rng(0)
SLOPES, OFFSETS = RNG.normal(size=(5, 3)), RNG.normal(size=5)
ROOT = RNG.normal(size=(3, 2))
W = RNG.normal(size=(60, 3))
MEASURES = {
    "point": PointMeasure([1.0, -2.0, 0.5], 0.3),
    "Gaussian of rank 2": GaussianMeasure(ROOT @ ROOT.T, [0.1, 0.2, -0.3], 1.0),
    "pieces": FiniteMeasure(SLOPES, OFFSETS, tempered=True),
    "cover": FiniteMeasure(SLOPES, OFFSETS - 3.0),
    "labels": LabelsMeasure(SLOPES, OFFSETS, 3.0),
    "labels, not whole": LabelsMeasure(SLOPES, OFFSETS, 2.3),
}
MEASURES["product"] = ProductMeasure([MEASURES["labels"], MEASURES["Gaussian of rank 2"], MEASURES["pieces"]])


def values_of_log_sum_exp(scale):
    return scale * np.logaddexp.reduce(W @ SLOPES.T + OFFSETS, axis=1)


class TestBounds:
    def test_a_gaussian_is_a_quadratic(self):
        quadratic = 0.5 * np.einsum("ni,ij,nj->n", W, ROOT @ ROOT.T, W) + W @ [0.1, 0.2, -0.3] + 1.0
        np.testing.assert_allclose(MEASURES["Gaussian of rank 2"].log_bound(W), quadratic)

    @pytest.mark.parametrize("scale", [1.0, 2.0, 7.0, 3.0 + 1e-10])
    def test_labels_are_exact_for_whole_numbers(self, scale):
        measure = LabelsMeasure(SLOPES, OFFSETS, scale)
        assert measure.is_exact and measure.copies == round(scale)
        np.testing.assert_allclose(measure.log_bound(W), values_of_log_sum_exp(scale), rtol=1e-8)

    @pytest.mark.parametrize("scale", [0.2, 0.999, 1.5, 4.7])
    def test_labels_bound_the_rest_as_tightly_as_promised(self, scale):
        measure = LabelsMeasure(SLOPES, OFFSETS, scale)
        excess = measure.log_bound(W) - values_of_log_sum_exp(scale)
        assert not measure.is_exact and excess.min() >= 0
        assert excess.max() <= (measure.copies - scale) * np.log(len(OFFSETS)) + 1e-12

    def test_pieces_bound_a_maximum_within_their_number(self):
        excess = MEASURES["pieces"].log_bound(W) - (W @ SLOPES.T + OFFSETS).max(axis=1)
        assert excess.min() >= 0 and excess.max() <= np.log(len(OFFSETS))

    def test_a_product_is_a_sum(self):
        total = sum(MEASURES[name].log_bound(W) for name in ("labels", "Gaussian of rank 2", "pieces"))
        np.testing.assert_allclose(MEASURES["product"].log_bound(W), total)

    @pytest.mark.parametrize("name", ["pieces", "cover"])
    def test_slopes_are_derivatives(self, name):
        values, slopes = MEASURES[name].log_bound_and_slope(W)
        np.testing.assert_allclose(values, MEASURES[name].log_bound(W))
        for axis, step in enumerate(1e-5 * np.eye(3)):
            rise = MEASURES[name].log_bound(W + step) - MEASURES[name].log_bound(W - step)
            np.testing.assert_allclose(slopes[:, axis], rise / 2e-5, atol=1e-8)

    def test_rows_far_apart_do_not_overflow(self):
        far = 1e4 * W
        assert all(np.isfinite(measure.log_bound(far)).all() for measure in MEASURES.values())


@pytest.mark.parametrize("name", MEASURES)
class TestPaths:
    def test_they_begin_at_a_constant_and_end_at_the_measure(self, name):
        measure = MEASURES[name]
        assert np.ptp(measure.log_bound(W, 0.0)) < 1e-12
        np.testing.assert_allclose(measure.log_bound(W, 1.0), measure.log_bound(W))
        assert not measure.draw_tilts(W, share=0.0, seed=0).any()

    @pytest.mark.parametrize("share", [0.3, 1.0])
    def test_tilts_have_the_gradient_as_mean_and_the_hessian_as_covariance(self, name, share):
        """Derivatives of log M_β are cumulants of θ given w, up to the factors that θ bears along the path."""
        measure, rows = MEASURES[name], 40_000
        drawn = measure.draw_tilts(np.repeat(W[:1], rows, axis=0), share=share, seed=3)
        step = 1e-4
        moved = W[0] + step * np.vstack([np.eye(3), -np.eye(3)])
        values = measure.log_bound(moved, share)
        gradient = (values[:3] - values[3:]) / (2 * step)
        errors = drawn.std(axis=0) / np.sqrt(rows)
        assert np.all(np.abs(drawn.mean(axis=0) - gradient) <= 4.5 * errors + 1e-6)
        curvature = (values[:3] + values[3:] - 2 * measure.log_bound(W[:1], share)) / step**2
        spread = drawn.var(axis=0)
        fourth = ((drawn - drawn.mean(axis=0)) ** 4).mean(axis=0)
        assert np.all(np.abs(spread - curvature) <= 4.5 * np.sqrt(fourth / rows) + 1e-4)

    def test_a_row_depends_on_its_number_alone(self, name):
        measure = MEASURES[name]
        whole = measure.draw_tilts(W, seed=5, stage=2)
        assert np.array_equal(measure.draw_tilts(W[20:40], seed=5, stage=2, first_row=20), whole[20:40])


class TestLattices:
    def test_a_lattice_is_its_gaussian_where_the_draws_are(self):
        measure = GaussianMeasure(0.1 * ROOT @ ROOT.T, [0.1, 0.2, -0.3], 1.0)

        def log_partition(tilts):
            return 0.5 * (tilts**2).sum(axis=1)

        lattice = gaussian_lattice(measure, log_partition, W)
        # Under p·exp⟨θ, w⟩·μ(dθ) with p standard normal w reaches out to a few times its own spread.
        inside = np.random.default_rng(1).normal(size=(2000, 3))
        np.testing.assert_allclose(lattice.log_bound(inside), measure.log_bound(inside), atol=1e-7)

    def test_modes_behind_a_valley_are_found(self):
        """Two far modes of p: between them no tilt has any share."""
        measure = GaussianMeasure([[0.5]])

        def log_partition(tilts):
            return np.logaddexp(20.0 * tilts[:, 0], -20.0 * tilts[:, 0]) + 0.005 * tilts[:, 0] ** 2

        lattice = gaussian_lattice(measure, log_partition, np.array([[-20.0], [20.0]]))
        assert lattice.nodes.min() < -5 and lattice.nodes.max() > 5
        np.testing.assert_allclose(lattice.log_bound(np.array([[20.0], [-20.0]])), 100.0, atol=1e-6)

    def test_too_many_tilts_are_refused(self):
        with pytest.raises(ParameterError, match="annealed"):
            gaussian_lattice(GaussianMeasure(np.eye(6)), lambda tilts: 0 * tilts[:, 0], np.zeros((1, 6)))

    def test_shares_that_grow_without_end_are_of_no_law(self):
        measure = GaussianMeasure(2 * np.eye(2))
        with pytest.raises(ImproperTargetError, match="keep growing"):
            gaussian_lattice(measure, lambda tilts: 0.5 * (tilts**2).sum(axis=1), np.zeros((1, 2)))


class TestRefusals:
    def test_covariances_are_semidefinite(self):
        with pytest.raises(ParameterError, match="negative eigenvalue"):
            GaussianMeasure([[1.0, 0.0], [0.0, -1.0]])

    @pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
    def test_scales_are_positive(self, scale):
        with pytest.raises(ParameterError, match="positive"):
            LabelsMeasure(SLOPES, OFFSETS, scale)

    def test_nodes_and_weights_fit(self):
        with pytest.raises(ShapeError):
            FiniteMeasure(SLOPES, OFFSETS[:2])
        with pytest.raises(ShapeError):
            ProductMeasure([PointMeasure([1.0]), PointMeasure([1.0, 2.0])])
