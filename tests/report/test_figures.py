"""Figures show what is so: closed forms of tilts, stages as they were, shares that add up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

import alignkit as ak
from alignkit.certificates import RadiusPath
from alignkit.report.distributions import gaps_figure, rewards_figure
from alignkit.report.path import path_figure
from alignkit.report.style import HIGHLIGHT
from alignkit.report.tilts import Tilts, tilts_figure, tilts_of
from alignkit.tilting.fitted import AnnealingStage

LINE, PLANE = ak.base.Gaussian([0.7], 1.0), ak.base.Gaussian([0.5, -0.2], 1.0)


def bars(axes):
    """The heights and the edges of a histogram."""
    (patch,) = axes.patches
    return patch.get_data().values, patch.get_data().edges


class TestRewards:
    def test_shares_add_up_on_common_bins(self):
        rng = np.random.default_rng(0)
        before, after = rng.normal(size=300), 2.0 + rng.normal(size=200)
        figure = rewards_figure(before, after)
        assert isinstance(figure, Figure)
        (first, edges), (second, others) = map(bars, figure.axes)
        np.testing.assert_array_equal(edges, others)
        assert first.sum() == pytest.approx(100) and second.sum() == pytest.approx(100)
        np.testing.assert_allclose(first, 100 * np.histogram(before, edges)[0] / 300)
        means = [axes.lines[0].get_xdata()[0] for axes in figure.axes]
        assert means == [pytest.approx(before.mean()), pytest.approx(after.mean())]
        assert figure.axes[1].get_xlabel() == "reward r(x)"

    def test_infinite_rewards_are_counted(self):
        before = np.array([-math.inf, 1.0, 2.0, 3.0])
        figure = rewards_figure(before, before[1:])
        assert bars(figure.axes[0])[0].sum() == pytest.approx(75)
        assert "1 without a finite value" in figure.axes[0].get_title(loc="left")
        assert "without" not in figure.axes[1].get_title(loc="left")

    @pytest.mark.parametrize("values", [[3.0, 3.0], [0.0], [-math.inf, -math.inf], [1e-9, 2e-9]])
    def test_rewards_that_hardly_differ(self, values):
        heights, _ = bars(rewards_figure(np.array(values), np.array(values)).axes[0])
        assert heights.sum() == pytest.approx(100 * np.isfinite(values).mean())

    def test_of_a_result(self):
        x = ak.Variable(2)
        aligned = ak.Problem(3 * x[0], PLANE, ak.KL(weight=1.0)).solve(seed=0)
        means = [axes.lines[0].get_xdata()[0] for axes in aligned.plot.rewards(400, seed=2).axes]
        assert means[0] == pytest.approx(3 * PLANE.sample(400, seed=2)[:, 0].mean())
        # x₀ moves by 3, and 400 rewards of standard deviation 3 have a mean within 0.15.
        assert means[1] == pytest.approx(3 * 3.5, abs=5 * 0.15)


class TestGaps:
    def test_gaps_have_a_tolerance_and_costs_a_mean(self):
        gaps, costs = np.array([0.0, 1e-9, 1e-8, math.inf]), np.array([1.0, 2.0, 3.0, 4.0])
        left, right = gaps_figure(gaps, costs, tolerance=1e-6).axes
        (line,) = left.lines
        assert line.get_xdata()[0] == 1e-6 and line.get_color() == HIGHLIGHT
        heights, edges = bars(left)
        assert heights.sum() == pytest.approx(75) and edges[-1] >= 1e-6
        assert "1 draws without a bound" in left.get_xlabel()
        assert right.lines[0].get_xdata()[0] == pytest.approx(2.5)

    def test_of_a_result(self):
        x = ak.Variable(2)
        aligned = ak.Problem(-ak.norm1(x), PLANE, ak.Wasserstein(weight=2.0)).solve(seed=0)
        left, right = aligned.plot.gaps(100, seed=4).axes
        before = PLANE.sample(100, seed=4)
        # Shrinkage by 1/λ moves every coordinate by a half, or to zero.
        moved = np.minimum(np.abs(before), 0.5)
        assert right.lines[0].get_xdata()[0] == pytest.approx(0.5 * (moved**2).sum(axis=1).mean())
        heights, edges = bars(left)
        assert heights[edges[:-1] > 1e-6].sum() == 0

    def test_not_under_kl(self):
        x = ak.Variable(2)
        plot = ak.Problem(x[0], PLANE, ak.KL(weight=1.0)).solve(seed=0).plot
        with pytest.raises(ak.errors.ParameterError, match="no draw is moved"):
            plot.gaps()
        with pytest.raises(ak.errors.ParameterError, match="without annealing"):
            plot.path()


class TestTilts:
    def test_one_tilt_is_the_gradient_over_the_weight(self):
        x = ak.Variable((2, 3))
        g = np.arange(6.0).reshape(2, 3)
        base = ak.base.Gaussian(np.zeros((2, 3)), np.eye(6))
        aligned = ak.Problem(ak.sum(ak.multiply(g, x)), base, ak.KL(weight=4.0)).solve(seed=0)
        tilts = tilts_of(aligned.fitted, (2, 3))
        np.testing.assert_allclose(tilts.mean, g / 4.0)
        (panel, _) = aligned.plot.tilts().axes
        np.testing.assert_allclose(panel.images[0].get_array(), g / 4.0)

    def test_a_constraint_tilts_too(self):
        # Under N(m, I) a tilt of θ moves the mean by θ.
        x = ak.Variable(2)
        problem = ak.Problem(x[1], PLANE, ak.KL(weight=2.0), constraints=[ak.E(x[0]) == 1.5])
        tilts = tilts_of(problem.solve(seed=0).fitted, (2,))
        np.testing.assert_allclose(tilts.mean, [1.0, 0.5], atol=1e-6)

    def test_a_mixture_weighs_tilts_by_what_they_hold(self):
        # Z(θ) = exp(mθ + ½θ²) under N(m, 1).
        aligned = ak.Problem(ak.abs(ak.Variable(1)[0]), LINE, ak.KL(weight=1.0)).solve(seed=0)
        tilts = tilts_of(aligned.fitted, (1,))
        theta = tilts.nodes[:, 0]
        expected = np.exp(aligned.fitted.mixture.measure.log_weights + 0.7 * theta + theta**2 / 2)
        np.testing.assert_allclose(tilts.weights, expected / expected.sum(), rtol=1e-9)
        assert not tilts.are_draws
        assert float(tilts.mean[0]) == pytest.approx(tilts.weights @ tilts.nodes[:, 0])

    def test_drawn_tilts_explain_the_mean_of_the_law(self):
        # q is N(m/(1 − h), 1/(1 − h)) with F = ½hx²; its mean is m plus the mean tilt.
        h = 0.4
        x = ak.Variable(1)
        problem = ak.Problem(0.5 * h * ak.square(x[0]), LINE, ak.KL(weight=1.0))
        tilts = tilts_of(problem.solve(seed=0, engine="annealed").fitted, (1,))
        assert tilts.are_draws
        expected = 0.7 / (1 - h) - 0.7
        spread = math.sqrt(h + h**2 / (1 - h))
        assert float(tilts.mean[0]) == pytest.approx(expected, abs=6 * spread / math.sqrt(2000))

    @pytest.mark.parametrize(("k", "shape"), [(1, (3,)), (2, (2,)), (5, (6, 6)), (3, (3, 4, 4)), (3, ())])
    def test_every_dimension_and_shape_is_drawn(self, k, shape):
        rng = np.random.default_rng(0)
        weights = rng.dirichlet(np.ones(40))
        tilts = Tilts(rng.normal(size=(40, k)), weights, rng.normal(size=shape), are_draws=False)
        figure = tilts_figure(tilts)
        assert len(figure.axes) >= 2
        figure.canvas.draw()

    def test_many_equal_draws_are_one_mark_of_their_weight(self):
        nodes = np.repeat([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]], [5000, 3000, 2000], axis=0)
        tilts = Tilts(nodes, np.full(10_000, 1e-4), np.zeros(2), are_draws=True)
        (marks,) = tilts_figure(tilts).axes[0].collections
        sizes = {tuple(place): size for place, size in zip(marks.get_offsets().data, marks.get_sizes(), strict=True)}
        assert sizes[0.0, 3.0] / sizes[0.0, 0.0] == pytest.approx(0.4)
        assert len(sizes) == 3

    def test_not_without_any(self):
        x = ak.Variable(2)
        moved = ak.Problem(-ak.norm2(x), PLANE, ak.Wasserstein(weight=1.0)).solve(seed=0)
        with pytest.raises(ak.errors.ParameterError, match="Wasserstein"):
            moved.plot.tilts()
        walked = ak.Problem(lambda x: -np.abs(x).sum(-1), PLANE, ak.KL(weight=1.0)).solve(seed=0, heuristic=True)
        with pytest.raises(ak.errors.ParameterError, match="without tilts"):
            walked.plot.tilts()


class TestPath:
    def test_stages_are_drawn_as_they_were(self):
        stages = (AnnealingStage(0.4, 50.0, 100), AnnealingStage(1.0, 80.0, 100))
        way, worth = path_figure(stages).axes
        np.testing.assert_array_equal(way.lines[0].get_xydata(), [[0, 0], [1, 0.4], [2, 1]])
        assert [bar.get_height() for bar in worth.patches] == [50, 80]

    def test_a_fit_remembers_its_stages(self):
        x = ak.Variable(2)
        aligned = ak.Problem(0.3 * ak.sum_squares(x), PLANE, ak.KL(weight=1.0)).solve(seed=0, engine="annealed")
        stages = aligned.fitted.moments.stages
        shares = [stage.share for stage in stages]
        assert shares == sorted(shares) and shares[-1] == 1.0
        # Steps but the last are as large as leaves 0.7 of the particles in effect.
        assert all(stage.ess / stage.particles == pytest.approx(0.7, abs=0.02) for stage in stages[:-1])
        assert f"smallest ESS {min(stage.ess for stage in stages):.0f}" in aligned.certificate.details["annealing"]
        assert len(aligned.plot.path().axes[1].patches) == len(stages)

    @pytest.mark.parametrize(
        ("reward", "closeness", "distance"),
        [
            # Under N(0, I) a tilt of g/λ costs ‖g‖²/2λ² nats.
            (lambda x: 2.0 * x[0], ak.KL(radius=0.5), lambda weight: 2.0 / weight**2),
            # A shift of g/λ costs ‖g‖²/2λ².
            (lambda x: 2.0 * x[0], ak.Wasserstein(radius=0.5), lambda weight: 2.0 / weight**2),
        ],
        ids=["KL", "Wasserstein"],
    )
    def test_the_search_for_the_price_of_a_radius_is_remembered(self, reward, closeness, distance, tmp_path):
        aligned = ak.Problem(reward(ak.Variable(2)), PLANE, closeness).solve(seed=0)
        found = aligned.certificate.path
        assert found.radius == 0.5 and len(found.weights) == len(found.distances) >= 1
        np.testing.assert_allclose(found.distances, [distance(weight) for weight in found.weights], rtol=1e-5)
        assert found.weights[-1] == pytest.approx(aligned.certificate.weight, rel=1e-6) == pytest.approx(2.0)
        price, reached = aligned.plot.path().axes
        np.testing.assert_array_equal(price.lines[0].get_ydata(), found.weights)
        np.testing.assert_array_equal(reached.lines[0].get_ydata(), found.distances)
        np.testing.assert_array_equal(reached.lines[1].get_ydata(), [0.5, 0.5])
        assert "The search for λ" in aligned.report(tmp_path / "a.html", n=20).read_text("utf-8")
        aligned.save(tmp_path / "a.alignkit")
        assert ak.load(tmp_path / "a.alignkit").certificate.path == found

    def test_the_search_stands_beside_the_stages(self):
        x = ak.Variable(2)
        problem = ak.Problem(0.2 * ak.sum_squares(x), PLANE, ak.KL(radius=0.5))
        aligned = problem.solve(seed=0, engine="annealed")
        price, way, reached, worth = aligned.plot.path().axes
        assert price.get_ylabel() == "λ" and reached.get_ylabel() == "KL(q‖p), nats"
        assert len(way.lines[0].get_xdata()) == 1 + len(worth.patches) == 1 + len(aligned.fitted.moments.stages)

    def test_a_price_without_a_law_is_marked(self):
        price, reached = path_figure((), RadiusPath(0.5, (1.0, 0.5, 0.7), (0.2, np.inf, 0.4))).axes
        np.testing.assert_array_equal(price.lines[1].get_xydata(), [[2, 0.5]])
        np.testing.assert_array_equal(reached.lines[0].get_xydata(), [[1, 0.2], [3, 0.4]])

    def test_walks_have_a_path_too(self):
        x = ak.Variable(2)
        problem = ak.Problem(ak.norm2(x) - ak.square(x[0]), PLANE, ak.KL(weight=0.2))
        stages = problem.solve(seed=0, heuristic=True).fitted.moments.stages
        assert len(stages) >= 2 and stages[-1].share == 1.0
        assert all(stage.ess / stage.particles == pytest.approx(0.5, abs=0.02) for stage in stages[:-1])


def test_a_stale_fit_is_not_drawn():
    weight = ak.Parameter(value=1.0, nonneg=True, name="w")
    x = ak.Variable(2)
    aligned = ak.Problem(ak.sum(x), PLANE, ak.KL(weight=weight)).solve(seed=0)
    weight.value = 2.0
    with pytest.raises(ak.errors.StaleFitError):
        aligned.plot.rewards()


@pytest.mark.parametrize("n", [0, -1, 2.5, True])
def test_a_number_of_draws_is_checked(n):
    x = ak.Variable(2)
    plot = ak.Problem(ak.sum(x), PLANE, ak.KL(weight=1.0)).solve(seed=0).plot
    for figure in (plot.samples, plot.rewards):
        with pytest.raises(ak.errors.ParameterError, match="positive integer"):
            figure(n)


class Latent(ak.base.Gaussian):
    """A law of latents with a decoder: each number becomes a square of it."""

    def decode(self, latents):
        return np.repeat(np.repeat(latents, 4, axis=-2), 4, axis=-1)[:, :1]


class TestLatents:
    def test_are_looked_at_as_pictures(self, tmp_path):
        base = Latent(np.zeros((4, 3, 3)), np.eye(36))
        x = ak.Variable((4, 3, 3))
        aligned = ak.Problem(ak.sum(x), base, ak.KL(weight=10.0)).solve(seed=0)
        strip = aligned.plot.samples(5, seed=1).axes[0].images[0].get_array()
        np.testing.assert_array_equal(strip[:, :12], base.decode(base.sample(5, seed=1))[0, 0])
        text = aligned.report(tmp_path / "a.html", n=20).read_text()
        assert text.count('width="12" height="12"') == 32

    def test_are_decoded_only_where_they_are_looked_at(self):
        decoded = []

        class Counted(Latent):
            def decode(self, latents):
                decoded.append(len(latents))
                return super().decode(latents)

        x = ak.Variable((4, 3, 3))
        plot = ak.Problem(ak.sum(x), Counted(np.zeros((4, 3, 3)), np.eye(36)), ak.KL(weight=10.0)).solve(seed=0).plot
        plot.rewards(20)
        assert decoded == []
        plot.samples(5)
        assert decoded == [5, 5]

    def test_a_decoder_that_there_is_not_is_not_asked_for_again(self):
        class Plain(ak.base.Gaussian):
            def decode(self, latents):
                raise ak.errors.ParameterError("no autoencoder")

        x = ak.Variable(2)
        aligned = ak.Problem(x[0], Plain([0.0, 0.0], 1.0), ak.KL(weight=1.0)).solve(seed=0)
        assert len(aligned.plot.samples(7).axes[0].lines[0].get_xdata()) == 7
