"""Distances between samples, against exact assignment and the closed form of Gaussians."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import alignkit as ak
from alignkit.errors import NonFiniteError, ParameterError, ShapeError

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((200, 2)), 1.5 * RNG.standard_normal((200, 2)) + np.array([2.0, 0.0])


def exact(x, y):
    squares = ((x[:, None] - y[None]) ** 2).sum(axis=2)
    return float(np.sqrt(squares[linear_sum_assignment(squares)].mean()))


def test_it_is_that_of_the_best_assignment_up_to_smoothing():
    truth = exact(X, Y)
    found = ak.wasserstein_distance(X, Y)
    assert 0.98 * truth < found <= truth * (1.0 + 1e-6)
    smoother = ak.wasserstein_distance(X, Y, epsilon=5.0)
    assert smoother < found
    assert ak.wasserstein_distance(Y, X) == pytest.approx(found, rel=1e-3)


def test_it_moves_with_a_shift_exactly():
    shift = np.array([30.0, 40.0])
    assert ak.wasserstein_distance(X, X + shift) == pytest.approx(50.0, rel=1e-6)
    assert ak.wasserstein_distance(X, X) == 0.0


def test_it_tends_to_that_of_gaussians():
    """W₂² of N(0, 1) and N(m, s²) is m² + (1 − s)²; the draws are quantiles, of no error of their own to speak of."""
    from scipy.stats import norm

    levels = norm.ppf((np.arange(200) + 0.5) / 200)[:, None] * np.array([1.0, 0.0])
    truth = np.sqrt(2 * 3.0**2 + 0.5**2)
    assert ak.wasserstein_distance(levels, 3.0 + 1.5 * levels) == pytest.approx(truth, rel=5e-3)


def test_other_libraries_and_shapes():
    pictures = torch.as_tensor(X, dtype=torch.float32).reshape(200, 1, 2)
    assert ak.wasserstein_distance(pictures, pictures + 1.0) == pytest.approx(np.sqrt(2.0), rel=1e-4)


@pytest.mark.parametrize(
    ("x", "y", "epsilon", "error", "words"),
    [
        (X, Y[:, :1], None, ShapeError, "compared row by row"),
        (X[:0], Y, None, ShapeError, "sample of rows"),
        (np.where(np.arange(200)[:, None] == 7, np.nan, X), Y, None, NonFiniteError, "Row 7 of x"),
        (X, Y, 0.0, ParameterError, "positive number"),
    ],
)
def test_bad_samples_are_refused(x, y, epsilon, error, words):
    with pytest.raises(error, match=words):
        ak.wasserstein_distance(x, y, epsilon=epsilon)
