"""The reduction of proximal transport to the intrinsic dimension of the reward, and the way back.

With c = ½‖x − y‖² and r(y) = f(Qy) + ⟨g, y⟩ + c₀, QQᵀ = I, Qg = 0 (`contracts.Composition`),

    T(x) = argmax_y r(y) − λ c(x, y) = x + g/λ + Qᵀ(z − v),   v = Qx,   z = argmax_z f(z) − (λ/2)‖z − v‖²,

k dimensions however large d is ("The tractability landscape of diffusion alignment", arXiv 2605.11361). Backends see
only the problem in z. `alignkit.transport.costs` has the reductions under other costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from alignkit import registry
from alignkit.contracts import (
    Composition,
    Floats,
    Progress,
    ProxProblem,
    ProxSession,
    RowPasses,
    SparseRows,
)
from alignkit.errors import NonFiniteError, ParameterError, ShapeError, UnboundedTransportError
from alignkit.expressions import Expression
from alignkit.transport.account import Account, Transported
from alignkit.transport.boundedness import (
    check_bounded,
    check_somewhere_finite,
    dominated_by_penalty,
    unseen_slope,
)
from alignkit.transport.costs import HALF_SQUARED_DISTANCE, Cost, Euclidean, PNorm, Quadratic
from alignkit.transport.kinds import as_kind_of, workable, writeable
from alignkit.transport.lifting import Lift, lift
from alignkit.transport.rows import CompiledRows, DeviceRows, Factors, HostRows, Rows

__all__ = ["TransportMap", "check_transport", "is_concave_in_total", "reduce_transport"]

#: Entries of v handed to a session at a time (32 MB), and of x (16 MB of float32); where its calls cost little, few
#: enough (2 MB) that x is still cached on the way back.
_SOLVE_ENTRIES = 2**22
_PART_ENTRIES, _PROMPT_ENTRIES = 2**22, 2**19
#: The relative gaps that are wanted of a concave program and of a global search.
_TOLERANCE, _SEARCH_TOLERANCE = 1e-6, 1e-3
#: Entries of x from which on an import of an engine is worth its time, a third of a second.
_LARGE = 2**22
_NO_ROWS = np.empty(0, dtype=np.int64)


def reduce_transport(
    composition: Composition,
    weight: float,
    *,
    cost: Cost = HALF_SQUARED_DISTANCE,
    rows: int,
    tolerance: float | None = None,
    device: str = "auto",
) -> ProxProblem | None:
    """The k-dimensional proximal problem of a reward under Wasserstein closeness.

    Arguments:
        composition: the reward, as the compiler wrote it.
        weight: λ > 0, in units of reward per cost.
        cost: c.
        rows: how many rows are expected, for the bids' predictions.
        tolerance: the largest relative gap wanted, gap / max(1, |objective|); if None 1e-6 where r − λ·c is concave,
            and 1e-3 where its maximum has to be searched for.
        device: "auto", "cpu", "cuda", … as the engine names it.

    Returns:
        what backends are asked; None for an affine reward, whose map is a shift of every row, x + g/λ under half the
        squared distance.

    Raises:
        NonFiniteError: the reward is finite nowhere.
        ParameterError: λ, the tolerance or the rows are out of range.
        ShapeError: the cost is for points of another size.
        UnboundedTransportError: the reward outgrows λ times the cost, so that there is no map.
    """
    _check_weight(weight)
    if tolerance is not None and not 0 < tolerance < 1:
        raise ParameterError(f"The tolerance is a relative gap between 0 and 1, not {tolerance}.", ways_out=["1e-6"])
    if rows < 0:
        raise ParameterError(f"The number of rows is at least 0, not {rows}.")
    lifted = lift(composition, weight, cost)
    _check_lifted(lifted, composition, weight, cost)
    if lifted.nonlinear is None:
        return None
    if tolerance is None:
        tolerance = _TOLERANCE if is_concave_in_total(composition, weight, cost) else _SEARCH_TOLERANCE
    return ProxProblem(
        lifted.nonlinear, float(weight), composition.dimension, rows, tolerance, device, lifted.displacement
    )


def check_transport(composition: Composition, weight: float, cost: Cost, *, reward: Expression | None = None) -> None:
    """Raise when the map has no maximiser, as far as structure decides it; see `check_bounded`.

    Arguments:
        composition: the reward, as the compiler wrote it.
        weight: λ.
        cost: c.
        reward: r as the user wrote it, for the message.

    Raises:
        NonFiniteError: the reward is finite nowhere.
        ShapeError: the cost is for points of another size.
        UnboundedTransportError: with the summand that grows most.
    """
    _check_lifted(lift(composition, weight, cost), composition, weight, cost, reward)


def _check_lifted(
    lifted: Lift, composition: Composition, weight: float, cost: Cost, reward: Expression | None = None
) -> None:
    if lifted.nonlinear is None:
        return
    check_somewhere_finite(lifted.nonlinear if reward is None else reward)
    if isinstance(cost, Euclidean | PNorm) and cost.power == 1:
        _check_linear_part(lifted, composition, weight, cost, reward)
    if not isinstance(cost, Quadratic):
        return
    if reward is not None and lifted.nonlinear is composition.nonlinear:
        check_bounded(lifted.nonlinear, weight, reward=reward, subspace=composition.subspace)
    else:
        check_bounded(lifted.nonlinear, weight)


def _check_linear_part(
    lifted: Lift, composition: Composition, weight: float, cost: Euclidean | PNorm, reward: Expression | None
) -> None:
    """Under a norm: a step that f does not see gains ⟨g, δ⟩ and costs λN(δ), and so do its multiples."""
    penalty, nonlinear = lifted.displacement, lifted.nonlinear
    assert penalty is not None and nonlinear is not None
    slope = unseen_slope(penalty, weight)
    if slope <= weight * (1.0 + composition.tolerance):
        return
    # Where f is bounded above no direction is steeper than the one in which ⟨g, δ⟩ rises fastest.
    steepest = float(cost.dual_norm(penalty.linear[None])[0])
    if slope >= steepest * (1.0 - composition.tolerance) and nonlinear.range.upper < math.inf:
        level, raised = "the critical value", f"λ > {slope:.6g}"
    else:
        level, raised = "a lower bound of the critical value,", f"a larger λ, above {slope:.6g} at least"
    raise UnboundedTransportError(
        f"The reward outgrows λ times the cost, so the transport map has no maximiser: its linear part gains "
        f"{slope:.6g} per unit of distance in a direction that its other summands do not depend on, and "
        f"λ·{cost.formula} takes {weight:.6g}. λ is below {level} {slope:.10g}.",
        ways_out=[
            f"ak.Wasserstein(weight=λ) with {raised}.",
            "A cost that grows faster: ak.costs.SquaredEuclidean().",
        ],
        expression=None if reward is None else str(reward),
    )


def is_concave_in_total(composition: Composition, weight: float, cost: Cost) -> bool:
    """Whether r − λ·c(x, ·) is proved concave, strictly where r itself is not.

    Arguments:
        composition: the reward, as the compiler wrote it.
        weight: λ.
        cost: c.
    """
    nonlinear = composition.nonlinear
    if nonlinear is None or nonlinear.is_concave():
        return True
    if not isinstance(cost, Quadratic):
        return False
    reduced = lift(composition, weight, cost).nonlinear
    return reduced is not None and dominated_by_penalty(reduced, weight)


@dataclass(frozen=True, eq=False)
class TransportMap:
    """The optimal map T(x) = argmax_y r(y) − λ·c(x, y), ready to be applied to any number of rows.

    Arguments:
        composition: the reward r.
        weight: λ > 0, in units of reward per cost.
        session: the opened solver of the problem that `reduce_transport` gave; None exactly when it gave None.
        tolerance: the relative gap above which a row counts as unfinished.
        cost: c.

    Raises:
        ParameterError: λ is out of range, or a session is missing or superfluous.

    Example:
        ```python
        problem = reduce_transport(composition, 2.0, rows=100)
        transport = TransportMap(composition, 2.0, solver.open(problem))
        moved = transport.apply(x)
        moved.y, moved.relative_gap.max()
        ```
    """

    composition: Composition
    weight: float
    session: ProxSession | None
    tolerance: float = 1e-6
    cost: Cost = HALF_SQUARED_DISTANCE

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        if (self.session is None) != (self.composition.nonlinear is None):
            raise ParameterError(
                "A transport map holds a solver session exactly when the reward has a nonlinear part.",
                ways_out=["Open a session on the problem from reduce_transport; pass None where it returned None."],
            )

    @cached_property
    def _lift(self) -> Lift:
        return lift(self.composition, self.weight, self.cost)

    def apply(self, x: Any, progress: Progress = None, *, on_error: str = "raise", out: Any = None) -> Transported:
        """Move each row of x, and account for what was achieved.

        Arguments:
            x: (n, *shape), numpy, torch (any device) or jax.
            progress: called as `progress("transport", rows_done, rows)`.
            out: where T(x) is written, an array like x, numpy or torch; x itself is fine. A new array if None.
            on_error: "raise" refuses rows with a NaN or an infinity; "keep" leaves them where they are, and counts
                them as unfinished.

        Returns:
            the moved rows, with the gap of each.

        Raises:
            ParameterError: on_error is neither, or `out` is not an array like x.
            ShapeError: x is not (n, *shape).
            NonFiniteError: x holds a NaN or an infinity.
            UnboundedTransportError: a backend found the objective unbounded above.
        """
        self._check_shape(x)
        account = Account(self._lift, self.weight, self.composition.constant, x.shape[0])
        return account.close(self._move(x, progress, on_error, out, account), self.tolerance)

    def move(self, x: Any, progress: Progress = None, *, on_error: str = "raise", out: Any = None) -> Any:
        """T(x) alone, in less time than `apply` takes where rows are few; arguments and errors are the same."""
        self._check_shape(x)
        return self._move(x, progress, on_error, out, None)

    def _move(self, x: Any, progress: Progress, on_error: str, out: Any, account: Account | None) -> Any:
        if on_error not in ("raise", "keep"):
            raise ParameterError(f'on_error is "raise" or "keep", not {on_error!r}.')
        rows = workable(x)
        xp = np if isinstance(rows, np.ndarray) else array_namespace(rows)
        count = rows.shape[0]
        flat = rows if rows.ndim == 2 else xp.reshape(rows, (count, self.composition.ambient))
        if not (flat.dtype.kind == "f" if xp is np else xp.isdtype(flat.dtype, "real floating")):
            flat = xp.astype(flat, xp.float64)
        if out is None:
            y = xp.empty_like(flat)
        else:
            y = writeable(out, x, flat)
            y = y if y.ndim == 2 else xp.reshape(y, flat.shape)
        moving = self._rows(flat, y)
        step = self._rows_at_a_time(moving)
        for first in range(0, count, step):
            part = slice(first, min(first + step, count))
            points, earned, bad = moving.read(part)
            if bad.size:
                if on_error == "raise":
                    raise _not_finite(part.start + int(bad[0]))
                points[bad], earned[bad] = 0.0, 0.0
            inner = None if progress is None else _offset(progress, part.start, count)
            moving.write(part, self._solve(part, points, earned, account, inner), bad)
            if bad.size and account is not None:
                account.enter_kept(part.start + bad)
            if progress is not None:
                progress("transport", part.stop, count)
        return as_kind_of(y if rows.ndim == 2 else xp.reshape(y, rows.shape), x) if out is None else out

    def _rows_at_a_time(self, rows: Rows) -> int:
        largest, ambient = max(1, self.composition.dimension), max(1, self.composition.ambient)
        is_prompt = self.session is None or getattr(self.session, "is_prompt", False)
        entries = _PROMPT_ENTRIES if is_prompt and isinstance(rows, HostRows) else _PART_ENTRIES
        return max(1, min(_SOLVE_ENTRIES // largest, entries // ambient))

    def _rows(self, x: Any, y: Any) -> Rows:
        """Rows (n, d) with y of the same kind, ready to be read and written."""
        if not isinstance(x, np.ndarray) or x.dtype.itemsize < 4:
            return DeviceRows(x, y, self._lift, self.composition.linear)
        factors = self._factors.get(x.dtype)
        if factors is None:
            factors = self._factors[x.dtype] = Factors.of(self._lift, self.composition.linear, x.dtype)
        passes = self._passes if x.size >= _LARGE else self._passes_at_hand
        if passes is not None and CompiledRows.takes(x, y, factors, passes):
            return CompiledRows(x, y, factors, passes)
        return HostRows(x, y, factors)

    @cached_property
    def _factors(self) -> dict[Any, Factors]:
        """What rows are multiplied by, for each type of them that came."""
        return {}

    @cached_property
    def _passes(self) -> RowPasses | None:
        """Compiled passes over rows, worth an import of their engine for many rows."""
        found = registry.offered_if_any("row_passes")
        return None if found is None else found()

    @cached_property
    def _passes_at_hand(self) -> RowPasses | None:
        """The same where the engine is there already."""
        found = registry.offered_if_any("row_passes", imported=True)
        return None if found is None else found()

    def _solve(
        self, part: slice, points: Floats, earned: Floats, account: Account | None, progress: Progress
    ) -> Floats | SparseRows | None:
        """The steps of some rows v with ⟨g, x⟩; None where all that moves them is the shift."""
        if self.session is None:
            if account is not None:
                account.enter_shift(part, earned)
            return None
        answer = self.session.solve(points, progress)
        step, lost = answer.displacement, _NO_ROWS
        if not isinstance(step, SparseRows):
            if step is None:
                step = _difference(answer.maximiser, points)
            # Finite where the sum of squares is, and it seldom is not.
            if not math.isfinite(np.vdot(step, step)):
                lost = np.flatnonzero(~np.isfinite(step).all(axis=1))
            if lost.size:  # no iterate at all: such a row stays
                step = step.copy()
                step[lost] = 0.0
        if account is not None:
            account.enter(part, earned, answer, step, lost)
        return step

    def _check_shape(self, x: Any) -> None:
        shape = self.composition.shape
        if tuple(x.shape[1:]) != shape or x.ndim != len(shape) + 1:
            ways_out = ["Pass rows first: x of shape (n, *shape)."]
            if tuple(x.shape) == shape:
                ways_out = ["x[None] makes a batch of one."]
            raise ShapeError(
                f"The map moves rows of shape {shape}, so x must be (n, {', '.join(map(str, shape))}), "
                f"but it has shape {tuple(x.shape)}.",
                ways_out=ways_out,
            )


def _difference(maximiser: Floats, points: Floats) -> Floats:
    """z − v, without a warning for points beyond float64."""
    # Leaving numpy's warnings out takes as long as the rest; they come of points whose squares overflow alone.
    if math.isfinite(np.vdot(points, points)):
        return maximiser - points
    with np.errstate(over="ignore", invalid="ignore"):
        return maximiser - points


def _check_weight(weight: float) -> None:
    if not (weight > 0 and math.isfinite(weight)):
        raise ParameterError(
            f"The weight λ of Wasserstein closeness is positive and finite, not {weight}.",
            ways_out=["A large λ stays close to the base, a small one follows the reward."],
        )


def _not_finite(row: int) -> NonFiniteError:
    return NonFiniteError(
        f"Row {row} of x holds a NaN or an infinity, and cannot be transported.",
        ways_out=[
            "Drop or repair such rows first, e.g. x[np.isfinite(x).all(axis=tuple(range(1, x.ndim)))].",
            'transport(x, on_error="keep") leaves them where they are.',
        ],
    )


def _offset(progress: Any, done: int, total: int) -> Any:
    """The progress of one part as progress of the whole."""
    return lambda _stage, part_done, _part_total: progress("transport", done + part_done, total)
