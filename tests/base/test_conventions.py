"""What networks are given and return: each convention against a mixture, and networks as users have them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import alignkit as ak
from alignkit.base.coordinates import Convention
from alignkit.errors import ParameterError, ShapeError

WEIGHTS = np.array([0.2, 0.5, 0.3])
SHAPES = {"vector": (5,), "sequence": (4, 3), "image": (2, 3, 3)}
VARIANCE = 0.25
PREDICTIONS = ("x0", "epsilon", "score", "v", "velocity")
COORDINATES = ("sigma", "variance_preserving", "flow")
LEVELS = {"sigma_min": 0.002, "sigma_max": 80.0}
SIGMAS = torch.tensor([0.002, 0.02, 0.3, 1.0, 7.0, 80.0], dtype=torch.float64)


def mixture(shape):
    means = np.random.default_rng(3).normal(size=(3, *shape))
    return ak.base.GaussianMixture(WEIGHTS, means, VARIANCE), torch.tensor(means)


def per_row(number, x):
    return number.reshape(-1, *[1] * (x.ndim - 1))


def log_density(y, scale, sigma, means):
    """Of y = c(x₀ + σz), up to a constant of the row: a mixture again, of means c·m and variance c²(v + σ²)."""
    squares = ((y[:, None] - per_row(scale, y)[:, None] * means) ** 2).flatten(2).sum(dim=2)
    return torch.logsumexp(
        torch.tensor(WEIGHTS).log() - squares / (2 * (scale**2 * (VARIANCE + sigma**2)))[:, None], dim=1
    )


class Network(torch.nn.Module):
    """A perfect network of a convention, from nothing but its definition: y, the number of its level, and a density."""

    def __init__(self, prediction, coordinates, shape):
        super().__init__()
        self.prediction, self.coordinates = prediction, coordinates
        self.law, self.means = mixture(shape)

    def forward(self, y, level):
        sigma = level / (1 - level) if self.coordinates == "flow" else level
        # What x₀ and z are multiplied by in y.
        signal = {"sigma": torch.ones_like(sigma), "variance_preserving": (1 + sigma**2).rsqrt(), "flow": 1 - level}
        alpha = signal[self.coordinates]
        if self.prediction == "score":
            with torch.enable_grad():
                at = y.detach().clone().requires_grad_()
                return torch.autograd.grad(log_density(at, alpha, sigma, self.means).sum(), at)[0]
        x0 = self.law.denoise(y / per_row(alpha, y), sigma)
        z = (y - per_row(alpha, y) * x0) / per_row(alpha * sigma, y)
        angle = per_row(torch.atan(sigma), y)
        return {"x0": x0, "epsilon": z, "v": angle.cos() * z - angle.sin() * x0, "velocity": z - x0}[self.prediction]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("prediction", "coordinates"), list(itertools.product(PREDICTIONS, COORDINATES)))
def test_each_convention_is_the_denoiser(prediction, coordinates, shape):
    sides = SHAPES[shape]
    network = Network(prediction, coordinates, sides)
    law = ak.base.Denoiser(network, sides, prediction=prediction, coordinates=coordinates, dtype="float64", **LEVELS)
    assert (law.prediction, law.coordinates) == (prediction, coordinates)
    noise = torch.randn(len(SIGMAS), *sides, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = network.means[torch.arange(len(SIGMAS)) % 3] + per_row((SIGMAS**2 + VARIANCE).sqrt(), noise) * noise
    np.testing.assert_allclose(law.denoise(x, SIGMAS), network.law.denoise(x, SIGMAS), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_arguments_are_what_their_table_says(coordinates):
    x, sigma = torch.tensor([[6.0], [6.0]]), torch.tensor([2.0, 0.5])
    y, level = Convention("x0", coordinates).arguments(x, sigma)
    scale = {"sigma": [1.0, 1.0], "variance_preserving": [5**-0.5, 1.25**-0.5], "flow": [1 / 3, 2 / 3]}[coordinates]
    np.testing.assert_allclose(y[:, 0], 6 * np.array(scale), rtol=1e-6)
    np.testing.assert_allclose(level, [2 / 3, 1 / 3] if coordinates == "flow" else [2.0, 0.5], rtol=1e-6)
    assert y.dtype == level.dtype == torch.float32 and y.shape == (2, 1) and level.shape == (2,)


def test_a_velocity_towards_the_data_and_time_from_the_noise_are_turned_round():
    network = Network("velocity", "flow", (5,))
    options = {"prediction": "velocity", "coordinates": "flow", "dtype": "float64", **LEVELS}

    def towards_data(x, time):
        return -network(x, 1 - time)

    right = ak.base.Denoiser(lambda x, t: -towards_data(x, 1 - t), (5,), **options)
    wrong = ak.base.Denoiser(towards_data, (5,), **options)
    x, sigma = torch.ones(2, 5, dtype=torch.float64), torch.tensor([0.5, 2.0], dtype=torch.float64)
    np.testing.assert_allclose(right.denoise(x, sigma), network.law.denoise(x, sigma), rtol=1e-9)
    assert float((wrong.denoise(x, sigma) - network.law.denoise(x, sigma)).abs().max()) > 0.1


@pytest.mark.parametrize(("prediction", "coordinates"), [("v", "variance_preserving"), ("velocity", "flow")])
def test_draws_are_those_of_the_denoiser(prediction, coordinates):
    """In float32, from the noisiest level on, where v and the velocity are nearly all x₀ and differ from it little."""
    law, _ = mixture((4, 3))
    exact = ak.base.Denoiser(law.denoise, (4, 3), **LEVELS)

    def network(x, level):
        return Network(prediction, coordinates, (4, 3))(x.double(), level.double()).float()

    converted = ak.base.Denoiser(network, (4, 3), prediction=prediction, coordinates=coordinates, **LEVELS)
    found, expected = converted.sample(8, seed=0), exact.sample(8, seed=0)
    assert found.dtype == np.float32 and found.shape == (8, 4, 3)
    # A row between two modes may fall either way.
    assert np.quantile(abs(found - expected).max(axis=(1, 2)), 0.8) < 5e-3


class Small(torch.nn.Module):
    """A network with weights, of images (n, 1, 4, 4), as trained for v."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = torch.nn.Conv2d(1, 6, 3, padding=1)
        self.outer = torch.nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, x, level):
        return self.outer(torch.tanh(self.inner(x) * (1 + level.to(x.dtype).log().reshape(-1, 1, 1, 1) ** 2)))


