"""The shipped diffusers pipeline of digits, as a user's own model: problems, calibrated tilts, a tilted pipeline."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DPMSolverMultistepScheduler

import alignkit as ak
from alignkit.errors import CalibrationWarning, Status
from alignkit.tilting.annealed import fit_annealed
from alignkit_diffusers import DIGITS
from alignkit_diffusers.train_digits import main
from alignkit_torch.tilt_sampler import TorchTiltSampler
from tests.benchmarks.digits import reweighted

pytestmark = pytest.mark.usefixtures("one_thread")

REFERENCE = 4000
PARTICLES = 256
NFE = 31


@pytest.fixture(scope="module")
def pipeline():
    found = DDPMPipeline.from_pretrained(DIGITS)
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module")
def base(pipeline):
    return ak.base.from_diffusers(pipeline, nfe=NFE, name="digits U-net")


def unit_of(rows):
    unit = np.zeros((1, 8, 8))
    unit[:, rows] = 1.0
    return unit / np.linalg.norm(unit)


class TestFiles:
    def test_they_are_small_and_not_pickled(self):
        files = [file for file in DIGITS.rglob("*") if file.is_file()]
        assert sum(file.stat().st_size for file in files) <= 8_000_000
        assert {file.suffix for file in files} == {".json", ".safetensors"}

    def test_figures_are_those_of_the_weights(self):
        figures = json.loads((DIGITS / "figures.json").read_text())
        network = DDPMPipeline.from_pretrained(DIGITS).unet
        assert figures["parameters"] == sum(parameter.numel() for parameter in network.parameters())

    def test_training_runs_and_learns(self, tmp_path):
        for steps in (1, 16):
            main(["--steps", str(steps), "--output", str(tmp_path / str(steps))])
        before, after = (json.loads((tmp_path / steps / "figures.json").read_text()) for steps in ("1", "16"))
        distances = [figures["distance_to_teacher"]["after phase 2"] for figures in (before, after)]
        assert all(distances[1][level] < distances[0][level] for level in distances[0])
        assert ak.base.from_diffusers(tmp_path / "16").shape == (1, 8, 8)


def test_the_denoiser_is_near_the_teachers(base):
    """Held against `ak.base.digits()` on draws of it, at levels where a digit is decided."""
    teacher = ak.base.digits()
    images = torch.as_tensor(teacher.sample(256, seed=5))
    for sigma in (0.3, 1.0, 3.0):
        levels = torch.full((256,), sigma)
        noisy = images + sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
        wanted, found = teacher.denoise(noisy, levels), base.denoise(noisy[:, None], levels)[:, 0]
        spread = (wanted - images).square().mean().sqrt()
        assert (found - wanted).square().mean().sqrt() < 0.25 * spread


class TestProblems:
    """Those of `alignkit demo`, with fewer particles than `solve` takes."""

    def test_kl(self, base):
        x = ak.Variable(base.shape)
        reward = ak.sum(x[:, :4, :]) - ak.sum(x[:, 4:, :])
        plan = ak.Problem(reward, base, ak.KL(weight=4.0)).compile(backend="torch")
        fitted = fit_annealed(plan.target, TorchTiltSampler().open(plan.request), seed=0, particles=128)
        drawn = fitted.sample(64, seed=1)
        assert drawn.shape == (64, 1, 8, 8) and bool(torch.isfinite(drawn).all())
        before = reward.value(base.sample(64, seed=2))
        after = reward.value(drawn.numpy())
        assert after.mean() > before.mean() + 4 * np.hypot(before.std(), after.std()) / 8

    def test_wasserstein(self, base):
        x = ak.Variable(base.shape)
        problem = ak.Problem(-ak.norm1(x - x[:, :, ::-1]), base, ak.Wasserstein(weight=2.0))
        aligned = problem.solve(seed=0)
        assert aligned.status is Status.SOLVED and aligned.certificate.gap_max <= 1e-6
        before, after = aligned.sample(16, seed=1, return_base=True)
        assert before.shape == after.shape == (16, 1, 8, 8)
        mirrored = [np.abs(rows - rows[..., ::-1]).sum() for rows in (before, after)]
        assert mirrored[1] < 0.1 * mirrored[0]


def test_calibrated_tilts_are_those_of_reweighted_base_draws(pipeline, base):
    """The bar of the main job; and the tilted pipeline agrees with the native sampler."""
    reference = base.sample(REFERENCE, seed=2024).astype(np.float64)
    for rows, strength in ((slice(None), 1.0), (slice(None, 4), 2.0)):
        unit = unit_of(rows)
        scores = (reference * unit).sum(axis=(1, 2, 3))
        truth, truth_error, size = reweighted(scores, strength)
        assert size > 500

        with warnings.catch_warnings():
            # So few particles are worth less than a hundred draws.
            warnings.simplefilter("ignore", CalibrationWarning)
            law = ak.tilt(base, strength * unit, seed=0, particles=PARTICLES)
        certificate = law.certificate
        assert certificate is not None
        drawn = law.sample(512, seed=1).astype(np.float64)
        native = (drawn * unit).sum(axis=(1, 2, 3))
        error = np.hypot(certificate.reward_after.standard_error / strength, native.std() / np.sqrt(native.size))
        assert abs(native.mean() - truth) <= 0.05 * scores.std() + 3 * np.hypot(error, truth_error)

    tilted = ak.tilted_pipeline(pipeline, law)
    tilted.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    images = tilted(
        batch_size=512,
        num_inference_steps=NFE,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    piped = ((2 * images[..., 0][:, None] - 1) * unit).sum(axis=(1, 2, 3))
    # Both start from the same particles, so that what they differ in is the noise of the draws.
    assert abs(piped.mean() - native.mean()) <= 3 * np.hypot(piped.std(), native.std()) / np.sqrt(512)
    assert piped.mean() - scores.mean() > 6 * np.hypot(piped.std() / np.sqrt(512), scores.std() / np.sqrt(REFERENCE))
