"""A base law known through its denoiser: the user's pre-trained network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import array_api_compat
import numpy as np

from alignkit import registry
from alignkit.base.coordinates import Convention, Coordinates, Prediction
from alignkit.base.law import BaseLaw, Progress, Tail, checked_count
from alignkit.errors import ParameterError, ShapeError
from alignkit.noise import checked_seed

__all__ = ["Denoiser"]


class Denoiser(BaseLaw):
    """The base law of a pre-trained diffusion model, given by its network.

    Noise levels are those of x_σ = x₀ + σz (EDM and k-diffusion convention), whatever the network's own coordinates.
    `prediction` and `coordinates` say what it returns and what it is given; both tables, with all signs, are in
    `alignkit.base.coordinates.Convention`. In short, with α = 1/√(1 + σ²) and s = σ/√(1 + σ²):

    - "x0" is E[x₀ | x_σ = x]; "epsilon" that of z; "score" ∇ log of the density of what the network is given; "v" that
      of αz − s·x₀; "velocity" that of z − x₀. Where yours points to the data, negate it: `lambda x, t: -net(x, t)`.
    - "sigma" gives it (x_σ, σ); "variance_preserving" (x_σ/√(1 + σ²), σ); "flow" (x_σ/(1 + σ), t = σ/(1 + σ)), in which
      t = 1 is noise. Where yours has noise at 0: `lambda x, t: -net(x, 1 - t)`.

    The network may be a module, compiled by `torch.compile`, or run under `torch.autocast`: what it returns is brought
    to the dtype and device of x before anything is reckoned with it.

    Arguments:
        denoise: a torch callable `(x (n, *shape), level (n,)) → (n, *shape)`; called without gradients, on the device
            the sampler runs on. What it gives for a row may not depend on the rows beside it: before it first draws,
            a sampler tries two rows of unlike level.
        shape: the shape of one draw.
        sigma_min, sigma_max: the noise levels the model was trained between, in units of x.
        prediction: what the callable returns: "x0" (the denoised x), "epsilon", "score", "v" or "velocity".
        coordinates: what it is given: "sigma", "variance_preserving" or "flow".
        exact: promises the true posterior mean; unlocks the one-shot start and is wrong for trained networks.
        tail: "bounded", a tail variance v (p decays like exp(−‖x‖²/2v)), or None for unknown.
        data_range: the interval that holds every entry of x, where known; what is denoised is clipped to it, since
            means of what lies in a box do.
        dtype: the floating type of x that the callable is given.
        solver: the method that draws, by its name in `alignkit_torch.solvers`; None leaves it to the sampler.
        nfe: how often `denoise` is called in a draw; None leaves it to the sampler.
        row_bytes: what a row takes in memory while the network runs, in bytes; batches are cut to what is free.
        evaluations_per_denoise: of the network for a row: 2 where the callable guides without a classifier.
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
        coordinates: Coordinates = "sigma",
        exact: bool = False,
        tail: Tail = None,
        data_range: tuple[float, float] | None = None,
        dtype: Literal["float32", "float64"] = "float32",
        solver: str | None = None,
        nfe: int | None = None,
        row_bytes: int | None = None,
        evaluations_per_denoise: int = 1,
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
        if isinstance(tail, str):
            valid = tail == "bounded"
        else:
            valid = tail is None or (math.isfinite(tail) and tail > 0)
        if not valid:
            raise ParameterError(f"tail must be 'bounded', a positive variance or None, not {tail!r}.")
        if dtype not in {"float32", "float64"}:
            raise ParameterError(f"dtype must be 'float32' or 'float64', not {dtype!r}.")
        if solver is not None and not isinstance(solver, str):
            raise ParameterError(f"solver must be the name of a method or None, not {solver!r}.")
        self._network = denoise
        self.convention = Convention(prediction, coordinates)
        self.shape = tuple(int(side) for side in sides)
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)
        self.exact = exact
        self.tail = tail
        self.data_range = None if data_range is None else _checked_range(data_range)
        self.dtype = dtype
        self.solver = solver
        self.nfe = None if nfe is None else _positive_integer(nfe, "nfe")
        self.row_bytes = None if row_bytes is None else _positive_integer(row_bytes, "row_bytes")
        self.evaluations_per_denoise = _positive_integer(evaluations_per_denoise, "evaluations_per_denoise")
        self.name = name
        #: Whether a sampler found that two rows do not depend on each other; it is not asked again.
        self.was_tried = False

    @property
    def prediction(self) -> Prediction:
        """What the network returns, as named when the law was made."""
        return self.convention.prediction

    @property
    def coordinates(self) -> Coordinates:
        """What the network is given, as named when the law was made."""
        return self.convention.coordinates

    def denoise(self, x: Any, sigma: Any) -> Any:
        """E[x₀ | x_σ = x] as the network has it, in x's dtype and on its device; see `BaseLaw.denoise`.

        Raises:
            ShapeError, ParameterError: as `predict` does.
        """
        denoised = self.convention.denoised(self.predict(x, sigma), x, sigma)
        # The array's own method: that of its namespace would send the ends to the device each time.
        return denoised if self.data_range is None else denoised.clip(*self.data_range)

    def predict(self, x: Any, sigma: Any) -> Any:
        """What the network returns, in x's dtype and on its device.

        Arguments:
            x, sigma: as for `denoise`, in whatever coordinates the network is called.

        Returns:
            (n, *shape), of x's kind; what it means is said by `prediction`.

        Raises:
            ShapeError: the callable returned another shape than it was given.
            ParameterError: it returned no tensor of floating numbers.
        """
        output = self._network(*self.convention.arguments(x, sigma))
        self._check(output, x)
        if output.dtype != x.dtype:
            xp = array_api_compat.array_namespace(x)
            if not xp.isdtype(output.dtype, "real floating"):
                raise ParameterError(
                    f"The denoiser {self.name!r} returned {output.dtype}, and a prediction is of floating numbers."
                )
            output = xp.astype(output, x.dtype)
        return output if output.device == x.device else array_api_compat.to_device(output, x.device)

    def _check(self, output: Any, x: Any) -> None:
        if not (hasattr(output, "shape") and hasattr(output, "dtype")):
            raise ParameterError(
                f"The denoiser {self.name!r} returned a {type(output).__name__}, not a tensor.",
                ways_out=["Return the tensor in it, as `lambda x, sigma: network(x, sigma).sample` does."],
            )
        if tuple(output.shape) != tuple(x.shape):
            raise ShapeError(
                f"The denoiser {self.name!r} returned shape {tuple(output.shape)} for x of shape {tuple(x.shape)}.",
                ways_out=[
                    "Return one prediction per row, of the row's own shape.",
                    "Drop what is returned beside it, as a learned variance.",
                ],
            )

    def sample(self, n: int, *, seed: int, progress: Progress = None) -> Any:
        """Draw n rows from the model with a backend's own sampler; see `BaseLaw.sample`."""
        return registry.offered("base_sampler")(self, checked_count(n), seed=checked_seed(seed), progress=progress)


def _positive_integer(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ParameterError(f"{what} must be a positive integer, not {value!r}.")
    return int(value)


def _checked_range(data_range: Any) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in data_range)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not -math.inf < low < high < math.inf:
        raise ParameterError(f"data_range must be an interval (low, high) with low < high, not {data_range!r}.")
    return low, high
