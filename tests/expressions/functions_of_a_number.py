"""What every elementwise atom is held to: the function of one number that it applies, in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import torch
from scipy.optimize import minimize_scalar

import alignkit.expressions as ex
from alignkit.expressions.curvature import Monotonicity
from alignkit.expressions.entry import Entry


@dataclass(frozen=True)
class Truth:
    """One atom and what it should be.

    Arguments:
        build: the public function.
        value: the function inside its domain, by numpy or scipy.
        slope: its derivative there, a choice of it at kinks.
        least: the lower end of the domain.
        closed: whether that end is inside.
        outside: the value outside the domain.
        kinks: where there is no derivative.
        wide: points are drawn up to this magnitude.
    """

    build: Callable[[Any], ex.Expression]
    value: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]
    least: float = -math.inf
    closed: bool = True
    outside: float = math.nan
    kinks: tuple[float, ...] = ()
    wide: float = 6.0

    def atom(self, lower: float = -math.inf, upper: float = math.inf) -> ex.Atom:
        found = self.build(ex.Variable()).over(lower, upper)
        assert isinstance(found, ex.Atom)
        return found

    @property
    def sign(self) -> float:
        """1 where the function is convex, −1 where it is concave."""
        return 1.0 if self.atom().is_atom_convex else -1.0

    def inside(self, count: int) -> np.ndarray:
        """Points strictly inside the domain, of many magnitudes and away from kinks."""
        generator = np.random.default_rng(count)
        size = 10.0 ** generator.uniform(-3.0, math.log10(self.wide), count)
        points = self.least + size if math.isfinite(self.least) else size * generator.choice([-1.0, 1.0], count)
        for kink in self.kinks:
            points = np.where(np.abs(points - kink) < 1e-3, kink + 2e-3, points)
        return points

    def grid(self, lower: float, upper: float) -> np.ndarray:
        """Dense points of an interval inside the domain, its ends included where they are."""
        start = max(lower, self.least)
        points = np.unique(np.concatenate([np.linspace(start, upper, 4001), start + np.geomspace(1e-9, 1, 400)]))
        points = points[(points <= upper) & (points >= start)]
        return points if self.closed else points[points > self.least]


def check_values(truth: Truth) -> None:
    points = truth.inside(400)
    atom = truth.atom()
    np.testing.assert_allclose(atom.value(points), truth.value(points), rtol=1e-13, atol=1e-15)
    with np.errstate(invalid="ignore"):
        assert np.isnan(atom.value(np.array([math.nan, 1.0]))[0])
    if math.isfinite(truth.least):
        beyond = truth.least - np.array([1e-300 if truth.least == 0.0 else 1e-12, 0.5, 1e300, math.inf])
        assert (atom.value(beyond) == truth.outside).all()
        (condition,) = atom.domain
        assert (condition.bound, condition.strict) == (truth.least, not truth.closed)
        edge = atom.value(np.array([truth.least]))[0]
        assert math.isfinite(edge) if truth.closed else edge == truth.outside
    else:
        assert atom.domain == ()


def check_libraries(truth: Truth) -> None:
    points = truth.inside(200)
    if math.isfinite(truth.least):
        points = np.concatenate([points, truth.least + np.array([-1.0, 0.0])])
    atom = truth.atom()
    found, slopes = atom.value(points), atom.gradient(points)
    with jax.enable_x64(True):
        for other in (torch.tensor(points), jnp.asarray(points)):
            np.testing.assert_allclose(np.asarray(atom.value(other)), found, rtol=1e-12)
            np.testing.assert_allclose(np.asarray(atom.gradient(other)), slopes, rtol=1e-12)
        assert atom.value(jnp.asarray(points, dtype=jnp.float32)).dtype == jnp.float32
        np.testing.assert_allclose(np.asarray(jax.jit(atom.value)(jnp.asarray(points))), found, rtol=1e-12)
    for narrow in (points.astype(np.float32), torch.tensor(points, dtype=torch.float32)):
        for kept, exact in ((atom.value(narrow), found), (atom.gradient(narrow), slopes)):
            assert kept.dtype == narrow.dtype
            usable = np.isfinite(exact) & (np.abs(exact) < 1e30) & (points > truth.least)
            np.testing.assert_allclose(np.asarray(kept)[usable], exact[usable], rtol=3e-4, atol=1e-5)
    moved = atom.value(torch.zeros(3, device="meta", dtype=torch.bfloat16))
    assert (moved.device.type, moved.dtype, moved.shape) == ("meta", torch.bfloat16, (3,))


def check_gradients(truth: Truth) -> None:
    points = truth.inside(200)
    atom = truth.atom()
    found = atom.gradient(points)
    np.testing.assert_allclose(found, truth.slope(points), rtol=1e-12, atol=1e-14)
    margin = np.abs(points[:, None] - np.array([truth.least, *truth.kinks])[None, :]).min(axis=1)
    step = 1e-4 * np.minimum(1.0, margin)
    difference = (truth.value(points + step) - truth.value(points - step)) / (2 * step)
    np.testing.assert_allclose(found, difference, rtol=1e-6, atol=1e-8)
    tensor = torch.tensor(points, requires_grad=True)
    atom.value(tensor).sum().backward()
    np.testing.assert_allclose(tensor.grad.numpy(), found, rtol=1e-11, atol=1e-14)
    with jax.enable_x64(True):
        traced = jax.grad(lambda x: atom.value(x).sum())(jnp.asarray(points))
        np.testing.assert_allclose(np.asarray(traced), found, rtol=1e-11, atol=1e-14)
    if math.isfinite(truth.least):
        # Automatic differentiation finds no NaN at the edge of the domain or beyond it either.
        edge = torch.tensor([truth.least, truth.least - 1.0], dtype=torch.float64, requires_grad=True)
        atom.value(edge).sum().backward()
        assert torch.isfinite(edge.grad).all()


def check_subgradients(truth: Truth) -> None:
    """The tangent lies on one side of the graph, at kinks and at the edge too, to the resolution of the grid."""
    atom = truth.atom()
    at = [*truth.kinks, *truth.inside(20)]
    if math.isfinite(truth.least) and truth.closed:
        at.append(truth.least)
    others = truth.grid(-truth.wide, truth.wide)
    values = atom.value(others)
    for point in at:
        slope, here = atom.gradient(np.array([point]))[0], atom.value(np.array([point]))[0]
        assert math.isfinite(slope)
        gap = truth.sign * (values - here - slope * (others - point))
        assert gap.min() >= -1e-9 * (1.0 + np.abs(values).max())


def check_extremes(truth: Truth) -> None:
    """Huge and tiny arguments give no NaN, in values and in gradients, and the limits at infinity."""
    for dtype in (np.float32, np.float64):
        limits = np.finfo(dtype)
        sizes = np.array([limits.max, limits.max / 4, 1e10, 89.0, 1e-10, limits.tiny, limits.tiny / 8], dtype=dtype)
        points = np.concatenate([sizes, [dtype(0.0)], -sizes]).astype(dtype)
        points = points[points >= truth.least] if truth.closed else points[points > truth.least]
        with np.errstate(all="ignore"):
            for library in (lambda x: x, torch.tensor, jnp.asarray):
                assert not np.isnan(np.asarray(truth.atom().value(library(points)))).any()
                assert not np.isnan(np.asarray(truth.atom().gradient(library(points)))).any()
    with np.errstate(all="ignore"):
        ends = truth.atom().value(np.array([math.inf, -math.inf]))
        near = truth.atom().value(np.array([1e308, -1e308]))
    assert not np.isnan(ends).any()
    for end, before in zip(ends, near, strict=True):
        assert end == before or abs(end - before) < 1e-100 or (math.isinf(end) and np.sign(end) == np.sign(before))


def check_boxes(truth: Truth) -> None:
    """Over boxes, the range and the Lipschitz constant are sound and tight, and so is the monotonicity."""
    boxes = np.sort(np.random.default_rng(7).uniform(-truth.wide, truth.wide, size=(60, 2)), axis=1)
    special = [(0.0, 2.0), (-1.0, 0.0), (0.2, 0.3), (0.5, 2.0), (-2.0, -0.5), (-0.5, 3.0), (1.0, 1.0), (0.0, 0.25)]
    decided = 0
    for lower, upper in [*boxes, *special]:
        atom = truth.atom(float(lower), float(upper))
        points = truth.grid(lower, upper)
        if not len(points):
            assert not math.isnan(atom.lipschitz)
            continue
        decided += 1
        values = atom.value(points)
        bounds = atom.range
        slack = 1e-12 * (1.0 + np.abs(values).max())
        assert bounds.lower - slack <= values.min() and values.max() <= bounds.upper + slack
        steepest = np.abs(truth.slope(np.where(points == truth.least, points + 1e-300, points))).max()
        assert atom.lipschitz >= steepest * (1.0 - 1e-12) - 1e-12
        if lower > truth.least:
            assert bounds.lower >= values.min() - 1e-3 * (1.0 + np.abs(values).max()) and math.isfinite(bounds.upper)
            assert bounds.upper <= values.max() + 1e-3 * (1.0 + np.abs(values).max())
            assert atom.lipschitz <= steepest * (1.0 + 2e-2) + 1e-9
        check_monotonicity(truth, atom, float(lower), float(upper))
    assert decided > 20


def check_monotonicity(truth: Truth, atom: ex.Atom, lower: float, upper: float) -> None:
    """The claim holds for the extended values, outside the domain too; where there is none, the values turn."""
    points = np.linspace(lower, upper, 2001)
    values = atom.value(points)
    with np.errstate(invalid="ignore"):
        steps = np.where(values[1:] == values[:-1], 0.0, values[1:] - values[:-1])
    slack = 1e-14 * (1.0 + np.abs(values[np.isfinite(values)]).max(initial=0.0))
    claim = atom.monotonicity(0)
    if claim is Monotonicity.INCREASING:
        assert steps.min() >= -slack
    elif claim is Monotonicity.DECREASING:
        assert steps.max() <= slack
    else:
        assert steps.min() < 0.0 < steps.max()


def check_conjugate(truth: Truth) -> None:
    """Fenchel and Young's inequality, with equality at gradients, and a supremum that a fine grid nearly reaches."""
    atom = truth.atom()
    points = truth.inside(200)
    generator = np.random.default_rng(11)
    duals = atom.project_dual(generator.normal(size=300) * 3.0)
    np.testing.assert_allclose(atom.project_dual(duals), duals, rtol=0, atol=0)
    conjugate = atom.conjugate(duals)
    gap = atom.value(points)[:, None] + conjugate[None, :] - points[:, None] * duals[None, :]
    assert gap.min() >= -1e-9
    slopes = atom.gradient(points)
    np.testing.assert_allclose(atom.project_dual(slopes), slopes, rtol=1e-12)
    equality = atom.value(points) + atom.conjugate(slopes)
    np.testing.assert_allclose(equality, points * slopes, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(atom.conjugate(torch.tensor(duals)).numpy(), conjugate, rtol=1e-12, atol=1e-15)
    # Duals moved by the projection are outside the domain: the supremum grows without bound there.
    far = truth.grid(max(-1e4, truth.least), 1e4)
    with np.errstate(over="ignore"):
        values = atom.value(far)
    for dual in generator.normal(size=40) * 3.0:
        moved = float(atom.project_dual(np.array([dual]))[0])
        if abs(moved - dual) > 1e-2:
            assert (dual * far - values).max() > float(atom.conjugate(np.array([moved]))[0]) + 10.0


def check_prox(truth: Truth) -> None:
    """No other point has a smaller φ(z) + (z − v)²/(2t), and numpy, torch and jax agree."""
    atom = truth.atom()
    generator = np.random.default_rng(13)
    for step in (1e-3, 0.3, 1.0, 20.0):
        points = np.concatenate([generator.normal(size=30) * 4.0, generator.normal(size=5) * 50.0, [0.0, -3.0, 3.0]])
        found = atom.prox(points, step)
        assert found.shape == points.shape and (found >= truth.least).all()

        def objective(z: float, v: float, step: float = step) -> float:
            return float(truth.sign * atom.value(np.array([z]))[0]) + (z - v) ** 2 / (2.0 * step)

        for v, z in zip(points, found, strict=True):
            low = max(min(v, z) - 1.0, truth.least)
            best = minimize_scalar(objective, bounds=(low, max(v, z) + 1.0), args=(v,), method="bounded")
            reach = objective(z, v)
            assert reach <= best.fun + 1e-9 * (1.0 + abs(best.fun))
            # Strong convexity: the gap to the optimum bounds the distance.
            assert abs(z - best.x) <= 1e-3 * (1.0 + abs(z) + step)
        np.testing.assert_allclose(atom.prox(torch.tensor(points), step).numpy(), found, rtol=1e-12, atol=1e-14)
        with jax.enable_x64(True):
            np.testing.assert_allclose(np.asarray(atom.prox(jnp.asarray(points), step)), found, rtol=1e-12, atol=1e-14)
        check_prox_stationary(truth, points, found, step)


def check_prox_stationary(truth: Truth, points: np.ndarray, found: np.ndarray, step: float) -> None:
    """Away from kinks and the edge, φ'(z) = (v − z)/t to rounding."""
    apart = np.abs(found[:, None] - np.array([truth.least, *truth.kinks])[None, :]).min(axis=1, initial=math.inf)
    usable = apart > 0.0
    z, v = found[usable], points[usable]
    slope = truth.sign * truth.slope(z)
    scale = 1.0 + np.abs(v) + step * np.abs(slope)
    np.testing.assert_array_less(np.abs(z + step * slope - v) / scale, 1e-12)


def check_verdict(build: Callable[..., Any], *tables: tuple[Entry, ...]) -> None:
    """One composition has the curvature that cvxpy proves, and at least its sign.

    Arguments:
        build: from a namespace of functions and a variable of shape (2, 3) to an expression.
        tables: the rows whose functions are in the namespace, beside minimum and maximum.
    """
    names = {row.name: row.function for table in tables for row in table}
    ours = build(SimpleNamespace(**{**names, "minimum": ex.minimum, "maximum": ex.maximum}), ex.Variable((2, 3)))
    theirs = build(cp, cp.Variable((2, 3)))
    assert (ours.is_convex(), ours.is_concave()) == (theirs.is_convex(), theirs.is_concave()), str(ours)
    assert ours.range.lower >= 0.0 or not theirs.is_nonneg(), str(ours)
    assert ours.range.upper <= 0.0 or not theirs.is_nonpos(), str(ours)
