"""Transport costs c(x, y), the price of moving a draw, public as `ak.costs`.

Every cost is c(x, y) = h(y − x) with h convex, even and h(0) = 0. Its conjugate h*(w) = sup_δ ⟨w, δ⟩ − h(δ) is what a
linear reward gains by moving, and what certificates are made of.

How each is reduced to the k dimensions of a reward r(y) = f(Qy) + ⟨g, y⟩, QQᵀ = I, Qg = 0:

- h = ½⟨δ, Mδ⟩. Among the δ with Qδ given, ½λ⟨δ, Mδ⟩ − ⟨g, δ⟩ is least where λMδ − g lies in the row space of Q, so that
  δ = M⁻¹(g/λ + Qᵀs). Hence Qδ = QM⁻¹g/λ + Ks with K = QM⁻¹Qᵀ = RRᵀ, and with z = R⁻¹w the problem is that of half
  the squared distance again, for f(Rz), v = R⁻¹(Qx + QM⁻¹g/λ) and z − v = Rᵀs.
- h = ‖δ‖^p/p. h is unchanged when δ is rotated, so that a part of δ orthogonal both to the rows of Q and to g gains
  nothing and costs: δ = Qᵀu + tg/‖g‖, k + 1 dimensions, k where g = 0.
- The others are not rotation invariant: δ stays in R^d, but f sees Qδ alone, and so the dual has k dimensions:
  λh*((g − Qᵀp)/λ) for a minorant −⟨p, ·⟩ of f.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from alignkit import registry
from alignkit.contracts import Floats
from alignkit.errors import ParameterError, ShapeError

__all__ = [
    "L1",
    "Cost",
    "ElasticNet",
    "Euclidean",
    "Mahalanobis",
    "PNorm",
    "SquaredEuclidean",
    "Weighted",
    "from_ott",
]


class Cost(ABC):
    """A translation-invariant transport cost c(x, y) = h(y − x), h convex and even with h(0) = 0."""

    #: h in mathematics, for messages and formulas.
    formula: str

    @abstractmethod
    def of_displacement(self, displacement: Any) -> Any:
        """h at each row of y − x.

        Arguments:
            displacement: δ = y − x, (n, d), numpy, torch or jax.

        Returns:
            (n,), of the same kind, in units of cost.
        """

    @abstractmethod
    def conjugate(self, dual: Floats) -> Floats:
        """h*(w) = sup_δ ⟨w, δ⟩ − h(δ) at each row.

        Arguments:
            dual: w, (n, d), in units of cost per x.

        Returns:
            (n,), in units of cost; infinite where there is no supremum.
        """

    @abstractmethod
    def best_displacement(self, dual: Floats) -> Floats:
        """argmax_δ ⟨w, δ⟩ − h(δ) at each row.

        Arguments:
            dual: w, (n, d), in units of cost per x.

        Returns:
            δ, (n, d); the shortest where there are several, 0 where there is none.
        """

    @property
    def ambient(self) -> int | None:
        """The number of entries of the points it compares; None for any."""
        return None

    def value(self, x: Any, y: Any) -> Any:
        """The cost of moving each row of x to the same row of y.

        Arguments:
            x: (n, *shape), numpy, torch or jax.
            y: the same shape and kind.

        Returns:
            (n,), of the same kind, in units of cost.

        Raises:
            ShapeError: the shapes differ, or have no batch axis.
        """
        if x.ndim == 0 or tuple(x.shape) != tuple(y.shape):
            raise ShapeError(
                f"A cost compares rows of equal shape, but x has shape {tuple(x.shape)} and y {tuple(y.shape)}.",
                ways_out=["Pass both as (n, *shape), the batch axis first: x[None] makes one row of a single point."],
            )
        return self.of_displacement(array_namespace(x, y).reshape(y - x, (x.shape[0], math.prod(x.shape[1:]))))


class Quadratic(Cost):
    """h(δ) = ½⟨δ, Mδ⟩ with M ≻ 0."""

    @abstractmethod
    def divide(self, rows: Floats) -> Floats:
        """M⁻¹ applied to each row.

        Arguments:
            rows: (n, d).

        Returns:
            (n, d).
        """

    def conjugate(self, dual: Floats) -> Floats:
        """½⟨w, M⁻¹w⟩."""
        return np.asarray(0.5 * np.einsum("nd,nd->n", dual, self.divide(dual)))

    def best_displacement(self, dual: Floats) -> Floats:
        """M⁻¹w."""
        return self.divide(dual)


@dataclass(frozen=True)
class SquaredEuclidean(Quadratic):
    """Half the squared Euclidean distance, c(x, y) = ½‖x − y‖².

    Under it a reward f(Ax) + ⟨g, x⟩ moves x by g/λ and within the row space of A only, which is what makes high
    dimensions cheap ("The tractability landscape of diffusion alignment", arXiv 2605.11361).

    Example:
        >>> import numpy as np
        >>> SquaredEuclidean().value(np.zeros((1, 2)), np.array([[3.0, 4.0]]))
        array([12.5])
    """

    formula = "½‖x − y‖²"

    def of_displacement(self, displacement: Any) -> Any:
        """½‖·‖² of each row, (n, d) to (n,)."""
        return 0.5 * array_namespace(displacement).sum(displacement * displacement, axis=1)

    def divide(self, rows: Floats) -> Floats:
        """The rows themselves, as M = I.

        Arguments:
            rows: (n, d).

        Returns:
            (n, d).
        """
        return rows


HALF_SQUARED_DISTANCE = SquaredEuclidean()


@dataclass(frozen=True, eq=False)
class Weighted(Quadratic):
    """Half a weighted squared distance, c(x, y) = ½Σ_i weights_i·(x_i − y_i)².

    Arguments:
        weights: (d,) or of the variable's shape, positive: where moving is dear. A number weighs all entries alike,
            however many there are.

    Raises:
        ParameterError: a weight is not positive and finite.

    Example:
        >>> import numpy as np
        >>> Weighted([1.0, 4.0]).value(np.zeros((1, 2)), np.array([[2.0, 1.0]]))
        array([4.])
        >>> Weighted(2.0).value(np.zeros((1, 2)), np.array([[2.0, 1.0]]))
        array([5.])
    """

    weights: Any

    formula = "½Σ mᵢ(xᵢ − yᵢ)²"

    def __post_init__(self) -> None:
        found = _numbers(self.weights, "Weighted(weights)")
        found = found.ravel() if found.ndim else found
        if not (found > 0).all():
            raise ParameterError(
                f"Weighted(weights) takes positive weights, and the least is {found.min():.6g}.",
                ways_out=["Give entries that may move freely a small positive weight."],
            )
        object.__setattr__(self, "weights", found)

    def of_displacement(self, displacement: Any) -> Any:
        """½Σ m_i δ_i² of each row."""
        xp = array_namespace(displacement)
        weights = xp.asarray(self.weights, dtype=displacement.dtype, device=displacement.device)
        return 0.5 * xp.sum(weights * displacement * displacement, axis=1)

    def divide(self, rows: Floats) -> Floats:
        """Each entry by its weight.

        Arguments:
            rows: (n, d).

        Returns:
            (n, d).
        """
        return np.asarray(rows / self.weights)

    @property
    def ambient(self) -> int | None:
        """One entry for each weight; None where one number weighs them all."""
        return len(self.weights) if self.weights.ndim else None


@dataclass(frozen=True, eq=False)
class Mahalanobis(Quadratic):
    """Half the squared Mahalanobis distance, c(x, y) = ½⟨x − y, M(x − y)⟩.

    Arguments:
        matrix: M, (d, d), symmetric positive definite, over the entries in C order.

    Raises:
        ParameterError: M is not symmetric positive definite.

    Example:
        >>> import numpy as np
        >>> Mahalanobis(np.array([[2.0, 1.0], [1.0, 2.0]])).value(np.zeros((1, 2)), np.ones((1, 2)))
        array([3.])
    """

    matrix: Any

    formula = "½⟨x − y, M(x − y)⟩"

    def __post_init__(self) -> None:
        found = _numbers(self.matrix, "Mahalanobis(matrix)")
        name = "Mahalanobis(matrix)"
        if found.ndim != 2 or found.shape[0] != found.shape[1]:
            raise ParameterError(f"{name} takes a square matrix, not one of shape {found.shape}.")
        if np.abs(found - found.T).max(initial=0.0) > 1e-10 * np.abs(found).max(initial=0.0):
            raise ParameterError(f"{name} takes a symmetric matrix.", ways_out=["(M + M.T) / 2 has the same form."])
        object.__setattr__(self, "matrix", (found + found.T) / 2)
        try:
            np.linalg.cholesky(self.matrix)
        except np.linalg.LinAlgError:
            least = float(np.linalg.eigvalsh(self.matrix)[0])
            raise ParameterError(
                f"{name} takes a positive definite matrix, and its least eigenvalue is {least:.3g}.",
                ways_out=["Add a small multiple of the identity: M + ε·np.eye(d)."],
            ) from None

    @cached_property
    def _factor(self) -> Any:
        from scipy.linalg import cho_factor

        return cho_factor(self.matrix)

    def of_displacement(self, displacement: Any) -> Any:
        """½⟨δ, Mδ⟩ of each row."""
        xp = array_namespace(displacement)
        matrix = xp.asarray(self.matrix, dtype=displacement.dtype, device=displacement.device)
        return 0.5 * xp.sum(displacement * (displacement @ matrix), axis=1)

    def divide(self, rows: Floats) -> Floats:
        """M⁻¹ applied to each row.

        Arguments:
            rows: (n, d).

        Returns:
            (n, d).
        """
        from scipy.linalg import cho_solve

        return np.asarray(cho_solve(self._factor, rows.T).T)

    @property
    def ambient(self) -> int:
        """d."""
        return len(self.matrix)


class _PowerOfNorm(Cost):
    """h(δ) = N(δ)^power/power for a norm N, with h*(w) = N*(w)^q/q, 1/power + 1/q = 1, or the indicator of N* ≤ 1."""

    power: float

    def _check_power(self) -> None:
        if not (_is_number(self.power) and 1 <= self.power < math.inf):
            raise ParameterError(
                f"{type(self).__name__}(power=…) takes a number of at least 1, not {self.power!r}: below 1 the cost is "
                "not convex.",
                ways_out=["power=1 for the norm itself, power=2 for half its square."],
            )

    @abstractmethod
    def _norm(self, displacement: Any) -> Any:
        """N of each row, (n,)."""

    @abstractmethod
    def dual_norm(self, dual: Floats) -> Floats:
        """N* of each row.

        Arguments:
            dual: w, (n, d).

        Returns:
            (n,).
        """

    @abstractmethod
    def _aligned(self, dual: Floats) -> Floats:
        """A δ of each row with N(δ) = 1 and ⟨w, δ⟩ = N*(w), (n, d)."""

    def steepest_direction(self, dual: Floats) -> Floats:
        """A δ with N(δ) = 1 along which ⟨w, δ⟩ = N*(w) rises fastest.

        Arguments:
            dual: w, (d,), not 0.

        Returns:
            (d,).
        """
        return np.asarray(self._aligned(dual[None])[0])

    def of_displacement(self, displacement: Any) -> Any:
        """N(δ)^power/power of each row."""
        size = self._norm(displacement)
        return size if self.power == 1 else size**self.power / self.power

    def conjugate(self, dual: Floats) -> Floats:
        """N*(w)^q/q; for power 1 the indicator of N*(w) ≤ 1."""
        size = self.dual_norm(dual)
        if self.power == 1:
            return np.where(size <= 1.0, 0.0, np.inf)
        exponent = self.power / (self.power - 1)
        return np.asarray(size**exponent / exponent)

    def best_displacement(self, dual: Floats) -> Floats:
        """N*(w)^(1/(power − 1)) along the direction that w is aligned with; 0 for power 1."""
        if self.power == 1:
            return np.zeros_like(dual)
        size = self.dual_norm(dual) ** (1 / (self.power - 1))
        return np.asarray(size[:, None] * self._aligned(dual))


@dataclass(frozen=True)
class Euclidean(_PowerOfNorm):
    """A power of the Euclidean distance, c(x, y) = ‖x − y‖^power/power.

    Arguments:
        power: at least 1; 1 is the distance itself.

    Raises:
        ParameterError: power is below 1.

    Example:
        >>> import numpy as np
        >>> Euclidean().value(np.zeros((1, 2)), np.array([[3.0, 4.0]]))
        array([5.])
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        self._check_power()

    @property
    def formula(self) -> str:  # type: ignore[override]
        """In mathematics."""
        return "‖x − y‖" if self.power == 1 else f"‖x − y‖^{self.power:g}/{self.power:g}"

    def _norm(self, displacement: Any) -> Any:
        """‖δ‖ of each row."""
        xp = array_namespace(displacement)
        return xp.sqrt(xp.sum(displacement * displacement, axis=1))

    def dual_norm(self, dual: Floats) -> Floats:
        """‖w‖ of each row.

        Arguments:
            dual: w, (n, d).

        Returns:
            (n,).
        """
        return np.asarray(np.linalg.norm(dual, axis=1))

    def _aligned(self, dual: Floats) -> Floats:
        """w/‖w‖."""
        size = self.dual_norm(dual)[:, None]
        return np.asarray(dual / np.where(size > 0, size, 1.0))


