"""Conditional latent pipelines through both paths, with random weights: shapes, dtypes, generators and evaluations."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiTPipeline, EulerDiscreteScheduler

import alignkit as ak
from alignkit.errors import CalibrationWarning, ParameterError, ShapeError
from alignkit.tilting.tilted_law import TiltedLaw
from alignkit_diffusers.tilted_pipeline import tilted_pipeline
from tests.diffusers.pipelines import TextPipeline
from tests.diffusers.small_networks import Rows, autoencoder, seeded, text_unet, transformer

LATENT = (4, 8, 8)
THETA = np.random.default_rng(0).normal(size=LATENT) / 16
PROMPT: dict[str, Any] = {"prompt": "a cat", "guidance_scale": 4.0}


def text_pipeline(dtype: torch.dtype = torch.float32, scheduler: Any = None) -> TextPipeline:
    chosen = DDIMScheduler(clip_sample=False) if scheduler is None else scheduler
    pipeline = TextPipeline(text_unet(channels=4), autoencoder(), chosen)
    pipeline.to(dtype)
    return pipeline


def class_pipeline() -> Any:
    network = transformer(channels=4, classes=1000)
    pipeline = DiTPipeline(network, autoencoder(), DDIMScheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("guidance", [None, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_base_law_of_latents_with_a_prompt(dtype: torch.dtype, guidance: float | None) -> None:
    pipeline = text_pipeline(dtype)
    law = ak.base.from_diffusers(pipeline, prompt="a cat", guidance_scale=guidance, nfe=5, solver="dpm_solver_2m")
    times = 1 if guidance is None else 2
    assert law.shape == LATENT and law.evaluations_per_denoise == times
    rows = Rows(pipeline.unet)
    latents = law.sample(3, seed=1)
    assert latents.shape == (3, *LATENT) and np.isfinite(latents).all()
    # Beside the steps, samplers ask for a row alone and two together, and of one row where to start.
    assert rows.seen == [times, 2 * times, times] + [3 * times] * 5
    pictures = law.decode(latents)
    assert pictures.shape == (3, 3, 16, 16) and np.abs(pictures).max() <= 1
    assert law.encode(pictures).shape == latents.shape
    assert pipeline.unet.dtype == dtype
    # Another prompt is another law, and the same one the same draws.
    assert np.array_equal(law.sample(3, seed=1), latents)
    other = ak.base.from_diffusers(pipeline, prompt="a dog", guidance_scale=guidance, nfe=5)
    assert np.abs(other.sample(3, seed=1) - latents).max() > 0


def test_guidance_is_part_of_the_law() -> None:
    pipeline = text_pipeline()
    law = ak.base.from_diffusers(pipeline, **PROMPT, unconditional="blur")
    x, sigma = torch.randn(2, *LATENT, generator=seeded()) * 3, torch.tensor([2.0, 2.0])
    told = law.parametrisation.timestep(sigma)
    given, without = pipeline.encode_prompt("a cat", 2, True, "blur")
    with torch.no_grad():
        answers = [pipeline.unet(x / 5**0.5, told, encoder_hidden_states=states).sample for states in (without, given)]
    epsilon = answers[0] + 4 * (answers[1] - answers[0])
    torch.testing.assert_close(law.denoise(x, sigma), x - 2 * epsilon, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tilted_text_pipeline(dtype: torch.dtype, guidance: float) -> None:
    pipeline = text_pipeline(dtype, EulerDiscreteScheduler())
    tilted = tilted_pipeline(pipeline, THETA, calibrate=False)
    assert type(tilted) is TextPipeline and tilted.vae is pipeline.vae
    rows = Rows(pipeline.unet)
    options: dict[str, Any] = {"num_images_per_prompt": 2, "num_inference_steps": 4, "guidance_scale": guidance}
    steps: list[Any] = []
    latents = tilted(
        "a cat",
        **options,
        generator=[seeded(0), seeded(1)],
        output_type="latent",
        callback_on_step_end=lambda *given: steps.append(given[1]) or given[3],
    )
    assert sum(rows.seen) == 2 * 4 * (2 if guidance > 1 else 1) and steps == [0, 1, 2, 3]
    assert latents.shape == (2, *LATENT) and latents.dtype == dtype
    alone = tilted("a cat", **options | {"num_images_per_prompt": 1}, generator=seeded(1), output_type="latent")
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(alone[0], latents[1], rtol=0, atol=tolerance * float(latents.abs().max()))
    pictures = tilted("a cat", **options, generator=seeded())
    assert pictures.shape == (2, 16, 16, 3) and pictures.dtype == np.float32
    plain = pipeline("a cat", **options, generator=[seeded(0), seeded(1)], output_type="latent")
    assert (plain.float() - latents.float()).abs().max() > 1e-2


def test_the_tilt_passes_through_guidance() -> None:
    pipeline = text_pipeline()
    tilted = tilted_pipeline(pipeline, THETA, calibrate=False)
    latents, timestep = torch.randn(2, *LATENT, generator=seeded()), torch.tensor(300)
    given, without = pipeline.encode_prompt("a cat", 2, True)
    retained = float(pipeline.scheduler.alphas_cumprod[300])
    sigma, theta = ((1 - retained) / retained) ** 0.5, torch.tensor(THETA, dtype=torch.float32)

    def guided(network: Any, sample: torch.Tensor) -> torch.Tensor:
        both = network(torch.cat([sample] * 2), timestep, encoder_hidden_states=torch.cat([without, given])).sample
        return both[:2] + 4 * (both[2:] - both[:2])

    with torch.no_grad():
        moved = latents + retained**0.5 * sigma**2 * theta
        truth = guided(pipeline.unet, moved) - sigma * theta
        torch.testing.assert_close(guided(tilted.unet, latents), truth, rtol=1e-4, atol=1e-4)


def test_particles_speak_for_both_sides_of_guidance() -> None:
    pipeline = text_pipeline()
    base = ak.base.from_diffusers(pipeline, **PROMPT, nfe=8)
    draws = base.sample(32, seed=3)
    law = TiltedLaw(base, THETA, particles=ak.base.Empirical(draws), switch=1.0)
    tilted = ak.tilted_pipeline(pipeline, law)
    rows = Rows(pipeline.unet)
    latents = tilted(
        **PROMPT, num_images_per_prompt=3, num_inference_steps=10, generator=seeded(), output_type="latent"
    )
    # Of the ten timesteps three lie below the switch, as they do for the digits' table.
    assert rows.seen == [6] * 3 and bool(torch.isfinite(latents).all())
    nearest = np.linalg.norm(latents.numpy().reshape(3, 1, -1) - draws.reshape(1, 32, -1), axis=2).min(axis=1)
    assert nearest.max() < np.linalg.norm(draws.reshape(32, -1) - draws.reshape(32, -1).mean(axis=0), axis=1).mean()


def with_particles(pipeline: Any, **conditioning: Any) -> Any:
    """A tilted pipeline whose particles were drawn under a condition."""
    base = ak.base.from_diffusers(pipeline, **conditioning)
    particles = ak.base.Empirical(np.random.default_rng(1).normal(size=(32, *LATENT)))
    return ak.tilted_pipeline(pipeline, TiltedLaw(base, THETA, particles=particles, switch=1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_prompt_than_that_of_the_particles_warns_once_a_call(dtype: torch.dtype) -> None:
    tilted = with_particles(text_pipeline(dtype), **PROMPT)
    options: dict[str, Any] = {"num_images_per_prompt": 2, "num_inference_steps": 4, "output_type": "latent"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tilted(**PROMPT, **options)
        tilted("a cat", guidance_scale=1.0, **options)
    for _ in range(2):
        with pytest.warns(CalibrationWarning, match=r"another encoder_hidden_states.*prompt=") as caught:
            tilted("a dog", guidance_scale=4.0, **options)
        assert len(caught) == 1
    unguided = with_particles(text_pipeline(dtype), prompt="a cat")
    with pytest.warns(CalibrationWarning, match="another encoder_hidden_states"):
        unguided(**PROMPT, **options)
    # Without particles the network alone answers, under whatever condition it is told.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tilted_pipeline(text_pipeline(dtype), THETA, calibrate=False)("a dog", **options)


def test_another_label_than_that_of_the_particles_warns() -> None:
    tilted = with_particles(class_pipeline(), class_labels=7, guidance_scale=3.0)
    options: dict[str, Any] = {"guidance_scale": 3.0, "num_inference_steps": 2, "output_type": "np"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        tilted(class_labels=[7, 7], **options)
    with pytest.warns(CalibrationWarning, match="another class_labels"):
        tilted(class_labels=[7, 8], **options)


def test_dit_with_labels_guidance_and_a_tilt_for_each_image() -> None:
    pipeline = class_pipeline()
    law = ak.base.from_diffusers(pipeline, class_labels=7, guidance_scale=3.0, nfe=3)
    assert law.shape == LATENT and law.evaluations_per_denoise == 2
    rows = Rows(pipeline.transformer)
    assert law.decode(law.sample(2, seed=0)).shape == (2, 3, 16, 16)
    assert rows.seen == [2, 4, 2] + [4] * 3
    thetas = np.stack([THETA, -THETA])
    both = tilted_pipeline(pipeline, thetas, calibrate=False)
    options: dict[str, Any] = {"class_labels": [7, 8], "guidance_scale": 3.0, "num_inference_steps": 4}
    rows.seen.clear()
    pictures = both(**options, generator=seeded(), output_type="np").images
    assert pictures.shape == (2, 16, 16, 3) and rows.seen == [4] * 4
    for row, theta in enumerate(thetas):
        alone = tilted_pipeline(pipeline, theta, calibrate=False)(
            **options, generator=seeded(), output_type="np"
        ).images
        np.testing.assert_allclose(alone[row], pictures[row], atol=1e-4)
    plain = pipeline(**options, generator=seeded(), output_type="np").images
    assert np.abs(plain - pictures).max() > 1e-3


def test_what_does_not_fit_is_refused() -> None:
    pipeline = text_pipeline()
    with pytest.raises(ParameterError, match="also needs encoder_hidden_states"):
        tilted_pipeline(pipeline, THETA)
    with pytest.raises(ShapeError, match="draws of TextPipeline"):
        tilted_pipeline(pipeline, np.ones((3, 16, 16)), calibrate=False)
    with pytest.raises(ParameterError, match="also needs class_labels"):
        tilted_pipeline(class_pipeline(), THETA)
