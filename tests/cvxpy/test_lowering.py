"""Every curved atom in cvxpy: its value there is alignkit's, for a block of rows, in every shape and along axes."""

import cvxpy as cp
import numpy as np
import pytest
from array_api_compat import array_namespace

import alignkit.expressions as ak
from alignkit.contracts import ProxProblem, Refusal
from alignkit.expressions.atom import Atom
from alignkit.expressions.table import ENTRIES
from alignkit_cvxpy.lowering import LOWERINGS, UNLOWERED
from alignkit_cvxpy.minorants import MINORANTS
from alignkit_cvxpy.prox import CvxpyProxSolver

# cvxpy says what its cones cost, and that it is not sure of a last digit.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RNG = np.random.default_rng(0)
ROWS = 5
v, X, cube, s = ak.Variable(5), ak.Variable((3, 4)), ak.Variable((2, 3, 2)), ak.Variable()
A = RNG.standard_normal((5, 5))
KINKS, HEIGHTS = [-1.0, 0.0, 0.5, 2.0], [1.0, 0.0, 0.25, 4.0]

#: Atoms over variables, and whether their arguments are drawn positive.
ATOMS = {
    "abs": (ak.abs(X), False),
    "square": (ak.square(X), False),
    "square of a scalar": (ak.square(s), False),
    "huber": (ak.huber(X, 0.7), False),
    "pos": (ak.pos(v), False),
    "neg": (ak.neg(v), False),
    "exp": (ak.exp(X), False),
    "logistic": (ak.logistic(X), False),
    "log": (ak.log(X), True),
    "log1p": (ak.log1p(X), True),
    "entr": (ak.entr(X), True),
    "power 3": (ak.power(X, 3), True),
    "power 4": (ak.power(X, 4), False),
    "power 6": (ak.power(X, 6), False),
    "power 2.345": (ak.power(v, 2.345), True),
    "power 0.3": (ak.power(v, 0.3), True),
    "power -2": (ak.power(v, -2), True),
    "power -0.77": (ak.power(v, -0.77), True),
    "sqrt": (ak.sqrt(X), True),
    "inv_pos": (ak.inv_pos(X), True),
    "geo_mean": (ak.geo_mean(v), True),
    "geo_mean with weights": (ak.geo_mean(v, [1.0, 2.0, 0.5, 3.0, 1.0]), True),
    "geo_mean along axis 0": (ak.geo_mean(X, axis=0), True),
    "geo_mean with weights along axis 1": (ak.geo_mean(X, [1.0, 2.0, 0.5, 3.0], axis=1), True),
    "geo_mean along two axes": (ak.geo_mean(cube, [1.0, 2.0, 3.0, 4.0], axis=(0, 2)), True),
    "norm1": (ak.norm1(X), False),
    "norm1 along axis 0": (ak.norm1(X, axis=0), False),
    "norm1 along two axes": (ak.norm1(cube, axis=(0, 2)), False),
    "norm2": (ak.norm2(X), False),
    "norm2 along axis 1": (ak.norm2(X, axis=1), False),
    "norm_inf": (ak.norm_inf(v), False),
    "norm_inf along axis 0": (ak.norm_inf(X, axis=0), False),
    "pnorm 3": (ak.pnorm(X, 3), False),
    "pnorm 1.37 along axis 0": (ak.pnorm(X, 1.37, axis=0), False),
    "sigma_max": (ak.sigma_max(X), False),
    "max": (ak.max(X), False),
    "max along axis 0": (ak.max(cube, axis=1), False),
    "min": (ak.min(v), False),
    "min along axis 1": (ak.min(X, axis=1), False),
    "log_sum_exp": (ak.log_sum_exp(v), False),
    "log_sum_exp along axis 0": (ak.log_sum_exp(X, axis=0), False),
    "sum_largest": (ak.sum_largest(v, 2), False),
    "sum_largest of a fraction along axis 0": (ak.sum_largest(X, 1.6, axis=0), False),
    "sum_smallest": (ak.sum_smallest(v, 2.5), False),
    "sum_smallest along axis 1": (ak.sum_smallest(X, 3, axis=1), False),
    "maximum": (ak.maximum(X, 0.3, ak.Variable((3, 4), name="y")), False),
    "minimum": (ak.minimum(X, ak.Variable((3, 4), name="y")), False),
    "sum_squares": (ak.sum_squares(X), False),
    "sum_squares along axis 0": (ak.sum_squares(X, axis=0), False),
    "quad_form": (ak.quad_form(v, A.T @ A), False),
    "quad_form of low rank": (ak.quad_form(v, A[:2].T @ A[:2]), False),
    "negative quad_form": (ak.quad_form(v, -A.T @ A), False),
    "quad_over_lin": (ak.quad_over_lin(X, s), True),
    "piecewise_linear": (ak.piecewise_linear(X, KINKS, HEIGHTS), False),
    "concave piecewise_linear": (ak.piecewise_linear(v, KINKS, [-height for height in HEIGHTS]), False),
    "piecewise_linear where it is convex": (ak.piecewise_linear(ak.exp(v), [-1.0, 0.0, 1.0], [5.0, 0.0, 3.0]), True),
    "piecewise_linear where it is straight": (ak.piecewise_linear(ak.exp(v), [-1.0, 0.0, 9.0], [5.0, 0.0, 3.0]), True),
    "clip where it is convex": (ak.clip(-ak.exp(v), -1.0, 0.5), False),
    "clip where it is concave": (ak.clip(ak.sqrt(v), -1.0, 0.9), True),
}