class TestNetworks:
    """Modules, compiled or not, under autocast or in half precision: x's dtype comes back, and the same draws."""

    OPTIONS = {  # noqa: RUF012
        "prediction": "v",
        "coordinates": "variance_preserving",
        "sigma_min": 0.01,
        "sigma_max": 20.0,
        "nfe": 7,
    }
    X = 2 * torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    SIGMA = torch.tensor([0.1, 1.0, 10.0])

    def law(self, network, **changes):
        return ak.base.Denoiser(network, (1, 4, 4), **(self.OPTIONS | changes))

    def test_modules_are_called_without_gradients_when_drawn_from(self):
        draws = self.law(Small()).sample(3, seed=0)
        assert draws.shape == (3, 1, 4, 4) and np.isfinite(draws).all()

    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    def test_compiled_modules(self, backend):
        torch.compiler.reset()
        network = Small().requires_grad_(False)
        compiled = self.law(torch.compile(network, backend=backend, fullgraph=True))
        np.testing.assert_allclose(compiled.sample(3, seed=0), self.law(network).sample(3, seed=0), atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.filterwarnings("ignore:Dynamo detected a call:UserWarning")
    def test_the_whole_denoiser_compiles_to_one_graph(self, dtype):
        torch.compiler.reset()
        counter = CompileCounterWithBackend("eager")
        network = Small().requires_grad_(False)
        law = self.law(lambda x, level: network(x, level).to(dtype), data_range=(-3.0, 3.0))
        compiled = torch.compile(law.denoise, backend=counter, fullgraph=True)
        torch.testing.assert_close(compiled(self.X, self.SIGMA), law.denoise(self.X, self.SIGMA))
        assert counter.frame_count == 1

    def test_autocast_and_half_precision_give_back_the_dtype_of_x(self):
        network = Small().requires_grad_(False)
        half = Small().requires_grad_(False).bfloat16()
        plain, seen = self.law(network).denoise(self.X, self.SIGMA), []

        def cast(x, level):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = network(x, level)
            seen.append(output.dtype)
            return output

        for narrow in (cast, lambda x, level: half(x.bfloat16(), level)):
            found = self.law(narrow).denoise(self.X, self.SIGMA)
            assert found.dtype == torch.float32
            # The output has a rounding error of its own, 2⁻⁸ of it or so; x is used as it is.
            torch.testing.assert_close(found, plain, rtol=0.05, atol=0.05)
            assert not torch.equal(found, plain)
        assert seen == [torch.bfloat16]
        drawn = self.law(cast).sample(3, seed=0)
        assert drawn.dtype == np.float32 and np.isfinite(drawn).all()

    def test_arithmetic_is_in_the_dtype_of_x(self):
        """A network that answers in bfloat16 costs its own output's rounding, and none of x's."""

        def zero(x, sigma):
            return torch.zeros_like(x, dtype=torch.bfloat16)

        law = ak.base.Denoiser(zero, (16,), prediction="epsilon", dtype="float64", **LEVELS)
        x = torch.randn(2, 16, dtype=torch.float64)
        assert torch.equal(law.denoise(x, torch.ones(2, dtype=torch.float64)), x)

    @pytest.mark.parametrize("prediction", PREDICTIONS)
    @pytest.mark.parametrize("coordinates", COORDINATES)
    def test_devices_are_kept(self, prediction, coordinates):
        law = ak.base.Denoiser(
            lambda x, level: x.clone(), (2, 3), prediction=prediction, coordinates=coordinates, **LEVELS
        )
        x, sigma = torch.ones(4, 2, 3, device="meta"), torch.ones(4, device="meta")
        found = law.denoise(x, sigma)
        assert found.device.type == "meta" and found.shape == x.shape and found.dtype == x.dtype

    def test_numpy_and_torch_agree(self):
        law = ak.base.Denoiser(lambda x, t: x, (2,), prediction="velocity", coordinates="flow", **LEVELS)
        x, sigma = np.ones((3, 2)), np.array([0.1, 1.0, 9.0])
        np.testing.assert_allclose(law.denoise(x, sigma), law.denoise(torch.tensor(x), torch.tensor(sigma)))


class TestDataRange:
    def test_what_is_denoised_lies_in_it(self):
        law = ak.base.Denoiser(lambda x, sigma: 3 * x, (2,), data_range=(-1.0, 0.5), **LEVELS)
        found = law.denoise(torch.tensor([[0.1, -5.0], [1.0, -0.2]]), torch.ones(2))
        torch.testing.assert_close(found, torch.tensor([[0.3, -1.0], [0.5, -0.6]]))

    def test_draws_lie_in_it(self):
        law = ak.base.Denoiser(lambda x, sigma: x / (1 + sigma[:, None] ** 2), (8,), data_range=(-1, 1), **LEVELS)
        draws = law.sample(200, seed=0)
        assert abs(draws).max() == 1.0

    def test_a_denoiser_of_a_law_in_a_box_is_left_as_it_is(self):
        data = np.random.default_rng(0).uniform(-1, 1, size=(30, 2))
        exact = ak.base.Empirical(data)
        clipped = ak.base.Denoiser(exact.denoise, (2,), data_range=(-1.0, 1.0), dtype="float64", **LEVELS)
        x, sigma = torch.randn(50, 2, dtype=torch.float64) * 20, torch.logspace(-2, 1, 50, dtype=torch.float64)
        assert torch.equal(clipped.denoise(x, sigma), exact.denoise(x, sigma))


def test_any_law_is_called_as_samplers_of_k_diffusion_call_their_model():
    """Euler's method as in that package: d = (x − D)/σ, x + d·(σ' − σ)."""
    law = ak.base.Gaussian(np.array([1.0, -1.0]), np.array([0.5, 2.0]))

    def sample_euler(model, x, sigmas, extra_args=None):
        s_in, extra_args = x.new_ones([x.shape[0]]), {} if extra_args is None else extra_args
        for now, after in itertools.pairwise(sigmas):
            denoised = model(x, now * s_in, **extra_args)
            x = x + (x - denoised) / now * (after - now)
        return x

    sigmas = torch.cat([torch.logspace(2, -3, 400, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    noise = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = sample_euler(law, 100 * noise, sigmas)
    expected = torch.tensor([1.0, -1.0]) + torch.tensor([0.5, 2.0]).sqrt() * noise
    # The first order's error, and the start's offset from the mean, of sd/σ_max of it.
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0.03, check_dtype=False)


class TestBadOutput:
    def test_what_is_no_tensor(self):
        class Output:
            sample = torch.zeros(3, 2)

        law = ak.base.Denoiser(lambda x, sigma: Output(), (2,), name="net", **LEVELS)
        with pytest.raises(ParameterError, match=r"'net' returned a Output, not a tensor(.|\n)*\.sample"):
            law.denoise(torch.zeros(3, 2), torch.ones(3))

    def test_whole_numbers(self):
        law = ak.base.Denoiser(lambda x, sigma: x.long(), (2,), name="net", **LEVELS)
        with pytest.raises(ParameterError, match=r"'net' returned torch\.int64"):
            law.denoise(torch.zeros(3, 2), torch.ones(3))

    def test_a_learned_variance_beside_the_prediction(self):
        law = ak.base.Denoiser(lambda x, sigma: torch.cat([x, x], dim=1), (1, 4, 4), **LEVELS)
        with pytest.raises(ShapeError, match=r"\(3, 2, 4, 4\)(.|\n)*learned variance"):
            law.denoise(torch.zeros(3, 1, 4, 4), torch.ones(3))

    def test_unknown_conventions(self):
        for arguments in (("noise", "sigma"), ("x0", "edm")):
            with pytest.raises(ParameterError, match=f"'{arguments[0] if arguments[1] == 'sigma' else arguments[1]}'"):
                Convention(*arguments)


def test_the_score_is_of_what_the_network_is_given():
    """On a Gaussian: y has variance c²(1 + σ²), so the score is −y over that."""
    law = ak.base.Denoiser(lambda y, sigma: -y, (1,), prediction="score", coordinates="variance_preserving", **LEVELS)
    x, sigma = torch.tensor([[3.0]]), torch.tensor([2.0])
    assert float(law.denoise(x, sigma)) == pytest.approx(3.0 / (1 + 2.0**2))
    assert math.isclose(float(law(x, sigma)), 0.6, rel_tol=1e-6)
