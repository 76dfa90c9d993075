"""The shipped backends keep every promise of the conformance suite."""

from __future__ import annotations

import pytest

from alignkit.testing import Verdict, manifest_checks, prox_checks, prox_examples, tilt_checks

# Rows that are read only make torch warn, and none of it may reach a user.
pytestmark = pytest.mark.filterwarnings("error::UserWarning:alignkit_torch")

#: cvxpy compiles every problem: a third of them is enough here, its own tests take every atom.
SOME = prox_examples(rows=6)[::3]
SHIPPED = ("exact", "torch", "cvxpy", "pyomo", "numba")
CHECKS = {
    **{f"{name}-{check}": check for name in SHIPPED for check in manifest_checks(name)},
    **{f"torch-{check}": check for check in prox_checks("torch")},
    **{f"cvxpy-{check}": check for check in prox_checks("cvxpy", examples=SOME)},
    **{f"numba-{check}": check for check in prox_checks("numba", rows=6)},
    **{f"exact-{check}": check for check in tilt_checks("exact")},
    **{f"torch-{check}": check for check in tilt_checks("torch", rows=1500)},
}


@pytest.mark.parametrize("name", CHECKS)
def test_conformance(name):
    CHECKS[name]()


def test_what_is_taken_is_as_wide_as_it_was():
    """Refusals are no failures, so that a backend which came to refuse what it took would pass unseen."""
    taken = {"torch": 0, "cvxpy": 0, "numba": 0, "exact": 0, "torch tilts": 0}
    for name, checks in (
        ("torch", prox_checks("torch")),
        ("cvxpy", prox_checks("cvxpy")),
        ("numba", prox_checks("numba")),
        ("exact", tilt_checks("exact")),
        ("torch tilts", tilt_checks("torch")),
    ):
        taken[name] = sum(check().verdict is Verdict.KEPT for check in checks if check.promise.label == "bids")
    assert taken["torch"] >= 16 and taken["cvxpy"] >= 38 and taken["numba"] >= 24
    assert taken["exact"] == 4 and taken["torch tilts"] == 6
