"""Each problem is solved and reported once for all tests of a run."""

from __future__ import annotations

import pytest

from tests.report.problems import SOLVED


@pytest.fixture(scope="session", params=SOLVED)
def reported(request, tmp_path_factory):
    """A result with its report: the result, the file and the problem's name."""
    aligned = SOLVED[request.param]()
    path = aligned.report(tmp_path_factory.mktemp("report") / f"{request.param}.html", seed=3)
    return aligned, path, request.param
