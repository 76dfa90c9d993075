"""Whether any law on a support can have the moments that are asked for; if not, a direction that says why.

Moments m of laws on a support fill the convex hull K of its y. There is none with m = b and m ≤ c exactly when some
direction v, not negative on the bounds, has ⟨v, k⟩ > ⟨v, (b, c)⟩ for every k in K: the average of ⟨v, y⟩ over any law
is then too large. Linear programs find it. (Farkas' lemma; R. T. Rockafellar, "Convex analysis", 1970, theorem 11.3.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignkit.contracts import Floats

__all__ = ["Separation", "separate_box", "separate_points"]

#: Relative to the size of what is separated: less is rounding.
_MARGIN = 1e-7


@dataclass(frozen=True, eq=False)
class Separation:
    """A direction in which the moments that are asked for lie beyond every law.

    Arguments:
        direction: v, (e + i,), its largest entry 1, not negative on upper bounds.
        least: the least ⟨v, y⟩ on the support.
        wanted: ⟨v, (b, c)⟩, below `least`.
    """

    direction: Floats
    least: float
    wanted: float


def separate_points(points: Floats, demanded: Floats, is_bound: NDArray[np.bool_]) -> Separation | None:
    """A separation of what is demanded from the convex hull of points; None where a law on them has it.

    Arguments:
        points: y of each point, (n, e + i).
        demanded: b and c, (e + i,).
        is_bound: which are upper bounds.
    """
    from scipy.optimize import linprog

    count = demanded.size
    scale = np.maximum(np.abs(points - demanded).max(axis=0), 1e-300)
    centred = (points - demanded) / scale
    # Maximise s over ⟨v, y − d⟩ ≥ s for every point.
    cost = np.append(np.zeros(count), -1.0)
    limits = [(0.0 if bound else -1.0, 1.0) for bound in is_bound] + [(None, None)]
    rows = np.hstack([-centred, np.ones((points.shape[0], 1))])
    found = linprog(cost, A_ub=rows, b_ub=np.zeros(points.shape[0]), bounds=limits, method="highs")
    if found.status != 0 or -found.fun <= _MARGIN:
        return None
    direction = found.x[:count] / scale
    direction /= np.abs(direction).max()
    return Separation(direction, float((points @ direction).min()), float(demanded @ direction))


def separate_box(
    rows: Floats, demanded: Floats, is_bound: NDArray[np.bool_], box: tuple[float, float] | None
) -> Separation | None:
    """A separation of what is demanded from the moments y = Bx of laws on a box; None where such a law has it.

    Arguments:
        rows: B, (e + i, d).
        demanded: b and c, (e + i,).
        is_bound: which are upper bounds.
        box: the least and the largest value of every entry of x; None for all of R^d.
    """
    from scipy.optimize import linprog

    count = demanded.size
    if box is None:
        # On all of R^d only combinations of rows that vanish can separate: coordinates of the row space are enough.
        left, values, _ = np.linalg.svd(rows, full_matrices=False)
        rank = int((values > 1e-10 * max(values.max(initial=0.0), 1e-300)).sum())
        rows = left[:, :rank] * values[:rank]
    free: tuple[float | None, float | None] = (None, None)
    limits = [free if box is None else box] * rows.shape[1]
    scale = np.maximum(np.abs(rows).sum(axis=1), 1e-300)
    unit_rows, unit_demanded = rows / scale[:, None], demanded / scale
    size = max(1.0, float(np.abs(unit_demanded).max(initial=0.0)))
    # Minimise what Bx, with slack below bounds, misses the demands by: the marginals of the equations are −v.
    signs = np.hstack([np.eye(count), -np.eye(count)])
    slack = np.eye(count)[:, is_bound]
    cost = np.concatenate([np.zeros(rows.shape[1]), np.ones(2 * count), np.zeros(slack.shape[1])])
    found = linprog(
        cost,
        A_eq=np.hstack([unit_rows, signs, slack]),
        b_eq=unit_demanded,
        bounds=limits + [(0.0, None)] * (2 * count + slack.shape[1]),
        method="highs",
    )
    if found.status != 0 or found.fun <= _MARGIN * size:
        return None
    direction = -np.asarray(found.eqlin.marginals) / scale
    direction[is_bound] = np.maximum(direction[is_bound], 0.0)
    direction /= np.abs(direction).max()
    reached = direction @ rows
    least = 0.0 if box is None else float(np.minimum(reached * box[0], reached * box[1]).sum())
    wanted = float(demanded @ direction)
    return Separation(direction, least, wanted) if least > wanted else None
