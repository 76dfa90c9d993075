"""Errors and statuses: every message names what was wrong, the rule it broke and the ways out."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

__all__ = [
    "AlignkitError",
    "BackendRefusedError",
    "BackendUnavailableError",
    "CalibrationWarning",
    "CurvatureError",
    "DimensionError",
    "ImproperTargetError",
    "InfeasibleError",
    "IntractableError",
    "NonFiniteError",
    "NotDifferentiableError",
    "ParameterError",
    "SavedResultError",
    "ShapeError",
    "StaleFitError",
    "Status",
    "UnboundedTransportError",
]

#: The last way out of what is intractable under KL.
WITHOUT_BOUND = "problem.solve(heuristic=True): annealed Monte Carlo for any reward, without a bound."


class AlignkitError(Exception):
    """Base of all alignkit errors.

    Arguments:
        message: what is wrong and the rule that was broken, naming the user's own sub-expression.
        ways_out: changes that would make the problem acceptable, most useful first.
        expression: the readable form of the offending sub-expression, where there is one.

    The three parts stay available as `.message`, `.ways_out` and `.expression`, for programs.
    """

    def __init__(self, message: str, *, ways_out: Sequence[str] = (), expression: str | None = None) -> None:
        self.message = message
        self.ways_out = tuple(ways_out)
        self.expression = expression
        lines = [message]
        if expression is not None and expression not in message:
            lines.append(f"In: {expression}")
        if self.ways_out:
            lines.append("Ways out:")
            lines.extend(f"  - {way}" for way in self.ways_out)
        super().__init__("\n".join(lines))


class ShapeError(AlignkitError, ValueError):
    """Two shapes disagree; the message holds both and the sub-expression."""


class ParameterError(AlignkitError, ValueError):
    """An argument is outside its range (λ ≤ 0, an empty data set, an unknown option …)."""


class NonFiniteError(AlignkitError, ValueError):
    """A NaN or an infinity in data, constants, or the output of a network or reward.

    Attributes:
        draws: the rows drawn before it came up, (n, *shape); None where there are none.
    """

    draws: Any = None


class CurvatureError(AlignkitError):
    """An operation whose curvature rule forbids its arguments."""


class IntractableError(AlignkitError):
    """The problem is hard in the worst case; the message says why and what is tractable nearby."""


class DimensionError(IntractableError):
    """The intrinsic dimension k of the reward is too large for every route that would take it otherwise."""


class ImproperTargetError(AlignkitError):
    """The aligned law p·exp(r/λ) has no finite normaliser."""


class InfeasibleError(AlignkitError):
    """No law meets the constraints, or none within the radius; the message says whether that is proved.

    Attributes:
        direction: of moments beyond every law, one entry for each entry of the constraints, in their order, so that the
            average of ⟨direction, left − right⟩ is positive for every law, with `>=` turned to `<=`; None where no
            direction was needed.
        is_proof: True where it holds on the whole support, False where draws alone speak for it.
    """

    direction: Any = None
    is_proof: bool = False


class UnboundedTransportError(AlignkitError):
    """The reward outgrows λ times the cost, so the transport map has no maximiser."""


class NotDifferentiableError(AlignkitError):
    """The transport map has no derivative where one is asked for; the message counts the rows by reason.

    Attributes:
        rows: their numbers.
    """

    rows: tuple[int, ...] = ()


class BackendUnavailableError(AlignkitError, LookupError):
    """A backend is unknown, not installed, or broken; the message says what to install."""


class BackendRefusedError(AlignkitError):
    """Every backend, or the one asked for, refused the problem; the message holds each reason."""


class SavedResultError(AlignkitError, ValueError):
    """A file is no result that alignkit saved, was damaged, or comes from a later version."""


class StaleFitError(AlignkitError):
    """A fitted result no longer matches the problem it came from."""


class CalibrationWarning(UserWarning):
    """A tilt is stronger than the model's calibration allows; the law it is about says how far off it is."""


class Status(enum.Enum):
    """How a solve ended; the value is the sentence shown to the user."""

    SOLVED = "Solved; the certificate says how well."
    INACCURATE = "Solved, but not as well as asked for: see the certificate."
    RADIUS_INACTIVE = "Solved; the radius is inactive: the best law of all lies within it."
    RADIUS_NOT_ATTAINED = "Solved up to the critical λ: no aligned law is as far away as the radius."

    def __str__(self) -> str:
        return self.value
