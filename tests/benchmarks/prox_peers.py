"""What people would use in place of alignkit on the problems of `prox`, on the same reduced problem and one thread.

Each peer is set up once, outside its time, and gets the centres c of min_y ½‖y − c‖² + φ(By + b); see
`alignkit.transport.canonical`. A peer may also be asked for in full dimension.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from alignkit.transport.canonical import ProximalForm, canonical_form
from tests.benchmarks.prox_problems import Cell

Floats = NDArray[np.float64]
#: Centres (n, k) to solutions y (n, k).
Reduced = Callable[[Floats], Floats]
#: Rows x (n, d) to T(x) (n, d).
Full = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Peer:
    """A way of solving a cell.

    Arguments:
        name: as in the table.
        rows: how many rows it is timed on at most; the time per row is what is reported.
        reduced: what solves the reduced problem, or
        full: the problem in full dimension.
    """

    name: str
    rows: int
    reduced: Reduced | None = None
    full: Full | None = None


def peers(cell: Cell) -> Iterator[Peer]:
    """Those that can be asked for a cell and are installed."""
    yield Peer("cvxpy loop, full dimension", 12 if cell.d > 1000 else 40, full=lambda x: cell.solve_by_cvxpy(x)[0])
    if cell.name == "P4":
        yield Peer("numpy Woodbury, full dimension", cell.n, full=_woodbury(cell))
    if cell.name == "P6" and _has("prox_tv"):
        yield Peer("prox_tv", 2_000, full=_prox_tv(cell))
    if cell.name == "P7":
        yield Peer("HiGHS, warm basis", 100, full=_highs(cell))
    form = canonical_form(cell.problem) if cell.problem.displacement is None else None
    if not isinstance(form, ProximalForm):
        return
    if cell.name == "P1":
        yield Peer("scipy L-BFGS", 100, reduced=_lbfgs(form))
        if _has("jax"):
            yield Peer("jax fixed step", 2_000, reduced=_jax_gradient(form))
        if _has("jaxopt"):
            yield Peer("jaxopt LBFGS", 2_000, reduced=_jaxopt(form))
    if cell.name in ("P2", "P3"):
        program = _dual_box(form) if cell.name == "P2" else _epigraph(form)
        if _has("moreau"):
            yield Peer("moreau active set", 2_000, reduced=_moreau(program))
        if _has("qpax"):
            yield Peer("qpax", 500, reduced=_qpax(program))


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


# ---- smooth


def _lbfgs(form: ProximalForm) -> Reduced:
    from scipy.optimize import minimize

    weight, matrix, offset = form.blocks[0].weight, form.matrix, form.offset

    def value_and_slope(y: Floats, centre: Floats) -> tuple[float, Floats]:
        entries = matrix @ y + offset
        top = entries.max()
        shares = np.exp(entries - top)
        total = shares.sum()
        value = 0.5 * float((y - centre) @ (y - centre)) + weight * (top + np.log(total))
        return value, y - centre + weight * (shares / total) @ matrix

    def solve(centres: Floats) -> Floats:
        options = {"gtol": 1e-9, "ftol": 1e-15}
        return np.array(
            [minimize(value_and_slope, c, args=(c,), jac=True, method="L-BFGS-B", options=options).x for c in centres]
        )

    return solve


def _jax_objective(form: ProximalForm) -> Any:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    weight, matrix, offset = form.blocks[0].weight, jnp.asarray(form.matrix), jnp.asarray(form.offset)

    def objective(y: Any, centre: Any) -> Any:
        entries = matrix @ y + offset
        return 0.5 * jnp.sum((y - centre) ** 2) + weight * jax.scipy.special.logsumexp(entries)

    return objective


def _jax_gradient(form: ProximalForm) -> Reduced:
    """Gradient descent by 1/L, hand-reduced, until every row's certified gap ½‖∇‖² is fine."""
    import jax
    import jax.numpy as jnp

    objective = _jax_objective(form)
    slope = jax.vmap(jax.grad(objective))
    step = 1.0 / (1.0 + form.blocks[0].weight * float(np.linalg.norm(form.matrix, 2)) ** 2)

    @jax.jit
    def run(centres: Any) -> Any:
        def unfinished(state: Any) -> Any:
            return (state[2] < 100_000) & (0.5 * jnp.max(jnp.sum(state[1] ** 2, axis=1)) > 1e-7)

        def body(state: Any) -> Any:
            y = state[0] - step * state[1]
            return y, slope(y, centres), state[2] + 1

        return jax.lax.while_loop(unfinished, body, (centres, slope(centres, centres), 0))[0]

    return lambda centres: np.asarray(run(jnp.asarray(centres)))


def _jaxopt(form: ProximalForm) -> Reduced:
    import jax
    import jax.numpy as jnp
    import jaxopt

    solver = jaxopt.LBFGS(fun=_jax_objective(form), tol=1e-6, maxiter=200, implicit_diff=False)
    run = jax.jit(jax.vmap(lambda centre: solver.run(centre, centre).params))
    return lambda centres: np.asarray(run(jnp.asarray(centres)))


