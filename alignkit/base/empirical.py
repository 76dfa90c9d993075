"""The empirical law of a data set: every draw is a data point, and the denoiser is exact."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np
from numpy.typing import ArrayLike

from alignkit.base.law import ExactLaw, Floats, finite_array
from alignkit.errors import ParameterError, ShapeError
from alignkit.noise import categorical, uniform

__all__ = ["Empirical"]

# Rows × data points held at once while posterior weights are formed; on a processor as many as stay in its cache.
_BLOCK_ENTRIES = 1 << 24
_CACHE_ENTRIES = 1 << 20


class Empirical(ExactLaw):
    """The law that puts equal mass on each row of a data set, or given weights.

    Its denoiser is the softmax-weighted mean of the data (Karras et al., arXiv 2206.00364, appendix B.3), its tilts are
    reweightings, its log-partition a log-mean-exp.

    Arguments:
        data: (N, *shape), finite.
        weights: (N,), nonnegative; normalised here. Equal if None.
        name: what `explain()` calls it.

    Raises:
        ParameterError: the data are empty, or the weights negative or all 0.
        ShapeError: not one weight for each row.
        NonFiniteError: a NaN or an infinity, with the index of the first.

    Example:
        >>> law = Empirical([[0.0], [1.0]])
        >>> law.denoise(np.array([[0.5]]), np.array([1.0])).tolist()
        [[0.5]]
    """

    tail = "bounded"

    def __init__(self, data: ArrayLike, *, weights: ArrayLike | None = None, name: str = "empirical law") -> None:
        values = finite_array(data, "the data set")
        if values.ndim == 0:
            raise ParameterError("The data set is a single number.", ways_out=["Pass rows: (N, *shape)."])
        self.name = name
        self.shape = tuple(values.shape[1:])
        self.data: Floats = values.reshape(values.shape[0], -1)
        self.data_range = (float(values.min()), float(values.max()))
        self._log_weights: Floats = _log_weights(weights, values.shape[0])
        self._device_copies: dict[Any, tuple[Any, ...]] = {}
        # Distances are taken from the centre, where the squares cancel least.
        self._centre: Floats = self.data.mean(axis=0)
        # A single point has no width; any scale then serves.
        width = float(self.data.std(axis=0).max()) or 1.0
        self._set_noise_levels(width, width)

    @property
    def weights(self) -> Floats:
        """The mass of each data point, (N,)."""
        return np.exp(self._log_weights)

    @property
    def mean(self) -> Floats:
        """E[x], (d,)."""
        return self.weights @ self.data

    @property
    def covariance(self) -> Floats:
        """Cov[x], (d, d)."""
        centred = self.data - self.mean
        return (self.weights[:, None] * centred).T @ centred

    def log_partition(self, theta: ArrayLike) -> Floats:
        """log Σ_i w_i exp⟨θ, x_i⟩, (j, d) → (j,)."""
        result: Floats = np.logaddexp.reduce(self._log_weights + self._tilts(theta) @ self.data.T, axis=1)
        return result

    def tilt(self, theta: ArrayLike) -> Empirical:
        """The law q_θ: the same points, reweighted."""
        scores = self._log_weights + (self._one_tilt(theta) @ self.data.T)[0]
        tilted = object.__new__(type(self))
        tilted.__dict__.update(self.__dict__)
        tilted.name = f"{self.name}, tilted"
        tilted._log_weights = scores - np.logaddexp.reduce(scores)
        tilted._device_copies = {}
        return tilted

    def draw_tilted(self, theta: Floats, rows: int, *, seed: int, stage: int = 0, first_row: int = 0) -> Floats:
        """Draw row i from q_{θ_i}; see `ExactLaw.draw_tilted`."""
        uniforms = uniform(seed, rows, 1, stage=stage, first_row=first_row)[:, 0]
        labels = np.empty(rows, dtype=np.int64)
        step = rows if theta.shape[0] == 1 else max(1, _BLOCK_ENTRIES // self.data.shape[0])
        for start in range(0, rows, step):
            block = slice(start, min(rows, start + step))
            scores = self._log_weights + (theta if theta.shape[0] == 1 else theta[block]) @ self.data.T
            probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
            labels[block] = categorical(probabilities, uniforms[block])
        return self.data[labels].reshape((rows, *self.shape))

    @property
    def noise_size(self) -> int:
        """One number chooses a data point."""
        return 1

    def from_noise(self, noise: Floats) -> Floats:
        """Data points by inversion; see `ExactLaw.from_noise`."""
        from scipy.special import ndtr

        return self.data[categorical(self.weights[None], ndtr(noise[:, 0]))].reshape((-1, *self.shape))

    def denoise(self, x: Any, sigma: Any) -> Any:
        """The exact posterior mean over the data; numpy, torch or jax arrays.

        Arguments:
            x: (n, *shape).
            sigma: (n,), in units of x.

        Returns:
            (n, *shape), of x's kind, dtype and device.
        """
        xp = array_api_compat.array_namespace(x)
        scored, centre = self._constants(x)
        data = scored[:, :-2]
        flat = self._flat(x) - centre
        on_host = str(array_api_compat.device(x)) == "cpu"
        step = max(1, (_CACHE_ENTRIES if on_host else _BLOCK_ENTRIES) // self.data.shape[0])
        parts = []
        for start in range(0, max(1, flat.shape[0]), step):
            precision = xp.reshape(sigma[start : start + step] ** -2, (-1, 1))
            # log w_i + (⟨x, x_i⟩ − ‖x_i‖²/2)/σ² in one product: passes over rows × data points are what takes the time.
            rows = xp.concat([flat[start : start + step] * precision, precision, xp.ones_like(precision)], axis=1)
            logits = rows @ scored.T
            posterior = xp.exp(logits - xp.max(logits, axis=1, keepdims=True))
            parts.append((posterior @ data) / xp.sum(posterior, axis=1, keepdims=True) + centre)
        return xp.reshape(xp.concat(parts, axis=0), x.shape)

    def _constants(self, x: Any) -> tuple[Any, ...]:
        """The rows (x_i, −‖x_i‖²/2, log w_i), (N, d + 2), of centred data, and the centre (d,), beside x."""
        xp, device = array_api_compat.array_namespace(x), array_api_compat.device(x)
        key = (xp.__name__, str(x.dtype), str(device))
        if key not in self._device_copies:
            data = self.data - self._centre
            scored = np.column_stack([data, -0.5 * (data**2).sum(axis=1), self._log_weights])
            self._device_copies[key] = tuple(
                xp.asarray(values, dtype=x.dtype, device=device) for values in (scored, self._centre)
            )
        return self._device_copies[key]


def _log_weights(weights: ArrayLike | None, count: int) -> Floats:
    """Of normalised masses, (N,)."""
    if weights is None:
        return np.full(count, -np.log(count))
    mass = finite_array(weights, "the data's weights")
    if mass.shape != (count,):
        raise ShapeError(
            f"The weights have shape {mass.shape}, and there are {count} rows of data.",
            ways_out=[f"Pass one weight for each row, ({count},)."],
        )
    if np.any(mass < 0) or mass.sum() <= 0:
        raise ParameterError("The data's weights must be nonnegative, with a positive sum.")
    with np.errstate(divide="ignore"):
        found: Floats = np.log(mass / mass.sum())
    return found
