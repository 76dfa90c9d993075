"""A session on one proximal problem: batches in chunks that fit, to the device and back, and other λ on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch

from alignkit.contracts import Floats, Progress, ProxProblem, ProxSolution
from alignkit.errors import StaleFitError
from alignkit.expressions.expression import versions_of
from alignkit.expressions.splitting import Quadratic
from alignkit.transport.canonical import Uncanonical, canonical_form, value_at_origin
from alignkit.transport.separable import Separable
from alignkit_torch.devices import float64_device, free_memory, rows_that_fit
from alignkit_torch.prox_canonical import CanonicalProx
from alignkit_torch.prox_closed import QuadraticProx, SeparableProx
from alignkit_torch.prox_plan import Plan, plan
from alignkit_torch.prox_rows import Answer

__all__ = ["Engine", "TorchProxSession", "engine_of"]

#: What a chunk may take on a CPU, so that its temporaries stay in the cache, in bytes.
_CACHE = 2**23

Engine: TypeAlias = QuadraticProx | SeparableProx | CanonicalProx


def engine_of(problem: ProxProblem, how: Plan) -> Engine:
    """Factorise or tabulate a problem on its device."""
    device = float64_device(problem.device)
    if isinstance(how, Quadratic):
        return QuadraticProx(how, problem.weight, device)
    if isinstance(how, Separable):
        return SeparableProx(how, value_at_origin(problem), problem.weight, device)
    return CanonicalProx(problem, how, device)


class TorchProxSession:
    """One problem, answered for any number of batches at the present values of λ and of the parameters.

    Arguments:
        problem: what was asked.
        how: its plan.
    """

    def __init__(self, problem: ProxProblem, how: Plan) -> None:
        self.problem = problem
        self.engine: Engine = engine_of(problem, how)
        self._versions = versions_of(problem.nonlinear.parameters())
        self._weighted: CanonicalProx | None = None

    def update(self, problem: ProxProblem) -> bool:
        """Answer another problem from now on, if it is of the same form.

        Arguments:
            problem: its f is the same object, perhaps with other values of its parameters; its λ may be another.

        Returns:
            True when this session answers it; False when it answers what it did before, and the other must be opened:
            f is another object, or has another form or none at these values.
        """
        if problem.nonlinear is not self.problem.nonlinear:
            return False
        how = plan(problem)
        if isinstance(how, Uncanonical):
            return False
        engine = engine_of(problem, how)
        if type(engine) is not type(self.engine):
            return False
        self.problem, self.engine, self._weighted = problem, engine, None
        self._versions = versions_of(problem.nonlinear.parameters())
        return True

    def solve(self, points: Floats, progress: Progress = None) -> ProxSolution:
        """Solve one batch of rows v, (n, k), float64.

        Arguments:
            points: v.
            progress: called as `progress("torch", rows_done, rows)`.

        Raises:
            StaleFitError: the parameters took values at which the problem is no longer of the form that was opened.
        """
        self._refresh()
        engine = self.engine
        return _in_chunks(engine, lambda v, _: engine.solve_rows(v), points, progress)

    def solve_weighted(self, points: Floats, weights: Floats, progress: Progress = None) -> ProxSolution:
        """Solve one batch in which each row has a λ of its own: maximise f(z) − (λᵢ/2)‖z − vᵢ‖².

        Arguments:
            points: v, (n, k), float64.
            weights: λᵢ > 0, (n,).
            progress: as for `solve`.

        Raises:
            ValueError: f has quadratic summands, or no canonical form.
            StaleFitError: as for `solve`.
        """
        self._refresh()
        engine = self._engine_for_weights()
        lambdas = np.ascontiguousarray(weights, dtype=np.float64)
        if lambdas.shape != (len(points),) or not (lambdas > 0).all():
            raise ValueError("Weights are positive, one for each row.")

        def solve_rows(v: torch.Tensor, part: slice) -> Answer:
            return engine.solve_rows(v, torch.tensor(lambdas[part], device=engine.device))

        return _in_chunks(engine, solve_rows, points, progress)

    def _engine_for_weights(self) -> CanonicalProx:
        if self._weighted is None:
            form = canonical_form(self.problem)
            if isinstance(form, Uncanonical):
                raise ValueError(f"Rows with a weight each need a canonical form, and {form.reason}.")
            if form.factor is not None:
                raise ValueError("Rows with a weight each need a reward without quadratic summands.")
            engine = self.engine
            if not isinstance(engine, CanonicalProx):
                engine = CanonicalProx(self.problem, form, engine.device)
            self._weighted = engine
        return self._weighted

    def _refresh(self) -> None:
        if versions_of(self.problem.nonlinear.parameters()) != self._versions and not self.update(self.problem):
            raise StaleFitError(
                f"The parameters of {self.problem.nonlinear} took values at which this session cannot answer it.",
                ways_out=["Open the problem again.", "Raise λ in ak.Wasserstein(weight=λ)."],
                expression=str(self.problem.nonlinear),
            )


def _in_chunks(
    engine: Engine, solve_rows: Callable[[torch.Tensor, slice], Answer], points: Floats, progress: Progress
) -> ProxSolution:
    count = len(points)
    maximiser, gap, value = np.empty((count, engine.dimension)), np.empty(count), np.empty(count)
    unfinished = np.zeros(count, dtype=bool)
    valued = True
    chunk = _chunk(engine)
    with torch.inference_mode():
        for first in range(0, count, chunk):
            part = slice(first, min(first + chunk, count))
            # torch cannot hold a read-only array, even to read it.
            rows = torch.from_numpy(np.require(points[part], np.float64, ["C", "W"])).to(engine.device)
            answer = solve_rows(rows, part)
            maximiser[part] = answer.maximiser.cpu().numpy()
            gap[part] = answer.gap.cpu().numpy()
            unfinished[part] = answer.unfinished.cpu().numpy()
            if answer.value is None:
                valued = False
            else:
                value[part] = answer.value.cpu().numpy()
            if progress is not None:
                progress("torch", part.stop, count)
    return ProxSolution(maximiser, gap, unfinished, value if valued else None)


def _chunk(engine: Engine) -> int:
    """How many rows to work on at once."""
    if engine.device.type == "cpu":
        return max(1, _CACHE // engine.row_bytes)
    return rows_that_fit(engine.row_bytes, free_memory(engine.device))
