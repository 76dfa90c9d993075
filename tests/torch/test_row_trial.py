"""Networks are tried on two rows, so that those that misread σ are found before a run is under way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import alignkit as ak
from alignkit.errors import ShapeError

LEVELS = {"sigma_min": 0.002, "sigma_max": 80.0}
SHAPES = [(2,), (3,), (3, 4, 1), (3, 4, 2)]
#: Standard deviations s of the law N(0, s²I).
SPREADS = [0.05, 0.5, 2.0]


def law_of(denoise, shape, **options):
    return ak.base.Denoiser(denoise, shape, name="net", **{**LEVELS, **options})


def x0(x, sigma, spread):
    return x * spread**2 / (spread**2 + sigma**2)


def epsilon(x, sigma, spread):
    return x * sigma / (spread**2 + sigma**2)


def right(sigma, shape):
    return sigma.reshape(-1, *[1] * len(shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("network", [x0, epsilon])
class TestReading:
    def law(self, network, spread, shape, read):
        return law_of(lambda x, sigma: network(x, read(sigma), spread), shape, prediction=network.__name__)

    def test_levels_without_the_axes_of_x_are_refused(self, network, spread, shape):
        law = self.law(network, spread, shape, lambda sigma: sigma)
        way_out = r"sigma\.reshape\(-1" + ", 1" * len(shape) + r"\)"
        with pytest.raises(ShapeError, match=rf"'net'(.|\n)*sigma of shape \(n,\)(.|\n)*{way_out}"):
            law.sample(4, seed=0)

    @pytest.mark.parametrize("read", [lambda sigma: sigma[0], lambda sigma: sigma.mean()], ids=["first", "mean"])
    def test_one_level_for_all_rows_is_refused(self, network, spread, shape, read):
        with pytest.raises(ShapeError, match="alone than beside another"):
            self.law(network, spread, shape, read).sample(4, seed=0)

    def test_levels_with_the_axes_of_x_are_taken(self, network, spread, shape):
        law = self.law(network, spread, shape, lambda sigma: right(sigma, shape))
        assert law.sample(2, seed=0).shape == (2, *shape)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_narrow_networks_is_no_misreading(dtype):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(9, 256), torch.nn.SiLU(), *[torch.nn.Linear(256, 256), torch.nn.SiLU()] * 6]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(256, 8)).to(dtype)

    def predict(x, sigma):
        sigma = sigma[:, None]
        return network(torch.cat([x / (1 + sigma**2).sqrt(), sigma.log()], dim=1).to(dtype)).to(x.dtype)

    assert np.isfinite(law_of(predict, (8,), prediction="epsilon").sample(2, seed=0)).all()


def test_a_level_of_flow_models_is_called_t():
    law = law_of(lambda x, t: x / t, (3, 4), prediction="velocity", coordinates="flow")
    with pytest.raises(ShapeError, match=r"t of shape \(n,\)(.|\n)*t\.reshape\(-1, 1, 1\)"):
        law.sample(2, seed=0)


def test_rows_that_batch_normalisation_ties_together_are_refused():
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(4))
    law = law_of(lambda x, sigma: network(torch.cat([x, x + 1]))[: len(x)], (4,))
    with pytest.raises(ShapeError, match="evaluation mode"):
        law.sample(2, seed=0)
    network.eval()
    law.sample(2, seed=0)


def test_what_fails_on_one_row_already_says_so_itself():
    with pytest.raises(RuntimeError, match="must match"):
        law_of(lambda x, sigma: x + torch.zeros(7), (5,)).sample(2, seed=0)


def test_a_law_is_tried_once():
    sizes = []

    def denoise(x, sigma):
        sizes.append(len(x))
        return x0(x, right(sigma, (3,)), 1.0)

    law = law_of(denoise, (3,), nfe=5)
    law.sample(7, seed=0)
    first, sizes[:] = list(sizes), []
    law.sample(7, seed=0)
    assert first == [1, 2, *sizes]


def test_two_rows_that_do_not_fit_are_not_tried():
    def denoise(x, sigma):
        if len(x) > 1:
            raise torch.OutOfMemoryError("two rows")
        return x0(x, right(sigma, (3,)), 1.0)

    law = law_of(denoise, (3,), row_bytes=1 << 40)
    assert law.sample(2, seed=0).shape == (2, 3)


def test_solving_says_so_before_anything_is_drawn():
    sizes = []

    def denoise(x, sigma):
        sizes.append(len(x))
        return x / (1 + sigma**2)

    x = ak.Variable((3, 4, 2))
    problem = ak.Problem(ak.sum(x), law_of(denoise, x.shape), ak.KL(weight=math.pi))
    problem.compile()
    assert not sizes
    with pytest.raises(ShapeError, match="of shape"):
        problem.solve(seed=0)
    assert sizes == [1, 2]
