"""Where a run is, against the levels that the scheduler itself steps from."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import pytest
import torch

from alignkit_diffusers.run_levels import visit
from alignkit_diffusers.schedulers import parametrisation_of


def begun(scheduler: Any, steps: int) -> Any:
    scheduler.set_timesteps(steps)
    return scheduler


def level(scheduler: Any, timestep: float) -> float | None:
    stop = visit(scheduler, timestep, parametrisation_of(scheduler))
    return None if stop is None else stop.level


def test_rounded_timesteps_that_repeat_are_told_apart_by_the_step() -> None:
    scheduler = begun(diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True), 200)
    planned = scheduler.timesteps.tolist()
    repeated = [index for index in range(199) if planned[index] == planned[index + 1]]
    assert repeated
    sample = torch.zeros(1, 1, 2, 2)
    for index, timestep in enumerate(scheduler.timesteps):
        assert level(scheduler, float(timestep)) == float(scheduler.sigmas[index])
        sample = scheduler.step(sample, timestep, sample).prev_sample
    # After the run a timestep is still one of it.
    assert level(scheduler, planned[0]) == float(scheduler.sigmas[0])


def test_timesteps_that_were_rounded_on_their_way_are_those_of_the_step() -> None:
    scheduler = begun(diffusers.EulerDiscreteScheduler(use_karras_sigmas=True), 8)
    sample = torch.zeros(1, 1, 2, 2)
    for index, timestep in enumerate(scheduler.timesteps):
        for rounded in (timestep.bfloat16(), timestep.half()):
            assert level(scheduler, float(rounded)) == float(scheduler.sigmas[index])
        sample = scheduler.step(sample, timestep, scheduler.scale_model_input(sample, timestep)).prev_sample
    # Another step's timestep is no rounding of this one's.
    assert level(scheduler, 1.02 * float(scheduler.timesteps[3])) is None


def test_flows_go_by_times_and_may_tell_shares_of_them() -> None:
    scheduler = begun(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), 5)
    parametrisation = parametrisation_of(scheduler)
    for index, timestep in enumerate(scheduler.timesteps):
        t = float(scheduler.sigmas[index])
        sigma = math.inf if t == 1 else t / (1 - t)
        for told, unit in ((float(timestep), 1.0), (float(timestep / 1000), 1000.0)):
            stop = visit(scheduler, told, parametrisation)
            assert stop is not None and stop.unit == unit
            assert stop.level == pytest.approx(sigma, rel=1e-12)


def test_no_run_is_no_stop() -> None:
    for scheduler in (
        diffusers.DPMSolverMultistepScheduler(),  # its first table rises, and its timesteps fall
        diffusers.EulerDiscreteScheduler(),
        begun(diffusers.DDIMScheduler(), 5),  # keeps no levels
        begun(diffusers.KDPM2DiscreteScheduler(), 5),  # stops between them
    ):
        assert level(scheduler, float(scheduler.timesteps[0])) is None
    assert level(begun(diffusers.EulerDiscreteScheduler(), 5), 123.0) is None
