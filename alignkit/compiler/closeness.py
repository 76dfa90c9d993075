"""How closeness to the base law is measured: the choice that decides what is tractable."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from alignkit.errors import ParameterError
from alignkit.expressions import Parameter
from alignkit.transport.costs import Cost, SquaredEuclidean, from_ott, is_ott

__all__ = ["KL", "Closeness", "Wasserstein"]

#: What a radius is measured in.
_UNITS = {"KL": "nats", "Wasserstein": "units of mean cost"}

_Closeness = TypeVar("_Closeness")


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


def _checked_radius(radius: object, owner: str) -> None:
    if isinstance(radius, Parameter):
        if radius.size != 1:
            raise ParameterError(f"{owner}(radius=ρ) takes a scalar, and {radius} has shape {radius.shape}.")
        return
    if isinstance(radius, bool) or not isinstance(radius, int | float | np.integer | np.floating):
        raise ParameterError(f"{owner}(radius=ρ) takes a number, not {radius!r}.", ways_out=[f"{owner}(radius=2.0)."])
    if not (math.isfinite(radius) and radius > 0):
        raise ParameterError(
            f"{owner}(radius=ρ) needs 0 < ρ < ∞, in {_UNITS[owner]}, not {radius!r}: within 0 there is the base law "
            "alone.",
            ways_out=[
                f"A small radius, as {owner}(radius=0.1), stays close.",
                f"ak.{owner}(weight=λ) prices the distance instead.",
            ],
        )


def _check_choice(weight: object, radius: object, owner: str) -> None:
    """Raise unless exactly one of the two is given, and is as it should be."""
    if (weight is None) == (radius is None):
        given = "neither" if weight is None else "both"
        raise ParameterError(
            f"{owner} takes either weight=λ, the price of moving away from the base law, or radius=ρ, how far q may "
            f"be: {given} was given.",
            ways_out=[f"ak.{owner}(weight=1.0).", f"ak.{owner}(radius=2.0), in {_UNITS[owner]}."],
        )
    if weight is not None:
        _checked_weight(weight, owner)
    if radius is not None:
        _checked_radius(radius, owner)


def _present(weight: float | Parameter, owner: str) -> float:
    found = float(weight.dense().item()) if isinstance(weight, Parameter) else float(weight)
    _checked_weight(found, owner)
    return found


def _present_radius(radius: float | Parameter | None, owner: str) -> float | None:
    if radius is None:
        return None
    found = float(radius.dense().item()) if isinstance(radius, Parameter) else float(radius)
    _checked_radius(found, owner)
    return found


def _shown(weight: float | Parameter) -> str:
    return f"{weight}" if isinstance(weight, Parameter) else f"{weight:g}"


def _by_name(closeness: type[_Closeness]) -> type[_Closeness]:
    """A closeness that asks what a number given without a name is, with the signature that it had."""
    owner, given_by_name = closeness.__name__, closeness.__init__

    @functools.wraps(given_by_name)
    def given(self: Any, *unnamed: Any, **named: Any) -> None:
        if unnamed:
            number = unnamed[0]
            raise ParameterError(
                f"{owner}({number}) leaves open what {number} is: weight=λ, the price of moving away from the base "
                "law, or radius=ρ, how far q may be.",
                ways_out=[f"ak.{owner}(weight={number}).", f"ak.{owner}(radius={number}), in {_UNITS[owner]}."],
            )
        given_by_name(self, **named)

    closeness.__init__ = given  # type: ignore[method-assign]
    return closeness


@_by_name
@dataclass(frozen=True, kw_only=True)
class KL:
    """Closeness by relative entropy: a price λ for it, with the target q ∝ p·exp(r/λ), or a bound KL(q‖p) ≤ ρ.

    Arguments:
        weight: λ > 0, in units of reward per nat: a number, or a scalar `ak.Parameter` to change between solves.
        radius: ρ > 0, in nats, in place of the weight: the best law within it is the one whose λ makes KL(q‖p) = ρ. A
            number, or a scalar `ak.Parameter`.

    Raises:
        ParameterError: λ or ρ is not a positive finite number, or not exactly one of them is given, by its name.

    Example:
        >>> KL(weight=0.5)
        KL(weight=0.5)
        >>> KL(radius=2.0).objective
        'E_q[r] subject to KL(q‖p) ≤ 2'
    """

    weight: float | Parameter | None = None
    radius: float | Parameter | None = None

    def __post_init__(self) -> None:
        _check_choice(self.weight, self.radius, "KL")

    @property
    def present_weight(self) -> float:
        """λ, at its present value; 1 where a radius decides it, until the solve finds it.

        Raises:
            ParameterError: it is a parameter without a value, or its value is not positive.
        """
        return 1.0 if self.weight is None else _present(self.weight, "KL")

    @property
    def present_radius(self) -> float | None:
        """ρ, at its present value, in nats; None where a weight is given.

        Raises:
            ParameterError: it is a parameter without a value, or its value is not positive.
        """
        return _present_radius(self.radius, "KL")

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters in it."""
        return tuple(value for value in (self.weight, self.radius) if isinstance(value, Parameter))

    @property
    def distance(self) -> str:
        """What q is kept close to p in, with its unit."""
        return "KL(q‖p), nats"

    @property
    def objective(self) -> str:
        """What the aligned law maximises, in words."""
        if self.radius is not None:
            return f"E_q[r] subject to KL(q‖p) ≤ {_shown(self.radius)}"
        assert self.weight is not None
        return f"E_q[r] − {_shown(self.weight)}·KL(q‖p)"

    def __repr__(self) -> str:
        return f"KL(weight={self.weight!r})" if self.radius is None else f"KL(radius={self.radius!r})"


