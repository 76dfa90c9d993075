"""cvxpy's expressions, imported: equal values, equal shapes, at least as much curvature; or refused by name."""

import inspect

import cvxpy as cp
import numpy as np
import pytest
from scipy import sparse

import alignkit.expressions as ak
from alignkit.errors import AlignkitError, CurvatureError, ParameterError
from alignkit_cvxpy.imported_affine import AFFINE
from alignkit_cvxpy.imported_atoms import ATOMS
from alignkit_cvxpy.importer import from_cvxpy

RNG = np.random.default_rng(0)
N, SHAPE, CUBE = 6, (3, 4), (2, 3, 4)
A, b, h = RNG.standard_normal((5, N)), RNG.standard_normal(5), RNG.standard_normal(N)
B, C, D = RNG.standard_normal((2, 3)), RNG.standard_normal((4, 2)), RNG.standard_normal(SHAPE)
P = A.T @ A
Q = np.eye(3) + 0.2 * np.ones((3, 3))
positive = RNG.uniform(0.5, 2.0, N)
S = sparse.random_array((5, N), density=0.4, rng=RNG, format="csc")


def shared(a):
    return cp.norm1(a) + cp.max(a) + cp.sum(a)


#: Builders by shape of the variable; those of POSITIVE are drawn from (0.2, 2), the others from the whole line.
VECTOR = {
    "sum": cp.sum,
    "affine": lambda y: A @ y - b,
    "sparse matrix": lambda y: S @ y + 1.0,
    "vector from the left": lambda y: h @ y,
    "vector from the right": lambda y: y @ h,
    "scalar product": lambda y: cp.scalar_product(h, y),
    "vdot": lambda y: cp.vdot(y, h),
    "outer": lambda y: cp.outer(b, y),
    "outer from the right": lambda y: cp.outer(y, b),
    "multiply": lambda y: cp.multiply(h, y),
    "multiply by a sparse": lambda y: cp.multiply(sparse.csr_array(h[None, :]), cp.reshape(y, (1, N), order="C")),
    "scalar times": lambda y: -2.5 * y + 1.0,
    "divided": lambda y: y / 3.0 - y / positive,
    "promoted": lambda y: cp.sum(y) + h,
    "promoted scalar of one entry": lambda y: cp.promote(y[:1], (2, 3)),
    "broadcast": lambda y: cp.broadcast_to(y, (3, N)),
    "slice": lambda y: y[1:5:2],
    "slice backwards": lambda y: y[::-1],
    "slice from the end": lambda y: y[-3:],
    "entry": lambda y: y[2],
    "new axis": lambda y: y[:, None],
    "list of indices": lambda y: y[[4, 0, 4]],
    "mask": lambda y: y[h > 0],
    "hstack": lambda y: cp.hstack([y[0], A @ y, 3.0]),
    "vstack": lambda y: cp.vstack([y, h, -y]),
    "concatenate": lambda y: cp.concatenate([y, 2 * y], axis=0),
    "stack": lambda y: cp.stack([y, -y], axis=1),
    "bmat": lambda y: cp.bmat([[cp.reshape(y[:4], (2, 2), order="F"), np.eye(2)], [np.ones((1, 2)), -np.ones((1, 2))]]),
    "cumsum": cp.cumsum,
    "diff": cp.diff,
    "diff twice": lambda y: cp.diff(y, 2),
    "diag of a vector": cp.diag,
    "diag off the diagonal": lambda y: cp.diag(y, k=1),
    "convolve": lambda y: cp.convolve([1.0, -2.0, 0.5], y),
    "kron with a row": lambda y: cp.kron(B, cp.reshape(y, (2, 3), order="F")),
    "upper triangle to matrix": cp.vec_to_upper_tri,
    "strict upper triangle to matrix": lambda y: cp.vec_to_upper_tri(y, strict=True),
    "mean": cp.mean,
    "abs": lambda y: cp.abs(A @ y - b),
    "square": cp.square,
    "fourth power": lambda y: cp.power(y, 4),
    "power of zero": lambda y: cp.power(y, 0) + y,
    "power of one": lambda y: cp.power(y, 1),
    "exp": cp.exp,
    "power with the variable on top": lambda y: cp.power(2.0, y),
    "logistic": lambda y: cp.logistic(A @ y),
    "huber": lambda y: cp.huber(y, 0.7),
    "pos": cp.pos,
    "neg": cp.neg,
    "scalene": lambda y: cp.scalene(y, 2.0, 0.5),
    "maximum": lambda y: cp.maximum(y, h, 0.3),
    "minimum": lambda y: cp.minimum(y, 1.0),
    "maximum of broadcasts": lambda y: cp.maximum(y[:, None], h[None, :]),
    "norm1": lambda y: cp.norm1(A @ y - b),
    "norm2": lambda y: cp.norm(A @ y - b),
    "norm_inf": lambda y: cp.norm(y, "inf"),
    "norm of a scalar": lambda y: cp.norm(y[0]),
    "pnorm": lambda y: cp.pnorm(y, 3),
    "pnorm of a fraction": lambda y: cp.pnorm(y, 1.37),
    "exact pnorm": lambda y: cp.pnorm(y, 2.3, approx=False),
    "max": cp.max,
    "min": lambda y: cp.min(A @ y),
    "log_sum_exp": lambda y: cp.log_sum_exp(A @ y - b),
    "sum_largest": lambda y: cp.sum_largest(y, 3),
    "sum_largest of a fraction": lambda y: cp.sum_largest(y, 2.4),
    "sum_largest of all": lambda y: cp.sum_largest(y, 9),
    "sum_largest of less than one": lambda y: cp.sum_largest(y, 0.4),
    "sum_smallest": lambda y: cp.sum_smallest(y, 2),
    "cvar": lambda y: cp.cvar(y, 0.7),
    "dotsort": lambda y: cp.dotsort(y, [3.0, -1.0, 2.0, 2.0]),
    "cummax": cp.cummax,
    "sum_squares": lambda y: cp.sum_squares(A @ y - b),
    "quad_form": lambda y: cp.quad_form(y, P),
    "negative quad_form": lambda y: cp.quad_form(y - h, -P),
    "quad_form of a column": lambda y: cp.quad_form(cp.reshape(y, (N, 1), order="C"), P),
    "assumed quad_form": lambda y: cp.quad_form(y, np.eye(N) + P, assume_PSD=True),
    "quad_over_lin": lambda y: cp.quad_over_lin(y, 2.5),
    "matrix_frac": lambda y: cp.matrix_frac(y[:3], Q),
    "matrix_frac of a Constant": lambda y: cp.matrix_frac(y[:3], cp.Constant(Q)),
    "variance": cp.var,
    "standard deviation": lambda y: cp.std(y, ddof=1),
    "ptp": cp.ptp,
    "square of ptp": lambda y: cp.square(cp.ptp(y)),
    "total variation": cp.tv,
    "nothing of something convex": lambda y: cp.norm1(y) - 0 * cp.abs(y[0]) + np.zeros((2, N)) @ cp.square(y),
    "log_normcdf": cp.log_normcdf,
    "exp of convex": lambda y: cp.exp(cp.abs(y) + cp.square(y)),
    "square of norm": lambda y: cp.square(cp.norm(A @ y - b)),
    "minus log of concave": lambda y: -cp.log(30.0 + cp.min(cp.minimum(y, 0.5))),
    "constants inside": lambda y: cp.norm1(y) * cp.norm_inf(b) + cp.log_det(np.eye(3) * 2.0) + cp.lambda_max(Q),
    "shared": lambda y: shared(A @ y),
    "deep sum": lambda y: sum((cp.abs(y[i % N] - i) for i in range(300)), start=cp.Constant(0.0)),
    "maximised": lambda y: cp.Maximize(-cp.norm1(y)),
}
POSITIVE = {
    "sqrt": cp.sqrt,
    "power between 0 and 1": lambda y: cp.power(y, 0.3),
    "cube": lambda y: cp.power(y, 3),
    "power above 1": lambda y: cp.power(y, 1.7),
    "exact power": lambda y: cp.power(y, 2.2, approx=False),
    "negative power": lambda y: cp.power(y, -2),
    "negative fraction": lambda y: cp.power(y, -0.5),
    "inv_pos": cp.inv_pos,
    "inv_pos of concave": lambda y: cp.inv_pos(cp.sqrt(y)),
    "cube of convex": lambda y: cp.power(cp.pos(y) + cp.square(y), 3),
    "cube of convex, positive here": lambda y: cp.power(cp.square(y) + y, 3),
    "sixth power": lambda y: cp.power(y, 6),
    "log": cp.log,
    "log1p": cp.log1p,
    "entr": cp.entr,
    "kl_div to a constant": lambda y: cp.kl_div(y, positive),
    "kl_div from a constant": lambda y: cp.kl_div(positive, y),
    "rel_entr to a constant": lambda y: cp.rel_entr(y, positive),
    "rel_entr from a constant": lambda y: cp.rel_entr(positive, y),
    "geo_mean": cp.geo_mean,
    "weighted geo_mean": lambda y: cp.geo_mean(y, [1, 2, 0, 3, 1, 1]),
    "geo_mean of one": lambda y: cp.geo_mean(y, [0, 2, 0, 0, 0, 0]),
    "exact geo_mean": lambda y: cp.geo_mean(y, positive, approx=False),
    "inverse product": cp.inv_prod,
    "loggamma": cp.loggamma,
    "quad_over_lin of both": lambda y: cp.quad_over_lin(y[:3], y[3]),
    "quad_over_lin of one": lambda y: cp.quad_over_lin(y[:3], cp.reshape(y[3], (1,), order="C")),
    "log of geo_mean": lambda y: cp.log(cp.geo_mean(y)),
    "sum of logs": lambda y: cp.sum(cp.log(y)) - 2.0 * cp.norm(y - 1.0),
}
MATRIX = {
    "transpose": lambda Y: Y.T,
    "matrix from the left": lambda Y: B @ Y,
    "matrix from the right": lambda Y: Y @ C,
    "matrices on both sides": lambda Y: B @ Y @ C - 1.0,
    "vec": lambda Y: cp.vec(Y, order="F"),
    "vec in C order": lambda Y: cp.vec(Y, order="C"),
    "flatten": lambda Y: Y.flatten(order="F"),
    "reshape": lambda Y: cp.reshape(Y, (2, 6), order="F"),
    "reshape in C order": lambda Y: cp.reshape(Y, (6, 2), order="C"),
    "reshape to a cube": lambda Y: cp.reshape(Y, (2, 3, 2), order="F"),
    "rows": lambda Y: Y[1:, :2],
    "column": lambda Y: Y[:, 1],
    "entry": lambda Y: Y[2, 3],
    "list of rows": lambda Y: Y[[2, 0]],
    "pairs of indices": lambda Y: Y[[0, 2], [3, 1]],
    "mask": lambda Y: Y[D > 0],
    "diag of a matrix": lambda Y: cp.diag(Y[:, :3]),
    "diag below": lambda Y: cp.diag(Y[:, :3], k=-1),
    "trace": lambda Y: cp.trace(Y[:, 1:]),
    "trace of a product": lambda Y: cp.trace(D.T @ Y),
    "upper triangle": lambda Y: cp.upper_tri(Y[:, :3]),
    "kron": lambda Y: cp.kron(B, Y),
    "kron from the right": lambda Y: cp.kron(Y, B),
    "sums along axes": lambda Y: cp.sum(Y, axis=0) + cp.mean(Y, axis=0),
    "sums with axes kept": lambda Y: cp.sum(Y, axis=1, keepdims=True) - Y,
    "cumsum along axis 1": lambda Y: cp.cumsum(Y, axis=1),
    "cumsum of all": lambda Y: cp.cumsum(Y, axis=None),
    "diff along axis 1": lambda Y: cp.diff(Y, axis=1),
    "einsum": lambda Y: cp.einsum("ij,ik->jk", Y, D),
    "swapped axes": lambda Y: cp.swapaxes(Y, 0, 1),
    "partial trace": lambda Y: cp.partial_trace(cp.kron(np.eye(2), Y[:, :3]), (2, 3), axis=0),
    "partial transpose": lambda Y: cp.partial_transpose(cp.kron(np.ones((2, 2)), Y[:, :3]), (2, 3), axis=1),
    "squeezed": lambda Y: cp.squeeze(Y[:, :1]),
    "broadcast rows": lambda Y: cp.multiply(Y, h[:4]) + h[:3, None],
    "wrapped": lambda Y: cp.symmetric_wrap(Y[:, :3]),
    "norm1 along axis 0": lambda Y: cp.norm1(Y, axis=0),
    "norm2 along axis 1": lambda Y: cp.norm(Y, axis=1),
    "norm2 with axes kept": lambda Y: cp.norm(Y, 2, axis=1, keepdims=True),
    "norm_inf along axis 0": lambda Y: cp.norm_inf(Y, axis=0),
    "Frobenius norm": lambda Y: cp.norm(Y - D, "fro"),
    "spectral norm": lambda Y: cp.norm(Y - D, 2),
    "sigma_max": lambda Y: cp.sigma_max(B @ Y),
    "largest column sum": lambda Y: cp.norm(Y, 1),
    "largest row sum": lambda Y: cp.norm(Y, "inf"),
    "mixed norm": lambda Y: cp.mixed_norm(Y, 2, 1),
    "mixed norm of others": lambda Y: cp.mixed_norm(Y, 1, 3),
    "max along axis 0": lambda Y: cp.max(Y, axis=0),
    "min along axis 1": lambda Y: cp.min(Y, axis=1, keepdims=True),
    "log_sum_exp along axis 0": lambda Y: cp.log_sum_exp(Y, axis=0),
    "sum_largest along axis 1": lambda Y: cp.sum_largest(Y, 2, axis=1),
    "sum_smallest along axis 0": lambda Y: cp.sum_smallest(Y, 1.5, axis=0),
    "cummax along axis 1": lambda Y: cp.cummax(Y, axis=1),
    "sum_squares along axis 1": lambda Y: cp.sum_squares(Y, axis=1),
    "matrix_frac of a matrix": lambda Y: cp.matrix_frac(Y, cp.Constant(Q)),
    "dotsort of matrices": lambda Y: cp.dotsort(Y, D[:2]),
    "variance along axis 1": lambda Y: cp.var(Y, axis=1),
    "standard deviation along axis 0": lambda Y: cp.std(Y, axis=0),
    "ptp along axis 0": lambda Y: cp.ptp(Y, axis=0),
    "total variation of an image": cp.tv,
    "log_normcdf of a matrix": cp.log_normcdf,
    "maximum of matrices": lambda Y: cp.maximum(Y, D, Y.T.T - 1.0),
    "log_sum_exp of max": lambda Y: -cp.log_sum_exp(cp.max(Y, axis=1)),
}
POSITIVE_MATRIX = {
    "geo_mean along axis 0": lambda Y: cp.geo_mean(Y, axis=0),
    "weighted geo_mean along axis 1": lambda Y: cp.geo_mean(Y, [2, 0, 1, 1], axis=1, keepdims=True),
    "geo_mean of all": cp.geo_mean,
    "weighted geo_mean of all": lambda Y: cp.geo_mean(Y, np.arange(12) + 1.0),
    "quad_over_lin along axis 0": lambda Y: cp.quad_over_lin(Y[:2], Y[2, 3], axis=0),
    "entropy": lambda Y: cp.sum(cp.entr(Y)),
}
CUBIC = {
    "sum over two axes": lambda Y: cp.sum(Y, axis=(0, 2)),
    "max over two axes": lambda Y: cp.max(Y, axis=(1, 2), keepdims=True),
    "log_sum_exp over two axes": lambda Y: cp.log_sum_exp(Y, axis=(0, 1)),
    "transposed cube": lambda Y: cp.permute_dims(Y, (1, 2, 0)),
    "reversed cube": lambda Y: Y.T,
    "flattened cube": lambda Y: cp.vec(Y, order="F"),
    "batched product": lambda Y: Y @ C,
    "batched product from the left": lambda Y: B @ Y,
    "slice of a cube": lambda Y: Y[..., 1],
    "norm along the last axis": lambda Y: cp.norm(Y, 2, axis=2),
    "batched trace": lambda Y: cp.trace(Y[:, :, :3]),
}
SCALAR = {
    "affine": lambda s: 2.0 * s - 1.0,
    "square": lambda s: cp.square(s - 1.0),
    "promoted": lambda s: cp.norm1(h * s - h),
    "max of one": lambda s: cp.max(s) + cp.norm(s) + cp.sum(s) + cp.log_sum_exp(s),
    "minimum": lambda s: cp.minimum(s, -s, 0.2),
}
SHAPES = [
    (N, False, VECTOR),
    (N, True, POSITIVE),
    (SHAPE, False, MATRIX),
    (SHAPE, True, POSITIVE_MATRIX),
    (CUBE, False, CUBIC),
    ((), False, SCALAR),
    (1, False, SCALAR),
    ((1, 1), False, SCALAR),
]
CASES = [
    pytest.param(shape, is_positive, make, id=f"{name} of {shape}")
    for shape, is_positive, table in SHAPES
    for name, make in table.items()
]


