"""Every error class: its message names the user's sub-expression, the rule it broke, and a way out that works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import alignkit as ak
from alignkit import errors
from alignkit.errors import AlignkitError

X = ak.Variable((4, 4))
NORMAL = ak.base.Gaussian(np.zeros((4, 4)), 1.0)
B = np.random.default_rng(0).normal(size=(3, 16))


@dataclass(frozen=True)
class Case:
    """A mistake, and what its message must say.

    Arguments:
        error: the class.
        make: makes the mistake.
        expression: the user's sub-expression.
        rule: words of the rule.
        way_out: words of a way out.
        mended: the same without the mistake, by that way out; None where it lies outside Python.
    """

    error: type[AlignkitError]
    make: Callable[[], Any]
    expression: str
    rule: str
    way_out: str
    mended: Callable[[], Any] | None


def solve(reward: Any, closeness: Any, **options: Any) -> Any:
    return ak.Problem(reward, NORMAL, closeness).solve(**({"seed": 0} | options))


def constrained(constraints: Any, **options: Any) -> Any:
    return ak.Problem(ak.sum(X), NORMAL, ak.KL(weight=1.0), constraints).solve(**({"seed": 0} | options))


def stale() -> Any:
    target = ak.Parameter((), 1.0, name="target")
    aligned = solve(-ak.abs(X[0, 0] - target), ak.Wasserstein(weight=1.0))
    target.value = 2.0
    return aligned.sample(3, seed=0)


def at_a_switch() -> Any:
    x = torch.full((1, 4, 4), 0.5, dtype=torch.float64, requires_grad=True)
    return solve(-ak.norm1(X), ak.Wasserstein(weight=2.0)).transport(x).sum().backward()


def beside_a_switch() -> Any:
    x = torch.full((1, 4, 4), 0.6, dtype=torch.float64, requires_grad=True)
    return solve(-ak.norm1(X), ak.Wasserstein(weight=2.0)).transport(x).sum().backward()


CASES = {
    "shape": Case(errors.ShapeError, lambda: B @ X, "x", "@ does not fit", "B @ vec(x)", lambda: B @ ak.vec(X)),
    "shape of the base": Case(
        errors.ShapeError,
        lambda: solve(ak.sum(ak.Variable(3)), ak.KL(weight=1.0)),
        "sum(x)",
        "has shape (3,), but the base law",
        "ak.Variable(base.shape)",
        lambda: solve(ak.sum(ak.Variable(NORMAL.shape)), ak.KL(weight=1.0)),
    ),
    "reward that is no scalar": Case(
        errors.ShapeError,
        lambda: solve(ak.abs(X), ak.KL(weight=1.0)),
        "abs(x)",
        "A reward is a scalar",
        "ak.sum",
        lambda: ak.Problem(-ak.sum(ak.abs(X)), NORMAL, ak.Wasserstein(weight=1.0)).compile(),
    ),
    "division": Case(
        errors.CurvatureError, lambda: 1.0 / X, "1 / x", "does not exclude 0", "inv_pos(e)", lambda: ak.inv_pos(X)
    ),
    "exponent": Case(
        errors.CurvatureError, lambda: 2.0**X, "2.0**x", "number as the exponent", "exp(", lambda: ak.exp(X)
    ),
    "matrix product": Case(
        errors.CurvatureError,
        lambda: X @ X,
        "x @ x",
        "only with a constant",
        "sum_squares(e)",
        lambda: ak.sum_squares(X),
    ),
    "weight": Case(
        errors.ParameterError,
        lambda: ak.KL(weight=0.0),
        "KL(weight=λ)",
        "0 < λ < ∞",
        "Raise λ",
        lambda: ak.KL(weight=0.1),
    ),
    "parameter without a value": Case(
        errors.ParameterError,
        lambda: (X - ak.Parameter((4, 4), name="t")).value(np.zeros((4, 4))),
        "t",
        "has no value yet",
        "t.value = ",
        lambda: (X - ak.Parameter((4, 4), np.zeros((4, 4)))).value(np.zeros((4, 4))),
    ),
    "NaN": Case(
        errors.NonFiniteError,
        lambda: np.full((4, 4), np.nan) * X,
        "[4×4 constant] beside x",
        "NaN or an infinity",
        "nan_to_num",
        lambda: np.nan_to_num(np.full((4, 4), np.nan)) * X,
    ),
    "concave under KL": Case(
        errors.IntractableError,
        lambda: solve(-ak.square(X[0, 0]) + ak.sum(X), ak.KL(weight=1.0)),
        "square(x[0, 0])",
        "hard in the worst case",
        "ak.Wasserstein",
        lambda: solve(-ak.square(X[0, 0]) + ak.sum(X), ak.Wasserstein(weight=1.0)),
    ),
    "too many dimensions": Case(
        errors.DimensionError,
        lambda: solve(ak.sum(ak.sin(X)), ak.Wasserstein(weight=0.1)),
        "sin(x)",
        "k = 16 is above 3",
        "",
        None,
    ),
    "moments that no law has": Case(
        errors.InfeasibleError,
        lambda: constrained([ak.E(X[0, 0]) == 1, ak.E(2 * X[0, 0]) == 1]),
        "E(x[0, 0])",
        "This is proved",
        "solve(ridge=κ)",
        lambda: constrained([ak.E(X[0, 0]) == 1, ak.E(2 * X[0, 0]) == 1], ridge=0.1),
    ),
    "no normaliser": Case(
        errors.ImproperTargetError,
        lambda: solve(ak.sum_squares(X[0]), ak.KL(weight=1.5)),
        "sum_squares(x[0])",
        "λ",
        "2",
        None,
    ),
    "unbounded transport": Case(
        errors.UnboundedTransportError,
        lambda: solve(ak.sum_squares(X[0]), ak.Wasserstein(weight=1.5)),
        "sum_squares(x[0])",
        "outgrows",
        "λ > 2",
        lambda: solve(ak.sum_squares(X[0]), ak.Wasserstein(weight=2.1)),
    ),
    "unknown backend": Case(
        errors.BackendUnavailableError,
        lambda: solve(-ak.norm1(X), ak.Wasserstein(weight=1.0), backend="gurobi"),
        "norm1(x)",
        "no backend 'gurobi'",
        "alignkit backends",
        lambda: solve(-ak.norm1(X), ak.Wasserstein(weight=1.0)),
    ),
    "backend that refuses": Case(
        errors.BackendRefusedError,
        lambda: solve(-ak.norm2(B @ ak.vec(X)), ak.Wasserstein(weight=1.0), backend="torch"),
        "norm2([3×16 constant] @ vec(x))",
        "torch",
        "backend='auto'",
        lambda: ak.Problem(-ak.norm2(B @ ak.vec(X)), NORMAL, ak.Wasserstein(weight=1.0)).compile(backend="auto"),
    ),
    "no derivative": Case(
        errors.NotDifferentiableError,
        at_a_switch,
        "norm1(x)",
        "is at a kink",
        "Leave these rows out",
        beside_a_switch,
    ),
    "no saved result": Case(
        errors.SavedResultError,
        lambda: ak.load(__file__),
        Path(__file__).name,
        "is not a result that alignkit saved",
        "aligned.save(path)",
        None,
    ),
    "stale fit": Case(errors.StaleFitError, stale, "abs(x[0, 0] - target)", "target changed", "problem.solve", None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_message_names_expression_rule_and_way_out(name: str) -> None:
    case = CASES[name]
    with pytest.raises(case.error) as caught:
        case.make()
    assert type(caught.value) is case.error
    message = str(caught.value)
    assert case.expression in message, message
    assert case.rule in message, message
    assert caught.value.ways_out, message
    assert any(case.way_out in way for way in caught.value.ways_out), message
    if case.mended is not None:
        case.mended()


def test_every_class_has_a_case() -> None:
    classes = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, AlignkitError) and value is not AlignkitError
    }
    assert classes == {case.error for case in CASES.values()}
