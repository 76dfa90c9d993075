"""What atoms of arrays are held to: values and derivatives in every library, claims by dense sampling, optimality."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import torch

import alignkit.expressions as ex
from alignkit.expressions.curvature import Monotonicity

Floats = np.ndarray
#: A floor of optimality for cvxpy's solvers.
SOLVER_GAP = 1e-6


def variable_of(expression: ex.Expression) -> ex.Variable:
    (variable,) = expression.variables()
    return variable


def weighed(expression: ex.Expression, seed: int = 3) -> ex.Expression:
    """A scalar that every entry moves: ⟨h, expression⟩."""
    if expression.shape == ():
        return expression
    return ex.inner(np.random.default_rng(seed).uniform(0.5, 2.0, size=expression.shape), expression)


def check_values(expression: ex.Expression, truth: Callable[[Floats], Any], points: Floats) -> None:
    found = expression.value(points)
    assert found.shape == (len(points), *expression.shape)
    np.testing.assert_allclose(found, np.stack([np.asarray(truth(x)) for x in points]), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(expression.value(points[0]), found[0], rtol=1e-13)


def check_libraries(expression: ex.Expression, points: Floats) -> None:
    """Values and gradients agree in numpy, torch and jax, keep the dtype, and follow constants to the device."""
    scalar = weighed(expression)
    values, slopes = expression.value(points), scalar.gradient(points)
    assert slopes.shape == points.shape
    with jax.enable_x64(True):
        both = jax.jit(lambda x: (expression.value(x), scalar.gradient(x)))(jnp.asarray(points))
    tensor = torch.tensor(points)
    for value, slope in (both, (expression.value(tensor), scalar.gradient(tensor))):
        np.testing.assert_allclose(np.asarray(value), values, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(np.asarray(slope), slopes, rtol=1e-9, atol=1e-11)
    for narrow in (points.astype(np.float32), torch.tensor(points, dtype=torch.float32)):
        assert expression.value(narrow).dtype == scalar.gradient(narrow).dtype == narrow.dtype
        np.testing.assert_allclose(np.asarray(expression.value(narrow)), values, rtol=1e-4, atol=1e-4)
    shape = (4, *points.shape[1:])
    moved = expression.value(torch.zeros(shape, device="meta", dtype=torch.bfloat16))
    assert (moved.device.type, moved.dtype, moved.shape) == ("meta", torch.bfloat16, (4, *expression.shape))


def check_gradients(expression: ex.Expression, points: Floats) -> None:
    """Away from kinks: finite differences, and what torch and jax find by themselves."""
    scalar = weighed(expression)
    found = scalar.gradient(points)
    direction = np.random.default_rng(1).normal(size=points.shape)
    step = 1e-6
    difference = (scalar.value(points + step * direction) - scalar.value(points - step * direction)) / (2 * step)
    along = (found * direction).reshape(len(points), -1).sum(axis=1)
    np.testing.assert_allclose(along, difference, rtol=1e-6, atol=1e-7)
    tensor = torch.tensor(points, requires_grad=True)
    scalar.value(tensor).sum().backward()
    np.testing.assert_allclose(tensor.grad.numpy(), found, rtol=1e-9, atol=1e-11)
    with jax.enable_x64(True):
        traced = jax.jit(jax.grad(lambda x: scalar.value(x).sum()))(jnp.asarray(points))
        np.testing.assert_allclose(np.asarray(traced), found, rtol=1e-9, atol=1e-11)


def check_subgradients(expression: ex.Expression, kinks: Floats, others: Floats) -> None:
    """At kinks the tangent still lies on one side of the graph; torch and jax find finite slopes there."""
    scalar = weighed(expression)
    assert scalar.is_convex() or scalar.is_concave()
    sign = 1.0 if scalar.is_convex() else -1.0
    values, here, slopes = scalar.value(others), scalar.value(kinks), scalar.gradient(kinks)
    assert np.isfinite(slopes).all()
    flat_slopes = slopes.reshape(len(kinks), -1)
    moves = others.reshape(len(others), -1)[:, None] - kinks.reshape(len(kinks), -1)[None]
    gaps = sign * (values[:, None] - here[None] - np.einsum("okd,kd->ok", moves, flat_slopes))
    assert gaps.min() >= -1e-10 * (1.0 + np.abs(values).max())
    tensor = torch.tensor(kinks, requires_grad=True)
    scalar.value(tensor).sum().backward()
    assert torch.isfinite(tensor.grad).all()
    with jax.enable_x64(True):
        traced = jax.jit(jax.grad(lambda x: scalar.value(x).sum()))(jnp.asarray(kinks))
    assert np.isfinite(np.asarray(traced)).all()


def box_points(shape: tuple[int, ...], lower: float, upper: float, count: int, seed: int) -> Floats:
    """Points of a box: corners, points of equal entries, and draws, of which half are close to the boundary."""
    generator = np.random.default_rng(seed)
    size = math.prod(shape)
    corners = list(itertools.product([lower, upper], repeat=size)) if size <= 6 else []
    corners = np.array(corners).reshape(len(corners), size)
    level = np.linspace(lower, upper, 101)[:, None] * np.ones(size)
    draws = generator.uniform(lower, upper, size=(count, size))
    draws[: count // 2] = np.where(generator.uniform(size=(count // 2, size)) < 0.7, draws[: count // 2], upper)
    draws[: count // 4] = np.where(generator.uniform(size=(count // 4, size)) < 0.6, draws[: count // 4], lower)
    return np.concatenate([corners, level, draws]).reshape(-1, *shape)


def check_claims(
    expression: ex.Expression, lower: float, upper: float, *, tight_range: bool = True, tight_slope: bool = False
) -> None:
    """Over a box: range, Lipschitz constant, curvature and monotonicity hold at sampled points, and are nearly met."""
    claimed = expression.over(lower, upper)
    points = box_points(variable_of(expression).shape, lower, upper, 2000, seed=0)
    values = claimed.value(points).reshape(len(points), -1)
    scale = 1.0 + np.abs(values).max()
    slack = 1e-11 * scale
    bounds = claimed.range
    assert bounds.lower - slack <= values.min() and values.max() <= bounds.upper + slack
    if tight_range:
        assert bounds.lower >= values.min() - 1e-2 * scale and bounds.upper <= values.max() + 1e-2 * scale
    order = np.random.default_rng(1).permutation(len(points))
    near = points + 1e-4 * (points[order] - points)
    for others in (points[order], near):
        moved = np.linalg.norm(values - claimed.value(others).reshape(len(points), -1), axis=1)
        distance = np.linalg.norm((points - others).reshape(len(points), -1), axis=1)
        assert (moved <= claimed.lipschitz * distance * (1 + 1e-9) + slack).all()
    if claimed.shape == ():
        steepest = np.linalg.norm(claimed.gradient(points).reshape(len(points), -1), axis=1).max()
        assert steepest <= claimed.lipschitz * (1 + 1e-9) + slack
        if tight_slope:
            assert claimed.lipschitz <= steepest * (1 + 1e-2) + slack
    check_bend(claimed, points, points[order])
    check_monotonicity(claimed, points, order)


def check_bend(claimed: ex.Expression, points: Floats, others: Floats) -> None:
    weight = np.random.default_rng(2).uniform(size=(len(points),) + (1,) * (points.ndim - 1))
    between = claimed.value(weight * points + (1 - weight) * others).reshape(len(points), -1)
    weight = weight.reshape(-1, 1)
    chord = weight * claimed.value(points).reshape(len(points), -1)
    chord = chord + (1 - weight) * claimed.value(others).reshape(len(points), -1)
    slack = 1e-11 * (1.0 + np.abs(chord).max())
    if claimed.is_convex():
        assert (between <= chord + slack).all()
    if claimed.is_concave():
        assert (between >= chord - slack).all()


def check_monotonicity(claimed: ex.Expression, points: Floats, order: Floats) -> None:
    if not (isinstance(claimed, ex.Atom) and isinstance(claimed.args[0], ex.Variable) and len(claimed.args) == 1):
        return
    claim = claimed.monotonicity(0)
    if claim is Monotonicity.UNKNOWN:
        return
    low, high = np.minimum(points, points[order]), np.maximum(points, points[order])
    rise = claimed.value(high) - claimed.value(low)
    slack = 1e-11 * (1.0 + np.abs(rise).max())
    assert (rise >= -slack).all() if claim is Monotonicity.INCREASING else (rise <= slack).all()


def check_conjugate(atom: ex.Expression, points: Floats) -> None:
    """Fenchel and Young's inequality, equality at gradients; the projection keeps what is feasible."""
    assert isinstance(atom, ex.Atom)
    shape = points.shape[1:]
    duals = atom.project_dual(np.random.default_rng(1).normal(size=(60, *shape)) * 3.0)
    np.testing.assert_allclose(atom.project_dual(duals), duals, atol=1e-9)
    conjugate = atom.conjugate(duals)
    values = atom.value(points)
    inner = points.reshape(len(points), -1) @ duals.reshape(len(duals), -1).T
    assert (values[:, None] + conjugate[None] - inner).min() >= -1e-9
    slopes = atom.gradient(points)
    np.testing.assert_allclose(atom.project_dual(slopes), slopes, atol=1e-9)
    products = (points * slopes).reshape(len(points), -1).sum(axis=1)
    np.testing.assert_allclose(values + atom.conjugate(slopes), products, atol=1e-9)
    raw = np.random.default_rng(2).normal(size=(20, *shape)) * 5.0
    with jax.enable_x64(True):
        traced = jax.jit(atom.project_dual)(jnp.asarray(raw))
    for other in (traced, atom.project_dual(torch.tensor(raw))):
        np.testing.assert_allclose(np.asarray(other), atom.project_dual(raw), atol=1e-11)


