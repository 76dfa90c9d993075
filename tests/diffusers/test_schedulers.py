"""Schedulers as diffusers runs them, against what was read off them."""

from __future__ import annotations

import copy

import diffusers
import numpy as np
import pytest
import torch

from alignkit.errors import ParameterError
from alignkit_diffusers.schedulers import data_range_of, parametrisation_of

KARRAS = {"use_karras_sigmas": True}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
ZERO_SIGNAL = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
CONTINUOUS = {"timestep_type": "continuous", "prediction_type": "v_prediction", "sigma_min": 0.002, "sigma_max": 700.0}

#: Those whose run has levels of its own, beside its timesteps.
WITH_LEVELS = {
    "DPM-Solver": diffusers.DPMSolverMultistepScheduler(),
    "DPM-Solver, one step": diffusers.DPMSolverSinglestepScheduler(),
    "UniPC": diffusers.UniPCMultistepScheduler(),
    "DEIS": diffusers.DEISMultistepScheduler(),
    "Euler": diffusers.EulerDiscreteScheduler(),
    "Euler, leading": diffusers.EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1),
    "Euler, Karras": diffusers.EulerDiscreteScheduler(**KARRAS),
    "Euler, exponential": diffusers.EulerDiscreteScheduler(use_exponential_sigmas=True, beta_schedule="scaled_linear"),
    "Euler, to σ_min": diffusers.EulerDiscreteScheduler(final_sigmas_type="sigma_min"),
    "Euler, no signal": diffusers.EulerDiscreteScheduler(**ZERO_SIGNAL),
    "Euler, continuous": diffusers.EulerDiscreteScheduler(**KARRAS, **CONTINUOUS),
    "Euler ancestral": diffusers.EulerAncestralDiscreteScheduler(),
    "Heun": diffusers.HeunDiscreteScheduler(),
    "Heun, Karras": diffusers.HeunDiscreteScheduler(**KARRAS),
    "LMS": diffusers.LMSDiscreteScheduler(),
    "EDM Euler": diffusers.EDMEulerScheduler(),
    "EDM DPM-Solver": diffusers.EDMDPMSolverMultistepScheduler(sigma_schedule="exponential"),
    "flow Euler": diffusers.FlowMatchEulerDiscreteScheduler(),
    "flow Euler, shifted": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, **KARRAS),
    "flow Heun": diffusers.FlowMatchHeunDiscreteScheduler(shift=2.0),
}
#: Those that go by ᾱ at whole timesteps.
WITHOUT_LEVELS = {
    "DDPM": diffusers.DDPMScheduler(clip_sample=False),
    "DDPM, cosine": diffusers.DDPMScheduler(clip_sample=False, **COSINE),
    "DDIM": diffusers.DDIMScheduler(clip_sample=False),
    "PNDM": diffusers.PNDMScheduler(skip_prk_steps=True),
}