@dataclass(frozen=True)
class PNorm(_PowerOfNorm):
    """A power of an ℓ_p distance, c(x, y) = ‖x − y‖_p^power/power.

    Arguments:
        p: at least 1, or `math.inf` for the largest entry.
        power: at least 1; 1 is the distance itself.

    Raises:
        ParameterError: p or power is below 1.

    Example:
        >>> import numpy as np
        >>> PNorm(3).value(np.zeros((1, 2)), np.ones((1, 2))).round(3)
        array([1.26])
    """

    p: float
    power: float = 1.0

    def __post_init__(self) -> None:
        self._check_power()
        if not (_is_number(self.p) and self.p >= 1):
            raise ParameterError(
                f"PNorm(p) takes a number of at least 1, not {self.p!r}: below 1 it is not convex.",
                ways_out=["ak.costs.L1() is the sparsest of them."],
            )

    @property
    def formula(self) -> str:  # type: ignore[override]
        """In mathematics."""
        name = "∞" if math.isinf(self.p) else f"{self.p:g}"
        return f"‖x − y‖_{name}" if self.power == 1 else f"‖x − y‖_{name}^{self.power:g}/{self.power:g}"

    @property
    def dual_exponent(self) -> float:
        """q with 1/p + 1/q = 1."""
        if math.isinf(self.p):
            return 1.0
        return math.inf if self.p == 1 else self.p / (self.p - 1)

    def _norm(self, displacement: Any) -> Any:
        """‖δ‖_p of each row."""
        xp = array_namespace(displacement)
        size = xp.abs(displacement)
        if math.isinf(self.p):
            return xp.max(size, axis=1)
        if self.p == 1:
            return xp.sum(size, axis=1)
        # Scaled by the largest entry, so that no power overflows.
        top = xp.max(size, axis=1, keepdims=True)
        scale = xp.where(top > 0, top, xp.ones_like(top))
        return scale[:, 0] * xp.sum((size / scale) ** self.p, axis=1) ** (1 / self.p)

    def dual_norm(self, dual: Floats) -> Floats:
        """‖w‖_q of each row.

        Arguments:
            dual: w, (n, d).

        Returns:
            (n,).
        """
        return np.asarray(PNorm(self.dual_exponent)._norm(dual))

    def _aligned(self, dual: Floats) -> Floats:
        """sign(w)·|w|^(q−1), normalised; spread over the largest entries where q = ∞."""
        size = np.abs(dual)
        top = size.max(axis=1, keepdims=True)
        scaled = size / np.where(top > 0, top, 1.0)
        exponent = self.dual_exponent - 1
        found = np.where(scaled == 1.0, 1.0, 0.0) if math.isinf(exponent) else scaled**exponent
        found = np.sign(dual) * found
        length = np.asarray(self._norm(found))[:, None]
        return np.asarray(found / np.where(length > 0, length, 1.0))


