"""The demo's problems, and one of every kind of draw, solved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest

import alignkit as ak
from alignkit.tilting import annealed, law_rounds

__all__ = ["SOLVED"]


@contextlib.contextmanager
def few_particles() -> Iterator[None]:
    """An eighth of the particles that a fit of a network carries, in a tenth of its time: the page is the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annealed, "_PARTICLES_MAX", 512)
        patch.setattr(law_rounds, "_SCOUTS", 256)
        patch.setattr(law_rounds, "ROWS", 512)
        yield


def digits():
    """The README's first problem: digits whose ink is at the top."""
    base = ak.base.digits()
    x = ak.Variable(base.shape)
    with few_particles():
        return ak.Problem(ak.sum(x[:4, :]) - ak.sum(x[4:, :]), base, ak.KL(weight=4.0)).solve(seed=0)


def radius():
    """The README's problem with a budget and a constraint."""
    base = ak.base.digits()
    x = ak.Variable(base.shape)
    reward = ak.sum(x[:4, :]) - ak.sum(x[4:, :])
    constraints = [ak.E(ak.mean(x)) == -0.5]
    with few_particles():
        return ak.Problem(reward, base, ak.KL(radius=2.0), constraints=constraints).solve(seed=0)


def symmetric():
    """The shipped digits, each moved to a symmetric one."""
    base = ak.base.digits()
    x = ak.Variable(base.shape)
    return ak.Problem(-ak.norm1(x - x[:, ::-1]), base, ak.Wasserstein(weight=2.0)).solve(seed=0)


def mixture():
    """Points in the plane, from a mixture of tilts."""
    x = ak.Variable(2)
    base = ak.base.GaussianMixture(
        [0.4, 0.3, 0.3], [[-2.0, 0.0], [2.0, 1.0], [0.0, -2.5]], [0.3, 0.2, 0.4], name="three clouds"
    )
    return ak.Problem(ak.norm1(x), base, ak.KL(weight=1.0)).solve(seed=0)


def signal():
    """Curves, moved to ones that vary less."""
    times = np.linspace(0.0, 1.0, 64)
    covariance = np.exp(-0.5 * ((times[:, None] - times) / 0.12) ** 2) + 1e-4 * np.eye(64)
    base = ak.base.Gaussian(np.sin(6 * times), covariance)
    return ak.Problem(-ak.total_variation(ak.Variable(64)), base, ak.Wasserstein(weight=2.0)).solve(seed=0)


#: By name.
SOLVED = {"digits": digits, "radius": radius, "symmetric": symmetric, "mixture": mixture, "signal": signal}
