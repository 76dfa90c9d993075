"""Proximal maps of total variation along a chain of coordinates, as a session."""

from __future__ import annotations

import numpy as np

from alignkit.citations import Citation
from alignkit.contracts import Floats, Progress, ProxProblem, ProxSolution
from alignkit.transport.chains import TotalVariationForm, total_variation_form
from alignkit_numba.methods import runs_on

__all__ = ["TAUT_STRING", "ChainSession", "chain_seconds"]

TAUT_STRING = Citation(
    key="condat_2013",
    title="A direct algorithm for 1-D total variation denoising",
    year=2013,
    authors=("L. Condat",),
    venue="IEEE Signal Processing Letters 20(11), 1054–1057",
    kind="article",
    doi="10.1109/LSP.2013.2278339",
)

_EPS = float(np.finfo(np.float64).eps)


def chain_seconds(form: TotalVariationForm) -> float:
    """Predicted time of a row on one core, measured on rows of noise."""
    return 8e-8 + 5.6e-9 * (len(form.strengths) + 1)


class ChainSession:
    """A compiled proximal map of total variation, for any number of batches.

    Arguments:
        form: the reward.
    """

    is_prompt = True

    def __init__(self, form: TotalVariationForm) -> None:
        self._form = form

    def solve(self, points: Floats, progress: Progress = None) -> ProxSolution:
        """Solve one batch of rows v, (n, k), float64."""
        from alignkit_numba.total_variation import solve_total_variation

        points, form = np.asarray(points, dtype=np.float64), self._form
        with np.errstate(over="ignore", invalid="ignore"):
            found = solve_total_variation(form.centres(points), form.weight, form.strengths)
            value = form.value(found.maximiser)
            # A slip in the change of variables moves z as far, and 2√(Gλ/2)·slip bounds what a gap G gains by it.
            size = np.abs(points).sum(axis=1) + np.abs(form.vector).sum() / form.weight
            slip = 4 * _EPS * (size + np.abs(form.origin).sum()) * np.sqrt(0.5 * form.weight)
            gap = (np.sqrt(found.gap) + slip) ** 2
        gap[~np.isfinite(gap) | ~np.isfinite(value)] = np.inf
        if progress is not None:
            progress("numba", len(points), len(points))
        return ProxSolution(form.maximisers(found.maximiser), gap, found.unfinished | np.isinf(gap), value)

    def update(self, problem: ProxProblem) -> bool:
        """Answer another problem from now on, if it is of this kind."""
        is_of_kind = problem.displacement is None and runs_on(problem.device)
        form = total_variation_form(problem) if is_of_kind else None
        if form is None:
            return False
        self._form = form
        return True
