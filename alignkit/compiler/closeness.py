"""How closeness to the base law is measured: the choice that decides what is tractable."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from alignkit.errors import ParameterError
from alignkit.expressions import Parameter
from alignkit.transport.costs import Cost, SquaredEuclidean

__all__ = ["KL", "Closeness", "Wasserstein"]


def _checked_weight(weight: object, owner: str) -> None:
    if isinstance(weight, Parameter):
        if weight.size != 1:
            raise ParameterError(f"{owner}(weight=λ) takes a scalar, and {weight} has shape {weight.shape}.")
        return
    if isinstance(weight, bool) or not isinstance(weight, int | float | np.integer | np.floating):
        raise ParameterError(f"{owner}(weight=λ) takes a number, not {weight!r}.", ways_out=[f"{owner}(weight=1.0)."])
    if not (math.isfinite(weight) and weight > 0):
        raise ParameterError(
            f"{owner}(weight=λ) needs 0 < λ < ∞, not {weight!r}: λ is the price of moving away from the base law.",
            ways_out=["Raise λ to stay closer to the base law, lower it to follow the reward; never to 0."],
        )


def _present(weight: float | Parameter, owner: str) -> float:
    found = float(weight.dense().item()) if isinstance(weight, Parameter) else float(weight)
    _checked_weight(found, owner)
    return found


def _shown(weight: float | Parameter) -> str:
    return f"{weight}" if isinstance(weight, Parameter) else f"{weight:g}"


@dataclass(frozen=True, kw_only=True)
class KL:
    """Closeness by relative entropy: the target is q ∝ p·exp(r/λ).

    Arguments:
        weight: λ > 0, in units of reward per nat: a number, or a scalar `ak.Parameter` to change between solves.

    Raises:
        ParameterError: λ is not a positive finite number.

    Example:
        >>> KL(weight=0.5)
        KL(weight=0.5)
    """

    weight: float | Parameter

    def __post_init__(self) -> None:
        _checked_weight(self.weight, "KL")

    @property
    def present_weight(self) -> float:
        """λ, at its present value.

        Raises:
            ParameterError: it is a parameter without a value, or its value is not positive.
        """
        return _present(self.weight, "KL")

    @property
    def objective(self) -> str:
        """What the aligned law maximises, in words."""
        return f"E_q[r] − {_shown(self.weight)}·KL(q‖p)"


@dataclass(frozen=True, kw_only=True)
class Wasserstein:
    """Closeness by transport: the target is T#p with T(x) = argmax_y r(y) − λ·c(x, y).

    Arguments:
        weight: λ > 0, in units of reward per cost: a number, or a scalar `ak.Parameter` to change between solves.
        cost: c; half the squared Euclidean distance unless said otherwise.

    Raises:
        ParameterError: λ is not a positive finite number, or the cost is not one of `ak.costs`.

    Example:
        >>> Wasserstein(weight=2.0)
        Wasserstein(weight=2.0, cost=SquaredEuclidean())
    """

    weight: float | Parameter
    cost: Cost = field(default_factory=SquaredEuclidean)

    def __post_init__(self) -> None:
        _checked_weight(self.weight, "Wasserstein")
        if not isinstance(self.cost, SquaredEuclidean):
            raise ParameterError(
                f"Wasserstein(cost=…) does not know {self.cost!r}.", ways_out=["Use ak.costs.SquaredEuclidean()."]
            )

    @property
    def present_weight(self) -> float:
        """λ, at its present value.

        Raises:
            ParameterError: it is a parameter without a value, or its value is not positive.
        """
        return _present(self.weight, "Wasserstein")

    @property
    def objective(self) -> str:
        """What the aligned law maximises, in words."""
        return f"E_q[r] − {_shown(self.weight)}·W_c(q, p), c = ½‖x − y‖²"


Closeness = KL | Wasserstein
