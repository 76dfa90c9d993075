"""The contract of base laws: what a pre-trained model is to alignkit."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Literal

import array_api_compat
import numpy as np
from numpy.typing import ArrayLike, NDArray

from alignkit.errors import NonFiniteError, ParameterError, ShapeError

__all__ = ["BaseLaw", "ExactLaw", "Progress", "Tail", "checked_count", "finite_array"]

Floats = NDArray[np.float64]

# Noise levels in standard deviations: the start N(m, σ_max²I) then has the variance of p + noise to 2·10⁻⁴.
_FINEST, _WIDEST = 0.004, 80.0

#: Called as `progress(stage, done, total)` while work goes on; None keeps silent.
Progress = Callable[[str, int, int], None] | None

#: How the density decays: "bounded" support, a variance v (like exp(−‖x‖²/2v)), or None where nothing is known.
Tail = Literal["bounded"] | float | None


class BaseLaw(ABC):
    """A law p that can be sampled and denoised; subclass it to bring your own.

    Attributes:
        shape: the shape of one draw; d is its number of entries.
        name: what `explain()` calls it.
        tail: how the density decays.
        exact: whether `denoise` is the true posterior mean E[x₀ | x_σ = x], rather than a network's estimate of it.
        sigma_min, sigma_max: the noise scales at which `denoise` may be called, in units of x.
        data_range: the interval that holds every entry of x, or None.
        dtype: the floating type samplers run it in, "float32" or "float64".
        solver: the method samplers draw with, by name, as in `alignkit_torch.solvers`; None leaves it to them.
        nfe: how often samplers call `denoise` in a draw from sigma_max; None leaves it to them.
        evaluations_per_denoise: of the network for a row: 2 under classifier-free guidance.
        row_bytes: what a row takes in memory while it is denoised, in bytes; None where it is not known.
    """

    shape: tuple[int, ...]
    name: str
    tail: Tail = None
    exact: bool = False
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    data_range: tuple[float, float] | None = None
    dtype: Literal["float32", "float64"] = "float32"
    solver: str | None = None
    nfe: int | None = None
    evaluations_per_denoise: int = 1
    row_bytes: int | None = None

    @property
    def ambient(self) -> int:
        """The dimension d of x."""
        return math.prod(self.shape)

    @property
    def ess(self) -> float:
        """How many independent draws all draws of the law together are worth, where they share what they come from.

        Infinite for all others: means over n draws have a variance of 1/n + 1/ess of that of a draw.
        """
        return math.inf

    @abstractmethod
    def sample(self, n: int, *, seed: int, progress: Progress = None) -> Any:
        """Draw from p.

        Arguments:
            n: how many draws.
            seed: fixes them; draw i does not depend on n.
            progress: told how far it is.

        Returns:
            (n, *shape), numpy.
        """

    @abstractmethod
    def denoise(self, x: Any, sigma: Any) -> Any:
        """The posterior mean E[x₀ | x_σ = x], where x_σ = x₀ + σz with z standard normal.

        Arguments:
            x: (n, *shape), an array of the kind the sampler works in: torch tensors from the torch backend.
            sigma: (n,), the noise scale of each row, in units of x.

        Returns:
            (n, *shape), of x's kind.
        """

    def __call__(self, x: Any, sigma: Any) -> Any:
        """`denoise`, by the name that samplers in the manner of k-diffusion call it: `model(x, sigma * ones(n))`.

        Arguments:
            x, sigma: as for `denoise`.

        Returns:
            (n, *shape), of x's kind.
        """
        return self.denoise(x, sigma)

    def tail_covariances(self) -> Iterator[Floats]:
        """The covariances Σ of the Gaussians that p decays like, where it decays exactly like a mixture of them.

        Yields:
            Σ as a number, for a multiple of the identity, as a diagonal (d,), or in full (d, d). Nothing at all where
            no more than `tail` is known, as for a network.
        """
        return iter(())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, shape={self.shape})"


class ExactLaw(BaseLaw):
    """A base law whose tilts q_θ ∝ p·exp⟨θ, x⟩ are known in closed form; numpy, no engine needed."""

    exact = True
    dtype = "float64"

    def _set_noise_levels(self, finest: float, widest: float) -> None:
        """Noise levels for samplers, from the standard deviations of p's finest detail and of p as a whole.

        A sampler's steps are spread over all of them, so they reach no further than they must.
        """
        self.sigma_min, self.sigma_max = _FINEST * finest, _WIDEST * widest

    @property
    @abstractmethod
    def mean(self) -> Floats:
        """E_p[x], flattened, (d,)."""

    @property
    @abstractmethod
    def covariance(self) -> Floats:
        """Cov_p[x], flattened, (d, d)."""

    @abstractmethod
    def tilt(self, theta: ArrayLike) -> ExactLaw:
        """The law q_θ, again a base law.

        Arguments:
            theta: θ, of the law's shape or flattened, in units of 1/x.

        Returns:
            a law of the same shape.
        """

    @abstractmethod
    def log_partition(self, theta: ArrayLike) -> Floats:
        """log E_p exp⟨θ, x⟩ for each of j tilts.

        Arguments:
            theta: (j, d), or a single tilt of the law's shape or flattened, in units of 1/x.

        Returns:
            (j,), float64, in nats.
        """

    @abstractmethod
    def draw_tilted(self, theta: Floats, rows: int, *, seed: int, stage: int = 0, first_row: int = 0) -> Floats:
        """Draw row i from q_{θ_i}.

        Arguments:
            theta: (rows, d), or (1, d) for all rows.
            rows: how many rows.
            seed, stage, first_row: number the noise, as in `alignkit.noise.normal`.

        Returns:
            (rows, *shape), float64.
        """

    @property
    @abstractmethod
    def noise_size(self) -> int:
        """How many standard normal numbers `from_noise` makes a draw of."""

    @abstractmethod
    def from_noise(self, noise: Floats) -> Floats:
        """A map whose values have the law p where its arguments are standard normal.

        Arguments:
            noise: (n, noise_size).

        Returns:
            (n, *shape), float64.
        """

    def sample(self, n: int, *, seed: int, progress: Progress = None) -> Floats:
        """Draw n rows from p itself; see `BaseLaw.sample`."""
        return self.draw_tilted(np.zeros((1, self.ambient)), checked_count(n), seed=seed)

    def _tilts(self, theta: ArrayLike) -> Floats:
        """Check tilts given as (d,), (*shape) or (j, d), and return (j, d)."""
        tilts = finite_array(theta, "the tilt θ")
        if tilts.shape == self.shape:
            tilts = tilts.reshape(1, -1)
        tilts = np.atleast_2d(tilts)
        if tilts.ndim != 2 or tilts.shape[1] != self.ambient:
            raise ShapeError(
                f"The tilt θ has shape {np.shape(theta)}, but the law {self.name!r} has shape {self.shape}.",
                ways_out=[f"Pass θ with shape {self.shape} or ({self.ambient},)."],
            )
        return tilts

    def _one_tilt(self, theta: ArrayLike) -> Floats:
        """Check a single tilt, and return (1, d)."""
        tilts = self._tilts(theta)
        if tilts.shape[0] != 1:
            raise ShapeError(
                f"tilt takes one θ of shape {self.shape}, not {tilts.shape[0]} of them.",
                ways_out=["Make one law for each.", "draw_tilted takes a tilt for every row."],
            )
        return tilts

    def _flat(self, x: Any) -> Any:
        """View (n, *shape) as (n, d), with the array's own namespace."""
        if tuple(x.shape[1:]) != self.shape:
            raise ShapeError(
                f"denoise was given rows of shape {tuple(x.shape[1:])}, but the law {self.name!r} has {self.shape}.",
                ways_out=[f"Pass x with shape (n, {', '.join(map(str, self.shape))})."],
            )
        return array_api_compat.array_namespace(x).reshape(x, (x.shape[0], self.ambient))


def checked_count(n: int) -> int:
    """A number of draws, refused unless it is a positive integer.

    Raises:
        ParameterError: n is not an integer, or below 1.
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ParameterError(f"The number of draws must be a positive integer, not {n!r}.")
    return int(n)


def finite_array(values: ArrayLike, what: str) -> Floats:
    """The values as float64, refused when empty or not finite.

    Arguments:
        values: numbers in any nesting numpy understands.
        what: how the message names them.

    Raises:
        ParameterError: there are none, or they are not real numbers.
        NonFiniteError: some are NaN or infinite.
    """
    try:
        raw = np.asarray(values)
    except ValueError as error:
        raise ParameterError(f"{what} must be an array of real numbers: {error}") from error
    if raw.dtype.kind not in "biuf":
        raise ParameterError(f"{what} must hold real numbers, not dtype {raw.dtype}.")
    array = np.array(raw, dtype=np.float64)
    if array.size == 0:
        raise ParameterError(f"{what} is empty (shape {array.shape}).")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise NonFiniteError(
            f"{what} has {bad} entries that are NaN or infinite, the first at index {first}.",
            ways_out=["Drop or impute those entries."],
        )
    return array
