"""Latent models: pictures from latents and back, through the pipeline's own autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

import alignkit as ak
from alignkit.errors import NonFiniteError, ParameterError, ShapeError
from alignkit_diffusers.networks import config_of

__all__ = ["LatentPictures", "LinearisedDecoder", "pictures_of"]

Floats = NDArray[np.float64]

#: Rows through the autoencoder at once: at full resolution it takes more memory for a row than the denoiser does.
ROWS = 8

_COMPONENTS = ("vae", "vqvae")


def pictures_of(pipeline: Any) -> LatentPictures:
    """The autoencoder of a latent pipeline.

    Raises:
        ParameterError: the pipeline has none.
    """
    for name in _COMPONENTS:
        autoencoder = getattr(pipeline, name, None)
        if autoencoder is not None:
            return LatentPictures(autoencoder)
    what = "A network without a pipeline" if pipeline is None else type(pipeline).__name__
    raise ParameterError(
        f"{what} has no autoencoder: its draws are no latents.",
        ways_out=["Draws of such a law are the pictures themselves.", "Pass the pipeline that has the `vae`."],
    )


@dataclass(frozen=True, eq=False)
class LatentPictures:
    """Pictures from latents and back, in the units that the denoiser was trained on.

    The denoiser's latents are (z − shift)·scale, z those of the autoencoder; shift and scale are its `shift_factor` and
    `scaling_factor`, for each channel where it has `latents_mean` and `latents_std`.

    Arguments:
        autoencoder: an `AutoencoderKL`, `AutoencoderTiny`, `VQModel`, or another with `encode` and `decode`.
    """

    autoencoder: Any

    def decode(self, latents: Any, *, rows: int = ROWS) -> Any:
        """Pictures in [−1, 1].

        Arguments:
            latents: (n, c, h, w), numpy or torch, as the base law's draws are.
            rows: how many go through the autoencoder at once.

        Returns:
            (n, C, H, W), of the kind of latents: float32 numpy, or torch of their dtype and device.

        Raises:
            ShapeError: latents of another number of axes or channels.
            NonFiniteError: a NaN or an infinity in the pictures, as some autoencoders give in half precision.
        """
        self._check_axes(latents, "latents", config_of(self.autoencoder).get("latent_channels"))
        return self._by_rows(lambda part: self._decoded(part).clamp(-1, 1), latents, rows)

    def encode(self, pictures: Any, *, rows: int = ROWS) -> Any:
        """The mean latents of pictures, as the denoiser knows them.

        Arguments:
            pictures: (n, C, H, W) in [−1, 1], numpy or torch.
            rows: how many go through the autoencoder at once.

        Returns:
            (n, c, h, w), of the kind of pictures.

        Raises:
            ShapeError: pictures of another number of axes or channels.
            NonFiniteError: a NaN or an infinity in the latents.
        """
        self._check_axes(pictures, "pictures", config_of(self.autoencoder).get("in_channels"))
        return self._by_rows(self._encoded, pictures, rows)

    def linearised(self, at: Any) -> LinearisedDecoder:
        """The decoder's tangent at one latent, for rewards of pixels.

        Arguments:
            at: (c, h, w) or (1, c, h, w), numpy or torch: draws for which the tangent serves are close to it.

        Returns:
            pixels ≈ offset + J·latents, matrix-free.

        Raises:
            ParameterError: the autoencoder quantises latents, so that its tangent is zero.
        """
        if hasattr(self.autoencoder, "quantize"):
            raise ParameterError(
                f"{type(self.autoencoder).__name__} rounds latents to a codebook: its decoder has no tangent.",
                ways_out=["State the reward in terms of the latents."],
            )
        point = torch.as_tensor(at, dtype=torch.float32, device=self._device).detach()
        point = point[None] if point.ndim == 3 else point
        self._check_axes(point, "the latents to linearise at", config_of(self.autoencoder).get("latent_channels"))
        if point.shape[0] != 1:
            raise ShapeError(f"The decoder is linearised at one latent, not at {point.shape[0]}.")
        return LinearisedDecoder(_Decoding(self), point)

    def _decoded(self, latents: Tensor) -> Tensor:
        scale, shift = self._scales(latents)
        found = self.autoencoder.decode(latents / scale + shift)
        return _first(found, "sample")

    def _encoded(self, pictures: Tensor) -> Tensor:
        found = self.autoencoder.encode(pictures)
        posterior = getattr(found, "latent_dist", None)
        latents = _first(found, "latents") if posterior is None else posterior.mode()
        scale, shift = self._scales(latents)
        return (latents - shift) * scale

    def _scales(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift, numbers or one for each channel, beside latents (n, c, h, w)."""
        config = config_of(self.autoencoder)
        factor = float(config.get("scaling_factor") or 1.0)
        if config.get("latents_mean") is None or config.get("latents_std") is None:
            return like.new_tensor(factor), like.new_tensor(float(config.get("shift_factor") or 0.0))
        mean, spread = (like.new_tensor(config[name]).reshape(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
        return factor / spread, mean

    @property
    def _device(self) -> torch.device:
        return self._weight.device

    @property
    def _dtype(self) -> torch.dtype:
        return self._weight.dtype

    @property
    def _weight(self) -> Tensor:
        weight: Tensor = next(self.autoencoder.parameters())
        return weight

    def _by_rows(self, function: Callable[[Tensor], Tensor], values: Any, rows: int) -> Any:
        if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
            raise ParameterError(f"rows must be a positive integer, not {rows!r}.")
        given = torch.as_tensor(values)
        # numpy's draws come in double precision from float64 laws; pictures need no more than single.
        dtype = given.dtype if isinstance(values, Tensor) else torch.float32
        with torch.no_grad():
            parts = [
                function(part.to(device=self._device, dtype=self._dtype)).to(device=given.device, dtype=dtype)
                for part in given.split(rows)
            ]
        found = torch.cat(parts)
        if not bool(torch.isfinite(found).all()):
            raise NonFiniteError(
                f"{type(self.autoencoder).__name__} answered with a NaN or an infinity, in {self._dtype}.",
                ways_out=["Keep it in single precision: pipeline.vae.to(torch.float32).", "Check the values given."],
            )
        return found if isinstance(values, Tensor) else found.numpy()

    @staticmethod
    def _check_axes(values: Any, what: str, channels: int | None) -> None:
        shape = tuple(values.shape)
        if len(shape) != 4 or shape[0] < 1 or (channels is not None and shape[1] != channels):
            expected = f"(n, {channels or 'channels'}, height, width)"
            raise ShapeError(f"{what} must be {expected}, not {shape}.")


class LinearisedDecoder:
    """The tangent of a decoder at one latent: pixels ≈ decode(at) + J·(latents − at), J never formed.

    Products with J and its transpose are one pass forwards, or one forwards and one back, through the decoder
    (`torch.func.jvp` and `vjp`). Pixels are not clipped to [−1, 1], as pictures are.

    Attributes:
        shape: that of a picture, (C, H, W).
        latent_shape: that of a latent, (c, h, w).
        offset: decode(at) − J·at, of shape (C, H, W), float64.

    Example:
        `ak.mean(law.linearised_decoder(at).pixels(x)[:, :32])` is the brightness of the upper half, as an expression.
    """

    def __init__(self, decoding: _Decoding, at: Tensor) -> None:
        self._decoding, self._at = decoding, at
        with torch.no_grad():
            value = decoding.at_full_precision(at)
        self.shape: tuple[int, ...] = tuple(value.shape[1:])
        self.latent_shape: tuple[int, ...] = tuple(at.shape[1:])
        moved = self.forward(at.detach().cpu().numpy().reshape(-1))
        self.offset: Floats = value[0].double().cpu().numpy() - moved.reshape(self.shape)

    def forward(self, latents: Any) -> Floats:
        """J·latents, flattened, for one latent of any shape with the right number of entries; float64 numpy."""
        direction = self._like(latents, self._at)
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            found: Tensor = jvp(self._decoding.at_full_precision, (self._at,), (direction,))[1]
        return _flat(found)

    def adjoint(self, pixels: Any) -> Floats:
        """Jᵀ·pixels, flattened, for one picture of any shape with the right number of entries; float64 numpy."""
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            value, pull = vjp(self._decoding.at_full_precision, self._at)[:2]
            (found,) = pull(self._like(pixels, value))
        return _flat(found)

    @property
    def operator(self) -> tuple[Callable[[Any], Floats], Callable[[Any], Floats], tuple[int, ...]]:
        """What `ak.linear_map` takes."""
        return self.forward, self.adjoint, self.shape

    def pixels(self, x: Any) -> Any:
        """The pixels as an affine expression of the latents.

        Arguments:
            x: the problem's variable, of the latents' shape.

        Returns:
            an expression of shape (C, H, W).
        """
        return ak.linear_map(self.operator, x) + self.offset

    @staticmethod
    def _like(values: Any, like: Tensor) -> Tensor:
        return torch.as_tensor(np.asarray(values), dtype=like.dtype).reshape(like.shape).to(like.device)


class _Decoding(nn.Module):
    """`decode` as a module's `forward`, which can be called with other parameters than its own."""

    def __init__(self, pictures: LatentPictures) -> None:
        super().__init__()
        self.autoencoder = pictures.autoencoder
        self._pictures = pictures

    def forward(self, latents: Tensor) -> Tensor:
        return self._pictures._decoded(latents)

    def at_full_precision(self, latents: Tensor) -> Tensor:
        """In float32, whatever the autoencoder is kept in: a derivative and its adjoint must agree to 1e-5."""
        held: Mapping[str, Tensor] = {
            name: value.detach().float() if value.is_floating_point() else value
            for name, value in self.state_dict(keep_vars=True).items()
        }
        found: Tensor = functional_call(self, dict(held), (latents,))
        return found


def _first(output: Any, name: str) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else getattr(output, name)
    return found


def _flat(values: Tensor) -> Floats:
    return values.detach().double().cpu().numpy().reshape(-1)
