"""Schedulers of diffusers, read: which parametrisation the networks have that they drive.

A scheduler is a table and a method. Only the table matters here, since alignkit brings its own methods; it is taken
from what the scheduler was made with, so that a schedule set meanwhile (`set_timesteps`) changes nothing, and nothing
of the scheduler is changed either.
"""

from __future__ import annotations

from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from alignkit.errors import ParameterError
from alignkit_diffusers.parametrisation import (
    ContinuousVariancePreserving,
    ElucidatedDiffusion,
    FlowMatching,
    Interpolation,
    Parametrisation,
    Prediction,
    VariancePreserving,
)

__all__ = ["data_range_of", "parametrisation_of"]

_ELUCIDATED = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
_FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "LTXEulerAncestralRFScheduler")
# They interpolate σ itself at fractional timesteps, unless they go by levels of their own.
_LINEAR = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
)
_OWN_LEVELS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")

_DISTILLED = "it drives networks distilled to few steps, whose output is not the posterior mean E[x₀ | x_σ] of any law"
_DISCRETE = "its draws are tokens, not real numbers"
_INPAINTING = "it conditions on a picture and a mask"
_REASONS = {
    "LCMScheduler": _DISTILLED,
    "TCDScheduler": _DISTILLED,
    "SCMScheduler": _DISTILLED,
    "CMStochasticIterativeScheduler": _DISTILLED,
    "ConsistencyDecoderScheduler": _DISTILLED,
    "FlowMatchLCMScheduler": _DISTILLED,
    "FlowMapEulerDiscreteScheduler": _DISTILLED,
    "HeliosDMDScheduler": _DISTILLED,
    "VQDiffusionScheduler": _DISCRETE,
    "AmusedScheduler": _DISCRETE,
    "BlockRefinementScheduler": _DISCRETE,
    "EntropyBoundScheduler": _DISCRETE,
    "DiscreteDDIMScheduler": _DISCRETE,
    "RePaintScheduler": _INPAINTING,
}


def parametrisation_of(scheduler: Any) -> Parametrisation:
    """What the network is given, told and predicts that a scheduler was made for.

    Where a table ends in infinite noise it is cut at the last finite level, which is then sigma_max: that of the last
    timestep but one with `rescale_betas_zero_snr`, and of t = 1 − 1/N in flow matching.

    Arguments:
        scheduler: a scheduler of diffusers; not changed.

    Returns:
        the parametrisation.

    Raises:
        ParameterError: the scheduler belongs to no network whose denoiser is known; the message says why.

    Example:
        >>> from diffusers import DDPMScheduler
        >>> parametrisation = parametrisation_of(DDPMScheduler())
        >>> parametrisation.prediction, round(parametrisation.sigma_min, 4), round(parametrisation.sigma_max, 1)
        ('epsilon', 0.01, 157.4)
    """
    names = {kind.__name__ for kind in type(scheduler).__mro__}
    for name, reason in _REASONS.items():
        if name in names:
            raise _unmapped(scheduler, reason)
    if names.isdisjoint(_ELUCIDATED + _FLOW) and not hasattr(scheduler, "alphas_cumprod"):
        raise _unmapped(scheduler, "it has no table `alphas_cumprod`, and is not of the EDM or flow-matching families")
    config = scheduler.config
    if config.get("invert_sigmas"):
        raise _unmapped(scheduler, "with `invert_sigmas` its levels rise, and what the network is told is inverted")
    if not names.isdisjoint(_FLOW):
        return _flow_matching("flow_prediction", config)
    prediction = _prediction(scheduler)
    if not names.isdisjoint(_ELUCIDATED):
        if prediction not in {"epsilon", "v_prediction"}:
            raise _unmapped(scheduler, f"EDM's preconditioning has no prediction_type {prediction!r}")
        return ElucidatedDiffusion(prediction, config["sigma_min"], config["sigma_max"], config["sigma_data"])
    flows = bool(config.get("use_flow_sigmas"))
    if flows and prediction == "v_prediction":
        raise _unmapped(scheduler, "v_prediction is of variance-preserving noise, and `use_flow_sigmas` is not")
    if prediction == "flow_prediction" and not flows:
        raise _unmapped(scheduler, "flow_prediction is of the noise that `use_flow_sigmas=True` makes")
    if flows:
        return _flow_matching(prediction, config)
    return _variance_preserving(scheduler, prediction, linear=not names.isdisjoint(_LINEAR))


