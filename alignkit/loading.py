"""Reading back what `Aligned.save` wrote."""

from __future__ import annotations

import os

from alignkit.aligned import Aligned
from alignkit.base import BaseLaw
from alignkit.compiler.law_terms import separate_law_terms
from alignkit.errors import ParameterError
from alignkit.expressions.expression import united
from alignkit.problem import Problem
from alignkit.saving.result import Declared, read_result

__all__ = ["load"]


def load(
    path: str | os.PathLike[str],
    *,
    base: BaseLaw | None = None,
    problem: Problem | None = None,
    device: str | None = None,
) -> Aligned:
    """A result that `aligned.save(path)` wrote, ready to be drawn from.

    Nothing is solved: the file holds what the sampler draws from, and a session of its backend is opened. On the same
    machine, with as many threads, it draws the same samples, bit by bit; elsewhere up to how its engine rounds. Nothing
    in a file is executed.

    Arguments:
        path: of the file.
        base: the base law, where the file cannot hold it: any that is known by its network, but for the shipped ones. A
            few draws tell whether it is the one that the problem was solved with.
        problem: the problem, declared again as it was solved, where its reward has functions or operators of your own;
            then the result goes stale when a parameter of it changes.
        device: where to draw: "auto", "cpu", "cuda", …; what `solve` was given if None.

    Returns:
        the result, with the certificate, the status and the plan that it was saved with.

    Raises:
        SavedResultError: the file is no saved result, was cut or changed, or is of a later version of alignkit.
        ParameterError, ShapeError: the base law or the problem is needed, or is not the one that was saved.
        BackendUnavailableError: the backend that it was solved with is not installed.
        OSError: the file cannot be read.

    Example:
        >>> import alignkit as ak, tempfile
        >>> x = ak.Variable((2,))
        >>> problem = ak.Problem(ak.sum(x), ak.base.Gaussian([0.0, 0.0], 1.0), ak.KL(weight=1.0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     problem.solve(seed=0).save(f"{folder}/bright.alignkit")
        ...     print(ak.load(f"{folder}/bright.alignkit").certificate.kl)
        1
    """
    if problem is None:
        found = read_result(path, base=base, device=device)
    else:
        if base is not None:
            raise ParameterError("A problem has its base law: pass problem= or base=.")
        if not isinstance(problem, Problem):
            raise ParameterError(f"problem= is an ak.Problem, not {type(problem).__name__}.")
        terms = separate_law_terms(problem.reward, problem.constraints, problem.base.shape)
        found = read_result(
            path,
            device=device,
            declared=Declared(
                problem.base, problem.closeness, terms.reward, problem.reward, terms.utility, problem.constraints
            ),
        )
    known, plan = found.declaration, found.plan
    sides = [] if known is None else [side for one in known.constraints for side in (one.left, one.right)]
    named = united((plan.diagnosis.reward if known is None else known.reward, *sides))
    versions = tuple((one, one.version) for one in dict.fromkeys([*named, *plan.closeness.parameters]))
    return Aligned(plan, found.certificate, found.status, found.fitted, versions, known)