@dataclass(frozen=True)
class L1(PNorm):
    """The ℓ1 distance, c(x, y) = ‖x − y‖₁: few entries move.

    Example:
        >>> import numpy as np
        >>> L1().value(np.zeros((1, 2)), np.array([[3.0, -4.0]]))
        array([7.])
    """

    p: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p != 1:
            raise ParameterError(f"L1() has p = 1, not {self.p!r}.", ways_out=["ak.costs.PNorm(p)."])


@dataclass(frozen=True)
class ElasticNet(Cost):
    """Half the squared distance and an ℓ1 distance, c(x, y) = ½‖x − y‖² + gamma·‖x − y‖₁.

    Arguments:
        gamma: not negative; the larger, the fewer entries move.

    Raises:
        ParameterError: gamma is negative or not finite.

    Example:
        >>> import numpy as np
        >>> ElasticNet(2.0).value(np.zeros((1, 2)), np.array([[3.0, -1.0]]))
        array([13.])
    """

    gamma: float

    def __post_init__(self) -> None:
        if not (_is_number(self.gamma) and 0 <= self.gamma < math.inf):
            raise ParameterError(
                f"ElasticNet(gamma) takes a number of at least 0, not {self.gamma!r}.", ways_out=["ElasticNet(1.0)."]
            )

    @property
    def formula(self) -> str:  # type: ignore[override]
        """In mathematics."""
        return f"½‖x − y‖² + {self.gamma:g}‖x − y‖₁"

    def of_displacement(self, displacement: Any) -> Any:
        """½‖δ‖² + γ‖δ‖₁ of each row."""
        xp = array_namespace(displacement)
        return xp.sum(displacement * displacement / 2 + self.gamma * xp.abs(displacement), axis=1)

    def conjugate(self, dual: Floats) -> Floats:
        """½‖·‖² of each row, soft-thresholded at γ.

        Arguments:
            dual: w, (n, d), in units of cost per x.

        Returns:
            (n,), in units of cost.
        """
        return np.asarray(0.5 * (self.best_displacement(dual) ** 2).sum(axis=1))

    def best_displacement(self, dual: Floats) -> Floats:
        """Soft thresholding at γ.

        Arguments:
            dual: w, (n, d), in units of cost per x.

        Returns:
            δ, (n, d).
        """
        return np.asarray(np.sign(dual) * np.maximum(np.abs(dual) - self.gamma, 0.0))


