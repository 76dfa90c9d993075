"""Base laws known through their denoiser: predictions, contracts and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import alignkit as ak
from alignkit.errors import NonFiniteError, ParameterError, ShapeError

LAW = ak.base.GaussianMixture([0.3, 0.7], [[[-1.0, 0.0]], [[2.0, 1.0]]], 0.25)
LEVELS = {"sigma_min": 0.002, "sigma_max": 80.0}


def scaled(sigma):
    return sigma.reshape(-1, 1, 1)


NETWORKS = {
    "x0": LAW.denoise,
    "epsilon": lambda x, sigma: (x - LAW.denoise(x, sigma)) / scaled(sigma),
    "score": lambda x, sigma: (LAW.denoise(x, sigma) - x) / scaled(sigma) ** 2,
}


@pytest.mark.parametrize("prediction", NETWORKS)
def test_predictions_are_converted_to_x0(prediction):
    law = ak.base.Denoiser(NETWORKS[prediction], (1, 2), prediction=prediction, dtype="float64", **LEVELS)
    x = torch.tensor(np.random.default_rng(0).normal(size=(5, 1, 2)))
    sigma = torch.tensor([0.01, 0.1, 1.0, 10.0, 80.0], dtype=torch.float64)
    np.testing.assert_allclose(law.denoise(x, sigma), LAW.denoise(x, sigma), atol=1e-9)


class TestDraws:
    LAW = ak.base.Denoiser(LAW.denoise, LAW.shape, exact=True, **LEVELS)

    def test_draws_have_the_moments_of_the_law(self):
        n = 4000
        draws = self.LAW.sample(n, seed=0)
        assert draws.shape == (n, 1, 2) and draws.dtype == np.float32
        flat = draws.reshape(n, 2).astype(np.float64)
        assert (abs(flat.mean(axis=0) - LAW.mean) < 4.5 * np.sqrt(np.diag(LAW.covariance) / n)).all()
        # Two per cent stand for the steps of the sampler, beside the sampling error.
        variance = np.diag(LAW.covariance)
        assert (abs(flat.var(axis=0) / variance - 1) < 0.02 + 4.5 * math.sqrt(2 / n)).all()

    def test_draw_i_does_not_depend_on_n(self):
        np.testing.assert_allclose(self.LAW.sample(20, seed=3)[:5], self.LAW.sample(5, seed=3), atol=1e-5)

    def test_the_same_seed_gives_the_same_draws_and_another_others(self):
        np.testing.assert_array_equal(self.LAW.sample(5, seed=3), self.LAW.sample(5, seed=3))
        assert (self.LAW.sample(5, seed=3) != self.LAW.sample(5, seed=4)).all()

    def test_no_gradient_is_recorded(self):
        weight = torch.nn.Parameter(torch.ones(()))
        law = ak.base.Denoiser(lambda x, sigma: weight * LAW.denoise(x, sigma), (1, 2), **LEVELS)
        assert np.isfinite(law.sample(2, seed=0)).all()

    def test_the_callable_sees_the_declared_shape_and_dtype(self):
        seen = set()

        def denoise(x, sigma):
            seen.add((tuple(x.shape[1:]), x.dtype, sigma.dtype, tuple(sigma.shape) == x.shape[:1]))
            return LAW.denoise(x, sigma)

        for dtype in ("float32", "float64"):
            ak.base.Denoiser(denoise, (1, 2), dtype=dtype, **LEVELS).sample(3, seed=0)
            assert seen == {((1, 2), getattr(torch, dtype), getattr(torch, dtype), True)}
            seen.clear()


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"sigma_min": 2.0, "sigma_max": 1.0}, "sigma_min < sigma_max.*2.0 and 1.0"),
            ({"sigma_min": 1.0, "sigma_max": 1.0}, "sigma_min < sigma_max"),
            ({"sigma_min": 0.0}, "0 < sigma_min"),
            ({"sigma_min": math.nan}, "nan"),
            ({"sigma_max": math.inf}, "inf"),
            ({"prediction": "noise"}, "Unknown prediction 'noise'(.|\\n)*'velocity'"),
            ({"coordinates": "ddpm"}, "Unknown coordinates 'ddpm'(.|\\n)*'variance_preserving'"),
            ({"solver": 3}, "solver must be the name"),
            ({"nfe": 0}, "nfe must be a positive integer, not 0"),
            ({"nfe": 2.5}, "nfe must be"),
            ({"nfe": True}, "nfe must be"),
            ({"row_bytes": -1}, "row_bytes must be"),
            ({"evaluations_per_denoise": 0}, "evaluations_per_denoise must be"),
            ({"data_range": (1.0, -1.0)}, "data_range must be an interval"),
            ({"data_range": (0.0, math.inf)}, "data_range must be an interval"),
            ({"data_range": 1.0}, "data_range must be an interval"),
            ({"data_range": (0.0, 1.0, 2.0)}, "data_range must be an interval"),
            ({"tail": "heavy"}, "'heavy'"),
            ({"tail": 0.0}, "tail must be"),
            ({"tail": -1.0}, "tail must be"),
            ({"tail": math.nan}, "tail must be"),
            ({"dtype": "float16"}, "'float16'"),
            ({"shape": (0,)}, "positive integers"),
            ({"shape": (-2, 3)}, "positive integers"),
            ({"shape": (1.5,)}, "positive integers"),
            ({"denoise": 3}, "callable"),
        ],
    )
    def test_arguments(self, changes, says):
        arguments = {"denoise": LAW.denoise, "shape": (1, 2), **LEVELS} | changes
        with pytest.raises(ParameterError, match=says):
            ak.base.Denoiser(**arguments)

    def test_valid_tails(self):
        for tail in ("bounded", 0.25, None):
            assert ak.base.Denoiser(LAW.denoise, (1, 2), tail=tail, **LEVELS).tail == tail

    def test_outputs_of_another_shape_name_both_shapes(self):
        law = ak.base.Denoiser(lambda x, sigma: x.sum(dim=2), (1, 2), name="net", **LEVELS)
        with pytest.raises(ShapeError, match=r"'net'.*\(1, 1\).*\(1, 1, 2\)"):
            law.sample(3, seed=0)

    def test_networks_that_return_nan(self):
        law = ak.base.Denoiser(lambda x, sigma: x * math.nan, (1, 2), **LEVELS)
        with pytest.raises(NonFiniteError, match="NaN"):
            law.sample(3, seed=0)

    @pytest.mark.parametrize("arguments", [{"n": 0, "seed": 0}, {"n": 2.5, "seed": 0}, {"n": 3, "seed": -1}])
    def test_numbers_and_seeds_are_refused_before_the_network_is_called(self, arguments):
        calls = []
        law = ak.base.Denoiser(lambda x, sigma: calls.append(1) or x, (1, 2), **LEVELS)
        with pytest.raises(ParameterError):
            law.sample(**arguments)
        assert not calls


def test_a_law_of_ones_own_needs_sample_and_denoise():
    class Mine(ak.base.BaseLaw):
        shape, name = (2,), "mine"

        def sample(self, n, *, seed):
            return np.zeros((n, 2))

    with pytest.raises(TypeError, match="denoise"):
        Mine()
