"""Pipelines of diffusers that sample a tilted law with their own call, generator, scheduler and callbacks."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

import alignkit as ak
from alignkit.base.law import BaseLaw, finite_array
from alignkit.errors import ParameterError, ShapeError
from alignkit_diffusers.fitted_condition import FittedCondition
from alignkit_diffusers.law import from_diffusers
from alignkit_diffusers.loading import Parts, parts_of
from alignkit_diffusers.networks import original_module, own_shape
from alignkit_diffusers.schedulers import parametrisation_of
from alignkit_diffusers.tilted_network import Tilt, drop_in, not_saved

__all__ = ["tilted_pipeline"]


def tilted_pipeline(
    pipeline: Any,
    theta: ArrayLike | BaseLaw,
    *,
    seed: int = 0,
    calibrate: bool = True,
    particles: int | None = None,
    exact: bool = False,
    **conditioning: Any,
) -> Any:
    """A pipeline of the same class that samples q_θ ∝ p·exp⟨θ, x⟩, p being what the given pipeline samples.

    Its denoising network is replaced by one that answers as the tilted law's would, in the network's own prediction
    type: D(x + σ²θ, σ) (design.md, section 4), and, for networks that are trained and not exact, the posterior mean
    over draws of q_θ at noise levels where the network has not seen inputs moved that far; see `ak.tilt`. All else is
    shared with the given pipeline, which is unchanged: moving, casting or fine-tuning one does so to both. Give it
    another scheduler as one does with any pipeline; each of its rows costs the network what it always did.

    A pipeline's own guidance needs no telling, since u + g(c − u) passes the tilt through; `guidance_rescale`, which
    rescales outputs by their own spread, does not, and is best left at 0.

    The pipeline's own start from N(0, σ_max²I) is that of x₀ + σ_max·z only where σ_max is large beside x: with m the
    mean of q_θ, a stochastic scheduler then samples q of θ − m/σ_max², and a deterministic one is off by
    m·sd/σ_max in the mean.

    Arguments:
        pipeline: a pipeline of diffusers with one denoising network, `unet` or `transformer`.
        theta: θ in units of 1/x, of the shape of a draw, latents for latent pipelines; or an `ak.tilt(...)` law made
            with `from_diffusers(pipeline)`, whose particles are then used. With `calibrate=False` or `exact=True` also
            (n, *shape), a tilt for each image of a batch.
        seed: fixes the draws that the calibration needs.
        calibrate: draw from q_θ once with the native sampler, for trained networks; False moves inputs at every noise
            level, which only an exact network takes.
        particles: how many draws the calibration carries; see `ak.tilt`.
        exact: promises that the network is the exact posterior mean, so that nothing needs calibration.
        conditioning: options of `from_diffusers` for the calibration, such as `prompt` and `guidance_scale`; call the
            pipeline with the same, since it warns under another. diffusers leaves guidance off at 1 and below.

    Returns:
        the pipeline.

    Raises:
        ParameterError: no pipeline, one whose scheduler or network cannot be mapped, or options that contradict.
        ShapeError: θ is not of a draw's shape.
        NonFiniteError: θ holds a NaN; when the pipeline is called, a network's output is not finite.

    Warns:
        CalibrationWarning: as for `ak.tilt`; or the pipeline is called under another condition than was calibrated.

    Example:
        >>> tilted = ak.tilted_pipeline(pipeline, 2 * direction, seed=0)  # doctest: +SKIP
        >>> tilted(batch_size=16, num_inference_steps=50, generator=torch.manual_seed(0)).images  # doctest: +SKIP
    """
    if isinstance(pipeline, BaseLaw):
        raise ParameterError(
            f"tilted_pipeline takes a pipeline of diffusers, not the base law {pipeline.name!r}.",
            ways_out=["Pass base.pipeline, which it was made of.", "ak.tilt(base, theta) tilts the law itself."],
        )
    parts = parts_of(pipeline)
    if parts.pipeline is None:
        raise ParameterError(
            f"tilted_pipeline takes a pipeline of diffusers, not {parts.name}.",
            ways_out=[
                "Make one: DDPMPipeline(unet, scheduler).",
                "ak.tilt(base, theta) is a denoiser for other loops.",
            ],
        )
    parametrisation_of(parts.scheduler)
    if isinstance(theta, BaseLaw):
        _refuse(conditioning, "the law was tilted with options of its own")
        tilt = _tilt_of(theta, parts)
    elif calibrate and not exact:
        base = from_diffusers(parts.pipeline, **conditioning)
        tilt = _tilt_of(ak.tilt(base, _numbers(theta), seed=seed, particles=particles), parts)
    else:
        _refuse(conditioning, "they serve the calibration alone, and there is none")
        tilt = Tilt(torch.tensor(_shaped(_numbers(theta), parts)), exact=exact)
    return _with_network(parts, tilt)


def _with_network(parts: Parts, tilt: Tilt) -> Any:
    """A shallow copy of a pipeline with the drop-in network in place of its own."""
    pipeline = parts.pipeline
    tilted = copy.copy(pipeline)
    place = next(name for name, part in pipeline.components.items() if part is parts.network)
    setattr(tilted, place, drop_in(parts.network, tilt, lambda: tilted.scheduler))

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise not_saved("pipeline")

    tilted.save_pretrained = refuse
    if getattr(pipeline, "_all_hooks", None):
        # Offloading was set up on the given pipeline's own network, and must be set up there again after a call.
        tilted.maybe_free_model_hooks = pipeline.maybe_free_model_hooks
    return tilted


def _tilt_of(law: Any, parts: Parts) -> Tilt:
    base = getattr(law, "base", None)
    network = getattr(base, "network", None)
    if network is None or not all(hasattr(law, name) for name in ("theta", "switch", "particles")):
        raise ParameterError(
            f"{law!r} is no tilt of a model of diffusers.",
            ways_out=["Pass ak.tilt(ak.base.from_diffusers(pipeline), theta), or θ itself."],
        )
    if original_module(network) is not original_module(parts.network):
        raise ParameterError(
            f"{law!r} is a tilt of another network than that of this {parts.name}.",
            ways_out=["Pass the pipeline that the base law was made of: law.base.pipeline."],
        )
    return Tilt(
        torch.tensor(law.theta, dtype=torch.float64).reshape(law.shape),
        law.switch,
        law.particles,
        law.exact,
        None if law.particles is None else FittedCondition(law.base.answer),
    )


def _numbers(theta: Any) -> Any:
    return finite_array(theta.detach().cpu().numpy() if isinstance(theta, torch.Tensor) else theta, "θ")


def _shaped(theta: Any, parts: Parts) -> Any:
    """θ in the shape of a draw or of several, as far as the network knows it."""
    known = own_shape(parts.network)
    if known is None:
        return theta
    if theta.ndim == 1 and theta.size == np.prod(known):
        return theta.reshape(known)
    # Pipelines that take a height and a width draw other sizes, too.
    free = "height" in inspect.signature(type(parts.pipeline).__call__).parameters
    draw = theta.shape[-len(known) :]
    fits = draw[:1] == known[:1] if free else draw == known
    if theta.ndim not in {len(known), len(known) + 1} or not fits:
        raise ShapeError(
            f"θ has shape {theta.shape}, but draws of {parts.name} have shape {known}.",
            ways_out=["Pass θ of that shape, or (n, *shape) for a tilt per image."],
        )
    return theta


def _refuse(conditioning: Mapping[str, Any], reason: str) -> None:
    if conditioning:
        raise ParameterError(
            f"tilted_pipeline has no use for {', '.join(conditioning)}: {reason}.",
            ways_out=["Leave them out, and pass the prompt or label when calling the pipeline, as always."],
        )
