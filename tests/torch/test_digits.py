"""The shipped digits model: its files, its denoiser, its draws and the script that trains it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from alignkit_torch.digits import SHAPE, SIGMA_MAX, SIGMA_MIN, DenoiseDigits, digits, load_denoiser
from alignkit_torch.digits_data import load_digits
from alignkit_torch.digits_figures import self_consistency
from alignkit_torch.train_digits import draw, main

pytestmark = pytest.mark.usefixtures("one_thread")

WEIGHTS = Path(str(resources.files("alignkit_torch"))) / "weights" / "digits.safetensors"
DRAWS = 400


@pytest.fixture(scope="module")
def denoise():
    return DenoiseDigits(load_denoiser())


@pytest.fixture(scope="module")
def data():
    return load_digits()


@pytest.fixture(scope="module")
def draws(denoise, data):
    return draw(denoise, data.train.mean(0), DRAWS, seed=3)


def levels(n, sigma):
    return torch.full((n,), float(sigma))


class TestFiles:
    def test_weights_are_small_and_come_with_figures(self):
        assert WEIGHTS.stat().st_size <= 5_000_000
        figures = json.loads(WEIGHTS.with_suffix(".json").read_text())
        assert figures["multiply_adds_per_row"] <= 1_000_000
        assert figures["held_out_loss"]["settled"] < figures["held_out_loss"]["gaussian"]

    def test_weights_are_not_ignored_by_git(self):
        # Ignored files silently stay out of wheels.
        for path in (WEIGHTS, WEIGHTS.with_suffix(".json")):
            asked = subprocess.run(
                ["git", "check-ignore", "--quiet", path.name], cwd=path.parent, check=False, capture_output=True
            )
            # 1 is "not ignored", 128 "no checkout", as in an unpacked source distribution.
            assert asked.returncode in {1, 128}


class TestDenoiser:
    @pytest.mark.parametrize("n", [0, 1, 2, 37])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
    def test_shape_and_dtype_are_kept(self, denoise, n, dtype):
        x = torch.zeros(n, *SHAPE, dtype=dtype)
        denoised = denoise(x, torch.ones(n, dtype=dtype))
        assert denoised.shape == x.shape
        assert denoised.dtype == dtype
        assert not denoised.requires_grad

    def test_float64_input_runs_the_float32_network(self, denoise):
        x = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0))
        assert torch.equal(denoise(x.double(), levels(5, 1).double()).float(), denoise(x, levels(5, 1)))

    def test_rows_do_not_depend_on_their_batch(self, denoise):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(64, *SHAPE, generator=generator)
        sigma = torch.rand(64, generator=generator) + 0.01
        torch.testing.assert_close(denoise(x, sigma)[10:20], denoise(x[10:20], sigma[10:20]), atol=1e-5, rtol=1e-5)

    def test_one_level_for_all_rows_equals_a_level_per_row(self, denoise):
        x = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(
            denoise(x, torch.tensor(0.7).expand(6)), denoise(x, levels(6, 0.7)), atol=1e-5, rtol=1e-5
        )

    @pytest.mark.parametrize("sigma", np.geomspace(SIGMA_MIN, SIGMA_MAX, 9))
    def test_finite_and_moderate_at_every_level_and_tilt(self, denoise, data, sigma):
        generator = torch.Generator().manual_seed(0)
        clean = data.held_out
        noise = torch.randn(clean.shape, generator=generator)
        theta = torch.randn(clean.shape, generator=generator)
        theta *= 4 / theta.flatten(1).norm(dim=1)[:, None, None]
        for shift in (torch.zeros_like(theta), theta):
            denoised = denoise(clean + sigma * noise + sigma**2 * shift, levels(len(clean), sigma))
            assert torch.isfinite(denoised).all()
            assert denoised.abs().max() < 3

    def test_nothing_to_remove_at_low_noise(self, denoise, data):
        denoised = denoise(data.held_out, levels(len(data.held_out), SIGMA_MIN))
        assert (denoised - data.held_out).abs().max() < 0.02

    def test_nothing_left_but_the_mean_at_high_noise(self, denoise, data):
        noise = torch.randn(len(data.held_out), *SHAPE, generator=torch.Generator().manual_seed(0))
        denoised = denoise(data.held_out + SIGMA_MAX * noise, levels(len(noise), SIGMA_MAX))
        # The Gaussian denoiser still moves by about (largest variance)/σ, here 2.8/80, whatever the noise is.
        assert (denoised - data.train.mean(0)).abs().max() < 0.1
        assert (denoised.mean(0) - data.train.mean(0)).abs().max() < 0.02

    def test_better_than_the_gaussian_denoiser_on_held_out_digits(self, denoise, data):
        sigma = levels(len(data.held_out), 0.7)
        noisy = data.held_out + 0.7 * torch.randn(data.held_out.shape, generator=torch.Generator().manual_seed(0))
        pixels = data.train.flatten(1)
        mean, covariance = pixels.mean(0), torch.cov(pixels.T)
        gain = torch.linalg.solve(covariance + 0.49 * torch.eye(64), covariance)
        gaussian = (mean + (noisy.flatten(1) - mean) @ gain).reshape(noisy.shape)
        ours, theirs = ((guess - data.held_out).square().mean() for guess in (denoise(noisy, sigma), gaussian))
        assert ours < 0.8 * theirs


class TestDraws:
    def test_pixel_means_are_those_of_held_out_digits(self, draws, data):
        difference = draws.mean(0) - data.held_out.mean(0)
        # A learned law may be off by 0.06 (pixels have standard deviations up to 0.8) beside chance on both sides.
        error = (draws.var(0) / len(draws) + data.held_out.var(0) / len(data.held_out)).sqrt()
        assert (difference.abs() < 0.06 + 4 * error).all()

    def test_values_stay_in_range(self, draws):
        assert draws.abs().max() < 1.5
        assert (draws.abs() > 1.1).float().mean() < 0.01

    def test_every_digit_has_its_share(self, draws, data):
        classifier = LogisticRegression(C=0.1, max_iter=500).fit(data.train.flatten(1), data.train_labels)
        verdicts = classifier.predict_proba(draws.flatten(1))
        shares = np.bincount(verdicts.argmax(1), minlength=10) / len(draws)
        # A tenth each, give or take 0.015 by chance in 400 draws.
        assert shares.min() > 0.04
        assert shares.max() < 0.17
        confidence = classifier.predict_proba(data.held_out.flatten(1)).max(1).mean()
        assert verdicts.max(1).mean() > confidence - 0.08

    def test_draws_are_not_training_digits(self, draws, data):
        nearest, fresh = (
            torch.cdist(images.flatten(1), data.train.flatten(1)).amin(1) for images in (draws, data.held_out)
        )
        assert nearest.median() > 0.7 * fresh.median()
        assert nearest.quantile(0.05) > 0.6 * fresh.quantile(0.05)

    def test_renoising_leaves_the_law_and_its_tilts_alone(self, denoise, draws):
        for row in self_consistency(denoise, draws, strengths=[2.0], levels=[1.0]):
            assert abs(row["mean_change_sd"]) < 0.03 + 4 * row["standard_error"]
            assert abs(row["sd_ratio"] - 1) < 0.15


def test_base_law_is_declared_as_it_is():
    law = digits()
    assert law.shape == SHAPE
    assert (law.sigma_min, law.sigma_max) == (SIGMA_MIN, SIGMA_MAX)


def test_training_is_deterministic(tmp_path, capsys):
    digests = []
    for name in ("one", "two"):
        main(["--steps", "20", "--seed", "5", "--output", str(tmp_path / f"{name}.safetensors")])
        digests.append(hashlib.sha256((tmp_path / f"{name}.safetensors").read_bytes()).hexdigest())
        assert json.loads((tmp_path / f"{name}.json").read_text())["steps"] == 20
    assert digests[0] == digests[1]
    load_denoiser((tmp_path / "one.safetensors").read_bytes())
