"""What backends are asked and what they answer: small frozen dataclasses and protocols, with shapes and units.

Notation: n rows, variable shape `shape` with d = prod(shape) entries flattened in C order, k the intrinsic dimension of
the reward, λ the weight of closeness, θ a tilt in units of 1/x.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from alignkit.base.law import BaseLaw, Progress
from alignkit.citations import Citation
from alignkit.expressions import Expression, Subspace

__all__ = [
    "Bid",
    "Composition",
    "DenoisingTiltSession",
    "Displacement",
    "DisplacementCost",
    "Guarantee",
    "Progress",
    "ProxProblem",
    "ProxSession",
    "ProxSolution",
    "ProxSolver",
    "PushforwardSession",
    "Refusal",
    "RowPasses",
    "SparseRows",
    "TiltProgram",
    "TiltSampler",
    "TiltSession",
    "UpdatableProxSession",
]

Floats = NDArray[np.float64]


class Guarantee(enum.IntEnum):
    """What a backend promises, strongest last, so that bids compare by it."""

    HEURISTIC = 0
    CALIBRATED = 1
    CONSISTENT = 2
    CERTIFIED = 3
    EXACT = 4

    @property
    def sentence(self) -> str:
        """The promise in words, as shown to the user."""
        return {
            Guarantee.HEURISTIC: "no bound",
            Guarantee.CALIBRATED: "checked against reweighted draws of the base, deviation reported",
            Guarantee.CONSISTENT: "exact in the limit of many sampler steps",
            Guarantee.CERTIFIED: "a bound for every row",
            Guarantee.EXACT: "exact up to rounding",
        }[self]


@dataclass(frozen=True)
class Bid:
    """A backend's offer to solve a problem; bids compare by guarantee, then by cost.

    Arguments:
        backend: the backend's name.
        method: how it would solve it, in a few words.
        guarantee: what it promises.
        seconds: predicted time for the problem's rows on this machine, in seconds.
        citations: the papers of the method, for `Problem.cite`.
    """

    backend: str
    method: str
    guarantee: Guarantee
    seconds: float
    citations: tuple[Citation, ...] = ()

    @property
    def rank(self) -> tuple[int, float]:
        """Sorts the better bid first: stronger guarantee, then less time."""
        return (-int(self.guarantee), self.seconds)


@dataclass(frozen=True)
class Refusal:
    """A backend's reason for not bidding.

    Arguments:
        backend: the backend's name.
        reason: the rule that excludes the problem, in a sentence.
    """

    backend: str
    reason: str


@dataclass(frozen=True)
class Composition:
    """A reward as the compiler sees it: r(x) = f(w) + ⟨g, x⟩ + c with w = Qx, QQᵀ = I and Qg = 0.

    Arguments:
        shape: the variable's shape; d is its number of entries.
        nonlinear: f, an expression of one variable of shape (k,); None when the reward is affine (k = 0).
        subspace: Q as a map, k×d, never formed where A is sparse or an operator.
        linear: g, (d,), float64, in units of reward per x.
        constant: c, in units of reward.
        rows: how many affine rows fed the nonlinear atoms before the rank was taken; `rows − k` were dependent.
        tolerance: the relative tolerance of that rank decision.
        notes: what the rank decision dropped, and what it found badly scaled, in sentences that name sub-expressions.
    """

    shape: tuple[int, ...]
    nonlinear: Expression | None
    subspace: Subspace
    linear: Floats
    constant: float
    rows: int
    tolerance: float
    notes: tuple[str, ...] = ()

    @property
    def dimension(self) -> int:
        """The intrinsic dimension k."""
        return self.subspace.dimension

    @property
    def ambient(self) -> int:
        """The dimension d of x."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class TiltProgram:
    """A request for draws from the laws q_θ ∝ p·exp⟨θ, x⟩ with θ = coordinates @ directions.

    Arguments:
        base: the base law p.
        directions: (m, d), float64, units of 1/x; the tilts wanted lie in their span.
        coordinates: (j, m), the tilts known beforehand; a session may be asked for others.
        rows: how many draws are expected, for the bid's prediction.
        device: "auto", "cpu", "cuda", … as the engine names it.
    """

    base: BaseLaw
    directions: Floats
    coordinates: Floats
    rows: int
    device: str = "auto"

    @property
    def tilts(self) -> Floats:
        """The tilts known beforehand, (j, d)."""
        return self.coordinates @ self.directions


