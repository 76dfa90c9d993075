"""Conjugates: Fenchel and Young's inequality everywhere, equality at gradients, projections onto the domain."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import alignkit.expressions as ex
from alignkit.errors import ParameterError

ROOT = np.random.default_rng(3).normal(size=(2, 4))
ELEMENTWISE = ("abs", "square", "huber", "pos")
ATOMS: dict[str, Callable[[ex.Expression], ex.Expression]] = {
    "abs": ex.abs,
    "square": ex.square,
    "huber": lambda x: ex.huber(x, 0.7),
    "pos": ex.pos,
    "norm1": ex.norm1,
    "norm2": ex.norm2,
    "norm_inf": ex.norm_inf,
    "sum_squares": ex.sum_squares,
    "quad_form": lambda x: ex.quad_form(x, ROOT.T @ ROOT),
    "max": ex.max,
    "log_sum_exp": ex.log_sum_exp,
}
X = np.random.default_rng(0).normal(size=(50, 4)) * 2


def total(name: str, values: np.ndarray) -> np.ndarray:
    return values.sum(axis=1) if name in ELEMENTWISE else values


@pytest.mark.parametrize("name", ATOMS)
def test_fenchel_and_youngs_inequality(name: str) -> None:
    atom = ATOMS[name](ex.Variable(4))
    assert isinstance(atom, ex.Atom)
    duals = atom.project_dual(np.random.default_rng(1).normal(size=(50, 4)) * 3)
    conjugate = total(name, atom.conjugate(duals))
    values = total(name, atom.value(X))
    gap = values[:, None] + conjugate[None, :] - X @ duals.T
    assert gap.min() >= -1e-9


@pytest.mark.parametrize("name", ATOMS)
def test_equality_at_gradients(name: str) -> None:
    atom = ATOMS[name](ex.Variable(4))
    assert isinstance(atom, ex.Atom)
    point = torch.tensor(X, requires_grad=True)
    atom.value(point).sum().backward()
    gradient = point.grad.numpy()
    np.testing.assert_allclose(atom.project_dual(gradient), gradient, atol=1e-9)
    conjugate = total(name, atom.conjugate(gradient))
    np.testing.assert_allclose(total(name, atom.value(X)) + conjugate, (X * gradient).sum(axis=1), atol=1e-9)


@pytest.mark.parametrize("name", ATOMS)
def test_projections_are_idempotent_and_keep_shapes(name: str) -> None:
    atom = ATOMS[name](ex.Variable(4))
    assert isinstance(atom, ex.Atom)
    duals = np.random.default_rng(2).normal(size=(7, 4)) * 5
    once = atom.project_dual(duals)
    np.testing.assert_allclose(atom.project_dual(once), once, atol=1e-9)
    assert atom.conjugate(once).shape == ((7, 4) if name in ELEMENTWISE else (7,))
    np.testing.assert_allclose(atom.project_dual(torch.tensor(duals)).numpy(), once, atol=1e-12)


def test_arguments_of_two_axes_are_taken_whole() -> None:
    atom = ex.norm2(ex.Variable((2, 3)))
    assert isinstance(atom, ex.Atom)
    duals = np.ones((5, 2, 3))
    assert atom.project_dual(duals).shape == (5, 2, 3)
    assert atom.conjugate(duals).shape == (5,)


def test_conjugates_that_do_not_exist_are_refused() -> None:
    x = ex.Variable((2, 2))
    for atom in (ex.max(x, axis=0), ex.min(x), ex.maximum(x, 0), ex.quad_form(ex.vec(x), -np.eye(4))):
        assert isinstance(atom, ex.Atom)
        with pytest.raises(ParameterError, match="conjugate"):
            atom.conjugate(np.zeros((1, 2, 2)))
        with pytest.raises(ParameterError, match="conjugate"):
            atom.project_dual(np.zeros((1, 2, 2)))