@pytest.mark.parametrize("name", WITH_LEVELS)
@pytest.mark.parametrize("steps", [7, 30])
def test_the_level_of_each_timestep_is_that_of_the_run(name, steps):
    scheduler = copy.deepcopy(WITH_LEVELS[name])
    parametrisation = parametrisation_of(scheduler)
    scheduler.set_timesteps(steps)
    levels = scheduler.sigmas[: len(scheduler.timesteps)].double()
    found = parametrisation.sigma(scheduler.timesteps).double()
    if name.startswith("flow"):
        # Their "sigmas" are t; where t = 1 the level is infinite.
        assert float(found[0]) == parametrisation.sigma_max
        found, levels = (found / (1 + found))[1:], levels[1:]
    torch.testing.assert_close(found, levels, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", WITHOUT_LEVELS)
def test_the_level_of_each_timestep_is_that_of_its_table(name):
    scheduler = copy.deepcopy(WITHOUT_LEVELS[name])
    parametrisation = parametrisation_of(scheduler)
    scheduler.set_timesteps(20)
    retained = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    torch.testing.assert_close(
        parametrisation.sigma(scheduler.timesteps).double(), ((1 - retained) / retained).sqrt(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(
    ("kind", "options", "prediction"),
    [
        *(
            (kind, {"clip_sample": False}, prediction)
            for kind in ("DDPMScheduler", "DDIMScheduler")
            for prediction in ("epsilon", "sample", "v_prediction")
        ),
        *(("EulerDiscreteScheduler", {}, prediction) for prediction in ("epsilon", "sample", "v_prediction")),
        ("EulerDiscreteScheduler", KARRAS | CONTINUOUS, "v_prediction"),
        *(("EulerAncestralDiscreteScheduler", {}, prediction) for prediction in ("epsilon", "v_prediction")),
        *(("EDMEulerScheduler", {}, prediction) for prediction in ("epsilon", "v_prediction")),
    ],
)
def test_what_diffusers_denoises_to_is_what_we_do(kind, options, prediction):
    """Their own step says what it takes for x₀, from its own running sample and the network's answer."""
    scheduler = getattr(diffusers, kind)(**options | {"prediction_type": prediction})
    parametrisation = parametrisation_of(scheduler)
    scheduler.set_timesteps(9)
    generator = torch.Generator().manual_seed(0)
    for step in (0, 4, 8):
        run = copy.deepcopy(scheduler)
        timestep = run.timesteps[step]
        sample, output = torch.randn(2, 3, 1, 4, 4, generator=generator)
        sigma = parametrisation.sigma(timestep.reshape(1))
        # Schedulers run in coordinates of their own: those with `sigmas` in x_σ, the others in the network's.
        running = sample if kind.startswith("DD") else parametrisation.from_network_input(sample, sigma)
        torch.testing.assert_close(run.scale_model_input(running, timestep), sample, rtol=1e-5, atol=1e-5)
        theirs = run.step(output, timestep, running).pred_original_sample
        ours = parametrisation.denoised(parametrisation.from_network_input(sample, sigma), output, sigma)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=3e-5 * float(1 + sigma))


def test_a_step_of_flow_matching_goes_along_what_we_denoise_to():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    parametrisation = parametrisation_of(scheduler)
    scheduler.set_timesteps(9)
    sample, output = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    timestep = scheduler.timesteps[4]
    scheduler.set_begin_index(4)
    theirs = scheduler.step(output, timestep, sample).prev_sample
    t, after = scheduler.sigmas[4:6]
    sigma = parametrisation.sigma(timestep.reshape(1))
    x = parametrisation.from_network_input(sample, sigma)
    clean = parametrisation.denoised(x, output, sigma)
    # The straight line from x₀ at t = 0 through the sample at t.
    torch.testing.assert_close(clean + (sample - clean) * (after / t), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [*WITH_LEVELS, *WITHOUT_LEVELS])
def test_nothing_of_the_scheduler_changes_and_a_schedule_set_on_it_does_not_count(name):
    scheduler = copy.deepcopy((WITH_LEVELS | WITHOUT_LEVELS)[name])
    fresh = parametrisation_of(scheduler)
    scheduler.set_timesteps(5)
    before = copy.deepcopy(vars(scheduler))
    again = parametrisation_of(scheduler)
    sigma = torch.logspace(-2, 1, 20, dtype=torch.float64)
    again.timestep(sigma)
    after = vars(scheduler)
    assert set(before) == set(after)
    for key, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, after[key]), key
        elif isinstance(value, np.ndarray):
            assert np.array_equal(value, after[key]), key
        else:
            assert value == after[key], key
    assert torch.equal(fresh.timestep(sigma), again.timestep(sigma))
    assert (fresh.sigma_min, fresh.sigma_max) == (again.sigma_min, again.sigma_max)


class TestDataRange:
    def test_clipping_and_thresholding_are_ranges(self):
        assert data_range_of(diffusers.DDPMScheduler()) == (-1.0, 1.0)
        assert data_range_of(diffusers.DDIMScheduler(clip_sample_range=2.5)) == (-2.5, 2.5)
        assert data_range_of(diffusers.DDPMScheduler(clip_sample=False)) is None
        assert data_range_of(diffusers.EulerDiscreteScheduler()) is None

    def test_thresholding_ends_in_the_unit_range(self):
        scheduler = diffusers.DPMSolverMultistepScheduler(thresholding=True, sample_max_value=3.0)
        low, high = data_range_of(scheduler)
        wide = 5 * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        thresholded = scheduler._threshold_sample(wide)
        assert low <= float(thresholded.min()) and float(thresholded.max()) <= high


class TestRefused:
    @pytest.mark.parametrize(
        ("scheduler", "says"),
        [
            (diffusers.LCMScheduler(), "LCMScheduler .* distilled"),
            (diffusers.TCDScheduler(), "TCDScheduler .* distilled"),
            (diffusers.CMStochasticIterativeScheduler(), "CMStochasticIterativeScheduler .* distilled"),
            (diffusers.VQDiffusionScheduler(num_vec_classes=8), "VQDiffusionScheduler .* tokens"),
            (diffusers.RePaintScheduler(), "RePaintScheduler .* mask"),
            (diffusers.IPNDMScheduler(), "IPNDMScheduler .*alphas_cumprod"),
            (diffusers.ScoreSdeVeScheduler(), "ScoreSdeVeScheduler .*alphas_cumprod"),
            (diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "invert_sigmas"),
            (diffusers.DDPMScheduler(prediction_type="x"), "prediction_type is 'x'"),
            (diffusers.EDMEulerScheduler(prediction_type="sample"), "EDM.* no prediction_type 'sample'"),
            (diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction"), "use_flow_sigmas=True"),
            (
                diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="v_prediction"),
                "v_prediction is of variance-preserving",
            ),
            (diffusers.DDPMScheduler(trained_betas=[0.1, -0.2, 0.1]), "do not fall"),
        ],
        ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
    )
    def test_what_cannot_be_mapped_is_named_with_a_reason_and_ways_out(self, scheduler, says):
        with pytest.raises(ParameterError, match=says) as caught:
            parametrisation_of(scheduler)
        assert type(scheduler).__name__ in caught.value.message
        assert any("from_config" in way for way in caught.value.ways_out)
        assert any("Denoiser" in way for way in caught.value.ways_out)