class TiltSession(Protocol):
    """A sampler opened on one program and one device.

    Arrays of draws are the engine's own, on its device, shape (n, *shape). Noise is counter-based: the noise of a
    row is a function of (seed, stage, row) alone, whatever the batch.

    Attributes:
        nfe_per_draw: evaluations of the base's network per row of `draw`, `base.evaluations_per_denoise` for each call
            of its denoiser; 0 where none is needed.
        evaluations: of the base's network so far, counted in rows.
    """

    nfe_per_draw: int
    evaluations: int

    def draw(
        self,
        coordinates: Floats,
        rows: int,
        *,
        seed: int,
        stage: int = 0,
        first_row: int = 0,
        progress: Progress = None,
    ) -> Any:
        """Draw rows, row i from the tilt coordinates[i] @ directions.

        Arguments:
            coordinates: (rows, m), or (1, m) for all rows.
            rows: how many rows.
            seed, stage, first_row: number the noise: stages are independent, row i is row `first_row + i`.
            progress: told how far it is.
        """
        ...

    def features(self, x: Any) -> Floats:
        """⟨direction, x⟩ for each row and direction, (n, m), float64 on the host."""
        ...

    def take(self, x: Any, indices: NDArray[np.int64]) -> Any:
        """Rows of an array of draws by index."""
        ...


class DenoisingTiltSession(TiltSession, Protocol):
    """A session that works through the base's denoiser, and so can move draws as well as make them."""

    def renoise(
        self,
        x: Any,
        coordinates: Floats,
        *,
        sigma: float,
        nfe: int,
        seed: int,
        stage: int,
        first_row: int = 0,
        progress: Progress = None,
    ) -> Any:
        """Add noise of scale sigma to each row and denoise it under its tilt, which leaves every q_θ invariant.

        Arguments:
            x: (n, *shape), on the session's device.
            coordinates: (n, m), or (1, m) for all rows.
            sigma: in units of x.
            nfe: calls of the base's denoiser per row.
            seed, stage, first_row: as for `draw`.
            progress: told how far it is.
        """
        ...

    def means(self, coordinates: Floats, sigma: float) -> Floats:
        """⟨direction, D(m₀ + σ²θ, σ)⟩, (j, m), with m₀ the base's mean: the tilted mean as σ grows, if D is exact."""
        ...

    def spread(self, x: Any) -> float:
        """The standard deviation of an entry of x, its root mean square over entries, in units of x."""
        ...


class PushforwardSession(TiltSession, Protocol):
    """A session that also makes draws of the base by a deterministic map S of noise: x = S(z) with z ~ N(0, I)."""

    def noise(self, rows: int, *, seed: int, stage: int = 0, first_row: int = 0) -> Any:
        """z of some rows, (rows, m), on the session's device; numbered as for `draw`, m is the session's own."""
        ...

    def from_noise(self, noise: Any, progress: Progress = None) -> Any:
        """S(z), (n, *shape), of rows z, (n, m), row by row, at `nfe_per_draw` evaluations each."""
        ...

    def take(self, x: Any, indices: NDArray[np.int64]) -> Any:
        """Rows of a device array by index."""
        ...


class TiltSampler(Protocol):
    """A backend's sampler of tilted laws."""

    def bid(self, program: TiltProgram) -> Bid | Refusal:
        """Offer or refuse; must not sample."""
        ...

    def open(self, program: TiltProgram) -> TiltSession:
        """Move the base to its device and be ready to draw."""
        ...


class DisplacementCost(Protocol):
    """h, convex and even with h(0) = 0, with its conjugate: what `alignkit.transport.costs` has.

    Attributes:
        formula: h in mathematics, for messages.
    """

    @property
    def formula(self) -> str:
        """In mathematics."""
        ...

    def of_displacement(self, displacement: Any) -> Any:
        """h at rows δ, (n, m) to (n,)."""
        ...

    def conjugate(self, dual: Floats) -> Floats:
        """h*(w) = sup_δ ⟨w, δ⟩ − h(δ) at rows w, (n, m) to (n,)."""
        ...