def test_every_atom_of_the_language_has_a_lowering_or_a_reason():
    atoms = {kind for entry in ENTRIES for kind in entry.nodes if issubclass(kind, Atom)}
    assert atoms == set(LOWERINGS) | set(UNLOWERED)
    assert not set(LOWERINGS) & set(UNLOWERED)
    assert set(LOWERINGS) == set(MINORANTS)


def test_every_lowering_is_examined():
    assert {type(atom) for atom, _ in ATOMS.values()} == set(LOWERINGS)


@pytest.mark.parametrize("name", ATOMS)
def test_values_are_those_of_alignkit(name):
    atom, is_positive = ATOMS[name]
    sizes = [arg.size for arg in atom.args]
    points = [np.abs(RNG.standard_normal((ROWS, size))) + 0.2 for size in sizes]
    if not is_positive:
        points = [point * RNG.choice([-1.0, 1.0], point.shape) for point in points]
    if name == "clip where it is convex":
        points = [-np.abs(point) for point in points]
    shaped = [point.reshape(ROWS, *arg.shape) for point, arg in zip(points, atom.args, strict=True)]
    expected = atom._numeric(array_namespace(*shaped), shaped).reshape(ROWS, -1)
    variables = [cp.Variable(point.shape) for point in points]
    constraints = [variable == point for variable, point in zip(variables, points, strict=True)]
    lowered = LOWERINGS[type(atom)](cp, atom, variables, constraints)
    assert lowered.shape == (ROWS, atom.size)
    assert lowered.is_convex() if atom.is_atom_convex else lowered.is_concave()
    # The value is the least that the cones allow, or the greatest.
    total = cp.sum(lowered)
    problem = cp.Problem(cp.Minimize(total) if atom.is_atom_convex else cp.Maximize(total), constraints)
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10, accept_unknown=True)
    np.testing.assert_allclose(lowered.value, expected, rtol=1e-6, atol=1e-6)


w = ak.Variable(4, name="w")


@pytest.mark.parametrize(
    "f",
    [
        ak.sum(ak.tanh(ak.sqrt(w))),
        ak.sum(ak.sigmoid(ak.sqrt(w))),
        ak.sum(ak.arctan(ak.sqrt(w))),
    ],
)
def test_concave_atoms_that_no_cone_describes_are_refused_by_name(f):
    assert f.is_concave()
    refusal = CvxpyProxSolver().bid(ProxProblem(f, 1.0, 4, 10))
    assert isinstance(refusal, Refusal)
    (atom,) = (node for node in f.args if isinstance(node, Atom))
    assert str(atom) in refusal.reason and "over part of its range" in refusal.reason
