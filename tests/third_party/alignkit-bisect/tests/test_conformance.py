"""All that a backend needs to test of what alignkit expects from it."""

import pytest

from alignkit.testing import manifest_checks, prox_checks
from alignkit_bisect.prox import BisectProxSolver


@pytest.mark.parametrize("check", [*manifest_checks("bisect"), *prox_checks(BisectProxSolver, rows=40)], ids=str)
def test_conformance(check):
    check()
