"""Gaussians and mixtures: closed forms against quadrature, autograd, sampling and each other."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import alignkit as ak
from alignkit.errors import NonFiniteError, ParameterError, ShapeError

RNG = np.random.default_rng(0)
ONE_D = ak.base.GaussianMixture([0.2, 0.5, 0.3], [[-2.0], [0.5], [3.0]], [0.3, 1.0, 0.1])
FACTORS = RNG.normal(size=(3, 2, 2))
MATRICES = FACTORS @ FACTORS.transpose(0, 2, 1) + 0.2 * np.eye(2)
TWO_D = ak.base.GaussianMixture([1.0, 2.0, 1.0], RNG.normal(size=(3, 2)) * 2, MATRICES)
PICTURES = ak.base.GaussianMixture([0.4, 0.6], RNG.normal(size=(2, 2, 3)), RNG.uniform(0.2, 2.0, size=(2, 2, 3)))
NORMAL = ak.base.Gaussian([1.0, -2.0, 0.5], np.diag([1.0, 2.0, 0.5]) + 0.3)
LAWS = {"1-d": ONE_D, "matrices": TWO_D, "pictures": PICTURES, "Gaussian": NORMAL}


@pytest.fixture(autouse=True)
def same_numbers_in_any_order():
    RNG.bit_generator.state = np.random.PCG64(1).state


def density(law, points):
    """Σ w_c N(points; μ_c, Σ_c) from scratch, in torch and differentiable; scalars or matrices per component."""
    total = 0.0
    for weight, mean, covariance in zip(law.weights, law.means, covariances_of(law), strict=True):
        component = torch.distributions.MultivariateNormal(torch.tensor(mean), torch.tensor(covariance))
        total = total + weight * component.log_prob(points).exp()
    return total


def covariances_of(law):
    return {
        id(ONE_D): np.array([0.3, 1.0, 0.1])[:, None, None],
        id(TWO_D): MATRICES,
        id(NORMAL): (np.diag([1.0, 2.0, 0.5]) + 0.3)[None],
    }[id(law)]


def grid(law, n=401, reach=14.0):
    """Points (m, d) and the cell's volume, for d of 1 or 2."""
    line = np.linspace(-reach, reach, n)
    axes = np.meshgrid(*[line] * law.ambient, indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=1), (line[1] - line[0]) ** law.ambient


@pytest.mark.parametrize("law", [ONE_D, TWO_D], ids=["1-d", "2-d"])
class TestAgainstQuadrature:
    @pytest.mark.parametrize("sigma", [0.4, 1.0, 5.0])
    def test_denoise_is_the_posterior_mean(self, law, sigma):
        points, _ = grid(law)
        mass = density(law, torch.tensor(points)).numpy()
        for x in RNG.normal(size=(4, law.ambient)) * 3:
            posterior = mass * np.exp(-((points - x) ** 2).sum(axis=1) / (2 * sigma**2))
            expected = posterior @ points / posterior.sum()
            found = law.denoise(x[None], np.array([sigma]))[0]
            np.testing.assert_allclose(found, expected, atol=1e-8)

    def test_log_partition_is_the_integral(self, law):
        points, volume = grid(law)
        mass = density(law, torch.tensor(points)).numpy() * volume
        tilts = np.concatenate([np.zeros((1, law.ambient)), RNG.normal(size=(4, law.ambient))])
        expected = np.log(np.exp(tilts @ points.T) @ mass)
        np.testing.assert_allclose(law.log_partition(tilts), expected, atol=1e-7)

    def test_tilt_has_the_moments_of_the_reweighted_density(self, law):
        points, volume = grid(law)
        theta = np.array([1.2, -0.7])[: law.ambient]
        mass = density(law, torch.tensor(points)).numpy() * volume * np.exp(points @ theta)
        mass /= mass.sum()
        tilted = law.tilt(theta)
        np.testing.assert_allclose(tilted.mean, mass @ points, atol=1e-7)
        centred = points - mass @ points
        np.testing.assert_allclose(tilted.covariance, (mass[:, None] * centred).T @ centred, atol=1e-6)


@pytest.mark.parametrize("law", [ONE_D, TWO_D, NORMAL], ids=["1-d", "2-d", "Gaussian"])
@pytest.mark.parametrize("sigma", [1e-2, 0.5, 20.0])
def test_denoise_satisfies_tweedies_formula(law, sigma):
    """D(x, σ) = x + σ²∇log p_σ(x), the gradient by autograd of the density of the noisy law."""
    x = torch.tensor(RNG.normal(size=(6, law.ambient)) * (2 + sigma), requires_grad=True)
    components = [
        torch.distributions.MultivariateNormal(torch.tensor(m), torch.tensor(c) + sigma**2 * torch.eye(law.ambient))
        for m, c in zip(law.means, covariances_of(law), strict=True)
    ]
    logs = torch.stack([c.log_prob(x) for c in components]) + torch.tensor(law.weights).log()[:, None]
    (score,) = torch.autograd.grad(logs.logsumexp(dim=0).sum(), x)
    expected = (x + sigma**2 * score).detach().numpy()
    np.testing.assert_allclose(law.denoise(x.detach().numpy(), np.full(6, sigma)), expected, atol=1e-8)