def _woodbury(cell: Cell) -> Full:
    """(I + UᵀU/λ)⁻¹x = x − Uᵀ(λI + UUᵀ)⁻¹Ux, in x's precision."""
    scaled = np.sqrt(1.0 + np.arange(cell.k))[:, None] * cell.rows
    inside = np.linalg.solve(cell.weight * np.eye(cell.k) + scaled @ scaled.T, scaled)
    down, up = scaled.T.astype(np.float32), inside.astype(np.float32)
    return lambda x: x - (x @ down) @ up


# ---- quadratic programs


@dataclass(frozen=True, eq=False)
class _Program:
    """min ½⟨s, Ps⟩ + ⟨q, s⟩ subject to Gs ≤ h, with q = linear(c) and y = answer(s, c)."""

    curvature: Floats
    matrix: Floats
    bound: Floats
    linear: Callable[[Floats], Floats]
    answer: Callable[[Floats, Floats], Floats]


def _dual_box(form: ProximalForm) -> _Program:
    matrix, weights = form.matrix, form.blocks[0].weights
    m = len(weights)
    return _Program(
        matrix @ matrix.T,
        np.vstack([np.eye(m), -np.eye(m)]),
        np.concatenate([weights, weights]),
        lambda centres: -(centres @ matrix.T + form.offset),
        lambda p, centres: centres - p @ matrix,
    )


def _epigraph(form: ProximalForm) -> _Program:
    """min ½‖y − c‖² + W·t with By + b ≤ t, over (y, t)."""
    matrix, weight = form.matrix, form.blocks[0].weight
    m, k = matrix.shape
    curvature = np.zeros((k + 1, k + 1))
    curvature[:k, :k] = np.eye(k)
    return _Program(
        curvature,
        np.hstack([matrix, -np.ones((m, 1))]),
        -form.offset,
        lambda centres: np.hstack([-centres, np.full((len(centres), 1), weight)]),
        lambda s, centres: s[:, :k],
    )


def _moreau(program: _Program) -> Reduced:
    import moreau

    count = 500
    curvature, matrix = sparse.csr_array(program.curvature), sparse.csr_array(program.matrix)
    settings = moreau.Settings(device="cpu", batch_size=count, solver="active_set")
    solver = moreau.CompiledSolver(
        n=len(program.curvature), m=len(program.matrix),
        P_row_offsets=curvature.indptr.tolist(), P_col_indices=curvature.indices.tolist(),
        A_row_offsets=matrix.indptr.tolist(), A_col_indices=matrix.indices.tolist(),
        cones=moreau.Cones(num_nonneg_cones=len(program.matrix)), settings=settings,
    )  # fmt: skip
    solver.setup(np.tile(curvature.data, (count, 1)), np.tile(matrix.data, (count, 1)))
    bounds = np.tile(program.bound, (count, 1))

    def solve(centres: Floats) -> Floats:
        found = []
        for first in range(0, len(centres), count):
            part = centres[first : first + count]
            linear = np.zeros((count, len(program.curvature)))
            linear[: len(part)] = program.linear(part)
            found.append(program.answer(np.asarray(solver.solve(linear, bounds).x)[: len(part)], part))
        return np.concatenate(found)

    return solve


def _qpax(program: _Program) -> Reduced:
    import jax
    import jax.numpy as jnp
    import qpax

    jax.config.update("jax_enable_x64", True)
    size = len(program.curvature)
    fixed = [jnp.asarray(value) for value in (program.curvature, program.matrix, program.bound)]
    nothing, empty = jnp.zeros((0, size)), jnp.zeros(0)

    def one(linear: Any) -> Any:
        return qpax.solve_qp(fixed[0], linear, nothing, empty, fixed[1], fixed[2], solver_tol=1e-8)[0]

    run = jax.jit(jax.vmap(one))
    return lambda centres: program.answer(np.asarray(run(jnp.asarray(program.linear(centres)))), centres)


# ---- others


def _prox_tv(cell: Cell) -> Full:
    import prox_tv

    strength = 0.5 / cell.weight
    return lambda x: np.array([prox_tv.tv1_1d(row, strength) for row in np.asarray(x, np.float64)])


def _highs(cell: Cell) -> Full:
    """The dual linear program over the shared polytope, its objective changed from row to row."""
    import highspy

    rows, target = cell.rows, cell.target
    k = len(rows)
    solver = highspy.Highs()
    solver.silent()
    for _ in range(k):
        solver.addVar(-1.0, 1.0)
    places = np.arange(k, dtype=np.int32)
    for column in rows.T:
        solver.addRow(-cell.weight, cell.weight, k, places, column)
    solver.changeObjectiveSense(highspy.ObjSense.kMaximize)

    def solve(x: NDArray[Any]) -> NDArray[Any]:
        moved = np.array(x, dtype=np.float64)
        costs = moved @ rows.T - target
        for at, cost in enumerate(costs):
            solver.changeColsCost(k, places, cost)
            solver.run()
            moved[at] -= np.asarray(solver.getSolution().row_dual)
        return moved

    return solve