@dataclass(frozen=True, eq=False)
class Displacement:
    """What takes the place of (λ/2)‖z − v‖² for other costs: λ·h(δ) − ⟨g, δ⟩ on displacements δ ∈ R^m with z = v + Rδ.

    Arguments:
        cost: h.
        rows: R, (k, m); None for the identity.
        linear: g, (m,), in units of reward per x.
    """

    cost: DisplacementCost
    rows: Floats | None
    linear: Floats

    @property
    def size(self) -> int:
        """m."""
        return self.linear.size


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Rows of R^m with few entries that are not zero.

    Arguments:
        coordinates: (n, s), int64, no two alike in a row where the amounts are not 0.
        amounts: (n, s), 0 where a row has fewer.
    """

    coordinates: NDArray[np.int64]
    amounts: Floats

    def rows(self, chosen: slice) -> SparseRows:
        """Some of the rows."""
        return SparseRows(self.coordinates[chosen], self.amounts[chosen])

    def dense(self, size: int) -> Floats:
        """As an array (n, size)."""
        found = np.zeros((len(self.amounts), size))
        self.add_to(found)
        return found

    def add_to(self, rows: NDArray[Any]) -> None:
        """Add them to an array (n, m), in place."""
        numbers = np.arange(len(rows))
        for place, amount in zip(self.coordinates.T, self.amounts.T, strict=True):
            rows[numbers, place] += amount.astype(rows.dtype)


@dataclass(frozen=True, eq=False)
class ProxProblem:
    """The reduced, batched proximal problem: for each row v maximise f(z) − (λ/2)‖z − v‖² over z ∈ R^k.

    With a `displacement` the penalty is another one: maximise f(v + Rδ) + ⟨g, δ⟩ − λ·h(δ) over δ ∈ R^m.

    Arguments:
        nonlinear: f, an expression of one variable of shape (k,). It need not be concave after subtracting the
            penalty: a backend whose method needs that finds out, and refuses.
        weight: λ > 0, in units of reward per squared distance.
        dimension: k.
        rows: how many rows are expected, for the bid's prediction.
        tolerance: the largest relative gap wanted, gap / max(1, |objective|).
        device: "auto", "cpu", "cuda", … as the engine names it.
        displacement: the penalty where the cost is not quadratic; None for half the squared distance.
    """

    nonlinear: Expression
    weight: float
    dimension: int
    rows: int
    tolerance: float = 1e-6
    device: str = "auto"
    displacement: Displacement | None = None


@dataclass(frozen=True, eq=False)
class ProxSolution:
    """The answers to a batch of rows.

    Arguments:
        maximiser: z, (n, k), float64.
        gap: (n,), an upper bound on how far the objective at z lies below its supremum, in units of reward; infinite
            where the backend has no bound.
        unfinished: (n,), rows whose solver stopped early; their best iterate is in `maximiser`.
        value: f(z), (n,), −inf outside its domain; None where the backend does not know it, and f is evaluated.
        displacement: δ, (n, m), with z = v + Rδ, for a problem that has such a penalty.
        tied: (n,), rows found to have a maximiser as good as z elsewhere, up to the gap; None from methods that would
            not see one.
        evaluations: (n,), how many points or cells of f a search visited for each row; None from other methods.
    """

    maximiser: Floats
    gap: Floats
    unfinished: NDArray[np.bool_]
    value: Floats | None = None
    displacement: Floats | SparseRows | None = None
    tied: NDArray[np.bool_] | None = None
    evaluations: NDArray[np.int64] | None = None


class ProxSession(Protocol):
    """A solver opened on one problem, compiled once, for any number of batches.

    A session may also have the method `update` of `UpdatableProxSession`; one without it is opened anew instead. One
    whose calls cost microseconds, whatever they solve, says so by an attribute `is_prompt = True`: it is then handed as
    few rows at a time as the processor's cache holds in full dimension, so that these are read from memory once.
    """

    def solve(self, points: Floats, progress: Progress = None) -> ProxSolution:
        """Solve one batch of rows v, (n, k), float64, at the present values of the parameters in f."""
        ...


class UpdatableProxSession(ProxSession, Protocol):
    """A session that follows λ and the parameters of its reward without compiling again."""

    def update(self, problem: ProxProblem) -> bool:
        """Answer another problem from now on, if it needs no compilation.

        Arguments:
            problem: its f is the same object, perhaps with other values of its parameters; its λ may be another.

        Returns:
            True when the session answers it from now on; False when it answers what it did before, and the problem must
            be opened anew.
        """
        ...


class ProxSolver(Protocol):
    """A backend's proximal solver.

    One that takes problems with a `displacement` says so by an attribute `takes_displacements = True`; others are not
    asked for them.
    """

    def bid(self, problem: ProxProblem) -> Bid | Refusal:
        """Offer or refuse; must not solve."""
        ...

    def open(self, problem: ProxProblem) -> ProxSession:
        """Compile the problem for repeated batches."""
        ...


class RowPasses(Protocol):
    """Loops over rows of x in the memory of the CPU that touch every entry once, compiled.

    Arrays are in C order. A batch of few rows costs little more than its share.

    Attributes:
        most_directions: up to how many directions they are faster than a matrix product.
    """

    most_directions: int

    def read(self, x: NDArray[Any], directions: Floats, out: Floats) -> bool:
        """⟨direction, x⟩ of each row and direction, added up in float64; not finite where x is not.

        Arguments:
            x: (n, d), float32 or float64.
            directions: (m, d).
            out: (n, m), written to.

        Returns:
            True only if all of them are finite.
        """
        ...

    def write(
        self, x: NDArray[Any], steps: NDArray[Any], directions: NDArray[Any], y: NDArray[Any], past_caches: bool
    ) -> None:
        """y = x + Σ step·direction of each row.

        Arguments:
            x, y: (n, d), float32 or float64; y may be x.
            steps: (n, m), of their type.
            directions: (m, d), likewise, m at least 1.
            past_caches: whether y is better not kept in the caches, as it is larger than these; results are the same.
        """
        ...

    def write_entries(self, x: NDArray[Any], steps: SparseRows, y: NDArray[Any], past_caches: bool) -> None:
        """y = x with a few entries of each row moved.

        Arguments:
            x, y: (n, d), float32 or float64; y may be x.
            steps: (n,), which entries, and by how much.
            past_caches: as for `write`.
        """
        ...
