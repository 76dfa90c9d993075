"""Gaussians and their mixtures: laws whose denoiser, tilts and log-partition are closed forms."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import array_api_compat
import numpy as np
from numpy.typing import ArrayLike

from alignkit.base.law import ExactLaw, Floats, finite_array
from alignkit.errors import ParameterError, ShapeError
from alignkit.noise import categorical, normal, uniform

__all__ = ["Gaussian", "GaussianMixture"]


class GaussianMixture(ExactLaw):
    """A mixture of Gaussians, with its exact denoiser, tilts and log-partition.

    Tilting keeps the family: component c of q_θ has mean μ_c + Σ_cθ, the same covariance, and weight proportional to
    w_c·exp(⟨θ, μ_c⟩ + ½θᵀΣ_cθ).

    Arguments:
        weights: (c,), nonnegative; normalised here.
        means: (c, *shape).
        covariances: one scalar shared by all; or, with the component first, scalars (c,), variances (c, *shape), or
            matrices (c, d, d).
        name: what `explain()` calls it.

    Raises:
        ParameterError: no components, negative weights, a covariance that is not positive definite.
        ShapeError: numbers of components or dimensions that disagree.
        NonFiniteError: a NaN or an infinity.

    Example:
        >>> law = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.25)
        >>> law.tilt([4.0]).mean.round(3).tolist()
        [1.999]
    """

    def __init__(
        self, weights: ArrayLike, means: ArrayLike, covariances: ArrayLike, *, name: str = "Gaussian mixture"
    ) -> None:
        self.name = name
        mass = finite_array(weights, "the mixture's weights")
        centres = finite_array(means, "the mixture's means")
        if mass.ndim != 1 or centres.ndim < 1 or centres.shape[0] != mass.size:
            raise ShapeError(
                f"The mixture's weights have shape {mass.shape} and its means {centres.shape}; "
                "the first axis of both is the component.",
                ways_out=["Pass weights (c,) and means (c, *shape)."],
            )
        if np.any(mass < 0) or mass.sum() <= 0:
            raise ParameterError("The mixture's weights must be nonnegative, with a positive sum.")
        self.shape = tuple(centres.shape[1:])
        self.weights: Floats = mass / mass.sum()
        self.means: Floats = centres.reshape(mass.size, -1)
        self._variances, self._axes = self._spectrum(finite_array(covariances, "the mixture's covariances"))
        self.tail = float(self._variances.max())
        self._fit_noise_levels()
        self._device_copies: dict[Any, tuple[Any, ...]] = {}

    def _spectrum(self, covariances: Floats) -> tuple[Floats, Floats | None]:
        """Eigenvalues (c, 1 or d) and eigenvectors (c, d, d) of the covariances; no vectors where they are diagonal."""
        count, dimension = self.weights.size, self.ambient
        axes = None
        if covariances.ndim == 0:
            variances = np.full((count, 1), float(covariances))
        elif covariances.shape == (count,):
            variances = covariances[:, None]
        elif covariances.shape == (count, *self.shape):
            variances = covariances.reshape(count, -1)
        elif covariances.shape == (count, dimension, dimension):
            if not np.allclose(covariances, covariances.transpose(0, 2, 1), rtol=1e-8, atol=1e-12):
                raise ParameterError("A covariance matrix is not symmetric.", ways_out=["Pass (C + C.T) / 2."])
            variances, axes = np.linalg.eigh(covariances)
        else:
            raise ShapeError(
                f"The covariances have shape {covariances.shape}; with {count} components of shape {self.shape} they "
                f"may be a scalar, ({count},), {(count, *self.shape)} or {(count, dimension, dimension)}.",
            )
        if variances.min() <= 0:
            raise ParameterError(
                f"A covariance is not positive definite: its smallest eigenvalue is {variances.min():.3g}.",
                ways_out=["Add a small multiple of the identity."],
            )
        return variances, axes

    def _fit_noise_levels(self) -> None:
        between = self.weights @ (self.means - self.mean) ** 2
        self._set_noise_levels(math.sqrt(self._variances.min()), math.sqrt(self._variances.max() + between.max()))

    @property
    def mean(self) -> Floats:
        """E[x], (d,)."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Floats:
        """Cov[x], (d, d)."""
        centred = self.means - self.mean
        between = (self.weights[:, None] * centred).T @ centred
        if self._axes is None:
            within = np.diag(np.broadcast_to(self.weights @ self._variances, (self.ambient,)))
        else:
            within = np.einsum("c,cij,cj,ckj->ik", self.weights, self._axes, self._variances, self._axes)
        return between + within

    def tail_covariances(self) -> Iterator[Floats]:
        """The covariances of the components of positive weight; see `BaseLaw.tail_covariances`."""
        seen: set[bytes] = set()
        for component in np.flatnonzero(self.weights > 0.0).tolist():
            variances = self._variances[component]
            if self._axes is not None:
                axes = self._axes[component]
                yield (axes * variances) @ axes.T
            elif variances.tobytes() not in seen:
                seen.add(variances.tobytes())
                yield variances[0] if variances.size == 1 else variances

    def _spread(self, component: int, vectors: Floats, power: float) -> Floats:
        """Σ_c^power applied to rows of vectors, (n, d)."""
        scale = self._variances[component] ** power
        if self._axes is None:
            diagonal: Floats = vectors * scale
            return diagonal
        axes = self._axes[component]
        full: Floats = ((vectors @ axes) * scale) @ axes.T
        return full

    def _tilted_components(self, tilts: Floats) -> tuple[Floats, Floats]:
        """Log-weights (j, c), unnormalised, and shifts Σ_cθ (c, j, d) of the tilted components."""
        shifts = np.stack([self._spread(c, tilts, 1.0) for c in range(self.weights.size)])
        with np.errstate(divide="ignore"):
            log_weights = np.log(self.weights)
        quadratic = 0.5 * np.einsum("cjd,jd->jc", shifts, tilts)
        return log_weights + tilts @ self.means.T + quadratic, shifts

    def log_partition(self, theta: ArrayLike) -> Floats:
        """log E_p exp⟨θ, x⟩ = log Σ_c w_c exp(⟨θ, μ_c⟩ + ½θᵀΣ_cθ), (j, d) → (j,)."""
        log_weights, _ = self._tilted_components(self._tilts(theta))
        result: Floats = np.logaddexp.reduce(log_weights, axis=1)
        return result

    def tilt(self, theta: ArrayLike) -> GaussianMixture:
        """The law q_θ, a mixture of the same covariances."""
        log_weights, shifts = self._tilted_components(self._one_tilt(theta))
        tilted = object.__new__(type(self))
        tilted.__dict__.update(self.__dict__)
        tilted.name = f"{self.name}, tilted"
        tilted.weights = np.exp(log_weights[0] - np.logaddexp.reduce(log_weights[0]))
        tilted.means = self.means + shifts[:, 0]
        tilted._device_copies = {}
        tilted._fit_noise_levels()
        return tilted

    def draw_tilted(self, theta: Floats, rows: int, *, seed: int, stage: int = 0, first_row: int = 0) -> Floats:
        """Draw row i from q_{θ_i}; see `ExactLaw.draw_tilted`."""
        log_weights, shifts = self._tilted_components(theta)
        probabilities = np.exp(log_weights - np.logaddexp.reduce(log_weights, axis=1)[:, None])
        # Labels and noise are different streams of one stage: labels take the odd ones.
        labels = categorical(probabilities, uniform(seed, rows, 1, stage=2 * stage + 1, first_row=first_row)[:, 0])
        noise = normal(seed, rows, self.ambient, stage=2 * stage, first_row=first_row)
        out = np.empty((rows, self.ambient))
        for component in range(self.weights.size):
            chosen = np.flatnonzero(labels == component)
            shift = shifts[component] if theta.shape[0] == 1 else shifts[component, chosen]
            out[chosen] = self.means[component] + shift + self._spread(component, noise[chosen], 0.5)
        return out.reshape((rows, *self.shape))

    @property
    def noise_size(self) -> int:
        """A number for each coordinate, and one for the component."""
        return self.ambient + 1

    def from_noise(self, noise: Floats) -> Floats:
        """μ_c + Σ_c^½ z, the component c by inversion of the last number; see `ExactLaw.from_noise`."""
        from scipy.special import ndtr

        labels = categorical(self.weights[None], ndtr(noise[:, -1]))
        out = np.empty((noise.shape[0], self.ambient))
        for component in range(self.weights.size):
            chosen = np.flatnonzero(labels == component)
            out[chosen] = self.means[component] + self._spread(component, noise[chosen, :-1], 0.5)
        return out.reshape((-1, *self.shape))

    def denoise(self, x: Any, sigma: Any) -> Any:
        """The exact posterior mean, a weighted sum of the components' own; numpy, torch or jax arrays.

        Arguments:
            x: (n, *shape).
            sigma: (n,), in units of x.

        Returns:
            (n, *shape), of x's kind, dtype and device.
        """
        xp = array_api_compat.array_namespace(x)
        flat = self._flat(x)
        log_weights, means, variances, axes = self._constants(flat)
        variance = xp.reshape(sigma, (1, -1, 1)) ** 2
        centred = flat[None, :, :] - means
        if axes is not None:
            centred = xp.matmul(centred, axes)
        total = variances + variance
        # A scalar variance stands for all d coordinates in the determinant.
        copies = self.ambient // variances.shape[2]
        logits = log_weights - 0.5 * (xp.sum(centred**2 / total, axis=2) + copies * xp.sum(xp.log(total), axis=2))
        logits = logits - xp.max(logits, axis=0, keepdims=True)
        posterior = xp.exp(logits)
        posterior = posterior / xp.sum(posterior, axis=0, keepdims=True)
        shrunk = centred * (variances / total)
        if axes is not None:
            shrunk = xp.matmul(shrunk, xp.matrix_transpose(axes))
        out = xp.sum(posterior[:, :, None] * (means + shrunk), axis=0)
        return xp.reshape(out, x.shape)

    def _constants(self, x: Any) -> tuple[Any, ...]:
        """Log-weights (c, 1), means (c, 1, d), variances (c, 1, 1 or d) and axes, beside x, copied there once."""
        xp, device = array_api_compat.array_namespace(x), array_api_compat.device(x)
        key = (xp.__name__, str(x.dtype), str(device))
        if key not in self._device_copies:
            move = functools.partial(xp.asarray, dtype=x.dtype, device=device)
            with np.errstate(divide="ignore"):
                log_weights = np.log(self.weights)[:, None]
            axes = None if self._axes is None else move(self._axes)
            self._device_copies[key] = (
                move(log_weights), move(self.means[:, None, :]), move(self._variances[:, None, :]), axes,
            )  # fmt: skip
        return self._device_copies[key]


class Gaussian(GaussianMixture):
    """A Gaussian law, with its exact denoiser, tilts and log-partition.

    Arguments:
        mean: of the law's shape; a scalar makes shape ().
        covariance: a scalar, variances of the law's shape, or a (d, d) matrix.
        name: what `explain()` calls it.

    Raises:
        ParameterError, ShapeError, NonFiniteError: as for `GaussianMixture`.

    Example:
        >>> float(Gaussian([0.0, 0.0], 1.0).log_partition([3.0, 4.0])[0])
        12.5
    """

    def __init__(self, mean: ArrayLike, covariance: ArrayLike, *, name: str = "Gaussian") -> None:
        centre = finite_array(mean, "the Gaussian's mean")
        spread = finite_array(covariance, "the Gaussian's covariance")
        dimension = math.prod(centre.shape)
        if spread.shape not in {(), centre.shape, (dimension, dimension)}:
            raise ShapeError(
                f"The covariance has shape {spread.shape} and the mean {centre.shape}.",
                ways_out=[f"Pass a scalar, variances {centre.shape}, or a matrix {(dimension, dimension)}."],
            )
        super().__init__([1.0], centre[None], spread if spread.ndim == 0 else spread[None], name=name)
