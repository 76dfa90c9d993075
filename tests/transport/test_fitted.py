"""Certificates of fitted maps."""

import pytest

import alignkit as ak


@pytest.mark.parametrize(("seconds", "rows"), [(0.0, 512), (100.0, 512), (1000.0, 200), (1e6, 64)])
def test_a_slow_map_is_certified_on_fewer_draws(seconds, rows):
    """Twenty seconds of them, by what its backend predicts for 10,000."""
    x = ak.Variable(2)
    problem = ak.Problem(-ak.sum_squares(x - 1.0), ak.base.Gaussian([0.0, 0.0], 1.0), ak.Wasserstein(weight=2.0))
    fitted = problem.solve(seed=0).fitted
    certificate = fitted.certify(problem.reward, "", seconds=seconds, seed=0)
    assert certificate.details["rows"] == f"{rows} base draws"