def check_nearest(atom: ex.Expression) -> None:
    """The projection is the nearest point: ⟨v − Pv, y − Pv⟩ ≤ 0 for every feasible y."""
    assert isinstance(atom, ex.Atom)
    shape = variable_of(atom).shape
    generator = np.random.default_rng(4)
    raw = generator.normal(size=(100, *shape)) * 10.0 ** generator.uniform(-1, 2, size=(100,) + (1,) * len(shape))
    found = atom.project_dual(raw)
    feasible = np.concatenate([found, atom.project_dual(generator.normal(size=(300, *shape)) * 3.0)])
    away = (raw - found).reshape(100, -1)
    angles = feasible.reshape(len(feasible), -1) @ away.T - (found.reshape(100, -1) * away).sum(axis=1)[None]
    assert angles.max() <= 1e-9 * (1.0 + np.abs(raw).max())


def check_prox(atom: ex.Expression, theirs: Callable[[Any], Any]) -> None:
    """No point is better than ours: cvxpy's solver, which minimises the same objective, finds the same one."""
    assert isinstance(atom, ex.Atom)
    shape = variable_of(atom).shape
    sign = 1.0 if atom.is_convex() else -1.0
    generator = np.random.default_rng(7)
    traced = jax.jit(atom.prox)
    for step in (0.05, 0.7, 6.0):
        points = generator.normal(size=(4, *shape)) * np.array([0.1, 1.0, 3.0, 20.0]).reshape((4,) + (1,) * len(shape))
        found = atom.prox(points, step)
        assert found.shape == points.shape
        with jax.enable_x64(True):
            others = traced(jnp.asarray(points), step), atom.prox(torch.tensor(points), step)
        for other in others:
            np.testing.assert_allclose(np.asarray(other), found, rtol=1e-10, atol=1e-11)
        for point, mine in zip(points, found, strict=True):
            z = cp.Variable(shape)
            objective = sign * theirs(z) + cp.sum_squares(z - point) / (2 * step)
            problem = cp.Problem(cp.Minimize(objective))
            problem.solve(solver=cp.CLARABEL)
            scale = 1.0 + abs(problem.value)
            reached = float(sign * atom.value(mine)) + float(((mine - point) ** 2).sum()) / (2 * step)
            assert reached <= problem.value + SOLVER_GAP * scale
            # Strong convexity bounds the distance to the minimiser by the gap.
            assert ((mine - z.value) ** 2).sum() <= 4 * step * SOLVER_GAP * scale


def check_verdicts(ours: ex.Expression, theirs: Any) -> None:
    """What cvxpy proves is proved here, and no more than that."""
    assert (ours.is_convex(), ours.is_concave()) == (theirs.is_convex(), theirs.is_concave())
    assert (ours.range.lower >= 0.0, ours.range.upper <= 0.0) == (theirs.is_nonneg(), theirs.is_nonpos())
