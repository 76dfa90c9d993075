"""Tilt measures μ: functions M(w) = ∫ exp⟨θ, w⟩ dμ(θ) that are exp F or bound it.

Where one is known, p·M is a mixture of linear exponential tilts of p.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from alignkit.contracts import Floats
from alignkit.errors import ParameterError, ShapeError
from alignkit.noise import categorical, fold_seed, normal, uniform

__all__ = ["FiniteMeasure", "GaussianMeasure", "LabelsMeasure", "PointMeasure", "ProductMeasure", "TiltMeasure"]

#: Rows × nodes held at once (64 MB).
_BLOCK_ENTRIES = 1 << 23
#: How negative an eigenvalue of a covariance may be, relative to the largest, to count as rounding.
_ROUNDING = 1e-10


class TiltMeasure(ABC):
    """A positive measure μ over tilts θ ∈ R^k with M(w) = ∫ exp⟨θ, w⟩ dμ(θ) ≥ exp F(w) for every w.

    A path of measures μ_β leads to it, from a multiple of the point mass at 0 at β = 0 to μ at β = 1.

    Attributes:
        dimension: k.
        is_exact: whether M = exp F, so that every draw of the mixture is accepted.
        description: in a few words, for `explain()` and the certificate.
    """

    dimension: int
    is_exact: bool
    description: str

    @abstractmethod
    def log_bound(self, coordinates: Floats, share: float = 1.0) -> Floats:
        """log M_β(w) of rows w, (n, k) to (n,), in nats, with β = share."""

    @abstractmethod
    def draw_tilts(
        self, coordinates: Floats, *, share: float = 1.0, seed: int, stage: int = 0, first_row: int = 0
    ) -> Floats:
        """Draw for each row w a tilt θ from μ_β(dθ)·exp⟨θ, w⟩ / M_β(w).

        Arguments:
            coordinates: w, (n, k).
            share: β.
            seed, stage, first_row: number the noise, as in `alignkit.noise.normal`.

        Returns:
            θ, (n, k), in units of 1/w.
        """


class PointMeasure(TiltMeasure):
    """One tilt: M(w) = exp(⟨θ, w⟩ + c), for an affine F.

    Arguments:
        tilt: θ, (k,); k may be 0.
        constant: c.

    Example:
        >>> PointMeasure([2.0], 1.0).log_bound(np.array([[3.0]]))
        array([7.])
    """

    is_exact = True
    description = "one tilt"

    def __init__(self, tilt: ArrayLike, constant: float = 0.0) -> None:
        self.tilt: Floats = np.asarray(tilt, dtype=np.float64).reshape(-1)
        self.constant = float(constant)
        self.dimension = self.tilt.size

    def log_bound(self, coordinates: Floats, share: float = 1.0) -> Floats:
        """β(⟨θ, w⟩ + c); see `TiltMeasure.log_bound`."""
        return np.asarray(share * (coordinates @ self.tilt + self.constant))

    def draw_tilts(
        self, coordinates: Floats, *, share: float = 1.0, seed: int, stage: int = 0, first_row: int = 0
    ) -> Floats:
        """βθ for every row; see `TiltMeasure.draw_tilts`."""
        return np.tile(share * self.tilt, (coordinates.shape[0], 1))


class GaussianMeasure(TiltMeasure):
    """N(h, C) over tilts: M(w) = exp(½⟨w, Cw⟩ + ⟨h, w⟩ + c), for a convex quadratic F of any rank.

    Source: Hubbard and Stratonovich's identity, as in "Steering diffusion models with quadratic rewards", arXiv
    2602.16570.

    Arguments:
        covariance: C = H/λ, (k, k), symmetric positive semidefinite.
        shift: h, (k,).
        constant: c.

    Raises:
        ParameterError: C has a negative eigenvalue.

    Example:
        >>> GaussianMeasure([[4.0]]).log_bound(np.array([[3.0]]))
        array([18.])
    """

    is_exact = True

    def __init__(self, covariance: ArrayLike, shift: ArrayLike | None = None, constant: float = 0.0) -> None:
        matrix = np.atleast_2d(np.asarray(covariance, dtype=np.float64))
        self.dimension = matrix.shape[0]
        values, vectors = np.linalg.eigh(matrix)
        if values[0] < -_ROUNDING * max(values[-1], 0.0) or values[-1] < 0.0:
            raise ParameterError(f"The covariance of tilts has a negative eigenvalue, {values[0]:.3g}.")
        kept = values > _ROUNDING * max(values[-1], 0.0)
        #: L, (k, rank), with LLᵀ = C and orthogonal columns.
        self.root: Floats = vectors[:, kept] * np.sqrt(values[kept])
        self.shift: Floats = np.zeros(self.dimension) if shift is None else np.asarray(shift, dtype=np.float64)
        self.constant = float(constant)
        self.description = f"Gaussian of rank {self.root.shape[1]} (Hubbard–Stratonovich)"

    @property
    def rank(self) -> int:
        """The rank of C."""
        return int(self.root.shape[1])

    def log_bound(self, coordinates: Floats, share: float = 1.0) -> Floats:
        """β(½‖Lᵀw‖² + ⟨h, w⟩ + c); see `TiltMeasure.log_bound`."""
        seen = coordinates @ self.root
        return np.asarray(share * (0.5 * np.einsum("ij,ij->i", seen, seen) + coordinates @ self.shift + self.constant))

    def draw_tilts(
        self, coordinates: Floats, *, share: float = 1.0, seed: int, stage: int = 0, first_row: int = 0
    ) -> Floats:
        """Draw from N(β(Cw + h), βC) for every row; see `TiltMeasure.draw_tilts`."""
        noise = normal(seed, coordinates.shape[0], self.rank, stage=stage, first_row=first_row)
        standardised = share * (coordinates @ self.root) + math.sqrt(share) * noise
        return np.asarray(standardised @ self.root.T + share * self.shift)


class FiniteMeasure(TiltMeasure):
    """Finitely many tilts: M(w) = Σ_j exp(b_j + ⟨θ_j, w⟩).

    Arguments:
        nodes: θ, (j, k).
        log_weights: b, (j,).
        tempered: whether the weights are raised to β along the path, as those of the pieces b_j of a maximum; else they
            stay, as those of a cover.
        is_exact: whether M = exp F.
        description: in a few words.

    Raises:
        ShapeError: the two do not fit.

    Example:
        >>> FiniteMeasure([[1.0], [-1.0]], [0.0, 0.0]).log_bound(np.array([[0.0]])).round(4)
        array([0.6931])
    """

    def __init__(
        self,
        nodes: ArrayLike,
        log_weights: ArrayLike,
        *,
        tempered: bool = False,
        is_exact: bool = False,
        description: str = "",
    ) -> None:
        self.nodes: Floats = np.asarray(nodes, dtype=np.float64)
        self.log_weights: Floats = np.asarray(log_weights, dtype=np.float64)
        if self.nodes.ndim != 2 or self.log_weights.shape != self.nodes.shape[:1] or not self.log_weights.size:
            raise ShapeError(
                f"A measure has nodes (j, k) and log-weights (j,), not {self.nodes.shape} and {self.log_weights.shape}."
            )
        self.dimension = self.nodes.shape[1]
        self.tempered, self.is_exact = tempered, is_exact
        self.description = description or f"{self.log_weights.size} tilts"

    def _scores(self, coordinates: Floats, share: float) -> Iterator[tuple[slice, Floats]]:
        """β⟨θ_j, w⟩ + log-weights, (rows, j), for blocks of rows."""
        weights = share * self.log_weights if self.tempered else self.log_weights
        step = max(1, _BLOCK_ENTRIES // self.log_weights.size)
        for start in range(0, coordinates.shape[0], step):
            block = slice(start, min(coordinates.shape[0], start + step))
            yield block, weights + share * (coordinates[block] @ self.nodes.T)

    def log_bound(self, coordinates: Floats, share: float = 1.0) -> Floats:
        """See `TiltMeasure.log_bound`."""
        out = np.empty(coordinates.shape[0])
        for block, scores in self._scores(coordinates, share):
            top = scores.max(axis=1)
            out[block] = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
        return out

    def log_bound_and_slope(self, coordinates: Floats) -> tuple[Floats, Floats]:
        """log M and its gradient, the mean of θ given w, at rows w, (n, k) to (n,) and (n, k)."""
        values, slopes = np.empty(coordinates.shape[0]), np.empty_like(coordinates)
        for block, scores in self._scores(coordinates, 1.0):
            top = scores.max(axis=1)
            shares = np.exp(scores - top[:, None])
            total = shares.sum(axis=1)
            values[block] = top + np.log(total)
            slopes[block] = (shares @ self.nodes) / total[:, None]
        return values, slopes

    def draw_tilts(
        self, coordinates: Floats, *, share: float = 1.0, seed: int, stage: int = 0, first_row: int = 0
    ) -> Floats:
        """A node by inversion of a uniform number for every row; see `TiltMeasure.draw_tilts`."""
        uniforms = uniform(seed, coordinates.shape[0], 1, stage=stage, first_row=first_row)[:, 0]
        labels = np.empty(coordinates.shape[0], dtype=np.int64)
        for block, scores in self._scores(coordinates, share):
            labels[block] = categorical(np.exp(scores - scores.max(axis=1, keepdims=True)), uniforms[block])
        return share * self.nodes[labels]


class LabelsMeasure(TiltMeasure):
    """Sums of N independent labels: M(w) = (Σ_i exp(s·z_i/N))^N with z = Aw + b and N = ⌈s⌉, for s·log_sum_exp(z).

    As Σ e^{z_i} is at most (Σ e^{t·z_i})^{1/t} for t ≤ 1, it bounds exp F, and is exp F where s is an integer.

    Arguments:
        matrix: A, (m, k).
        offset: b, (m,).
        scale: s > 0.
        tolerance: how near, relatively, an integer has to be.

    Example:
        >>> measure = LabelsMeasure([[1.0], [-1.0]], [0.0, 0.0], 2.0)
        >>> measure.copies, measure.is_exact
        (2, True)
    """

    def __init__(self, matrix: ArrayLike, offset: ArrayLike, scale: float, *, tolerance: float = 1e-9) -> None:
        self.matrix: Floats = np.asarray(matrix, dtype=np.float64)
        self.offset: Floats = np.asarray(offset, dtype=np.float64)
        self.scale = float(scale)
        if not 0.0 < self.scale < math.inf:
            raise ParameterError(f"The scale of a log_sum_exp must be positive and finite, not {scale!r}.")
        nearest = max(1, round(self.scale))
        self.is_exact = abs(self.scale - nearest) <= tolerance * nearest
        #: N.
        self.copies = nearest if self.is_exact else math.ceil(self.scale)
        self.dimension = self.matrix.shape[1]
        self.description = f"{self.copies} independent labels of {self.offset.size} pieces each"

    def _scores(self, coordinates: Floats, share: float) -> Floats:
        """β·s·z/N, (n, m)."""
        return np.asarray((share * self.scale / self.copies) * (coordinates @ self.matrix.T + self.offset))

    def log_bound(self, coordinates: Floats, share: float = 1.0) -> Floats:
        """N·log Σ_i exp(β·s·z_i/N); see `TiltMeasure.log_bound`."""
        return np.asarray(self.copies * np.logaddexp.reduce(self._scores(coordinates, share), axis=1))

    def draw_tilts(
        self, coordinates: Floats, *, share: float = 1.0, seed: int, stage: int = 0, first_row: int = 0
    ) -> Floats:
        """The sum of N labels' slopes for every row; see `TiltMeasure.draw_tilts`."""
        scores = self._scores(coordinates, share)
        probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
        uniforms = uniform(seed, coordinates.shape[0], self.copies, stage=stage, first_row=first_row)
        counts = np.zeros_like(scores)
        rows = np.arange(scores.shape[0])
        for column in uniforms.T:
            counts[rows, categorical(probabilities, column)] += 1.0
        return np.asarray((share * self.scale / self.copies) * (counts @ self.matrix))


