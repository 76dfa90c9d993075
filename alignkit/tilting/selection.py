"""The choice of a tilt measure for a convex reward."""

from __future__ import annotations

from alignkit.expressions import Expression

__all__ = ["has_finite_measure", "missing_measure"]


def missing_measure(nonlinear: Expression, *, bounded: bool) -> str | None:
    """Why no tilt measure is known for f, in a sentence; None where there is one."""
    return None


def has_finite_measure(nonlinear: Expression) -> bool:
    """Whether few tilts make up f's measure."""
    return nonlinear.variables()[0].size <= 3
