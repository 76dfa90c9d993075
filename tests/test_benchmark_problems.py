"""The answers that benchmarks hold samplers against are those of q ∝ p·exp(r/λ) itself."""

import numpy as np
import pytest
import torch

from tests.benchmarks.kl_exact import VARIANCE
from tests.benchmarks.problems import cases

ROWS, BATCHES = 40_000, 8
COUNT = 8


@pytest.fixture(scope="module")
def answers():
    found = tuple(cases(digits=False))
    assert len(found) == COUNT
    return found


def score(case, x):
    """∇log q = ∇log p + ∇r/λ, from p's components and the reward's own gradient."""
    away = case.mixture.means - x[:, None]
    logs = -(away**2).sum(axis=-1) / (2 * VARIANCE)
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    point = torch.as_tensor(x).requires_grad_()
    pull = torch.autograd.grad(case.exponent(point).sum(), point)[0].numpy()
    return np.einsum("ij,ijk->ik", shares, away) / VARIANCE + pull


@pytest.mark.parametrize("index", range(COUNT))
def test_draws_satisfy_steins_identity(answers, index):
    case = answers[index]
    # E⟨∇log q, φ⟩ + div φ = 0 for φ constant, φ = x, and φ = tanh(a) along the means of the components.
    axes = case.mixture.means / np.linalg.norm(case.mixture.means, axis=1, keepdims=True)
    parts = []
    for seed in range(BATCHES):
        x = case.draw(ROWS, seed)
        gradient, bent = score(case, x), np.tanh(x @ axes.T)
        along = (gradient * x).sum(axis=1, keepdims=True) + x.shape[1]
        parts.append(np.concatenate([gradient, along, bent * (gradient @ axes.T) + 1 - bent**2], axis=1))
    terms = np.concatenate(parts)
    errors = terms.std(axis=0) / np.sqrt(len(terms))
    assert np.abs(terms.mean(axis=0) / errors).max() < 4.5


def test_quadratics_have_their_closed_form(answers):
    squares = [case for case in answers if case.square is not None]
    assert len(squares) == 4
    for case in squares:
        rows = case.square.seen.value(np.eye(case.law.ambient)).T
        left = 1 - VARIANCE / case.square.variance
        seen = case.mixture.means @ rows.T
        logs = (seen**2).sum(axis=1) / (2 * left * case.square.variance) - len(rows) / 2 * np.log(left)
        assert case.log_partition == pytest.approx(np.logaddexp.reduce(logs) - np.log(len(seen)), abs=1e-3)
        shares = np.exp(logs - np.logaddexp.reduce(logs))
        means = case.mixture.means + (1 / left - 1) * seen @ rows
        draws = case.draw(ROWS, 1)
        errors = draws.std(axis=0) / np.sqrt(ROWS)
        assert np.abs((draws.mean(axis=0) - shares @ means) / errors).max() < 4.5, case.weight
