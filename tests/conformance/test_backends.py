"""The shipped backends keep every promise of the conformance suite."""

from __future__ import annotations

import pytest

import alignkit as ak
from alignkit import registry
from alignkit.testing import Verdict, displaced_examples, manifest_checks, prox_checks, prox_examples, tilt_checks

# Rows that are read only make torch warn, and none of it may reach a user.
pytestmark = pytest.mark.filterwarnings("error::UserWarning:alignkit_torch")

EXAMPLES = (*prox_examples(rows=6), *displaced_examples(ak.costs, rows=6))
#: What a branch-and-bound solver at tens of milliseconds a row is examined on.
SEARCHED = {
    "minimum of lines, k = 1",
    "two kinks, k = 1",
    "two points, k = 2",
    "double well, k = 1",
    "double well, k = 2",
    "wave with a slope, k = 1",
    "unbounded square",
    "ℓ1 cost, k = 4",
    "ℓ∞ cost, k = 4",
    "ℓ1 cost, pieces too steep",
}
SOME = {
    # cvxpy and jax compile every problem: a third of them is enough here, their own tests take every atom and cost.
    "cvxpy": EXAMPLES[::3],
    "ott": EXAMPLES[::3],
    "pyomo": [example.on_rows(example.points[:2]) for example in EXAMPLES if example.name in SEARCHED],
}
SHIPPED = [status.name for status in ak.installed_backends() if status.distribution.startswith("alignkit ")]
SOLVERS = [name for name in registry.offers("prox_solver") if name in SHIPPED]
CHECKS = {
    **{f"{name}-{check}": check for name in SHIPPED for check in manifest_checks(name)},
    **{f"{name}-{check}": check for name in SOLVERS for check in prox_checks(name, examples=SOME.get(name, EXAMPLES))},
    **{f"exact-{check}": check for check in tilt_checks("exact")},
    **{f"torch-{check}": check for check in tilt_checks("torch", rows=1500)},
}


def test_the_backends_are_installed():
    """Or nothing below would examine anything."""
    assert {"cvxpy", "exact", "numba", "ott", "pyomo", "torch"} <= set(SHIPPED)
    assert {"cvxpy", "grid", "numba", "ott", "torch"} <= set(SOLVERS)


@pytest.mark.parametrize("name", CHECKS)
def test_conformance(name):
    CHECKS[name]()


def test_what_is_taken_is_as_wide_as_it_was():
    """Refusals are no failures, so that a backend which came to refuse what it took would pass unseen."""
    taken = {"torch": 0, "cvxpy": 0, "numba": 0, "grid": 0, "ott": 0, "exact": 0, "torch tilts": 0}
    for name, checks in (
        ("torch", prox_checks("torch", examples=EXAMPLES)),
        ("cvxpy", prox_checks("cvxpy", examples=EXAMPLES)),
        ("numba", prox_checks("numba", examples=EXAMPLES)),
        ("grid", prox_checks("grid", examples=EXAMPLES)),
        ("ott", prox_checks("ott", examples=EXAMPLES)),
        ("exact", tilt_checks("exact")),
        ("torch tilts", tilt_checks("torch")),
    ):
        taken[name] = sum(check().verdict is Verdict.KEPT for check in checks if check.promise.label == "bids")
    assert taken["torch"] >= 29 and taken["cvxpy"] >= 48 and taken["numba"] >= 27 and taken["grid"] >= 16
    assert taken["ott"] >= 26
    assert taken["exact"] == 4 and taken["torch tilts"] == 6
