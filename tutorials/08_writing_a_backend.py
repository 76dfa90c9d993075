# %% [markdown]
# # 8 · Writing a backend
#
# *I have a solver that suits my rewards. How does alignkit come to use it, and how do I know that it is right?*
#
# A backend is a small package of its own, found by an entry point: nothing of alignkit is edited. This tutorial writes
# a complete one, registers it, lets the conformance suite examine it, and aligns digits with it.

# %%
import importlib
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

import alignkit as ak
from alignkit.testing import check_manifest, check_prox_solver

FAST = os.environ.get("ALIGNKIT_FAST") == "1"

# %% [markdown]
# ## What a backend is asked
#
# Under Wasserstein closeness alignkit reduces a problem to one in k dimensions, where k is how many directions of x the
# reward depends on. For each row v of a batch it asks a *proximal solver* to
#
# $$\text{maximise}\quad \varphi(z) = f(z) - \tfrac{\lambda}{2}\|z - v\|^2 \quad\text{over } z \in \mathbf{R}^k.$$
#
# `bid` looks at f and either offers, with a promise and a predicted time, or refuses with a reason. `open` makes a
# session, and the session's `solve` returns the maximisers, each with a bound on what it lacks to the supremum. The
# bound is what becomes the certificate, so a method without one can only bid as a heuristic.
#
# The method here is SciPy's L-BFGS, row by row. It has a bound for concave f: φ is then λ-strongly concave, and from a
# point where its gradient is s no other point is better by more than ‖s‖²/2λ. L-BFGS needs f to be smooth, so the
# solver lists the atoms that it takes and refuses the others.
#
# ## The whole of it
#
# In a repository of your own this is the file `alignkit_lbfgs.py`.

# %%
SOURCE = '''\
"""Proximal maps of smooth concave rewards by SciPy's L-BFGS, as a backend of alignkit."""

import numpy as np
from scipy.optimize import minimize

from alignkit.contracts import Bid, Guarantee, ProxSolution, Refusal
from alignkit.registry import Manifest

manifest = Manifest(name="lbfgs", engines=("scipy",), prox_solver="alignkit_lbfgs:Solver")

SMOOTH = {"Add", "Negate", "Multiply", "Sum", "LogSumExp", "Logistic", "Huber", "Square", "SumSquares", "QuadForm"}


class Solver:
    def bid(self, problem):
        f = problem.nonlinear
        if not f.is_concave():
            return Refusal("lbfgs", f"not concave: {f.curvature_rule}")
        if rough := sorted(set(kinds(f)) - SMOOTH):
            return Refusal("lbfgs", f"L-BFGS needs smooth rewards, and is not known to take {', '.join(rough)}")
        return Bid("lbfgs", "L-BFGS, row by row", Guarantee.CERTIFIED, 1e-3 * (1 + problem.rows))

    def open(self, problem):
        return Session(problem)


def kinds(f):
    """The classes of the nonlinear nodes of an expression."""
    if not f.is_affine():
        yield type(f).__name__
        for argument in f.args:
            yield from kinds(argument)


class Session:
    def __init__(self, problem):
        self.problem = problem

    def solve(self, points, progress=None):
        found, gap = np.array(points), np.zeros(len(points))
        for row, v in enumerate(points):
            found[row], gap[row] = self.solve_row(v)
            if progress is not None:
                progress("lbfgs", row + 1, len(points))
        objective = self.problem.nonlinear.value(found) - self.problem.weight / 2 * ((found - points) ** 2).sum(axis=1)
        return ProxSolution(found, gap, unfinished=gap > self.problem.tolerance * np.maximum(1.0, abs(objective)))

    def solve_row(self, v):
        f, weight = self.problem.nonlinear, self.problem.weight

        def loss(step):
            z = (v + step)[None]
            return weight / 2 * step @ step - f.value(z)[0], weight * step - f.gradient(z)[0]

        options = {"gtol": np.sqrt(weight * self.problem.tolerance / v.size), "ftol": 0.0, "maxiter": 1000}
        best = minimize(loss, np.zeros_like(v), jac=True, method="L-BFGS-B", options=options)
        _, slope = loss(best.x)
        return v + best.x, slope @ slope / (2 * weight)
'''