def is_ott(value: object) -> bool:
    """True for OTT's costs, and for those of classes that inherit from one; does not import OTT."""
    return any(kind.__module__.partition(".")[0] == "ott" and kind.__name__ == "CostFn" for kind in type(value).__mro__)


def from_ott(cost: Any) -> Cost:
    """A translation-invariant cost of OTT as a cost of alignkit, of the same value in the same units.

    `Wasserstein(cost=…)` accepts OTT's costs directly. Mind their factors: `SqEuclidean()` is ‖x − y‖², twice
    `SquaredEuclidean()`, and so `Weighted(2.0)`; `SqPNorm(p)` is ½‖x − y‖_p², `PNorm(p, power=2)`; `PNormP(p)` is
    ‖x − y‖_p^p/p, `PNorm(p, power=p)`; `RegTICost(L1(), lam=γ)` is `ElasticNet(γ)`.

    Arguments:
        cost: a cost of `ott.geometry.costs`, or of a class of your own that inherits from its `TICost`, convex and
            even, with a Legendre transform.

    Returns:
        One of `ak.costs` where there is an equal one; else OTT's own h and its conjugate behind the same methods, which
        the backend `ott` solves with.

    Raises:
        ParameterError: not an OTT cost; not translation invariant, as `Cosine()`, so that no reduction to few
            dimensions holds; or not convex and even.
        BackendUnavailableError: OTT is not installed.

    Example:
        >>> from ott.geometry import costs
        >>> from_ott(costs.PNormP(1.5))
        PNorm(p=1.5, power=1.5)

    Source: M. Cuturi et al., "Optimal transport tools (OTT): a JAX toolbox for all things Wasserstein", 2022.
    """
    if not is_ott(cost):
        raise ParameterError(
            f"from_ott takes a cost of ott.geometry.costs, not a {type(cost).__name__}.",
            ways_out=["alignkit's own costs need no import."] if isinstance(cost, Cost) else [],
        )
    found: Cost = registry.offered("cost_importer")(cost)
    return found


def _is_number(given: object) -> bool:
    return isinstance(given, Real) and not isinstance(given, bool)


def _numbers(given: Any, owner: str) -> Floats:
    try:
        found = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise ParameterError(f"{owner} takes numbers, not {given!r}.") from None
    if found.size == 0 or not np.isfinite(found).all():
        raise ParameterError(f"{owner} takes finite numbers, at least one.")
    return found