@_by_name
@dataclass(frozen=True, kw_only=True)
class Wasserstein:
    """Closeness by transport: a price λ for it, or a bound on it; q = T#p with T(x) = argmax_y r(y) − λ·c(x, y).

    Arguments:
        weight: λ > 0, in units of reward per cost: a number, or a scalar `ak.Parameter` to change between solves.
        radius: ρ > 0, in place of the weight: the best law within W_c(q, p) ≤ ρ, in units of E[c] and not of its root.
            It is T#p at the λ where E[c(x, T(x))] = ρ; where the mean cost jumps over ρ at a λ, a coin for each draw
            chooses between the cheapest and the dearest maximisers there. A number, or a scalar `ak.Parameter`.
        cost: c; half the squared Euclidean distance unless said otherwise. One of `ak.costs`, or a cost of OTT, which
            `ak.costs.from_ott` converts.

    Raises:
        ParameterError: λ or ρ is not a positive finite number, not exactly one of them is given, by its name, or the
            cost is not one of `ak.costs`, nor one of OTT that is a function of x − y.

    Example:
        >>> Wasserstein(weight=2.0)
        Wasserstein(weight=2.0, cost=SquaredEuclidean())
        >>> Wasserstein(radius=0.5).objective
        'E_q[r] subject to W_c(q, p) ≤ 0.5, c = ½‖x − y‖²'
    """

    weight: float | Parameter | None = None
    radius: float | Parameter | None = None
    cost: Cost = field(default_factory=SquaredEuclidean)

    def __post_init__(self) -> None:
        _check_choice(self.weight, self.radius, "Wasserstein")
        if is_ott(self.cost):
            object.__setattr__(self, "cost", from_ott(self.cost))
        if not isinstance(self.cost, Cost):
            raise ParameterError(
                f"Wasserstein(cost=…) takes one of ak.costs, not {self.cost!r}.",
                ways_out=[
                    "ak.costs.SquaredEuclidean(), half the squared distance.",
                    "ak.costs.L1(), few entries move.",
                ],
            )

    @property
    def present_weight(self) -> float:
        """λ, at its present value; 1 where a radius decides it, until the solve finds it.

        Raises:
            ParameterError: it is a parameter without a value, or its value is not positive.
        """
        return 1.0 if self.weight is None else _present(self.weight, "Wasserstein")

    @property
    def present_radius(self) -> float | None:
        """ρ, at its present value, in units of mean cost; None where a weight is given.

        Raises:
            ParameterError: it is a parameter without a value, or its value is not positive.
        """
        return _present_radius(self.radius, "Wasserstein")

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters in it."""
        return tuple(value for value in (self.weight, self.radius) if isinstance(value, Parameter))

    @property
    def distance(self) -> str:
        """What q is kept close to p in, with its unit."""
        return "mean cost E[c]"

    @property
    def objective(self) -> str:
        """What the aligned law maximises, in words."""
        named = f"c = {self.cost.formula}"
        if self.radius is not None:
            return f"E_q[r] subject to W_c(q, p) ≤ {_shown(self.radius)}, {named}"
        assert self.weight is not None
        return f"E_q[r] − {_shown(self.weight)}·W_c(q, p), {named}"

    def __repr__(self) -> str:
        measured = f"weight={self.weight!r}" if self.radius is None else f"radius={self.radius!r}"
        return f"Wasserstein({measured}, cost={self.cost!r})"


Closeness = KL | Wasserstein
