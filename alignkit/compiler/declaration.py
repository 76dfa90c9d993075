"""What a user declared and asked for, as a result remembers it."""

from __future__ import annotations

from dataclasses import dataclass

from alignkit.expressions import Constraint, Expression, expectations

__all__ = ["Declaration"]


@dataclass(frozen=True, eq=False)
class Declaration:
    """A problem as it was written down, beside its base law and closeness, and how it was solved.

    Arguments:
        reward: r, with its utilities of expectations.
        utility: the sum of these alone; None where there are none.
        constraints: on expectations under q.
        seed: fixed every draw of the fit.
        seconds: that solving took.
    """

    reward: Expression
    utility: Expression | None
    constraints: tuple[Constraint, ...]
    seed: int
    seconds: float

    @property
    def multipliers(self) -> int:
        """How many multipliers the law has: one for each entry of constraints and of expectations in the utility."""
        valued = () if self.utility is None else expectations(self.utility)
        return sum(leaf.size for leaf in valued) + sum(constraint.left.size for constraint in self.constraints)
