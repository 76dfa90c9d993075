"""A base law known through its denoiser: the user's pre-trained network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np

from alignkit import registry
from alignkit.base.law import BaseLaw, Progress, Tail, checked_count
from alignkit.errors import ParameterError, ShapeError
from alignkit.noise import checked_seed

__all__ = ["Denoiser"]

Prediction = Literal["x0", "epsilon", "score"]


class Denoiser(BaseLaw):
    """The base law of a pre-trained diffusion model, given by its denoiser in σ-coordinates.

    Noise levels are those of x_σ = x₀ + σz (EDM and k-diffusion convention). Predictions are converted by
    E[x₀ | x_σ = x] = x − σ·ε(x, σ) = x + σ²·score(x, σ).

    Arguments:
        denoise: a torch callable `(x (n, *shape), sigma (n,)) → (n, *shape)`; called without gradients, on the device
            the sampler runs on.
        shape: the shape of one draw.
        sigma_min, sigma_max: the noise levels the model was trained between, in units of x.
        prediction: what the callable returns: "x0" (the denoised x), "epsilon" or "score".
        exact: promises the true posterior mean; unlocks the one-shot start and is wrong for trained networks.
        tail: "bounded", a tail variance v (p decays like exp(−‖x‖²/2v)), or None for unknown.
        data_range: the interval that holds every entry of x, where known.
        dtype: the floating type of x that the callable is given.
        name: what `explain()` calls it.

    Raises:
        ParameterError: noise levels that are not 0 < sigma_min < sigma_max, or an unknown option.

    Example:
        >>> law = Denoiser(lambda x, sigma: x / (1 + sigma[:, None] ** 2), (2,), sigma_min=0.01, sigma_max=50.0)
        >>> law.shape
        (2,)
    """

    def __init__(
        self,
        denoise: Callable[[Any, Any], Any],
        shape: tuple[int, ...],
        *,
        sigma_min: float,
        sigma_max: float,
        prediction: Prediction = "x0",
        exact: bool = False,
        tail: Tail = None,
        data_range: tuple[float, float] | None = None,
        dtype: Literal["float32", "float64"] = "float32",
        name: str = "denoiser",
    ) -> None:
        if not callable(denoise):
            raise ParameterError(f"denoise must be a callable (x, sigma) → x₀, not {type(denoise).__name__}.")
        sides = tuple(shape) if isinstance(shape, Iterable) else (shape,)
        if not all(isinstance(side, int | np.integer) and side > 0 for side in sides):
            raise ParameterError(f"shape must be a tuple of positive integers, not {shape!r}.")
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ParameterError(
                f"Noise levels must satisfy 0 < sigma_min < sigma_max < ∞, not {sigma_min} and {sigma_max}."
            )
        if prediction not in {"x0", "epsilon", "score"}:
            raise ParameterError(
                f"Unknown prediction {prediction!r}.",
                ways_out=[
                    "Use 'x0', 'epsilon' or 'score'.",
                    "Wrap other parametrisations in a callable that returns x₀.",
                ],
            )
        if isinstance(tail, str):
            valid = tail == "bounded"
        else:
            valid = tail is None or (math.isfinite(tail) and tail > 0)
        if not valid:
            raise ParameterError(f"tail must be 'bounded', a positive variance or None, not {tail!r}.")
        if dtype not in {"float32", "float64"}:
            raise ParameterError(f"dtype must be 'float32' or 'float64', not {dtype!r}.")
        self._network = denoise
        self.shape = tuple(int(side) for side in sides)
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)
        self.prediction = prediction
        self.exact = exact
        self.tail = tail
        self.data_range = data_range
        self.dtype = dtype
        self.name = name

    def denoise(self, x: Any, sigma: Any) -> Any:
        """E[x₀ | x_σ = x] as the network has it; see `BaseLaw.denoise`.

        Raises:
            ShapeError: the callable returned another shape than it was given.
        """
        output = self._network(x, sigma)
        if tuple(output.shape) != tuple(x.shape):
            raise ShapeError(
                f"The denoiser {self.name!r} returned shape {tuple(output.shape)} for x of shape {tuple(x.shape)}.",
                ways_out=["Return one x₀ per row, of the row's own shape."],
            )
        if self.prediction == "x0":
            return output
        scale = sigma.reshape((-1,) + (1,) * len(self.shape))
        return x - scale * output if self.prediction == "epsilon" else x + scale**2 * output

    def sample(self, n: int, *, seed: int, progress: Progress = None) -> Any:
        """Draw n rows from the model with a backend's own sampler; see `BaseLaw.sample`."""
        return registry.offered("base_sampler")(self, checked_count(n), seed=checked_seed(seed), progress=progress)
