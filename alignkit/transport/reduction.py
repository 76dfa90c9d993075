"""The reduction of proximal transport to the intrinsic dimension of the reward, and the way back.

With c = ½‖x − y‖² and r(y) = f(Qy) + ⟨g, y⟩ + c₀, QQᵀ = I, Qg = 0 (`contracts.Composition`),

    T(x) = argmax_y r(y) − λ c(x, y) = x + g/λ + Qᵀ(z − v),   v = Qx,   z = argmax_z f(z) − (λ/2)‖z − v‖²,

k dimensions however large d is ("The tractability landscape of diffusion alignment", arXiv 2605.11361). Backends see
only the problem in z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_jax_array, is_torch_array, to_device
from numpy.typing import NDArray

from alignkit.contracts import Composition, Floats, Progress, ProxProblem, ProxSession
from alignkit.errors import NonFiniteError, ParameterError, ShapeError
from alignkit.transport.boundedness import check_bounded

__all__ = ["TransportMap", "Transported", "reduce_transport"]

#: Entries of x converted to float64 at a time (4 MB): small enough for a cache, large enough to amortise a call.
_BLOCK_ENTRIES = 2**19
#: Entries of v handed to a session at a time (32 MB).
_SOLVE_ENTRIES = 2**22
#: Relative rounding of an objective evaluated in float64.
_ROUNDING = 8 * float(np.finfo(np.float64).eps)


def reduce_transport(
    composition: Composition, weight: float, *, rows: int, tolerance: float = 1e-6, device: str = "auto"
) -> ProxProblem | None:
    """The k-dimensional proximal problem of a reward under Wasserstein closeness with cost ½‖x − y‖².

    Arguments:
        composition: the reward, as the compiler wrote it.
        weight: λ > 0, in units of reward per cost.
        rows: how many rows are expected, for the bids' predictions.
        tolerance: the largest relative gap wanted, gap / max(1, |objective|).
        device: "auto", "cpu", "cuda", … as the engine names it.

    Returns:
        what backends are asked; None for an affine reward, whose map is the shift x + g/λ.

    Raises:
        ParameterError: λ, the tolerance or the rows are out of range.
        UnboundedTransportError: the reward outgrows λ times the cost, so that there is no map.
    """
    _check_weight(weight)
    if not 0 < tolerance < 1:
        raise ParameterError(f"The tolerance is a relative gap between 0 and 1, not {tolerance}.", ways_out=["1e-6"])
    if rows < 0:
        raise ParameterError(f"The number of rows is at least 0, not {rows}.")
    if composition.nonlinear is None:
        return None
    check_bounded(composition.nonlinear, weight)
    return ProxProblem(composition.nonlinear, float(weight), composition.dimension, rows, tolerance, device)


@dataclass(frozen=True, eq=False)
class Transported:
    """Rows moved by a transport map, each with its certificate.

    The certificate is that of the solve in float64; rounding y to a narrower dtype comes on top.

    Arguments:
        y: T(x), (n, *shape), the kind, device and dtype of x (float64 for integers).
        objective: r(y) − λ c(x, y), (n,), float64, in units of reward.
        gap: an upper bound on how far `objective` lies below its supremum, (n,); infinite without a bound.
        cost: c(x, y) = ½‖x − y‖², (n,).
        unfinished: (n,), rows whose solver stopped early or whose relative gap misses the tolerance.
    """

    y: Any
    objective: Floats
    gap: Floats
    cost: Floats
    unfinished: NDArray[np.bool_]

    @property
    def relative_gap(self) -> Floats:
        """gap / max(1, |objective|), (n,)."""
        bounded = np.isfinite(self.gap) & np.isfinite(self.objective)
        scale = np.where(bounded, np.maximum(1.0, np.abs(self.objective)), 1.0)
        return np.where(bounded, self.gap / scale, np.inf)


@dataclass(frozen=True, eq=False)
class TransportMap:
    """The optimal map T(x) = argmax_y r(y) − λ·½‖x − y‖², ready to be applied to any number of rows.

    Arguments:
        composition: the reward r.
        weight: λ > 0, in units of reward per cost.
        session: the opened solver of the problem that `reduce_transport` gave; None exactly when it gave None.
        tolerance: the relative gap above which a row counts as unfinished.

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

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        if (self.session is None) != (self.composition.nonlinear is None):
            raise ParameterError(
                "A transport map holds a solver session exactly when the reward has a nonlinear part.",
                ways_out=["Open a session on the problem from reduce_transport; pass None where it returned None."],
            )

    def apply(self, x: Any, progress: Progress = None) -> Transported:
        """Move each row of x.

        Arguments:
            x: (n, *shape), numpy, torch (any device) or jax.
            progress: called as `progress("transport", rows_done, rows)`.

        Returns:
            the moved rows, with the gap of each.

        Raises:
            ShapeError: x is not (n, *shape).
            NonFiniteError: x holds a NaN or an infinity.
            UnboundedTransportError: a backend found the objective unbounded above.
        """
        self._check_shape(x)
        rows = _workable(x)
        xp = array_namespace(rows)
        count, ambient = rows.shape[0], self.composition.ambient
        flat = xp.reshape(rows, (count, ambient))
        if not xp.isdtype(flat.dtype, "real floating"):
            flat = xp.astype(flat, xp.float64)
        y = xp.empty_like(flat)
        results = [np.empty(count) for _ in range(3)]
        unfinished = np.zeros(count, dtype=bool)
        step = max(1, _SOLVE_ENTRIES // max(1, self.composition.dimension))
        for first in range(0, count, step):
            part = slice(first, min(first + step, count))
            *values, unfinished[part] = self._apply_part(flat, y, part, progress)
            for result, value in zip(results, values, strict=True):
                result[part] = value
        moved = xp.reshape(y, rows.shape)
        if is_jax_array(x):
            moved = array_namespace(x).asarray(moved, device=x.device)
        elif is_torch_array(x):
            moved = to_device(moved, x.device)
        objective, gap, cost = results
        found = Transported(moved, objective, gap, cost, unfinished)
        unfinished |= ~(found.relative_gap <= self.tolerance)
        return found

    def _apply_part(
        self, flat: Any, y: Any, part: slice, progress: Progress
    ) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
        """Move the rows of `part` into y; returns objective, gap, cost and unfinished for them."""
        subspace, linear, weight = self.composition.subspace, self.composition.linear, self.weight
        xp, total = array_namespace(flat), flat.shape[0]
        blocks = _blocks(part, max(1, _BLOCK_ENTRIES // max(1, self.composition.ambient)))
        points = np.empty((part.stop - part.start, self.composition.dimension))
        shift = xp.asarray(linear / weight, dtype=xp.float64, device=flat.device) if linear.any() else None
        objective = np.full(part.stop - part.start, self.composition.constant)
        cost = np.zeros(part.stop - part.start)
        for block in blocks:
            wide = xp.astype(flat[block, :], xp.float64)
            _check_finite(wide, block.start)
            local = slice(block.start - part.start, block.stop - part.start)
            if self.session is not None:
                points[local] = _to_host(subspace.project(wide))
            if shift is not None:
                objective[local] += _to_host(wide @ (weight * shift)) + float(linear @ linear) / (2 * weight)
        cost += float(linear @ linear) / (2 * weight**2)
        solution, gap, unfinished = points, np.zeros(len(points)), np.zeros(len(points), dtype=bool)
        if self.session is not None and self.composition.nonlinear is not None:
            inner = None if progress is None else _offset(progress, part.start, total)
            answer = self.session.solve(points, inner)
            solution, gap, unfinished = answer.maximiser, answer.gap, answer.unfinished
            moved = 0.5 * np.sum((solution - points) ** 2, axis=1)
            with np.errstate(all="ignore"):
                value = np.asarray(self.composition.nonlinear.value(solution), dtype=np.float64)
            objective += np.where(np.isnan(value), -np.inf, value) - weight * moved
            # The bound holds of the exact objective at z; the one reported was evaluated in float64.
            gap = gap + _ROUNDING * (np.abs(objective) + weight * moved)
            gap = np.where(np.isfinite(objective), gap, np.inf)
            cost += moved
        for block in blocks:
            wide = xp.astype(flat[block, :], xp.float64)
            local = slice(block.start - part.start, block.stop - part.start)
            if shift is not None:
                wide = wide + shift
            if self.session is not None:
                step = xp.asarray(solution[local] - points[local], dtype=xp.float64, device=flat.device)
                wide = wide + subspace.embed(step)
            y[block, :] = xp.astype(wide, y.dtype)
        if progress is not None:
            progress("transport", part.stop, total)
        return objective, gap, cost, unfinished

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


def _check_weight(weight: float) -> None:
    if not (weight > 0 and math.isfinite(weight)):
        raise ParameterError(
            f"The weight λ of Wasserstein closeness is positive and finite, not {weight}.",
            ways_out=["A large λ stays close to the base, a small one follows the reward."],
        )


def _check_finite(block: Any, first: int) -> None:
    """Raise when a row of a float64 block is not finite; `first` is the index of its first row."""
    xp = array_namespace(block)
    # One sum per row is cheaper than a mask of the block, and a NaN or an infinity survives it.
    if bool(xp.all(xp.isfinite(xp.sum(block, axis=1)))):
        return
    bad = np.flatnonzero(~_to_host(xp.all(xp.isfinite(block), axis=1)))
    if len(bad):
        raise NonFiniteError(
            f"Row {first + int(bad[0])} of x holds a NaN or an infinity, and cannot be transported.",
            ways_out=["Drop or repair such rows first, e.g. x[np.isfinite(x).all(axis=tuple(range(1, x.ndim)))]."],
        )


def _blocks(part: slice, size: int) -> list[slice]:
    return [slice(first, min(first + size, part.stop)) for first in range(part.start, part.stop, size)]


def _workable(x: Any) -> Any:
    """The rows where they can be computed with in float64 and written to."""
    if is_jax_array(x):  # immutable, and narrows float64 silently
        return np.asarray(x)
    if not is_torch_array(x):
        return x
    x = x.detach()
    return x.cpu() if x.device.type == "mps" else x  # Apple's GPUs have no float64


def _to_host(array: Any) -> NDArray[Any]:
    return array.cpu().numpy() if is_torch_array(array) else np.asarray(array)


def _offset(progress: Any, done: int, total: int) -> Any:
    """The progress of one part as progress of the whole."""
    return lambda _stage, part_done, _part_total: progress("transport", done + part_done, total)