@pytest.mark.parametrize("name", LAWS)
class TestTilts:
    def test_a_tilted_law_has_the_tilted_denoiser(self, name):
        """D_θ(v, σ) = D(v + σ²θ, σ), the identity that everything rests on."""
        law = LAWS[name]
        theta, sigma = RNG.normal(size=law.shape), RNG.uniform(0.1, 3.0, size=8)
        v = RNG.normal(size=(8, *law.shape)) * 2
        scale = sigma.reshape(-1, *[1] * len(law.shape)) ** 2
        np.testing.assert_allclose(
            law.tilt(theta).denoise(v, sigma), law.denoise(v + scale * theta, sigma), rtol=1e-9, atol=1e-9
        )

    def test_the_mean_is_the_gradient_of_the_log_partition(self, name):
        law, h = LAWS[name], 1e-5
        theta = RNG.normal(size=law.ambient)
        steps = h * np.eye(law.ambient)
        slopes = (law.log_partition(theta + steps) - law.log_partition(theta - steps)) / (2 * h)
        np.testing.assert_allclose(law.tilt(theta).mean, slopes, atol=1e-7)

    def test_tilts_add_up(self, name):
        law = LAWS[name]
        first, second = RNG.normal(size=(2, law.ambient))
        once, twice = law.tilt(first + second), law.tilt(first).tilt(second)
        np.testing.assert_allclose(once.mean, twice.mean)
        np.testing.assert_allclose(once.covariance, twice.covariance)
        np.testing.assert_allclose(
            law.log_partition(first + second), law.log_partition(first) + law.tilt(first).log_partition(second)
        )

    def test_tilting_leaves_the_base_alone(self, name):
        law = LAWS[name]
        mean = law.mean.copy()
        law.denoise(torch.zeros(1, *law.shape), torch.ones(1))
        tilted = law.tilt(np.full(law.shape, 3.0))
        tilted.denoise(torch.zeros(1, *law.shape), torch.ones(1))
        np.testing.assert_array_equal(law.mean, mean)
        assert "tilted" in tilted.name and "tilted" not in law.name

    def test_theta_may_be_flat_or_shaped(self, name):
        law = LAWS[name]
        theta = RNG.normal(size=law.shape)
        np.testing.assert_array_equal(law.tilt(theta).mean, law.tilt(theta.ravel()).mean)


@pytest.mark.parametrize("name", LAWS)
class TestDraws:
    N = 40_000

    def check(self, draws, law):
        flat = draws.reshape(self.N, -1)
        error = np.sqrt(np.diag(law.covariance) / self.N)
        assert (abs(flat.mean(axis=0) - law.mean) < 4.5 * error).all()
        centred = flat - law.mean
        products = centred[:, :, None] * centred[:, None, :]
        assert (abs(products.mean(axis=0) - law.covariance) < 4.5 * products.std(axis=0) / math.sqrt(self.N)).all()

    def test_draws_have_the_moments_of_the_law(self, name):
        self.check(LAWS[name].sample(self.N, seed=4), LAWS[name])

    def test_tilted_draws_have_the_moments_of_the_tilted_law(self, name):
        law = LAWS[name]
        theta = RNG.normal(size=(1, law.ambient))
        self.check(law.draw_tilted(theta, self.N, seed=5), law.tilt(theta))

    def test_each_row_may_have_its_own_tilt(self, name):
        law = LAWS[name]
        tilts = RNG.normal(size=(3, law.ambient))
        mixed = law.draw_tilted(np.tile(tilts, (4, 1)), 12, seed=6)
        for number in range(3):
            alone = law.draw_tilted(tilts[number : number + 1], 12, seed=6)
            np.testing.assert_allclose(mixed[number::3], alone[number::3], rtol=1e-12, atol=1e-12)

    def test_draw_i_depends_neither_on_n_nor_on_batches(self, name):
        law = LAWS[name]
        whole = law.sample(50, seed=7)
        np.testing.assert_array_equal(whole[:11], law.sample(11, seed=7))
        rest = law.draw_tilted(np.zeros((1, law.ambient)), 39, seed=7, first_row=11)
        np.testing.assert_allclose(whole[11:], rest, rtol=1e-12, atol=1e-12)

    def test_seeds_and_stages_differ(self, name):
        law, zero = LAWS[name], np.zeros((1, LAWS[name].ambient))
        draws = [law.draw_tilted(zero, 1, seed=seed, stage=stage).sum() for seed in (0, 1) for stage in (0, 1, 2)]
        assert len(set(draws)) == 6

    def test_shapes_and_kinds(self, name):
        law = LAWS[name]
        assert law.sample(3, seed=0).shape == (3, *law.shape)
        assert law.mean.shape == (law.ambient,) and law.covariance.shape == (law.ambient, law.ambient)