class ProductMeasure(TiltMeasure):
    """The law of a sum of independent tilts: log M is the sum of the parts', for a sum of rewards.

    Arguments:
        parts: measures over the same w, at least one.

    Example:
        >>> both = ProductMeasure([PointMeasure([1.0]), GaussianMeasure([[1.0]])])
        >>> both.log_bound(np.array([[2.0]]))
        array([4.])
    """

    def __init__(self, parts: Sequence[TiltMeasure]) -> None:
        self.parts = tuple(parts)
        if len({part.dimension for part in self.parts}) != 1:
            raise ShapeError("The parts of a product are over tilts of one dimension, and at least one.")
        self.dimension = self.parts[0].dimension
        self.is_exact = all(part.is_exact for part in self.parts)
        counts: dict[str, int] = {}
        for part in self.parts:
            counts[part.description] = counts.get(part.description, 0) + 1
        self.description = " × ".join(text if number == 1 else f"({text})^{number}" for text, number in counts.items())

    def log_bound(self, coordinates: Floats, share: float = 1.0) -> Floats:
        """See `TiltMeasure.log_bound`."""
        return np.asarray(sum(part.log_bound(coordinates, share) for part in self.parts))

    def draw_tilts(
        self, coordinates: Floats, *, share: float = 1.0, seed: int, stage: int = 0, first_row: int = 0
    ) -> Floats:
        """The sum of a tilt of each part; see `TiltMeasure.draw_tilts`."""
        total = np.zeros_like(coordinates)
        for number, part in enumerate(self.parts):
            own = fold_seed(seed, f"part {number}")
            total += part.draw_tilts(coordinates, share=share, seed=own, stage=stage, first_row=first_row)
        return total
