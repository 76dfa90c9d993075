"""What denoising networks are called with and what they answer, whichever of diffusers' classes they are of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from alignkit.errors import ParameterError

__all__ = [
    "config_of",
    "original_module",
    "own_shape",
    "parameters_of",
    "prediction_and_variance",
    "sample_of",
    "timestep_name",
]

_TIMESTEP_NAMES = ("timestep", "timesteps", "t", "time")
_ANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def original_module(network: Any) -> Any:
    """The module that `torch.compile` was given; any other network is its own."""
    return getattr(network, "_orig_mod", network)


def config_of(network: Any) -> Mapping[str, Any]:
    """The configuration diffusers keeps with a network; empty where it keeps none."""
    config = getattr(original_module(network), "config", None)
    return config if isinstance(config, Mapping) else {}


def own_shape(network: Any) -> tuple[int, ...] | None:
    """The shape of a sample by the network's own account, (c, h, w), or (c, l) of sequences; None without one."""
    config = config_of(network)
    channels, side = config.get("in_channels"), config.get("sample_size")
    if channels is None or side is None:
        return None
    axes = 1 if "1D" in type(original_module(network)).__name__ else 2
    sides = (side,) * axes if isinstance(side, int) else side
    return (int(channels), *(int(n) for n in sides))


def parameters_of(network: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments a network is called with, by name and in order."""
    module = original_module(network)
    found = dict(inspect.signature(getattr(module, "forward", module)).parameters)
    if hasattr(type(module), "forward") and all(parameter.kind in _ANY for parameter in found.values()):
        # Someone's function stands in the place of `forward` and takes whatever there is; the class knows better.
        found = dict(list(inspect.signature(type(module).forward).parameters.items())[1:])
    return found


def timestep_name(parameters: Mapping[str, inspect.Parameter]) -> str | None:
    """The name under which a network takes its timestep; None where it is its second argument under some other.

    Arguments:
        parameters: as `parameters_of` gives them.
    """
    for name in _TIMESTEP_NAMES:
        if name in parameters:
            return name
    return None


def sample_of(output: Any) -> torch.Tensor:
    """The tensor in a network's answer: itself, the first of a tuple, or `.sample`.

    Raises:
        ParameterError: the answer is none of these.
    """
    found = output[0] if isinstance(output, tuple) and output else getattr(output, "sample", output)
    if not isinstance(found, torch.Tensor):
        raise ParameterError(
            f"The network answered with {type(output).__name__}, which holds no sample.",
            ways_out=["Return a tensor, a tuple that begins with one, or an object with `.sample`."],
        )
    return found


def prediction_and_variance(output: torch.Tensor, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The two halves of an answer with twice the sample's channels (n, c, …); of any other, all of it and None."""
    if output.ndim == sample.ndim >= 2 and output.shape[1] == 2 * sample.shape[1]:
        prediction, variance = output.chunk(2, dim=1)
        return prediction, variance
    return output, None
