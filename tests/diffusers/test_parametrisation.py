"""What networks are given, told and predict: definitions, inverses, ends and precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from alignkit_diffusers.schedulers import parametrisation_of

CONTINUOUS = {"timestep_type": "continuous", "use_karras_sigmas": True, "sigma_min": 0.002, "sigma_max": 700.0}
FAMILIES = {
    "table": DDIMScheduler(),
    "cosine table": DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
    "x0": DDIMScheduler(prediction_type="sample"),
    "linear in σ": EulerDiscreteScheduler(),
    "continuous": EulerDiscreteScheduler(prediction_type="v_prediction", **CONTINUOUS),
    "EDM": EDMEulerScheduler(),
    "EDM, negated": EDMEulerScheduler(prediction_type="v_prediction", sigma_data=1.5),
    "flow": FlowMatchEulerDiscreteScheduler(shift=3.0),
}


@pytest.fixture(params=FAMILIES)
def parametrisation(request):
    return parametrisation_of(FAMILIES[request.param])


def levels(parametrisation, n=300, dtype=torch.float64):
    found = np.geomspace(parametrisation.sigma_min, parametrisation.sigma_max, n)
    # Rounded ends may lie beyond.
    return torch.tensor(np.clip(found, parametrisation.sigma_min, parametrisation.sigma_max), dtype=dtype)


def rows(sigma, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, len(sigma), 2, 3, 3, generator=generator, dtype=torch.float64)
    return (clean + sigma.reshape(-1, 1, 1, 1) * noise).to(dtype), clean.to(dtype), noise.to(dtype)


class TestInverses:
    def test_timesteps_rise_with_the_noise_and_lead_back(self, parametrisation):
        sigma = levels(parametrisation)
        timestep = parametrisation.timestep(sigma)
        assert (timestep.diff() > 0).all()
        torch.testing.assert_close(parametrisation.sigma(timestep), sigma, rtol=1e-9, atol=0)

    def test_network_coordinates_lead_back(self, parametrisation):
        sigma = levels(parametrisation)
        x, _, _ = rows(sigma)
        sample = parametrisation.network_input(x, sigma)
        torch.testing.assert_close(parametrisation.from_network_input(sample, sigma), x, rtol=1e-12, atol=0)

    def test_outputs_lead_back(self, parametrisation):
        sigma = levels(parametrisation)
        x, clean, _ = rows(sigma)
        output = parametrisation.output(x, clean, sigma)
        # A noise prediction is divided by σ and multiplied again.
        torch.testing.assert_close(parametrisation.denoised(x, output, sigma), clean, rtol=0, atol=1e-10)

    def test_one_level_serves_all_rows(self, parametrisation):
        sigma = levels(parametrisation)[150:151]
        x, clean, _ = rows(sigma.expand(4))
        for of_one, of_all in zip(
            (parametrisation.network_input(x, sigma), parametrisation.output(x, clean, sigma)),
            (parametrisation.network_input(x, sigma.expand(4)), parametrisation.output(x, clean, sigma.expand(4))),
            strict=True,
        ):
            torch.testing.assert_close(of_one, of_all, rtol=0, atol=0)


class TestDefinitions:
    """x_t = a·x₀ + s·z, from which what a network that knew x₀ and z would answer is written down."""

    SIGMA = torch.tensor([0.02, 0.7, 1.0, 30.0], dtype=torch.float64)

    def expected(self, prediction, a, s):
        x, clean, noise = rows(self.SIGMA)
        a, s = a.reshape(-1, 1, 1, 1), s.reshape(-1, 1, 1, 1)
        answers = {
            "epsilon": noise,
            "sample": clean,
            "v_prediction": a * noise - s * clean,
            "flow_prediction": noise - clean,
        }
        return x, clean, a * clean + s * noise, answers[prediction]

    @pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
    def test_variance_preserving(self, prediction):
        a = (1 + self.SIGMA**2) ** -0.5
        x, clean, sample, answer = self.expected(prediction, a, (1 - a**2) ** 0.5)
        parametrisation = parametrisation_of(DDIMScheduler(prediction_type=prediction))
        torch.testing.assert_close(parametrisation.network_input(x, self.SIGMA), sample)
        torch.testing.assert_close(parametrisation.output(x, clean, self.SIGMA), answer)

    def test_flow(self):
        t = self.SIGMA / (1 + self.SIGMA)
        x, clean, sample, answer = self.expected("flow_prediction", 1 - t, t)
        parametrisation = parametrisation_of(FlowMatchEulerDiscreteScheduler())
        torch.testing.assert_close(parametrisation.network_input(x, self.SIGMA), sample)
        torch.testing.assert_close(parametrisation.output(x, clean, self.SIGMA), answer)
        torch.testing.assert_close(parametrisation.timestep(self.SIGMA), 1000 * t)


class TestEnds:
    def test_levels_beyond_are_read_as_the_nearest(self, parametrisation):
        low, high = parametrisation.sigma_min, parametrisation.sigma_max
        beyond = torch.tensor([low / 10, 10 * high], dtype=torch.float64)
        ends = torch.tensor([low, high], dtype=torch.float64)
        torch.testing.assert_close(parametrisation.timestep(beyond), parametrisation.timestep(ends))
        told = parametrisation.timestep(ends)
        wider = told + torch.tensor([-1.0, 1.0], dtype=torch.float64)
        torch.testing.assert_close(parametrisation.sigma(wider), ends, rtol=1e-9, atol=0)

    @pytest.mark.parametrize("given", [1000, 1000.0, torch.tensor(1000)])
    def test_noise_without_end_is_read_as_the_last_finite_level(self, given):
        flow = parametrisation_of(FlowMatchEulerDiscreteScheduler())
        assert flow.sigma(torch.as_tensor(given).reshape(1)).tolist() == [999.0]

    def test_a_count_of_timesteps_may_be_only_their_unit(self):
        unit, usual = (parametrisation_of(FlowMatchEulerDiscreteScheduler(n)) for n in (1, 1000))
        sigma = torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64)
        torch.testing.assert_close(1000 * unit.timestep(sigma), usual.timestep(sigma))
        torch.testing.assert_close(unit.sigma(unit.timestep(sigma)), sigma)
        assert (unit.sigma_min, unit.sigma_max) == (usual.sigma_min, usual.sigma_max)

    def test_a_table_without_signal_at_its_end_is_cut_there(self):
        scheduler = DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
        assert scheduler.alphas_cumprod[-1] == 0
        cut = parametrisation_of(scheduler)
        retained = scheduler.alphas_cumprod[-2].double()
        torch.testing.assert_close(torch.tensor(cut.sigma_max).double(), ((1 - retained) / retained).sqrt())
        assert cut.timesteps[-1] == 998
        assert cut.sigma(torch.tensor([998, 999])).tolist() == [pytest.approx(cut.sigma_max)] * 2


class TestPrecision:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_reckoned_with_in_single(self, parametrisation, dtype):
        sigma = levels(parametrisation, 30, torch.float32)
        x, clean, _ = rows(sigma.double())
        # An output within reach of float16.
        output = parametrisation.output(x, clean, sigma.double()).clamp(-1e4, 1e4).to(dtype)
        found = parametrisation.denoised(x.float(), output, sigma)
        assert found.dtype == torch.float32
        exact = parametrisation.denoised(x, output.double(), sigma.double())
        scale = 1e-6 * (x.abs() + exact.abs() + 1)
        assert ((found.double() - exact).abs() <= scale).all()
        assert parametrisation.network_input(x.clamp(-1e4, 1e4).to(dtype), sigma).dtype == torch.float32

    def test_doubles_stay_doubles_and_levels_do_not_widen_rows(self, parametrisation):
        sigma = levels(parametrisation, 30)
        x, clean, _ = rows(sigma)
        assert parametrisation.denoised(x, clean, sigma).dtype == torch.float64
        assert parametrisation.denoised(x.float(), clean, sigma).dtype == torch.float32
        assert parametrisation.timestep(sigma).dtype == torch.float64
        assert parametrisation.timestep(sigma.float()).dtype == torch.float32

    @pytest.mark.parametrize(("dtype", "off"), [(torch.float64, 1e-9), (torch.float32, 2e-4)])
    def test_whole_timesteps_are_told_at_their_own_levels(self, dtype, off):
        parametrisation = parametrisation_of(FAMILIES["table"])
        timesteps = torch.arange(1000, dtype=dtype)
        told = parametrisation.timestep(parametrisation.sigma(timesteps))
        torch.testing.assert_close(told, timesteps, rtol=0, atol=off)