def draw(shape, is_positive):
    return RNG.uniform(0.2, 2.0, shape) if is_positive else 2.0 * RNG.standard_normal(shape)


def agree(expression, imported, y, is_positive, times=5):
    for _ in range(times):
        y.value = draw(y.shape, is_positive)
        expected = expression.value
        expected = np.asarray(expected.toarray() if sparse.issparse(expected) else expected).reshape(expression.shape)
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(imported.value(y.value), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_there_are_enough_cases():
    assert len(CASES) >= 70


@pytest.mark.parametrize(("shape", "is_positive", "make"), CASES)
def test_values_shapes_and_curvature_are_those_of_cvxpy(shape, is_positive, make):
    y = cp.Variable(shape, name="y")
    given = make(y)
    expression = given.args[0] if isinstance(given, cp.Maximize) else given
    imported = from_cvxpy(given)
    (variable,) = imported.variables() or (ak.Variable(y.shape, "y"),)
    assert variable.shape == y.shape and variable.name == "y"
    assert imported.shape == expression.shape
    assert imported.is_convex() or not expression.is_convex()
    assert imported.is_concave() or not expression.is_concave()
    agree(expression, imported, y, is_positive)
    rows = np.stack([draw(y.shape, is_positive) for _ in range(3)])
    values = imported.value(rows)
    for row, value in zip(rows, values, strict=True):
        y.value = row
        expected = expression.value
        expected = np.asarray(expected.toarray() if sparse.issparse(expected) else expected).reshape(expression.shape)
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_objectives_become_what_is_maximised():
    y = cp.Variable(N, name="y")
    reward = -cp.norm1(y) + y[0]
    y.value = draw(N, False)
    assert float(from_cvxpy(cp.Maximize(reward)).value(y.value)) == pytest.approx(reward.value)
    assert float(from_cvxpy(cp.Minimize(-reward)).value(y.value)) == pytest.approx(reward.value)


def test_fortran_order_of_weights_along_several_axes():
    y = cp.Variable(CUBE, name="y")
    weights = np.arange(1.0, 9.0)
    for axis in ((0, 2), (2, 0)):
        expression = cp.geo_mean(y, weights, axis=axis, approx=False)
        agree(expression, from_cvxpy(expression), y, True)


def test_common_atoms_keep_their_names():
    y = cp.Variable(3, name="y")
    assert str(from_cvxpy(cp.norm1(y - 1.0) + cp.pos(y)[0])) == "norm1(y - 1) + pos(y)[0]"
    assert str(from_cvxpy(2 * cp.sum_squares(y) - cp.sqrt(y[0]))) == "2 * sum_squares(y) - sqrt(y[0])"


def test_linear_maps_of_thousands_of_entries_are_sparse_and_fast():
    y = cp.Variable((60, 60), name="y")
    kernel = RNG.standard_normal((3, 3))
    imported = from_cvxpy(cp.kron(kernel, y))
    matrix = ak.affine_map(imported).matrix
    assert sparse.issparse(matrix) and matrix.shape == (9 * 3600, 3600) and matrix.nnz == 9 * 3600
    y.value = draw(y.shape, False)
    np.testing.assert_allclose(imported.value(y.value), np.kron(kernel, y.value), rtol=1e-12)


# ---- parameters


def parametrised():
    y = cp.Variable(N, name="y")
    Y = cp.reshape(y, (2, 3), order="F")
    target, matrix = cp.Parameter(5, name="target"), cp.Parameter((5, N), name="matrix")
    weight, less = cp.Parameter(nonneg=True, name="weight"), cp.Parameter(3, nonpos=True, name="less")
    kernel, strictly = cp.Parameter(3, name="kernel"), cp.Parameter(pos=True, name="strictly")
    return y, [
        (cp.norm1(A @ y - target), {target: 5}),
        (cp.sum_squares(matrix @ y - target), {matrix: (5, N), target: 5}),
        (weight * cp.norm(y) + cp.exp(y[0]) / strictly, {weight: (), strictly: ()}),
        (less @ cp.abs(y[:3]), {less: 3}),
        (cp.multiply(less, cp.max(Y, axis=0)), {less: 3}),
        (cp.convolve(kernel, y), {kernel: 3}),
        (cp.kron(cp.reshape(kernel, (1, 3), order="C"), Y), {kernel: 3}),
        (cp.hstack([y, target, 1.0]), {target: 5}),
        (cp.maximum(y[:3], kernel + 1.0), {kernel: 3}),
        (cp.quad_over_lin(y, strictly) - cp.log(strictly), {strictly: ()}),
        (cp.rel_entr(y[0] ** 0 + 1.0, strictly) + cp.square(y[:1] * 1.0), {strictly: ()}),
        (cp.diag(y) @ matrix.T, {matrix: (5, N)}),
    ]


@pytest.mark.parametrize("place", range(12))
def test_parameters_stay_live(place):
    y, cases = parametrised()
    expression, shapes = cases[place]
    for parameter, shape in shapes.items():
        parameter.value = signed(parameter, shape)
    imported = from_cvxpy(expression)
    found = {parameter.name: parameter for parameter in imported.parameters()}
    assert sorted(found) == sorted(parameter.name() for parameter in shapes)
    assert imported.is_convex() or not expression.is_convex()
    assert imported.is_concave() or not expression.is_concave()
    agree(expression, imported, y, False, times=2)
    before = imported.value(y.value)
    for parameter, shape in shapes.items():
        parameter.value = signed(parameter, shape)
        found[parameter.name()].value = parameter.value
    agree(expression, imported, y, False, times=2)
    assert not np.allclose(before, imported.value(y.value))


def signed(parameter, shape):
    value = RNG.uniform(0.5, 1.5, shape)
    return (
        value if parameter.is_nonneg() else -value if parameter.is_nonpos() else value * RNG.choice([-1.0, 1.0], shape)
    )


def test_a_parameter_without_a_value_can_be_given_one_later():
    y, p = cp.Variable(2, name="y"), cp.Parameter(2, name="p", nonneg=True)
    imported = from_cvxpy(p @ cp.abs(y))
    (parameter,) = imported.parameters()
    assert imported.is_convex() and parameter.is_unset
    parameter.value = [1.0, 2.0]
    assert float(imported.value([1.0, -1.0])) == 3.0


# ---- refusals


def several():
    y, z = cp.Variable(2, name="y"), cp.Variable(2, name="z")
    return cp.norm1(y - z)


def square(name="Y"):
    return cp.Variable((3, 3), name=name)


def symmetric():
    Y = square()
    return (Y + Y.T) / 2


Y_, U_ = cp.Variable(4, name="y"), cp.Variable(4, name="u")
#: What is refused: a builder, the error, what the message must name, and what a way out must offer.
REFUSALS = {
    "several variables": (several, ParameterError, ["norm1(y + -z)", "2: y, z"], "single cp.Variable"),
    "nonneg": (
        lambda: cp.sum(cp.Variable(2, nonneg=True, name="y")),
        ParameterError,
        ["nonneg", "constraint"],
        "cp.pos",
    ),
    "symmetric": (lambda: cp.max(cp.Variable((2, 2), symmetric=True)), ParameterError, ["symmetric"], "without"),
    "PSD": (lambda: cp.sigma_max(cp.Variable((2, 2), PSD=True)), ParameterError, ["PSD"], "without attributes"),
    "integer": (lambda: cp.max(cp.Variable(2, integer=True)), ParameterError, ["integer"], "without attributes"),
    "boolean": (lambda: cp.max(cp.Variable(2, boolean=True)), ParameterError, ["boolean"], "without attributes"),
    "bounds": (lambda: cp.max(cp.Variable(2, bounds=[0, 1])), ParameterError, ["bounds"], "without attributes"),
    "complex": (lambda: cp.norm1(cp.Variable(2, complex=True)), ParameterError, ["complex"], "without attributes"),
    "complex constant": (lambda: cp.sum(Y_ * 1j), ParameterError, ["complex"], "cp.real"),
    "not an expression": (lambda: Y_ >= 0, ParameterError, ["Inequality"], None),
    "a problem": (lambda: cp.Problem(cp.Minimize(cp.norm1(Y_))), ParameterError, ["Problem"], "problem.objective"),
    "product": (lambda: cp.sum(cp.multiply(Y_, Y_[::-1])), CurvatureError, ["not DCP", "y * y"], "quad_form"),
    "square of concave": (
        lambda: cp.square(cp.sqrt(Y_) - 1),
        CurvatureError,
        ["not DCP", "not monotone in PowerApprox(y, 0.5)"],
        "alignkit",
    ),
    "log of convex": (
        lambda: cp.sum(cp.log(cp.exp(Y_))),
        CurvatureError,
        ["concave and increasing in exp(y)"],
        "ak.sin",
    ),
    "difference of convex": (
        lambda: cp.norm1(Y_) - cp.norm2(Y_),
        CurvatureError,
        ["not DCP", "curvatures of its arguments disagree"],
        "alignkit",
    ),
    "ceil": (lambda: cp.sum(cp.ceil(Y_)), CurvatureError, ["ceil(y)", "neither convex nor concave"], "alignkit"),
    "indefinite form": (lambda: cp.quad_form(Y_[:2], np.diag([1.0, -1.0])), CurvatureError, ["not DCP"], "alignkit"),
    "lambda_max": (
        lambda: cp.lambda_max(symmetric()),
        CurvatureError,
        ["lambda_max", "largest eigenvalue"],
        "sigma_max",
    ),
    "lambda_min": (
        lambda: cp.lambda_min(symmetric()),
        CurvatureError,
        ["lambda_max", "largest eigenvalue"],
        "sigma_max",
    ),
    "lambda_sum_largest": (
        lambda: cp.lambda_sum_largest(symmetric(), 2),
        CurvatureError,
        ["lambda_sum_largest"],
        "sigma_max",
    ),
    "log_det": (lambda: cp.log_det(symmetric()), CurvatureError, ["log_det", "determinant"], "cp.log"),
    "tr_inv": (lambda: cp.tr_inv(symmetric()), CurvatureError, ["tr_inv", "inverse"], "inv_pos"),
    "nuclear norm": (lambda: cp.norm(square(), "nuc"), CurvatureError, ["normNuc", "singular values"], "sigma_max"),
    "entropy of a matrix": (
        lambda: cp.von_neumann_entr(cp.hermitian_wrap(symmetric())),
        CurvatureError,
        ["von_neumann_entr"],
        "cp.entr",
    ),
    "relative entropy of matrices": (
        lambda: cp.quantum_rel_entr(cp.hermitian_wrap(symmetric()), np.eye(3)),
        CurvatureError,
        ["quantum_rel_entr"],
        "cp.entr",
    ),
    "matrix_frac of a variable": (
        lambda: cp.matrix_frac(np.ones(3), symmetric()),
        CurvatureError,
        ["MatrixFrac", "inverse"],
        "constant matrix",
    ),
    "matrix_frac of a singular": (
        lambda: cp.matrix_frac(Y_, cp.Constant(np.diag([1.0, 1.0, 1.0, 0.0]))),
        CurvatureError,
        ["not positive definite"],
        "alignkit",
    ),
    "harmonic mean": (lambda: cp.harmonic_mean(Y_), CurvatureError, ["PnormApprox", "harmonic"], "geo_mean"),
    "pnorm below 1": (lambda: cp.pnorm(Y_, 0.5), CurvatureError, ["PnormApprox", "p is 0.5"], "cp.min"),
    "xexp": (lambda: cp.sum(cp.xexp(cp.square(Y_))), CurvatureError, ["xexp"], "cp.exp"),
    "kl_div of both": (lambda: cp.sum(cp.kl_div(Y_[:2], Y_[2:])), CurvatureError, ["kl_div", "jointly"], "constant"),
    "rel_entr of both": (lambda: cp.sum(cp.rel_entr(Y_[:2], Y_[2:])), CurvatureError, ["rel_entr"], "constant"),
    "support function": (
        lambda: cp.suppfunc(U_, [cp.norm(U_) <= 1])(Y_),
        CurvatureError,
        ["SuppFuncAtom", "support functions"],
        "norm",
    ),
    "huber with a parameter": (
        lambda: cp.sum(cp.huber(Y_, cp.Parameter(nonneg=True, name="m"))),
        CurvatureError,
        ["huber", "width M"],
        "M**2",
    ),
    "quad_form with a parameter": (
        lambda: cp.quad_form(Y_, cp.Parameter((4, 4), PSD=True, name="P")),
        CurvatureError,
        ["QuadForm", "matrix has parameters"],
        "sum_squares",
    ),
    "dotsort with a parameter": (
        lambda: cp.dotsort(Y_, cp.Parameter(4, name="weights")),
        CurvatureError,
        ["dotsort", "weights are a parameter"],
        "constant",
    ),
    "a form that is semidefinite by cvxpy's slack": (
        lambda: cp.quad_form(Y_[:2], np.diag([1.0, -1e-10])),
        CurvatureError,
        ["QuadForm", "cannot confirm"],
        "semidefinite to rounding",
    ),
    "a constant that is infinite": (lambda: cp.sum(Y_ + np.inf), AlignkitError, ["infinity"], None),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_name_the_atom_the_rule_and_a_way_out(name):
    make, error, words, way_out = REFUSALS[name]
    with pytest.raises(error) as caught:
        from_cvxpy(make())
    for word in words:
        assert word in str(caught.value)
    if way_out is not None:
        assert way_out in " ".join(caught.value.ways_out)


def test_long_expressions_are_shortened_in_messages():
    y = cp.Variable(50, name="y")
    with pytest.raises(CurvatureError) as caught:
        from_cvxpy(cp.sum(cp.hstack([cp.square(y[place]) for place in range(50)])) - cp.norm1(y) + cp.norm1(y) * y[0])
    assert len(str(caught.value)) < 1500


#: cvxpy's atoms that are never DCP, or that only its own compiler makes.
NEVER_DCP = {
    "Prod", "condition_number", "dist_ratio", "ceil", "floor", "Not", "And", "Or", "Xor", "sinh", "tanh", "asinh",
    "atanh", "normcdf", "sin", "cos", "tan", "eye_minus_inv", "gen_lambda_max", "gmatmul", "length",
    "SymbolicQuadForm", "one_minus_pos", "pf_eigenvalue", "sign", "LogicExpression", "_NaryLogicExpression",
}  # fmt: skip


def test_every_atom_of_cvxpy_has_a_translation_or_a_refusal_of_its_own():
    def below(kind):
        for one in kind.__subclasses__():
            yield one
            yield from below(one)

    known = {**AFFINE, **ATOMS}
    missing = {
        kind.__name__
        for kind in below(cp.atoms.atom.Atom)
        if kind.__module__.startswith("cvxpy.")
        and not inspect.isabstract(kind)
        and not issubclass(kind, cp.atoms.affine.affine_atom.AffAtom)
        and not any(base in known for base in kind.__mro__)
    }
    assert missing <= NEVER_DCP
