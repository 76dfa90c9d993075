"""A network of diffusers as a denoiser D(x, σ), wherever and in whatever precision it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alignkit.errors import ParameterError, ShapeError
from alignkit_diffusers.conditioning import ConditionedNetwork
from alignkit_diffusers.networks import original_module, prediction_and_variance
from alignkit_diffusers.parametrisation import Parametrisation

__all__ = ["NetworkDenoiser", "called_on", "evaluating", "place_of"]


@dataclass(frozen=True, eq=False)
class NetworkDenoiser:
    """E[x₀ | x_σ = x] by a network of diffusers.

    The network is called where it lies, in its own precision and as if in evaluation mode; nothing of it is changed.

    Arguments:
        answer: the network, with its other arguments settled.
        parametrisation: what it is given, told and predicts.
        device: where to call it; None is where its parameters lie.
        whole_timesteps: tell it the nearest whole timestep, for networks that look it up in a table of their own.
    """

    answer: ConditionedNetwork
    parametrisation: Parametrisation
    device: torch.device | None = None
    whole_timesteps: bool = False

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The denoised rows.

        Arguments:
            x: (n, *shape), noisy.
            sigma: (n,), in units of x.

        Returns:
            (n, *shape), on the network's device, of x's dtype.

        Raises:
            ShapeError: the network answered with another shape.
        """
        own_device, own_dtype = place_of(self.answer.network)
        device = self.device or own_device or x.device
        dtype = own_dtype or x.dtype
        x, sigma = x.to(device), sigma.to(device)
        told = self.parametrisation.timestep(sigma)
        told = told.to(torch.float64 if dtype == torch.float64 else torch.float32)
        if self.whole_timesteps:
            told = told.round().long()
        # The level of what the network is told, to the last digit: one that predicts the noise amplifies differences
        # by σ.
        level = self.parametrisation.sigma(told.to(sigma.dtype))
        sample = self.parametrisation.network_input(x, level).to(dtype)
        with evaluating(self.answer.network):
            output = self.answer(sample, told)
        # Weights that are brought to a device for the call leave the answer there.
        output = prediction_and_variance(output, sample)[0].to(device)
        if output.shape != sample.shape:
            raise ShapeError(
                f"The network {type(original_module(self.answer.network)).__name__} answered with shape "
                f"{tuple(output.shape)} for a sample of shape {tuple(sample.shape)}.",
                ways_out=[
                    "Pass shape= as the network expects it, without the batch.",
                    "Wrap networks with other inputs.",
                ],
            )
        return self.parametrisation.denoised(x, output, level)


def place_of(network: Any) -> tuple[torch.device | None, torch.dtype | None]:
    """The device and the floating dtype a network wants its sample in; None for what does not matter to it.

    A module that accelerate offloads lies elsewhere than where it is called.
    """
    module = original_module(network)
    if not isinstance(module, nn.Module):
        return None, None
    held = next((value for value in _tensors(module) if value.is_floating_point()), None)
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    if device is None and held is not None and held.device.type != "meta":
        device = held.device
    dtype = None if held is None else held.dtype
    if dtype is not None and dtype.itemsize == 1:
        # Weights stored in less than what is reckoned in; diffusers says what that is.
        dtype = getattr(module, "dtype", dtype)
    return None if device is None else torch.device(device), dtype


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


@contextmanager
def evaluating(network: Any) -> Iterator[None]:
    """Without dropout and the like within, and as it was after."""
    module = original_module(network)
    training = [part for part in module.modules() if part.training] if getattr(module, "training", False) else []
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def called_on(device: Any) -> torch.device | None:
    """The device of a name; None for None.

    Raises:
        ParameterError: torch does not know it, or cannot use it here.
    """
    if device is None:
        return None
    try:
        return torch.empty(0, device=device).device
    # A torch built without CUDA raises AssertionError.
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ParameterError(
            f"torch cannot use the device {device!r}: {error}", ways_out=["Leave device out: the network's own."]
        ) from error