class TestEngines:
    """numpy, torch and jax give the same denoiser, in their own kind and dtype."""

    @pytest.mark.parametrize("name", LAWS)
    def test_numpy_torch_and_jax_agree(self, name):
        law = LAWS[name]
        x, sigma = RNG.normal(size=(5, *law.shape)), np.array([0.01, 0.3, 1.0, 10.0, 1000.0])
        expected = law.denoise(x, sigma)
        assert expected.dtype == np.float64
        in_torch = law.denoise(torch.tensor(x), torch.tensor(sigma))
        assert in_torch.dtype == torch.float64
        np.testing.assert_allclose(in_torch.numpy(), expected, rtol=1e-12, atol=1e-12)
        narrow = law.denoise(torch.tensor(x).float(), torch.tensor(sigma).float())
        assert narrow.dtype == torch.float32
        np.testing.assert_allclose(narrow.numpy(), expected, rtol=1e-4, atol=1e-4)
        in_jax = law.denoise(jnp.asarray(x), jnp.asarray(sigma))
        assert isinstance(in_jax, jax.Array) and in_jax.shape == x.shape
        np.testing.assert_allclose(np.asarray(in_jax), expected, rtol=1e-4, atol=1e-4)

    def test_far_points_and_tiny_noise_stay_finite(self):
        found = TWO_D.denoise(np.array([[1e6, -1e6], [0.0, 0.0]]), np.array([1e-4, 1e-4]))
        assert np.isfinite(found).all()

    def test_torch_gradients_flow_through(self):
        x = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
        TWO_D.denoise(x, torch.ones(1, dtype=torch.float64)).sum().backward()
        assert torch.isfinite(x.grad).all() and (x.grad != 0).any()