home = Path(tempfile.mkdtemp())
(home / "alignkit_lbfgs.py").write_text(SOURCE)
print(len(SOURCE.splitlines()), "lines")

# %% [markdown]
# ## What an examination finds
#
# `alignkit.testing` asks a solver for problems whose optima are known, and holds it to every promise. It takes a class,
# so nothing need be registered yet. First a mistake that is easily made: to trust the optimiser, and state a gap of 0.

# %%
sys.path.insert(0, str(home))
from alignkit_lbfgs import Session, Solver  # noqa: E402


class TrustingSession(Session):
    def solve_row(self, v):
        found, _ = super().solve_row(v)
        return found, 0.0


class TrustingSolver(Solver):
    def open(self, problem):
        return TrustingSession(problem)


report = check_prox_solver(TrustingSolver, rows=4)
assert not report.conforms
print(report.broken[0])

# %% [markdown]
# With the bound in place every promise is kept; what is skipped are problems that it refuses and abilities that it does
# not claim, such as a λ for each row.

# %%
report = check_prox_solver(Solver, rows=4 if FAST else 12)
assert report.conforms
print("\n".join(str(report).splitlines()[:12]))

# %% [markdown]
# ## How it is found
#
# By one line in the `pyproject.toml` of your package, read when it is installed:
#
# ```toml
# [project.entry-points."alignkit.backends"]
# lbfgs = "alignkit_lbfgs:manifest"
# ```
#
# Installing leaves the line in a file beside the package. To keep this tutorial out of your environment that file is
# written by hand, into the temporary folder. The manifest names its solver by a path, so listing the backends imports
# no engine.

# %%
metadata = home / "alignkit_lbfgs-1.0.dist-info"
metadata.mkdir()
(metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: alignkit-lbfgs\nVersion: 1.0\n")
(metadata / "entry_points.txt").write_text("[alignkit.backends]\nlbfgs = alignkit_lbfgs:manifest\n")
importlib.invalidate_caches()

found = next(status for status in ak.installed_backends() if status.name == "lbfgs")
print(f"{found.name}: {found.reason}, from {found.distribution}")
assert check_manifest("lbfgs").conforms

# %% [markdown]
# From now on `python -m alignkit.testing lbfgs` examines it, too, and every problem is offered to it. Here digits are
# to lose ink where they have most: the reward falls with a soft maximum of what is in the left, the middle and the
# right.

# %%
base = ak.base.digits()
x = ak.Variable(base.shape, name="x")
thirds = ak.stack([ak.sum(x[:, :3]), ak.sum(x[:, 3:5]), ak.sum(x[:, 5:])])
problem = ak.Problem(-ak.log_sum_exp(thirds), base, ak.Wasserstein(weight=1.0))
print(problem.backends())

# %% [markdown]
# Bids compare by their guarantee and then by their time. Others promise the same in less, so on its own merits this one
# would not be chosen; `backend=` insists on it. The objective is strongly concave, so an answer that lacks no more than
# its gap is within √(2·gap/λ) of the best, and two answers are within the sum of the two.

# %%
aligned, chosen = (problem.solve(seed=0, backend=name) for name in ("lbfgs", "auto"))
draws = base.sample(64, seed=1).astype(np.float64)
ours, theirs = (one.transport(draws, return_details=True) for one in (aligned, chosen))
apart = np.sqrt(((ours.y - theirs.y) ** 2).sum(axis=(1, 2)))
allowed = np.sqrt(2 * ours.gap) + np.sqrt(2 * theirs.gap)
print(f"{aligned.plan.backend} and {chosen.plan.backend}: at most {apart.max():.1e} apart, {allowed.max():.1e} allowed")

# %% [markdown]
# A reward with a kink is refused, with the backend's own words:

# %%
try:
    ak.Problem(-ak.max(thirds), base, ak.Wasserstein(weight=1.0)).solve(seed=0, backend="lbfgs")
except ak.errors.BackendRefusedError as error:
    print(error)

# %% [markdown]
# ## What was achieved

# %%
print(aligned.certificate)

# %%
aligned.plot.samples()

# %% [markdown]
# **Where next.** [alignkit-bisect](../tests/third_party/alignkit-bisect) is such a package in full, with its tests.
# `alignkit.contracts` has the shapes and units of all that backends are asked: tilts, displacements, a λ for each row.
