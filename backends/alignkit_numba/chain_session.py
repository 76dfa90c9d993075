"""Proximal maps of total variation along a chain of coordinates, as a session."""

from __future__ import annotations

import numpy as np

from alignkit.citations import Citation
from alignkit.contracts import Floats, Progress, ProxProblem, ProxSolution
from alignkit.transport.chains import TotalVariationForm, total_variation_form

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

#: Entries of v solved at a time (32 MB), so that progress is told.
_CHUNK_ENTRIES = 2**22
_EPS = float(np.finfo(np.float64).eps)


def chain_seconds(form: TotalVariationForm) -> float:
    """Predicted time of a row on one core, measured on rows of noise."""
    return 8e-8 + 5.6e-9 * (len(form.strengths) + 1)


class ChainSession:
    """A compiled proximal map of total variation, for any number of batches.

    Arguments:
        form: the reward.
    """

    def __init__(self, form: TotalVariationForm) -> None:
        self._form = form

    def solve(self, points: Floats, progress: Progress = None) -> ProxSolution:
        """Solve one batch of rows v, (n, k), float64."""
        from alignkit_numba.total_variation import solve_total_variation

        points = np.asarray(points, dtype=np.float64)
        form, count = self._form, len(points)
        maximiser, gap, value = np.empty_like(points), np.empty(count), np.empty(count)
        unfinished = np.empty(count, dtype=np.bool_)
        step = max(1, _CHUNK_ENTRIES // points.shape[1])
        for first in range(0, max(count, 1), step):
            part = slice(first, min(first + step, count))
            with np.errstate(over="ignore", invalid="ignore"):
                found = solve_total_variation(form.centres(points[part]), form.weight, form.strengths)
                maximiser[part] = form.maximisers(found.maximiser)
                value[part] = form.value(found.maximiser)
                # A slip in the change of variables moves z as far, and 2√(Gλ/2)·slip bounds what a gap G gains by it.
                size = np.abs(points[part]).sum(axis=1) + np.abs(form.vector).sum() / form.weight
                slip = 4 * _EPS * (size + np.abs(form.origin).sum()) * np.sqrt(0.5 * form.weight)
                gap[part] = (np.sqrt(found.gap) + slip) ** 2
            unfinished[part] = found.unfinished
            if progress is not None:
                progress("numba", part.stop, count)
        gap[~np.isfinite(gap) | ~np.isfinite(value)] = np.inf
        return ProxSolution(maximiser, gap, unfinished | ~np.isfinite(gap), value)

    def update(self, problem: ProxProblem) -> bool:
        """Answer another problem from now on, if it is of this kind."""
        form = (
            total_variation_form(problem)
            if problem.displacement is None and problem.device in ("auto", "cpu")
            else None
        )
        if form is None:
            return False
        self._form = form
        return True