class TestCovarianceForms:
    """Scalars, variances and matrices that describe the same law give the same law."""

    MEANS = RNG.normal(size=(2, 3))

    def same(self, forms):
        laws = [ak.base.GaussianMixture([1.0, 3.0], self.MEANS, form) for form in forms]
        x, sigma, theta = RNG.normal(size=(4, 3)), np.full(4, 0.7), RNG.normal(size=3)
        for law in laws[1:]:
            np.testing.assert_allclose(law.denoise(x, sigma), laws[0].denoise(x, sigma))
            np.testing.assert_allclose(law.log_partition(theta), laws[0].log_partition(theta))
            np.testing.assert_allclose(law.tilt(theta).mean, laws[0].tilt(theta).mean)
            np.testing.assert_allclose(law.covariance, laws[0].covariance)

    def test_shared_scalar(self):
        self.same([0.5, [0.5, 0.5], np.full((2, 3), 0.5), np.stack([0.5 * np.eye(3)] * 2)])

    def test_scalar_of_each_component(self):
        self.same([[0.5, 2.0], np.array([[0.5] * 3, [2.0] * 3]), np.stack([0.5 * np.eye(3), 2.0 * np.eye(3)])])

    def test_variances_of_each_component(self):
        variances = RNG.uniform(0.1, 2.0, size=(2, 3))
        self.same([variances, np.stack([np.diag(row) for row in variances])])

    def test_a_gaussian_is_a_mixture_of_one(self):
        law = ak.base.Gaussian([1.0, 2.0], [0.5, 2.0])
        mixture = ak.base.GaussianMixture([7.0], [[1.0, 2.0]], [[0.5, 2.0]])
        np.testing.assert_array_equal(law.sample(9, seed=1), mixture.sample(9, seed=1))
        np.testing.assert_allclose(law.log_partition([1.0, 1.0]), 3.0 + 1.25)

    def test_a_gaussian_may_be_a_single_number(self):
        law = ak.base.Gaussian(2.0, 3.0)
        assert law.shape == () and law.sample(4, seed=0).shape == (4,)
        np.testing.assert_allclose(law.log_partition([[0.5]]), [1.0 + 3.0 / 8])

    @settings(deadline=None)
    @given(st.floats(1e-3, 1e3), st.floats(-10, 10), st.floats(1e-3, 1e3), st.floats(-10, 10))
    def test_a_gaussians_denoiser_shrinks_to_its_mean(self, variance, mean, sigma, x):
        found = ak.base.Gaussian([mean], variance).denoise(np.array([[x]]), np.array([sigma]))
        expected = (variance * x + sigma**2 * mean) / (variance + sigma**2)
        np.testing.assert_allclose(found, [[expected]], rtol=1e-9, atol=1e-9)

    def test_zero_weights_are_allowed(self):
        law = ak.base.GaussianMixture([0.0, 1.0], [[5.0], [0.0]], 1.0)
        assert np.isfinite(law.denoise(np.array([[5.0]]), np.array([0.1]))).all()
        assert abs(law.sample(100, seed=0)).max() < 5
        np.testing.assert_allclose(law.tilt([2.0]).mean, [2.0])

    def test_the_tail_is_the_largest_variance(self):
        assert ak.base.GaussianMixture([0.5, 0.5], [[0.0], [1.0]], [0.5, 2.0]).tail == 2.0
        assert ak.base.Gaussian([0.0, 0.0], [[2.0, 1.0], [1.0, 2.0]]).tail == pytest.approx(3.0)

    def test_noise_levels_follow_the_law_scaled(self):
        small, large = ak.base.Gaussian([0.0], 1e-4), ak.base.Gaussian([0.0], 1e4)
        assert large.sigma_max / small.sigma_max == pytest.approx(1e4)
        assert large.sigma_min / small.sigma_min == pytest.approx(1e4)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "error", "says"),
        [
            (([], [], 1.0), ParameterError, "weights is empty"),
            (([0.5, 0.5], [[0.0], [1.0], [2.0]], 1.0), ShapeError, r"\(2,\).*\(3, 1\)"),
            (([[0.5, 0.5]], [[0.0], [1.0]], 1.0), ShapeError, r"\(1, 2\)"),
            (([0.5, -0.5], [[0.0], [1.0]], 1.0), ParameterError, "nonnegative"),
            (([0.0, 0.0], [[0.0], [1.0]], 1.0), ParameterError, "positive sum"),
            (([0.5, np.nan], [[0.0], [1.0]], 1.0), NonFiniteError, r"weights .* index \(1,\)"),
            (([0.5, 0.5], [[0.0, 1.0], [2.0, np.inf]], 1.0), NonFiniteError, r"means .* index \(1, 1\)"),
            (([0.5, 0.5], [[0.0], [1.0]], [1.0, np.nan]), NonFiniteError, r"covariances .* index \(1,\)"),
            (([0.5, 0.5], [[0.0], [1.0]], 0.0), ParameterError, "not positive definite"),
            (([0.5, 0.5], [[0.0], [1.0]], [1.0, -1.0]), ParameterError, "not positive definite.*-1"),
            (([1.0], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]]), ParameterError, "not positive definite"),
            (([1.0], [[0.0, 0.0]], [[[1.0, 0.2], [0.3, 1.0]]]), ParameterError, "not symmetric"),
            (([0.5, 0.5], [[0.0, 0.0], [1.0, 0.0]], np.ones((3, 2))), ShapeError, r"\(3, 2\).*2 components.*\(2,\)"),
            (([0.5, 0.5], [[0.0], [1.0, 2.0]], 1.0), ParameterError, "means must be an array"),
            (([0.5, 0.5], [["a"], ["b"]], 1.0), ParameterError, "real numbers"),
        ],
    )
    def test_mixtures(self, arguments, error, says):
        with pytest.raises(error, match=says):
            ak.base.GaussianMixture(*arguments)

    @pytest.mark.parametrize(
        ("mean", "covariance", "error", "says"),
        [
            ([], 1.0, ParameterError, "empty"),
            ([0.0, np.nan], 1.0, NonFiniteError, r"index \(1,\)"),
            ([0.0, 0.0], [1.0, 1.0, 1.0], ShapeError, r"\(3,\).*\(2,\)"),
            ([0.0, 0.0], -1.0, ParameterError, "positive definite"),
            ([1j], 1.0, ParameterError, "complex"),
        ],
    )
    def test_gaussians(self, mean, covariance, error, says):
        with pytest.raises(error, match=says):
            ak.base.Gaussian(mean, covariance)

    @pytest.mark.parametrize(
        ("theta", "error", "says"),
        [
            ([1.0], ShapeError, r"\(1,\).*\(2,\)"),
            (np.ones((2, 2)), ShapeError, "one θ"),
            ([np.nan, 0.0], NonFiniteError, "θ"),
            (np.ones((1, 1, 2)), ShapeError, r"\(1, 1, 2\)"),
        ],
    )
    def test_tilts(self, theta, error, says):
        with pytest.raises(error, match=says):
            TWO_D.tilt(theta)

    def test_denoise_names_both_shapes(self):
        with pytest.raises(ShapeError, match=r"\(3,\).*\(2,\)"):
            TWO_D.denoise(np.zeros((4, 3)), np.ones(4))

    @pytest.mark.parametrize("n", [0, -1, 2.0, True, "3"])
    def test_numbers_of_draws(self, n):
        with pytest.raises(ParameterError, match="positive integer"):
            TWO_D.sample(n, seed=0)
