"""Base laws of diffusers' pre-trained models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from alignkit.base import Denoiser
from alignkit.base.law import Tail
from alignkit.errors import AlignkitError, NonFiniteError, ParameterError, ShapeError
from alignkit.noise import normal
from alignkit_diffusers.conditioning import ConditionedNetwork, conditioned
from alignkit_diffusers.latents import LinearisedDecoder, pictures_of
from alignkit_diffusers.loading import Parts, parts_of
from alignkit_diffusers.network_denoiser import NetworkDenoiser, called_on
from alignkit_diffusers.networks import config_of, original_module, own_shape
from alignkit_diffusers.parametrisation import Parametrisation
from alignkit_diffusers.row_memory import LivingOutputs
from alignkit_diffusers.schedulers import data_range_of, parametrisation_of

__all__ = ["DiffusersLaw", "from_diffusers"]

# Pictures in [−1, 1] and latents of unit variance are drowned here to 4·10⁻⁵ of the variance, where the usual linear
# table ends (157). Cosine tables and those rescaled to no signal go on to 2·10⁴: of 31 evaluations so many are lost
# there that draws of the benchmarks' mixture were 1.25 to 1.3 times as far as exact ones in sliced W2, and 1.05 from
# here.
_WIDEST = 160.0


class DiffusersLaw(Denoiser):
    """The base law of a model of diffusers; made by `from_diffusers`.

    Attributes:
        network: the user's own denoising network, unchanged.
        scheduler: the user's own scheduler, unchanged.
        pipeline: the pipeline they are from, or None.
        parametrisation: what the network is given, told and predicts.
        answer: the network with its prompt or label settled.
    """

    network: Any
    scheduler: Any
    pipeline: Any
    parametrisation: Parametrisation
    answer: ConditionedNetwork

    def decode(self, latents: Any) -> Any:
        """Pictures (n, C, H, W) in [−1, 1] of a latent model's draws (n, c, h, w); see `LatentPictures.decode`."""
        return pictures_of(self.pipeline).decode(latents)

    def encode(self, pictures: Any) -> Any:
        """A latent model's mean latents (n, c, h, w) of pictures (n, C, H, W); see `LatentPictures.encode`."""
        return pictures_of(self.pipeline).encode(pictures)

    def linearised_decoder(self, at: Any) -> LinearisedDecoder:
        """The tangent of a latent model's decoder at one latent; see `LatentPictures.linearised`."""
        return pictures_of(self.pipeline).linearised(at)


def from_diffusers(
    model: Any,
    scheduler: Any = None,
    *,
    shape: Sequence[int] | None = None,
    prompt: str | None = None,
    class_labels: int | Sequence[int] | None = None,
    conditioning: Mapping[str, Any] | None = None,
    unconditional: Mapping[str, Any] | str | None = None,
    guidance_scale: float | None = None,
    exact: bool = False,
    tail: Tail = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    dtype: Literal["float32", "float64"] = "float32",
    solver: str | None = None,
    nfe: int | None = None,
    row_bytes: int | None = None,
    device: Any = None,
    name: str | None = None,
) -> DiffusersLaw:
    """The base law of a pre-trained model of diffusers; see `ak.base.from_diffusers`."""
    parts = parts_of(model, scheduler)
    parametrisation = parametrisation_of(parts.scheduler)
    draw_shape = _shape(parts, shape)
    answer = conditioned(
        parts.network,
        pipeline=parts.pipeline,
        prompt=prompt,
        conditioning=conditioning,
        unconditional=unconditional,
        class_labels=class_labels,
        guidance_scale=guidance_scale,
    )
    looked_up = config_of(parts.network).get("time_embedding_type") == "learned"
    denoise = NetworkDenoiser(answer, parametrisation, called_on(device), whole_timesteps=looked_up)
    data_range = data_range_of(parts.scheduler)
    low, high = _levels(parametrisation, sigma_min, sigma_max)
    law = DiffusersLaw(
        denoise,
        draw_shape,
        sigma_min=low,
        sigma_max=high,
        exact=exact,
        tail="bounded" if tail is None and data_range is not None else tail,
        data_range=data_range,
        dtype=dtype,
        solver=solver,
        nfe=nfe,
        row_bytes=row_bytes,
        evaluations_per_denoise=answer.evaluations_per_denoise,
        name=parts.name if name is None else name,
    )
    law.network, law.scheduler, law.pipeline = parts.network, parts.scheduler, parts.pipeline
    law.parametrisation, law.answer = parametrisation, answer
    # A compiled network would be compiled once more to be watched.
    plain = replace(denoise, answer=replace(answer, network=original_module(answer.network)))
    measured = _tried(plain, law)
    law.row_bytes = measured if law.row_bytes is None else law.row_bytes
    return law


