"""Which kernel solves which φ, what it costs, and the papers that it rests on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from alignkit.citations import Citation
from alignkit.contracts import Floats
from alignkit.transport.canonical import Absolute, HuberLoss, ProximalForm, TopOf
from alignkit_numba.loss import SmoothLoss
from alignkit_numba.solved import Solved

__all__ = ["Kernel", "Method", "method_of", "runs_on"]

_EPS = float(np.finfo(np.float64).eps)

#: From centres c (n, k), scales s (n,), the least of them or of 1, and a tolerance, to rows y.
Kernel = Callable[[Floats, Floats, float, float], Solved]


@dataclass(frozen=True)
class Method:
    """A way to solve canonical problems.

    Arguments:
        name: in a few words.
        prepare: from a form to its kernel, whose gaps allow for the rounding of the form's changes of variables.
        seconds_per_row: predicted, measured on one core.
        citations: its papers.
    """

    name: str
    prepare: Callable[[ProximalForm], Kernel]
    seconds_per_row: Callable[[ProximalForm], float]
    citations: tuple[Citation, ...]


def runs_on(device: str) -> bool:
    """Whether the compiled kernels run where a problem asks for; CPUs are all."""
    return device in ("auto", "cpu")


def method_of(form: ProximalForm) -> Method:
    """The method for a form that has blocks."""
    if isinstance(form.blocks[0], Absolute):
        return _BOX
    return _SIMPLEX if isinstance(form.blocks[0], TopOf) else _NEWTON


def _slip(form: ProximalForm) -> float:
    """How far rounding moves c on the way in and y on the way out, over their sizes."""
    if form.factor is None:
        return 4 * _EPS
    return 4 * (form.dimension + 1) * _EPS * float(np.linalg.cond(form.factor))


def _prepare_newton(form: ProximalForm) -> Kernel:
    from alignkit_numba.smooth import solve_smooth

    loss, slip = SmoothLoss.of(form), _slip(form)
    return lambda centres, scales, _, tolerance: solve_smooth(loss, centres, scales, tolerance, slip)


def _newton_seconds(form: ProximalForm) -> float:
    """Newton steps by what each costs; the path has a stage for each factor of the curvature."""
    loss = SmoothLoss.of(form)
    entries, rank = loss.matrix.shape
    is_hot = 0.1 * loss.curvature > 4.0
    stages = math.log(0.1 * loss.curvature) / math.log(1 / 0.3) if is_hot else 0.0
    steps = 5.0 + (0.9 if all(isinstance(block, HuberLoss) for block in form.blocks) else 1.4) * stages
    # Products with the triangular B, its products in pairs, and the factors of their sum.
    order = np.arange(rank)
    products = 2 * entries * rank + float(((entries - order) * (order + 1)).sum()) + rank**3 / 6 + rank**2
    each = 4.2e-9 + 1.1e-9 * entries + 7.1e-11 * products
    return float(1.5e-8 + 1.4e-8 * form.dimension + steps * each)


def _prepare_box(form: ProximalForm) -> Kernel:
    from alignkit_numba.box import BoxProblem, solve_box

    (block,) = form.blocks
    assert isinstance(block, Absolute)
    steepness = float(block.weights @ np.linalg.norm(form.matrix, axis=1))
    return _with_slip(partial(solve_box, BoxProblem.of(form)), form, steepness)


def _prepare_simplex(form: ProximalForm) -> Kernel:
    from alignkit_numba.simplex import SimplexProblem, solve_simplex

    (block,) = form.blocks
    assert isinstance(block, TopOf)
    steepness = block.weight * float(np.linalg.norm(form.matrix, axis=1).max())
    return _with_slip(partial(solve_simplex, SimplexProblem.of(form)), form, steepness)


def _with_slip(solve: Callable[[Floats, Floats, float], Solved], form: ProximalForm, steepness: float) -> Kernel:
    """A kernel with kinks, φ of Lipschitz constant `steepness`."""
    from alignkit_numba.accounting import add_slip

    slip = _slip(form)

    def kernel(centres: Floats, scales: Floats, least: float, tolerance: float) -> Solved:
        solved = solve(centres, scales, tolerance * least)
        add_slip(centres, solved.solutions, scales, slip, steepness, solved.gap)
        return solved

    return kernel


def _box_seconds(form: ProximalForm) -> float:
    """Sweeps and a factor in lanes; with dependent rows of B most free coordinates are found one at a time."""
    rows, k = form.matrix.shape
    nanoseconds = 24.0 + 4.0 * k + 1.6 * rows + 0.7 * rows * k + 0.006 * rows * min(rows, k) ** 2
    if rows > k:
        nanoseconds += 1.5 * rows * k + 0.15 * rows * k**2
    return float(1e-9 * nanoseconds)


def _simplex_seconds(form: ProximalForm) -> float:
    """Exchanges in lanes, each with a factor of the free pieces."""
    rows, k = form.matrix.shape
    return float(1e-9 * (28.0 + 5.2 * k + 1.15 * rows * k + 0.003 * rows * min(rows, k) ** 2))


_NEWTON = Method(
    "damped Newton along temperatures, rows in lanes",
    _prepare_newton,
    _newton_seconds,
    (
        Citation(
            key="boyd_vandenberghe_2004",
            title="Convex optimization",
            year=2004,
            authors=("S. Boyd", "L. Vandenberghe"),
            venue="Cambridge University Press, section 9.5",
        ),
    ),
)
_BOX = Method(
    "coordinate descent and Newton on the dual box, rows in lanes",
    _prepare_box,
    _box_seconds,
    (
        Citation(
            key="tseng_2001",
            title="Convergence of a block coordinate descent method for nondifferentiable minimization",
            year=2001,
            authors=("P. Tseng",),
            venue="Journal of Optimization Theory and Applications 109(3), 475–494",
            kind="article",
        ),
        Citation(
            key="bertsekas_1982",
            title="Projected Newton methods for optimization problems with simple constraints",
            year=1982,
            authors=("D. P. Bertsekas",),
            venue="SIAM Journal on Control and Optimization 20(2), 221–246",
            kind="article",
        ),
    ),
)
_SIMPLEX = Method(
    "block pivoting on the dual simplex, rows in lanes",
    _prepare_simplex,
    _simplex_seconds,
    (
        Citation(
            key="wolfe_1976",
            title="Finding the nearest point in a polytope",
            year=1976,
            authors=("P. Wolfe",),
            venue="Mathematical Programming 11, 128–149",
            kind="article",
        ),
        Citation(
            key="kim_park_2011",
            title="Fast nonnegative matrix factorization: an active-set-like method and comparisons",
            year=2011,
            authors=("J. Kim", "H. Park"),
            venue="SIAM Journal on Scientific Computing 33(6), 3261–3281",
            kind="article",
        ),
    ),
)
