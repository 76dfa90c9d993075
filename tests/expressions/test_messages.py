"""What is refused, and that messages name shapes, sub-expressions and ways out; printed forms."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator

import alignkit.expressions as ex
from alignkit.errors import CurvatureError, NonFiniteError, ParameterError, ShapeError

x = ex.Variable((8, 8))
v = ex.vec(x)
B, t = np.ones((4, 64)), np.ones(4)

REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], tuple[str, ...]]] = {
    "shapes of +": (lambda: v + np.ones(3), ShapeError, ("(64,)", "(3,)", "vec(x)", "[3 constant]")),
    "shapes of -": (lambda: x - v[:3], ShapeError, ("(8, 8)", "(3,)", "vec(x)[:3]")),
    "shapes of *": (lambda: np.ones(3) * x, ShapeError, ("(8, 8)", "(3,)", "[3 constant]")),
    "shapes of /": (lambda: x / np.ones(3), ShapeError, ("(8, 8)", "(3,)")),
    "shapes of @": (lambda: B @ x, ShapeError, ("(4, 64)", "(8, 8)", "[4×64 constant]", "vec(x)")),
    "@ a scalar": (lambda: x @ 2.0, ShapeError, ("(8, 8)", "()")),
    "shapes of inner": (lambda: ex.inner(t, x), ShapeError, ("(4,)", "(8, 8)", "[4 constant]", "x")),
    "shapes of stack": (lambda: ex.stack([x[0], x[0, :3]]), ShapeError, ("(8,)", "(3,)", "x[0, :3]")),
    "shapes of concatenate": (lambda: ex.concatenate([x, x[:, :3]]), ShapeError, ("(8, 8)", "(8, 3)")),
    "shapes of maximum": (lambda: ex.maximum(v, t), ShapeError, ("(64,)", "(4,)", "maximum")),
    "shapes of quad_form": (lambda: ex.quad_form(v, np.eye(3)), ShapeError, ("(64,)", "(3, 3)", "vec(x)")),
    "shapes of linear_map": (lambda: ex.linear_map(np.ones((2, 3)), x), ShapeError, ("(2, 3)", "(8, 8)")),
    "reshape": (lambda: ex.reshape(x, (3, 3)), ShapeError, ("(8, 8)", "(3, 3)")),
    "axis": (lambda: ex.sum(x, axis=2), ShapeError, ("axis 2", "(8, 8)")),
    "axis of an atom": (lambda: ex.max(v, axis=1), ShapeError, ("axis 1", "vec(x)", "(64,)")),
    "axis twice": (lambda: ex.norm1(x, axis=(0, -2)), ShapeError, ("twice",)),
    "diff too long": (lambda: ex.diff(x, k=8), ShapeError, ("(8, 8)", "k = 8")),
    "trace": (lambda: ex.trace(x[:3]), ShapeError, ("(3, 8)", "x[:3]")),
    "index": (lambda: x[8], ShapeError, ("[8]", "(8, 8)")),
    "empty slice": (lambda: x[3:3], ShapeError, ("x", "3:3")),
    "empty variable": (lambda: ex.Variable((3, 0)), ShapeError, ("(3, 0)",)),
    "odd shape": (lambda: ex.Variable("ab"), ShapeError, ("ab",)),  # type: ignore[arg-type]
    "empty constant": (lambda: x + np.zeros((0, 8)), ShapeError, ("(0, 8)",)),
    "point": (lambda: x.value(np.ones(64)), ShapeError, ("(64,)", "(8, 8)", "(n, 8, 8)")),
    "NaN": (lambda: v * np.full(64, np.nan), NonFiniteError, ("[64 constant]", "vec(x)")),
    "infinity": (lambda: x + np.inf, NonFiniteError, ("inf", "x")),
    "sparse NaN": (lambda: sparse.csr_array(np.full((1, 64), np.nan)) @ v, NonFiniteError, ("[1×64 constant]",)),
    "overflow": (lambda: ex.square(np.full(2, 1e200)), NonFiniteError, ("square",)),
    "complex": (lambda: x * 1j, ParameterError, ("complex",)),
    "complex point": (lambda: x.value(np.ones((8, 8), dtype=complex)), ParameterError, ("complex",)),
    "object": (lambda: x + np.array([None] * 8), ParameterError, ("object",)),
    "string": (lambda: x + "a", ParameterError, ("dtype",)),
    "asymmetric P": (lambda: ex.quad_form(v[:2], [[1, 1], [0, 1]]), ParameterError, ("symmetric", "vec(x)[:2]")),
    "huber 0": (lambda: ex.huber(x, 0), ParameterError, ("huber", "0")),
    "huber −1": (lambda: ex.huber(x, -1.0), ParameterError, ("positive",)),
    "huber NaN": (lambda: ex.huber(x, float("nan")), ParameterError, ("positive",)),
    "division by zero": (lambda: x / 0, ParameterError, ("zero",)),
    "operator @": (lambda: aslinearoperator(B) @ v, ParameterError, ("linear_map", "vec(x)")),
    "@ operator": (lambda: v @ aslinearoperator(B), ParameterError, ("linear_map", "vec(x)")),
    "operator *": (lambda: aslinearoperator(B) * v, ParameterError, ("linear_map",)),
    "operator +": (lambda: v + aslinearoperator(B), ParameterError, ("linear_map",)),
    "product of matrices": (lambda: ex.abs(x) @ x, CurvatureError, ("abs(x) @ x", "a * b")),
    "matrix product": (lambda: x @ x, CurvatureError, ("x @ x", "sum_squares")),
    "quotient": (lambda: 1.0 / x, CurvatureError, ("1 / x",)),
    "expression as exponent": (lambda: x**x, CurvatureError, ("x**x", "exp(e)")),
    "NaN as exponent": (lambda: x ** float("nan"), ParameterError, ("x**nan", "finite")),
    "no point": (x.value, ParameterError, ("x",)),
    "two variables": (lambda: (x + ex.Variable(8, name="y")).value(np.ones((8, 8))), ParameterError, ("x, y",)),
    "list to max": (lambda: ex.max([x[0], x[1]]), ParameterError, ("stack",)),
    "wrong adjoint": (
        lambda: ex.linear_map((lambda u: u[:2], lambda u: np.ones(64), (2,)), x),
        ParameterError,
        ("adjoint",),
    ),
    "wrong forward shape": (
        lambda: ex.linear_map((lambda u: u[:3], lambda u: np.ones(64), (2,)), x),
        ShapeError,
        ("forward", "(3,)", "2 entries"),
    ),
    "arguments swapped": (lambda: ex.linear_map(x, B), ParameterError, ("linear_map(operator, x)",)),
    "numpy.mean": (lambda: np.mean(x), TypeError, ("numpy.mean", "ak.mean")),
    "numpy.sum": (lambda: np.sum(x), TypeError, ("numpy.sum",)),
    "numpy.abs": (lambda: np.abs(x), TypeError, ()),
    "truth value": (lambda: bool(x), TypeError, ("truth value", "x")),
    "builtin max": (lambda: max(x[0, 0], x[0, 1]), ParameterError, ("x[0, 1] > x[0, 0]", "only expectations")),
    "order": (lambda: x < 1, ParameterError, ("x < 1", "only expectations")),
    "iteration over a scalar": (lambda: list(x[0, 0]), TypeError, ("scalar",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name: str) -> None:
    build, error, words = REFUSED[name]
    with pytest.raises(error) as caught:
        build()
    for word in words:
        assert word in str(caught.value)


PRINTED = {
    "norm1([4×64 constant] @ vec(x) - [4 constant])": lambda: ex.norm1(B @ v - t),
    "square(4 * mean(x[:4, :])) + 2 * mean(x)": lambda: ex.square(4 * ex.mean(x[:4, :])) + 2 * ex.mean(x),
    "-norm2(x) - 3 * max(x, axis=1)[0] / 2": lambda: -ex.norm2(x) - 3 * ex.max(x, axis=1)[0] / 2,
    "1 - (x - 1)": lambda: 1 - (x - 1),
    "-(x + 1)": lambda: -(x + 1),
    "2 * (x - 0.5)": lambda: 2 * (x - 0.5),
    "x - 2": lambda: x + -2.0,
    "x.T[::-1, [2 indices]]": lambda: x.T[::-1, [0, 1]],
    "x[[8×8 mask]]": lambda: x[np.eye(8) > 0],
    "(x + 1)[0]": lambda: (x + 1)[0],
    "reshape(x, (4, 16)) @ [16 constant]": lambda: ex.reshape(x, (4, 16)) @ np.ones(16),
    "quad_form(vec(x), [64×64 constant])": lambda: ex.quad_form(v, np.eye(64)),
    "huber(x, M=2)": lambda: ex.huber(x, 2),
    "maximum(x, 0)": lambda: ex.maximum(x, 0),
    "inner([8×8 constant], x)": lambda: ex.inner(np.ones((8, 8)), x),
    "linear_map([4×64 operator], x)": lambda: ex.linear_map(aslinearoperator(B), x),
    "diff(cumsum(x, axis=1), k=2)": lambda: ex.diff(ex.cumsum(x, axis=1), 2),
    "stack([x[0], x[1]])": lambda: ex.stack(list(x)[:2]),
    "abs(x)": lambda: abs(x),
    "abs(x) + abs(x)": lambda: sum([ex.abs(x), ex.abs(x)]),
    "abs(x) * x": lambda: ex.abs(x) * x,
    "sum(square(x))": lambda: ex.inner(x, x),
    "1.23457 * x": lambda: 1.23456789 * x,
}


@pytest.mark.parametrize("text", PRINTED)
def test_expressions_print_as_written(text: str) -> None:
    expression = PRINTED[text]()
    assert str(expression) == text
    assert repr(expression).startswith(f"Expression({expression.curvature.name}, ")


def test_names_and_identity() -> None:
    y = ex.Variable(3, name="pixels")
    assert str(y + 1) == "pixels + 1"
    assert y == y and y != ex.Variable(3, name="pixels")  # noqa: PLR0124
    assert len({y, y}) == 1
    assert (y + ex.abs(y)).variables() == (y,)


def test_expressions_survive_pickling_and_copying() -> None:
    expression = ex.norm1(B @ v - t) + ex.mean(x)
    point = np.random.default_rng(0).normal(size=(3, 8, 8))
    expression.value(point)
    for other in (pickle.loads(pickle.dumps(expression)), copy.deepcopy(expression)):
        np.testing.assert_array_equal(other.value(point), expression.value(point))