def _levels(parametrisation: Parametrisation, low: float | None, high: float | None) -> tuple[float, float]:
    """The noise levels that draws go through, by default and within the scheduler's own."""
    known = parametrisation.sigma_min, parametrisation.sigma_max
    for level in (low, high):
        if level is not None and not known[0] <= level <= known[1]:
            raise ParameterError(
                f"The network was trained at noise levels from {known[0]:.4g} to {known[1]:.4g}, not at {level!r}.",
                ways_out=["Leave sigma_min and sigma_max out."],
            )
    return known[0] if low is None else float(low), min(known[1], _WIDEST) if high is None else float(high)


def _shape(parts: Parts, given: Sequence[int] | None) -> tuple[int, ...]:
    """The shape of a draw, by the network's own account where the user gives none."""
    config = config_of(parts.network)
    channels, outputs = config.get("in_channels"), config.get("out_channels")
    known = own_shape(parts.network)
    if channels is not None and outputs not in {None, channels, 2 * channels}:
        raise ParameterError(
            f"{parts.name} takes {channels} channels and answers with {outputs}: it is told of more than the sample.",
            ways_out=["Wrap it in a callable (sample, timestep) that adds what it is told, and pass shape=."],
        )
    if given is not None:
        shape = tuple(given) if isinstance(given, Sequence) else (given,)
        if not shape or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
            raise ParameterError(f"shape must be a tuple of positive integers, not {given!r}.")
        if known is not None and (len(shape) != len(known) or shape[0] != known[0]):
            raise ShapeError(
                f"shape is {shape}, but draws of {parts.name} have {len(known)} axes, "
                f"the first its {channels} channels.",
                ways_out=["Leave shape out: the network says it itself."],
            )
        return shape
    if known is None:
        raise ParameterError(
            f"{parts.name} does not say the shape of its samples.",
            ways_out=["Pass shape=, that of one sample without the batch, as (3, 32, 32)."],
        )
    return known


def _tried(denoise: NetworkDenoiser, law: DiffusersLaw) -> int | None:
    """Denoise one row of noise, so that what does not fit is found out at once.

    Returns:
        what a row takes in memory, in bytes, where it could be seen.
    """
    level = min(law.sigma_max, 1.0)
    like = torch.empty(0, dtype=getattr(torch, law.dtype))
    row = normal(0, 1, law.ambient, like=like).reshape(1, *law.shape)
    living = LivingOutputs()
    try:
        with living.watching(original_module(law.network)):
            found = denoise(math.sqrt(1 + level**2) * row, row.new_full((1,), level))
    except (AlignkitError, torch.OutOfMemoryError):
        raise
    # Whatever a network raises on what it cannot take.
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ShapeError(
            f"The network of {law.name!r} failed on a sample of shape {(1, *law.shape)}: {error}",
            ways_out=["Pass shape= as the network expects it, without the batch.", "Call the network once yourself."],
        ) from error
    if not bool(torch.isfinite(found).all()):
        raise NonFiniteError(
            f"The network of {law.name!r} gave NaN or infinite values at σ = {level:g}, on noise of that scale.",
            ways_out=["Check its weights.", "Keep it in a wider dtype: float32, or bfloat16 in place of float16."],
        )
    return living.row_bytes
