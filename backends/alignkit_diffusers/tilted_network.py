"""A network of diffusers that answers as the network of a tilted law would, in the same terms."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput as _Output
from torch import Tensor, nn

from alignkit.errors import NonFiniteError, ParameterError, ShapeError
from alignkit_diffusers.fitted_condition import FittedCondition
from alignkit_diffusers.networks import (
    config_of,
    original_module,
    parameters_of,
    prediction_and_variance,
    sample_of,
    timestep_name,
)
from alignkit_diffusers.parametrisation import Parametrisation
from alignkit_diffusers.schedulers import parametrisation_of
from alignkit_diffusers.tilted_levels import Levels, levels_at, wide

__all__ = ["Tilt", "drop_in", "not_saved"]


@dataclass(frozen=True, eq=False)
class Tilt:
    """What a drop-in network is told of the tilted law.

    Arguments:
        theta: θ, of a draw's shape, or (r, *shape), one for each of r images, in units of 1/x.
        switch: from this σ on the particles answer; infinite where there are none.
        particles: draws of the tilted law as a law with a `denoise` of its own, or None.
        exact: whether the network is an exact posterior mean.
        condition: what the particles were fitted under; None where there are none.
    """

    theta: Tensor
    switch: float = math.inf
    particles: Any = None
    exact: bool = False
    condition: FittedCondition | None = None


def drop_in(network: Any, tilt: Tilt, scheduler: Callable[[], Any]) -> nn.Module:
    """A network that answers for the tilted law, to be used wherever the given one is.

    It is a shallow copy, of the same class and with the same parameters, whose `forward` calls the given network: what
    others have hung on that (offloading, compilation, hooks) stays in force, and moving or casting one moves both.

    Arguments:
        network: the user's network; unchanged.
        tilt: θ, and who answers at which noise.
        scheduler: gives the scheduler that the network is run under, which may change.

    Raises:
        ParameterError: the network is no torch module.
    """
    module = original_module(network)
    if not isinstance(module, nn.Module):
        raise ParameterError(
            f"The denoising network is of type {type(module).__name__}, and not a torch module.",
            ways_out=["ak.tilt(ak.base.from_diffusers(network, scheduler), theta) takes any callable."],
        )
    answer = _TiltedAnswer(network, tilt, scheduler)

    @functools.wraps(module.forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return answer(*args, **kwargs)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise not_saved("network")

    twin: nn.Module = type(module).__new__(type(module))
    twin.__dict__.update(module.__dict__)
    # Hooks and compilation are the given network's, which is called with them.
    for name in list(twin.__dict__):
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")) and "state_dict" not in name:
            twin.__dict__[name] = OrderedDict()
    twin.__dict__.pop("_old_forward", None)
    twin.__dict__.update(_compiled_call_impl=None, forward=forward, save_pretrained=refuse)
    return twin


def not_saved(what: str) -> ParameterError:
    """The error for saving what is tilted, whose files would hold the untilted weights."""
    return ParameterError(
        f"A tilted {what} is not saved: its weights are those of the model before the tilt.",
        ways_out=["Save the model itself and θ beside it; ak.tilted_pipeline(pipeline, theta) makes it again."],
    )


class _TiltedAnswer:
    """What the drop-in network does when it is called."""

    def __init__(self, network: Any, tilt: Tilt, scheduler: Callable[[], Any]) -> None:
        self.network, self.tilt, self.scheduler = network, tilt, scheduler
        self.name = type(original_module(network)).__name__
        parameters = parameters_of(network)
        self.names = list(parameters)
        self.sample_name = self.names[0]
        self.timestep_name = timestep_name(parameters) or self.names[1]
        self._thetas: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._read: tuple[Any, Parametrisation] | None = None
        self._form: type | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(self.names, args, strict=False)) | kwargs
        if self.tilt.condition is not None:
            self.tilt.condition.check(given, self.name)
        sample: Tensor = given[self.sample_name]
        theta = self._theta(sample)
        scheduler = self.scheduler()
        parametrisation = self._parametrisation(scheduler)
        levels = levels_at(given[self.timestep_name], sample, parametrisation, scheduler, exact=self.tilt.exact)
        by_particles = [self.tilt.particles is not None and level >= self.tilt.switch for level in levels.known]
        answered = rest = None
        found = sample
        # Whoever answers, a variance the network has learned is its own, and so is the form of what it returns.
        unknown_form = "return_dict" not in self.names and self._form is None
        if not all(by_particles) or self._variance_is_used() or unknown_form:
            moved = levels.moved(sample, theta)
            changed = {self.sample_name: moved, self.timestep_name: levels.timestep}
            # By position or by name as they came, since hooks on the network tell the two apart.
            placed = [changed.get(name, value) for name, value in zip(self.names, args, strict=False)]
            answered = self.network(*placed, **{name: changed.get(name, value) for name, value in kwargs.items()})
            self._form = type(answered)
            output, rest = self._prediction(sample_of(answered), sample)
            found = levels.tilted(output, sample, theta)
        if any(by_particles):
            told = levels.of_denoiser(self.tilt.particles.denoise, sample)
            chosen = torch.tensor(by_particles, device=sample.device).reshape(-1, *(1,) * (sample.ndim - 1))
            found = told if all(by_particles) else torch.where(chosen, told, found)
        # What half precision cannot hold is not finite either.
        found = found.to(sample.dtype)
        self._check(found, given[self.timestep_name], levels)
        return self._as_answered(found, rest, answered, given.get("return_dict", True))

    def _check(self, found: Tensor, timestep: Any, levels: Levels) -> None:
        if not bool(torch.isfinite(found).all()):
            row = int(torch.isfinite(found).flatten(1).all(dim=1).logical_not().nonzero()[0])
            told = torch.as_tensor(timestep).expand(len(found))[row].item()
            raise NonFiniteError(
                f"The tilted network {self.name} gave NaN or infinite values at timestep {told:g}, "
                f"σ = {levels.known[row % len(levels.known)]:g}.",
                ways_out=[
                    "Check that the network is finite there without the tilt.",
                    "Keep it in a wider dtype: float32, or bfloat16 in place of float16.",
                    "Take a smaller θ.",
                ],
            )

    def _parametrisation(self, scheduler: Any) -> Parametrisation:
        if self._read is None or self._read[0] is not scheduler:
            self._read = scheduler, parametrisation_of(scheduler)
        return self._read[1]

    def _theta(self, sample: Tensor) -> Tensor:
        """θ beside a batch, (1, *shape) or (n, *shape), in float32 at least."""
        dtype = wide(sample.dtype)
        key = sample.device, dtype
        if key not in self._thetas:
            self._thetas[key] = self.tilt.theta.to(device=sample.device, dtype=dtype)
        theta = self._thetas[key]
        if theta.shape == sample.shape[1:]:
            return theta[None]
        if theta.ndim == sample.ndim and theta.shape[1:] == sample.shape[1:] and len(sample) % len(theta) == 0:
            # Under guidance a batch holds every image twice, one after the other.
            return theta.repeat(len(sample) // len(theta), *(1,) * (theta.ndim - 1))
        raise ShapeError(
            f"θ has shape {tuple(theta.shape)}, and the network of the pipeline was given {tuple(sample.shape)}.",
            ways_out=["Pass θ of a draw's shape, or one for each image of the batch, (n, *shape)."],
        )

    def _prediction(self, output: Tensor, sample: Tensor) -> tuple[Tensor, Tensor | None]:
        """The prediction, of the sample's shape, and the channels of a learned variance where there are any."""
        prediction, variance = prediction_and_variance(output, sample)
        if prediction.shape != sample.shape:
            raise ShapeError(
                f"The network {self.name} answered with shape {tuple(output.shape)} for a sample of shape "
                f"{tuple(sample.shape)}; it has no tilt in closed form."
            )
        return prediction, variance

    def _variance_is_used(self) -> bool:
        kind = str(self.scheduler().config.get("variance_type") or "")
        return self._learns_variance() and kind.startswith("learned")

    def _learns_variance(self) -> bool:
        config = config_of(self.network)
        return bool(config.get("in_channels")) and config.get("out_channels") == 2 * config["in_channels"]

    def _as_answered(self, found: Tensor, rest: Tensor | None, answered: Any, return_dict: bool) -> Any:
        """A prediction in the form of the network's own answers, one of which may be at hand."""
        if rest is None and self._learns_variance():
            rest = torch.zeros_like(found)
        whole = found if rest is None else torch.cat([found, rest], dim=1)
        if answered is None:
            as_tuple = not return_dict if "return_dict" in self.names else self._form is tuple
            if as_tuple:
                return (whole,)
            return whole if self._form is not None and issubclass(self._form, Tensor) else _Output(sample=whole)
        if isinstance(answered, Tensor):
            return whole
        if isinstance(answered, tuple):
            return (whole, *answered[1:])
        if dataclasses.is_dataclass(answered) and not isinstance(answered, type):
            return dataclasses.replace(answered, sample=whole)
        answer = copy.copy(answered)
        answer.sample = whole
        return answer