def data_range_of(scheduler: Any) -> tuple[float, float] | None:
    """The interval that a scheduler holds every entry of the denoised in; None where it does not.

    `clip_sample` clips to ±clip_sample_range. `thresholding` clips to a quantile of the picture and divides by it,
    which ends in ±1 whatever `sample_max_value` is.
    """
    config = scheduler.config
    if config.get("thresholding"):
        return (-1.0, 1.0)
    if config.get("clip_sample"):
        reach = float(config.get("clip_sample_range") or 1.0)
        return (-reach, reach)
    return None


def _flow_matching(prediction: Prediction, config: Any) -> FlowMatching:
    # A shift changes which t a schedule visits, not what the network was told of each. It was told of any t between 0
    # and 1, and where a scheduler counts few timesteps they are only the unit of t.
    count = int(config["num_train_timesteps"])
    finest = max(count, 1000)
    return FlowMatching(prediction, sigma_min=1 / (finest - 1), sigma_max=float(finest - 1), train_timesteps=count)


def _variance_preserving(scheduler: Any, prediction: Prediction, linear: bool) -> Parametrisation:
    config = scheduler.config
    timesteps, levels = _table(scheduler)
    low, high = float(levels[0]), float(levels[-1])
    if config.get("timestep_type") == "continuous" and prediction == "v_prediction":
        # Told ¼·ln σ, such networks are not bound to the table, and their schedulers name the ends.
        low, high = float(config.get("sigma_min") or low), float(config.get("sigma_max") or high)
        return ContinuousVariancePreserving(prediction, low, high)
    by_table = linear and not any(config.get(name) for name in _OWN_LEVELS)
    interpolation: Interpolation = "linear" if by_table else "logarithmic"
    return VariancePreserving(prediction, low, high, timesteps, levels, interpolation)


def _table(scheduler: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The timesteps with finite noise, and σ = √((1 − ᾱ)/ᾱ) at each."""
    retained = scheduler.alphas_cumprod.detach().cpu().double().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.sqrt((1 - retained) / retained)
    finite = np.isfinite(levels) & (levels > 0)
    if scheduler.config.get("rescale_betas_zero_snr") and finite[-1]:
        # In the place of the last level, which would be infinite, stands a number that others may exceed.
        finite[:-1] &= levels[:-1] < levels[-1]
    timesteps = np.flatnonzero(finite)
    levels = levels[timesteps]
    if retained.ndim != 1 or len(levels) < 2 or np.any(np.diff(levels) <= 0):
        raise _unmapped(scheduler, "its `alphas_cumprod` do not fall from 1 towards 0, timestep by timestep")
    return timesteps.astype(np.float64), levels


def _prediction(scheduler: Any) -> Prediction:
    named = scheduler.config.get("prediction_type", "epsilon")
    # Euler's first name for it.
    named = "sample" if named == "original_sample" else named
    if named not in get_args(Prediction):
        raise _unmapped(
            scheduler, f"its prediction_type is {named!r}, and not one of {', '.join(map(repr, get_args(Prediction)))}"
        )
    return cast(Prediction, named)


def _unmapped(scheduler: Any, reason: str) -> ParameterError:
    return ParameterError(
        f"The scheduler {type(scheduler).__name__} cannot be mapped to noise levels σ: {reason}.",
        ways_out=[
            "Pass scheduler= of the kind the network was trained with: DDPMScheduler.from_config(scheduler.config), "
            "FlowMatchEulerDiscreteScheduler(), EDMEulerScheduler(…).",
            "ak.base.Denoiser(denoise, shape, sigma_min=…, sigma_max=…) takes any callable (x, σ) → E[x₀ | x_σ = x].",
        ],
    )
