"""Where a scheduler's current run is when its network is told a timestep."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from alignkit_diffusers.parametrisation import FlowMatching, Parametrisation

__all__ = ["Visit", "visit"]

# Schedulers with these stop between two of their levels, at one that `sigmas` does not hold.
_BETWEEN = ("sigmas_interpol", "mid_point_sigma")
# What a timestep may lose on its way to the network: to a division in single precision, or to half precision.
_SINGLE_ROUNDING, _HALF_ROUNDING = 1e-6, 2.0**-8


@dataclass(frozen=True)
class Visit:
    """A stop of a run.

    Arguments:
        level: σ of the sample, in units of x; infinite at t = 1 of flow matching.
        unit: what the network's timesteps are multiples of, in the scheduler's: 1, or the number of timesteps where a
            pipeline tells its network shares of it.
    """

    level: float
    unit: float


def visit(scheduler: Any, timestep: float, parametrisation: Parametrisation) -> Visit | None:
    """The stop of a scheduler's run at which its network is told a timestep.

    Schedules of levels of their own (Karras', shifted flows) come with a timestep for each, which some schedulers
    round: the sample's level is then known from the run alone.

    Arguments:
        scheduler: a scheduler of diffusers, before, within or after a run.
        timestep: what the network is told.
        parametrisation: of the network.

    Returns:
        the stop; None where there is no run, the run does not visit the timestep, or the scheduler keeps no levels.
    """
    timesteps, sigmas = getattr(scheduler, "timesteps", None), getattr(scheduler, "sigmas", None)
    # The tables that schedulers are made with do not all run the same way.
    begun = getattr(scheduler, "num_inference_steps", None) is not None
    if not (begun and isinstance(timesteps, Tensor) and isinstance(sigmas, Tensor) and len(sigmas) >= len(timesteps)):
        return None
    if any(hasattr(scheduler, name) for name in _BETWEEN):
        return None
    planned = timesteps.tolist()
    step = getattr(scheduler, "step_index", None)
    if step is None:
        step = getattr(scheduler, "begin_index", None) or 0
    for unit in (1.0, float(scheduler.config.get("num_train_timesteps") or 1)):
        index = _index(planned, unit * timestep, int(step))
        if index is not None:
            return Visit(_level(float(sigmas[index]), parametrisation), unit)
    return None


def _index(planned: list[float], timestep: float, step: int) -> int | None:
    """Which of a run's timesteps this is: the next, if rounded timesteps repeat, or any."""
    following = planned[step] if step < len(planned) else math.nan
    if _is_near(timestep, following, _SINGLE_ROUNDING):
        return step
    for index, candidate in enumerate(planned):
        if _is_near(timestep, candidate, _SINGLE_ROUNDING):
            return index
    return step if _is_near(timestep, following, _HALF_ROUNDING) else None


def _is_near(timestep: float, other: float, share: float) -> bool:
    return abs(timestep - other) <= share * abs(other)


def _level(sigma: float, parametrisation: Parametrisation) -> float:
    if not isinstance(parametrisation, FlowMatching):
        return sigma
    # A flow's own levels are t, not σ.
    return sigma / (1 - sigma) if sigma < 1 else math.inf
