"""The empirical law of a data set: its exact denoiser, tilts and log-partition against plain sums."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import alignkit as ak
from alignkit.base import empirical
from alignkit.errors import NonFiniteError, ParameterError, ShapeError

DATA = np.random.default_rng(0).normal(size=(60, 2, 3)) * [0.5, 1.0, 2.0] + 1.0
LAW = ak.base.Empirical(DATA)
FLAT = DATA.reshape(60, 6)


@pytest.fixture
def rng():
    return np.random.default_rng(1)


class TestDenoiser:
    @pytest.mark.parametrize("sigma", [0.05, 0.5, 3.0, 100.0])
    def test_denoise_is_the_posterior_mean(self, rng, sigma):
        for x in FLAT[:5] + sigma * rng.normal(size=(5, 6)):
            logs = -((FLAT - x) ** 2).sum(axis=1) / (2 * sigma**2)
            posterior = np.exp(logs - logs.max())
            expected = posterior @ FLAT / posterior.sum()
            found = LAW.denoise(x.reshape(1, 2, 3), np.array([sigma]))
            np.testing.assert_allclose(found.ravel(), expected, atol=1e-9)

    def test_denoise_satisfies_tweedies_formula(self, rng):
        x = torch.tensor(rng.normal(size=(5, 6)), requires_grad=True)
        sigma = torch.tensor([0.2, 0.5, 1.0, 4.0, 30.0], dtype=torch.float64)
        squares = ((x[:, None, :] - torch.tensor(FLAT)) ** 2).sum(dim=2)
        (score,) = torch.autograd.grad((-squares / (2 * sigma[:, None] ** 2)).logsumexp(dim=1).sum(), x)
        expected = (x + sigma[:, None] ** 2 * score).detach().reshape(5, 2, 3)
        found = LAW.denoise(x.detach().reshape(5, 2, 3), sigma)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-9)

    def test_little_noise_finds_the_data_point_and_much_noise_the_mean(self):
        np.testing.assert_allclose(LAW.denoise(DATA[:4], np.full(4, 1e-4)), DATA[:4])
        np.testing.assert_allclose(LAW.denoise(DATA[:1], np.array([1e5])).ravel(), LAW.mean, atol=1e-6)

    def test_far_off_centre_data_lose_no_digits_in_float32(self):
        law = ak.base.Empirical(DATA + 1000.0)
        x, sigma = torch.tensor(DATA[:5] + 0.1), torch.full((5,), 0.7, dtype=torch.float64)
        expected = LAW.denoise(x, sigma).numpy()
        found = law.denoise((x + 1000).float(), sigma.float()).double().numpy() - 1000
        np.testing.assert_allclose(found, expected, atol=2e-3)

    def test_a_tilted_law_has_the_tilted_denoiser(self, rng):
        theta, sigma = rng.normal(size=(2, 3)), rng.uniform(0.2, 2.0, size=6)
        v = rng.normal(size=(6, 2, 3))
        np.testing.assert_allclose(
            LAW.tilt(theta).denoise(v, sigma), LAW.denoise(v + sigma[:, None, None] ** 2 * theta, sigma), atol=1e-10
        )

    def test_numpy_torch_and_jax_agree(self, rng):
        x, sigma = rng.normal(size=(4, 2, 3)), np.array([0.1, 0.5, 2.0, 50.0])
        expected = LAW.denoise(x, sigma)
        np.testing.assert_allclose(LAW.denoise(torch.tensor(x), torch.tensor(sigma)).numpy(), expected, rtol=1e-12)
        np.testing.assert_allclose(LAW.denoise(jnp.asarray(x), jnp.asarray(sigma)), expected, rtol=1e-4, atol=1e-4)

    def test_blocks_of_rows_do_not_show(self, rng, monkeypatch):
        x, sigma = rng.normal(size=(7, 2, 3)), rng.uniform(0.1, 3.0, size=7)
        whole = LAW.denoise(x, sigma)
        tilts = rng.normal(size=(7, 6))
        draws = LAW.draw_tilted(tilts, 7, seed=0)
        monkeypatch.setattr(empirical, "_BLOCK_ENTRIES", 120)
        monkeypatch.setattr(empirical, "_CACHE_ENTRIES", 120)
        np.testing.assert_allclose(LAW.denoise(x, sigma), whole, rtol=1e-12)
        np.testing.assert_array_equal(LAW.draw_tilted(tilts, 7, seed=0), draws)


class TestTilts:
    def test_log_partition_is_the_log_mean_exponential(self, rng):
        tilts = rng.normal(size=(5, 6))
        np.testing.assert_allclose(LAW.log_partition(tilts), np.log(np.exp(tilts @ FLAT.T).mean(axis=1)))

    def test_strong_tilts_do_not_overflow(self):
        theta = np.full(6, 1e4)
        assert LAW.log_partition(theta)[0] == pytest.approx(1e4 * FLAT.sum(axis=1).max() - math.log(60))
        np.testing.assert_allclose(LAW.tilt(theta).mean, FLAT[FLAT.sum(axis=1).argmax()])

    def test_a_tilt_reweights_the_points(self, rng):
        theta = rng.normal(size=6)
        weights = np.exp(FLAT @ theta)
        weights /= weights.sum()
        tilted = LAW.tilt(theta)
        np.testing.assert_allclose(tilted.weights, weights)
        np.testing.assert_allclose(tilted.mean, weights @ FLAT)
        np.testing.assert_allclose(tilted.covariance, np.cov(FLAT.T, aweights=weights, ddof=0))
        np.testing.assert_allclose(LAW.weights, 1 / 60)

    def test_tilts_add_up(self, rng):
        first, second = rng.normal(size=(2, 6))
        np.testing.assert_allclose(LAW.tilt(first).tilt(second).weights, LAW.tilt(first + second).weights)
        np.testing.assert_allclose(
            LAW.log_partition(first + second), LAW.log_partition(first) + LAW.tilt(first).log_partition(second)
        )


class TestWeights:
    def test_a_row_that_weighs_double_counts_as_two(self, rng):
        twice = ak.base.Empirical(np.concatenate([DATA, DATA[:1]]))
        weighted = ak.base.Empirical(DATA, weights=[2.0] + [1.0] * 59)
        x, sigma, theta = rng.normal(size=(4, 2, 3)), np.array([0.1, 0.5, 2.0, 50.0]), rng.normal(size=6)
        np.testing.assert_allclose(weighted.denoise(x, sigma), twice.denoise(x, sigma), atol=1e-12)
        np.testing.assert_allclose(weighted.mean, twice.mean)
        np.testing.assert_allclose(weighted.log_partition(theta), twice.log_partition(theta))
        np.testing.assert_allclose(weighted.tilt(theta).mean, twice.tilt(theta).mean)

    def test_a_row_without_weight_is_not_there(self, rng):
        x, sigma = rng.normal(size=(4, 2, 3)), np.array([0.1, 0.5, 2.0, 50.0])
        some = ak.base.Empirical(DATA, weights=[0.0] + [1.0] * 59)
        np.testing.assert_allclose(some.denoise(x, sigma), ak.base.Empirical(DATA[1:]).denoise(x, sigma), atol=1e-12)

    @pytest.mark.parametrize(
        ("weights", "error", "says"),
        [
            ([1.0], ShapeError, r"\(1,\), and there are 60 rows"),
            (-np.ones(60), ParameterError, "nonnegative"),
            (np.zeros(60), ParameterError, "positive sum"),
            (np.full(60, np.nan), NonFiniteError, "60 entries"),
        ],
    )
    def test_bad_weights(self, weights, error, says):
        with pytest.raises(error, match=says):
            ak.base.Empirical(DATA, weights=weights)


class TestDraws:
    N = 30_000

    def test_draws_are_data_points(self):
        draws = LAW.sample(40, seed=0)
        assert draws.shape == (40, 2, 3)
        assert all(any((draw == point).all() for point in DATA) for draw in draws)

    @pytest.mark.parametrize("strength", [0.0, 0.5])
    def test_each_point_comes_as_often_as_its_weight_says(self, strength):
        theta = np.full((1, 6), strength)
        draws = LAW.draw_tilted(theta, self.N, seed=3).reshape(self.N, 6)
        counts = (draws[:, None, 0] == FLAT[None, :, 0]).sum(axis=0)
        share = LAW.tilt(theta[0]).weights
        assert (abs(counts - self.N * share) < 4.5 * np.sqrt(self.N * share) + 4.5).all()

    def test_each_row_may_have_its_own_tilt(self, rng):
        tilts = rng.normal(size=(3, 6))
        mixed = LAW.draw_tilted(np.tile(tilts, (10, 1)), 30, seed=6)
        for number in range(3):
            alone = LAW.draw_tilted(tilts[number : number + 1], 30, seed=6)
            np.testing.assert_array_equal(mixed[number::3], alone[number::3])

    def test_draw_i_depends_neither_on_n_nor_on_batches(self):
        whole = LAW.sample(50, seed=7)
        np.testing.assert_array_equal(whole[:11], LAW.sample(11, seed=7))
        np.testing.assert_array_equal(whole[11:], LAW.draw_tilted(np.zeros((1, 6)), 39, seed=7, first_row=11))


class TestBadInput:
    @pytest.mark.parametrize(
        ("data", "error", "says"),
        [
            ([], ParameterError, "empty"),
            (np.empty((3, 0)), ParameterError, r"empty \(shape \(3, 0\)\)"),
            (3.0, ParameterError, "single number"),
            ([[0.0, 1.0], [np.nan, 2.0]], NonFiniteError, r"1 entries .* index \(1, 0\)"),
            ([[0.0, np.inf], [np.nan, 2.0]], NonFiniteError, r"2 entries .* index \(0, 1\)"),
            ([["a"]], ParameterError, "real numbers"),
            ([[1.0], [1.0, 2.0]], ParameterError, "array of real numbers"),
        ],
    )
    def test_data(self, data, error, says):
        with pytest.raises(error, match=says):
            ak.base.Empirical(data)

    def test_tilts_and_rows_of_another_shape(self):
        with pytest.raises(ShapeError, match=r"\(5,\).*\(2, 3\)"):
            LAW.tilt(np.ones(5))
        with pytest.raises(ShapeError, match=r"\(6,\).*\(2, 3\)"):
            LAW.denoise(np.zeros((4, 6)), np.ones(4))

    def test_the_data_are_copied(self):
        data = np.zeros((2, 1))
        law = ak.base.Empirical(data)
        data[:] = 5.0
        assert law.data.max() == 0.0


def test_the_law_knows_its_range_and_tail():
    assert LAW.data_range == (DATA.min(), DATA.max())
    assert LAW.tail == "bounded"


def test_a_single_point_is_a_law():
    law = ak.base.Empirical([[2.0, 3.0]])
    np.testing.assert_array_equal(law.sample(3, seed=0), [[2.0, 3.0]] * 3)
    assert 0 < law.sigma_min < law.sigma_max
    np.testing.assert_allclose(law.log_partition([1.0, 1.0]), [5.0])
