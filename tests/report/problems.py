"""Small problems of every kind that a report is written of, as `aligned` results."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

import alignkit as ak

__all__ = ["SOLVED"]


def mixture():
    """Points in the plane, annealed to a mixture of tilts."""
    x = ak.Variable(2)
    base = ak.base.GaussianMixture(
        [0.4, 0.3, 0.3], [[-2.0, 0.0], [2.0, 1.0], [0.0, -2.5]], [0.3, 0.2, 0.4], name="three clouds"
    )
    reward = ak.norm1(x) + 0.2 * ak.sum_squares(x)
    return ak.Problem(reward, base, ak.KL(weight=1.0)).solve(seed=0, engine="annealed")


def signal():
    """Curves, moved to flatter ones within a radius."""
    times = np.linspace(0.0, 1.0, 64)
    covariance = np.exp(-0.5 * ((times[:, None] - times) / 0.12) ** 2) + 1e-4 * np.eye(64)
    base = ak.base.Gaussian(np.sin(6 * times), covariance)
    return ak.Problem(-ak.total_variation(ak.Variable(64)), base, ak.Wasserstein(weight=2.0)).solve(seed=0)


def symmetric():
    """The shipped digits, each moved to a symmetric one."""
    base = ak.base.digits()
    x = ak.Variable(base.shape)
    return ak.Problem(-ak.norm1(x - x[:, ::-1]), base, ak.Wasserstein(weight=2.0)).solve(seed=0)


def data():
    """Pictures of digits as they were scanned, in black and white at -1 and 1."""
    return ak.base.Empirical(load_digits().images / 8.0 - 1.0, name="scanned digits")


def digits():
    """The README's problem, on scanned digits: ink at the top."""
    base = data()
    x = ak.Variable(base.shape)
    return ak.Problem(ak.sum(x[:4, :]) - ak.sum(x[4:, :]), base, ak.KL(weight=4.0)).solve(seed=0)


def radius():
    """The README's problem with a budget and a constraint, on scanned digits."""
    base = data()
    x = ak.Variable(base.shape)
    reward = ak.sum(x[:4, :]) - ak.sum(x[4:, :])
    constraints = [ak.E(ak.mean(x)) == -0.4]
    return ak.Problem(reward, base, ak.KL(radius=1.0), constraints=constraints).solve(seed=0)


#: By name.
SOLVED = {"digits": digits, "radius": radius, "symmetric": symmetric, "mixture": mixture, "signal": signal}
