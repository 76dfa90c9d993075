"""Pictures from latents, and the tangent of a decoder, against autoencoders called by hand and linear ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, VQModel
from torch import Tensor, nn

import alignkit as ak
from alignkit.errors import NonFiniteError, ParameterError, ShapeError
from alignkit_diffusers.latents import LatentPictures, pictures_of
from tests.diffusers.small_networks import autoencoder

LATENT = (4, 6, 4)


class Linear(nn.Module):
    """An autoencoder whose decoder is a matrix, in float32."""

    config = {"latent_channels": 4, "in_channels": 1, "scaling_factor": 0.5, "shift_factor": 0.25}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        matrix = np.random.default_rng(0).normal(size=(4 * 4, 4 * 4)) / 8
        self.matrix = nn.Parameter(torch.tensor(matrix, dtype=torch.float32))

    def decode(self, latents: Tensor) -> Any:
        flat = latents.reshape(len(latents), -1) @ self.matrix.T
        return SimpleNamespace(sample=flat.reshape(len(latents), 1, 4, 4))


def normal(*shape: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scaling_factor": 1.5, "shift_factor": 0.06},
        {"latents_mean": (0.1, 0.2, 0.3, 0.4), "latents_std": (1.0, 2.0, 0.5, 0.25), "scaling_factor": 0.9},
    ],
)
def test_decoding_and_encoding_are_the_autoencoders_own_in_the_denoisers_units(options: dict[str, Any]) -> None:
    held = autoencoder(**options)
    pictures, latents = LatentPictures(held), normal(5, *LATENT)
    given = torch.tensor(latents, dtype=torch.float32)
    scale = torch.tensor(options.get("scaling_factor", 0.18215)) / torch.tensor(options.get("latents_std", (1.0,)))
    shift = torch.tensor(options.get("latents_mean", (options.get("shift_factor", 0.0),)))
    scale, shift = scale.reshape(1, -1, 1, 1), shift.reshape(1, -1, 1, 1)
    decoded = held.decode(given / scale + shift).sample.clamp(-1, 1)
    found = pictures.decode(latents, rows=2)
    assert found.dtype == np.float32 and found.shape == (5, 3, 12, 8)
    np.testing.assert_allclose(found, decoded.numpy(), atol=1e-5)
    encoded = (held.encode(decoded).latent_dist.mean - shift) * scale
    np.testing.assert_allclose(pictures.encode(found, rows=3), encoded.numpy(), atol=1e-5)


def test_results_are_of_the_kind_given() -> None:
    pictures, latents = LatentPictures(autoencoder()), torch.tensor(normal(2, *LATENT))
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        found = pictures.decode(latents.to(dtype))
        assert isinstance(found, Tensor) and found.dtype == dtype and not found.requires_grad
        assert pictures.encode(found).dtype == dtype
    half = LatentPictures(autoencoder().to(torch.bfloat16))
    assert half.decode(latents.numpy()).dtype == np.float32


def test_other_autoencoders() -> None:
    quantised = VQModel(block_out_channels=(8,), norm_num_groups=4, num_vq_embeddings=16).eval()
    pictures = pictures_of(SimpleNamespace(vqvae=quantised))
    assert pictures.decode(normal(2, 3, 4, 4)).shape == pictures.encode(normal(2, 3, 4, 4)).shape == (2, 3, 4, 4)
    with pytest.raises(ParameterError, match="codebook"):
        pictures.linearised(normal(3, 4, 4))
    small = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).eval()
    assert LatentPictures(small).encode(LatentPictures(small).decode(normal(1, 4, 4, 4))).shape == (1, 4, 4, 4)


@torch.no_grad()
def test_the_linearised_decoder_is_the_decoders_tangent() -> None:
    held = autoencoder().double()
    pictures, at, direction = LatentPictures(held), normal(*LATENT), normal(*LATENT, seed=2)
    decode = [held.decode(torch.tensor(at + step * direction)[None] / 0.18215).sample[0] for step in (-1e-4, 0, 1e-4)]
    slope = ((decode[2] - decode[0]) / 2e-4).numpy()
    tangent = pictures.linearised(at)
    assert (tangent.shape, tangent.latent_shape) == ((3, 12, 8), LATENT)
    pixels = tangent.pixels(ak.Variable(LATENT))
    scale = np.abs(slope).max()
    np.testing.assert_allclose(pixels.value(at), decode[1].numpy(), atol=1e-5)
    np.testing.assert_allclose(pixels.value(at + direction) - pixels.value(at), slope, atol=1e-4 * scale)
    # ⟨Ju, v⟩ = ⟨u, Jᵀv⟩ is also what ak.linear_map has checked.
    back = normal(*tangent.shape, seed=3)
    assert np.sum(slope * back) == pytest.approx(np.sum(direction.ravel() * tangent.adjoint(back)), rel=1e-3)


def test_a_decoder_in_half_precision_is_linearised_in_single() -> None:
    at, direction = normal(*LATENT), normal(*LATENT, seed=2)
    half = autoencoder().to(torch.bfloat16)
    # The same weights, rounded once and kept in single precision.
    single = autoencoder().to(torch.bfloat16).float()
    ours, theirs = (LatentPictures(held).linearised(at) for held in (half, single))
    np.testing.assert_allclose(ours.forward(direction), theirs.forward(direction), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.offset, theirs.offset, rtol=1e-4, atol=1e-5)
    assert all(parameter.dtype == torch.bfloat16 for parameter in half.parameters())


def test_a_reward_of_pixels_moves_a_gaussian_of_latents_as_it_must() -> None:
    linear = Linear()
    tangent = LatentPictures(linear).linearised(np.zeros((4, 2, 2)))
    matrix = linear.matrix.detach().double().numpy() / 0.5
    np.testing.assert_allclose(tangent.offset.ravel(), matrix @ np.full(16, 0.125), atol=1e-6)
    weights = normal(1, 4, 4, seed=5)
    x = ak.Variable((4, 2, 2))
    reward = ak.inner(weights, tangent.pixels(x))
    aligned = ak.Problem(reward, ak.base.Gaussian(np.zeros((4, 2, 2)), 1.0), ak.KL(weight=1.0)).solve(seed=0)
    theta = matrix.T @ weights.ravel()
    assert float(aligned.log_partition) == pytest.approx(
        theta @ theta / 2 + weights.ravel() @ tangent.offset.ravel(), abs=1e-4
    )
    draws = aligned.sample(4000, seed=1).reshape(4000, -1)
    assert np.abs(draws.mean(axis=0) - theta).max() <= 4 / np.sqrt(4000)


def test_what_does_not_fit_is_refused() -> None:
    pictures = LatentPictures(autoencoder())
    for wrong in (normal(*LATENT), normal(2, 3, 6, 4), normal(0, *LATENT)):
        with pytest.raises(ShapeError, match="latents must be"):
            pictures.decode(wrong)
    with pytest.raises(ShapeError, match="pictures must be"):
        pictures.encode(normal(2, 4, 6, 4))
    with pytest.raises(ShapeError, match="one latent"):
        pictures.linearised(normal(2, *LATENT))
    with pytest.raises(ParameterError, match="rows"):
        pictures.decode(normal(2, *LATENT), rows=0)
    with pytest.raises(NonFiniteError, match="AutoencoderKL"):
        pictures.decode(np.full((1, *LATENT), np.nan))
    for pipeline in (None, SimpleNamespace(unet=None)):
        with pytest.raises(ParameterError, match="no autoencoder"):
            pictures_of(pipeline)
