"""Expressions of other modelling languages, turned into alignkit's by the backend that knows them."""

from __future__ import annotations

from typing import Any

from alignkit import registry
from alignkit.errors import ParameterError
from alignkit.expressions.expression import Expression

__all__ = ["from_cvxpy", "is_cvxpy"]


def is_cvxpy(value: object) -> bool:
    """True for cvxpy's expressions and objectives; does not import cvxpy."""
    return any(kind.__module__.partition(".")[0] == "cvxpy" for kind in type(value).__mro__)


def from_cvxpy(expression: Any) -> Expression:
    """A cvxpy expression as an alignkit expression, with the same values and at least the same curvature.

    Parameters become `Parameter`s, constants constants, and cvxpy's Fortran order is converted to C order. `Problem`
    accepts a cvxpy expression directly.

    Arguments:
        expression: a cvxpy expression of one variable without attributes.

    Returns:
        An expression of one `Variable` of the same shape and name.

    Raises:
        ParameterError: not a cvxpy expression, or of several variables, or of one with attributes, which are
            constraints.
        CurvatureError: it breaks cvxpy's rules of disciplined convex programming, or an atom of it is unknown here;
            the message names the atom.
        BackendUnavailableError: cvxpy is not installed.

    Example:
        >>> import cvxpy as cp
        >>> y = cp.Variable(3, name="y")
        >>> str(from_cvxpy(cp.norm1(y - 1.0)))
        'norm1(y - 1)'

    Source: S. Diamond, S. Boyd, "CVXPY: a Python-embedded modeling language for convex optimization", 2016.
    """
    if not is_cvxpy(expression):
        raise ParameterError(
            f"from_cvxpy takes a cvxpy expression, not a {type(expression).__name__}.",
            ways_out=("alignkit's own expressions need no import",) if isinstance(expression, Expression) else (),
        )
    found: Expression = registry.offered("importer")(expression)
    return found
