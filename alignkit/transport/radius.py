"""The weight λ at which a transport map costs as much as a radius allows.

The best law within W_c(q, p) ≤ ρ has the value

    max_q E_q[r] = min over λ ≥ 0 of D(λ) = λρ + E_p sup_y r(y) − λ·c(x, y),

and D is convex with derivative ρ − E[c(x, T_λ(x))]: the mean cost falls as λ grows, so one root is sought. Where the
mean cost jumps over ρ the maximisers at λ are several, and the best law moves a draw to the dearest of them with the
probability that spends ρ, else to the cheapest. At λ = 0 the radius is inactive. Where the reward outgrows λ·c below a
critical λ at which the mean cost is still below ρ, no map costs more.

Source: J. Blanchet, K. Murthy, "Quantifying distributional model risk via optimal transport", Mathematics of
Operations Research 44, 2019, theorem 1, for strong duality and for the optimal laws.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from alignkit.errors import AlignkitError, BackendRefusedError, InfeasibleError, UnboundedTransportError
from alignkit.estimates import Estimate

__all__ = ["Moved", "RadiusOutcome", "WeightSearch", "search_weight"]

_STEPS = 400
#: λ is raised and lowered by at most this factor until it is bracketed.
_STRIDE = 8.0
#: Raising or lowering λ by this much leaves nothing of the reward, or of the cost.
_LARGEST_CHANGE = 1e12
#: Where draws earn −∞, a mean cost that is the same over λ that much apart is taken to be the least.
_FLAT = 1e4
#: How far from ρ a mean cost may be, relative to it: at most, as where a draw more or less makes it jump, and at least.
_SPENT, _SPENT_EXACTLY = 1e-3, 1e-9
#: Before it is located any better, a mean cost is held to this part of its standard error.
_PART_OF_ERROR = 1 / 32
#: What may be lost of the reward by a mean cost that is not ρ, or by a coin, relative to max(1, |reward|).
_LOST = 1e-4
#: A jump by a draw or two is left alone: so far from ρ, as a part of the standard error and of ρ, at such a loss.
_PART_LEFT, _LEFT, _LOST_AT_A_DRAW = 1 / 8, 5e-3, 5e-4
#: How close two λ are brought on both sides of a jump of the mean cost, and to one without a map, relative to λ. Any
#: closer, a solver that is right up to a small gap would hardly tell the maximisers apart.
_JUMP, _CRITICAL, _CLOSEST = 1e-4, 1e-6, 1e-10


class RadiusOutcome(enum.Enum):
    """How the search for λ ended."""

    REACHED = "the mean cost is the radius"
    INACTIVE = "the best map of all costs less than the radius"
    NOT_ATTAINED = "the mean cost stays below the radius down to the critical λ"


@dataclass(frozen=True)
class Moved:
    """What the map at a λ does to the draws that stand for p.

    Arguments:
        weight: λ.
        cost: mean of c(x, T(x)), in units of cost.
        reward: mean of r(T(x)), in units of reward.
        gain: by how much it is above the mean of r(x); infinite where that is −∞.
    """

    weight: float
    cost: Estimate
    reward: float
    gain: float = math.inf


@dataclass(frozen=True)
class WeightSearch:
    """The λ that were found.

    Arguments:
        outcome: how the search ended.
        cheap: at the λ of the map; at the larger λ where there are two.
        dear: at the smaller λ, where two maps are needed.
        probability: of the dearer map, 0 where there is one map.
        tried: every λ that was looked at with its mean cost, in order; infinite where there is no map.
    """

    outcome: RadiusOutcome
    cheap: Moved
    dear: Moved | None = None
    probability: float = 0.0
    tried: tuple[tuple[float, float], ...] = ()

    @property
    def weight(self) -> float:
        """The dual variable λ*; 0 where the radius is inactive."""
        if self.outcome is RadiusOutcome.INACTIVE:
            return 0.0
        return self.cheap.weight if self.dear is None else math.sqrt(self.cheap.weight * self.dear.weight)


def search_weight(
    measure: Callable[[float], Moved], radius: float, *, start: float, negligible: float = 1e-7
) -> WeightSearch:
    """Find the λ at which the mean cost is ρ, or the jump over it.

    Arguments:
        measure: what the map at a λ does to the draws; raises UnboundedTransportError where there is no map, and
            BackendRefusedError where the backend does not take that λ.
        radius: ρ > 0, in units of cost.
        start: a λ > 0 to look at first.
        negligible: the share of its gain in reward for which no smaller λ is looked at.

    Returns:
        the λ found.

    Raises:
        InfeasibleError: every map costs more than ρ, as where r(x) = −∞.
        UnboundedTransportError: above the critical λ nothing moves, and below it there is no map.
        BackendRefusedError: the radius asks for a λ that the backend does not take.

    Example:
        >>> found = search_weight(lambda weight: Moved(weight, Estimate(weight**-2), 2 / weight), 0.25, start=1.0)
        >>> round(found.weight, 6)
        2.0
    """
    tried: list[tuple[float, float]] = []

    def tell(weight: float) -> Moved:
        try:
            found = measure(weight)
        except (UnboundedTransportError, BackendRefusedError):
            tried.append((weight, math.inf))
            raise
        tried.append((weight, found.cost.value))
        return found

    return replace(_sought(tell, _Bracket(radius, start, negligible)), tried=tuple(tried))


def _sought(measure: Callable[[float], Moved], bracket: _Bracket) -> WeightSearch:
    for _ in range(_STEPS):
        weight = bracket.next()
        try:
            found = measure(weight)
        except (UnboundedTransportError, BackendRefusedError) as error:
            bracket.refuse(weight, error)
        else:
            if bracket.is_spent(found):
                return WeightSearch(RadiusOutcome.REACHED, found)
            bracket.take(found)
            if bracket.is_inactive:
                return WeightSearch(RadiusOutcome.INACTIVE, found)
        if bracket.is_narrow:
            break
    return bracket.result()


@dataclass
class _Bracket:
    """What is known of the mean cost on both sides of ρ.

    Arguments:
        radius, start, negligible: as for `search_weight`.
        above: at the least λ known to cost at most ρ.
        below: at the largest λ known to cost more.
        floor: the largest λ known to have no map, or 0.
        obstacle: why it has none.
        aim: the mean cost that is sought, a little below ρ.
        widths: of the bracket in log λ, since it has two ends.
        strides: how often λ was raised or lowered before.
        flat: the least λ that costs as little as the largest looked at; 0 before any did.
    """

    radius: float
    start: float
    negligible: float
    above: Moved | None = None
    below: Moved | None = None
    floor: float = 0.0
    obstacle: AlignkitError | None = None
    aim: float = 0.0
    widths: list[float] = field(default_factory=list)
    strides: int = 0
    flat: float = 0.0

    @property
    def lower(self) -> float:
        """The smaller end; 0 where there is none."""
        return self.floor if self.below is None else self.below.weight

    def is_spent(self, found: Moved) -> bool:
        """Whether the mean cost is ρ, as far as it matters."""
        slack = min(_PART_OF_ERROR * found.cost.standard_error / self.radius, self._slack(found))
        slack = max(slack, _SPENT_EXACTLY)
        self.aim = self.radius * (1 - slack / 2)
        return self.radius * (1 - slack) <= found.cost.value <= self.radius

    def _slack(self, found: Moved) -> float:
        """How far from ρ a mean cost may be, relative to it."""
        return min(_SPENT, _LOST * max(1.0, abs(found.reward)) / (found.weight * self.radius))

    def take(self, found: Moved) -> None:
        """Narrow it by what was found at a λ."""
        if found.cost.value <= self.radius:
            self.above = found if self.above is None or found.weight < self.above.weight else self.above
        elif found.weight > self.lower:
            is_flat = self.below is not None and found.cost.value >= (1 - _SPENT) * self.below.cost.value
            self.flat = self.flat if is_flat else found.weight
            self.below = found

    def refuse(self, weight: float, error: AlignkitError) -> None:
        """Narrow it by a λ that has no map."""
        if weight > self.lower:
            self.floor, self.obstacle, self.below = weight, error, None

    @property
    def is_inactive(self) -> bool:
        """Whether all that a larger cost could gain is nothing next to what is gained already."""
        found = self.above
        if found is None or self.lower > 0:
            return False
        gain = found.gain if math.isfinite(found.gain) else max(1.0, abs(found.reward))
        # By duality no law within ρ earns more than that much above this one.
        left = found.weight * (self.radius - found.cost.value)
        return left <= self.negligible * gain or found.weight < self.start / _LARGEST_CHANGE

    @property
    def is_narrow(self) -> bool:
        """Whether both ends are one λ, as far as it matters."""
        if self.above is None or self.lower == 0:
            return False
        width = self.above.weight - self.lower
        if self.below is None:
            return width <= _CRITICAL * self.lower
        # By duality a coin between both ends loses less than ρ times what is between them.
        lost = self.radius * width / max(1.0, abs(self.above.reward))
        return width <= _CLOSEST * self.lower or (width <= _JUMP * self.lower and lost <= _LOST)

    def next(self) -> float:
        """The λ to look at."""
        if self.above is None:
            return self._raised()
        if self.lower == 0:
            return self._lowered(self.above)
        upper, lower = math.log(self.above.weight), math.log(self.lower)
        self.widths.append(upper - lower)
        part = 0.5
        # Powers of λ are straight lines in logarithms; a line that does not halve the bracket in two steps is no guide.
        is_shrinking = len(self.widths) < 3 or self.widths[-1] <= 0.5 * self.widths[-3]
        if self.below is not None and self.above.cost.value > 0 and is_shrinking:
            low, high = (math.log(end.cost.value / self.aim) for end in (self.above, self.below))
            part = min(max(low / (low - high), 0.02), 0.98) if low < 0 < high else 0.5
        return math.exp(upper + part * (lower - upper))

    def _raised(self) -> float:
        if self.lower == 0:
            return self.start
        # A draw that earns −∞ has to move, however dear it is; of others the mean cost falls to 0.
        is_stuck = self.below is not None and math.isinf(self.below.gain) and self.lower > _FLAT * self.flat
        if is_stuck or self.lower > self.start * _LARGEST_CHANGE:
            raise self._out_of_reach()
        if self.below is None:
            return self.floor * _STRIDE
        return self.below.weight * self._stride(self.below)

    def _lowered(self, above: Moved) -> float:
        return above.weight * (self._stride(above) if above.cost.value > 0 else 1 / _STRIDE)

    def _stride(self, found: Moved) -> float:
        """The factor of λ under which a cost that falls like λ⁻² would be ρ, which is exact for shifts."""
        factor = math.sqrt(found.cost.value / self.aim)
        # From the second time on such a law is known to be wrong.
        least = 1.0 if self.strides == 0 else _STRIDE / 2
        self.strides += 1
        if factor >= 1:
            return min(max(factor, least), _STRIDE)
        return max(min(factor, 1 / least), 1 / _STRIDE)

    def _out_of_reach(self) -> AlignkitError:
        if self.below is None:
            assert self.obstacle is not None
            return self.obstacle
        return InfeasibleError(
            f"No map costs as little as ρ = {self.radius:.6g}: at λ = {self.below.weight:.3g} the mean cost is "
            f"{self.below.cost.value:.6g} still, as where the reward is −∞ at draws of the base law.",
            ways_out=[f"A radius above {self.below.cost.value:.6g}.", "A reward that is finite everywhere."],
        )

    def result(self) -> WeightSearch:
        """What a narrow bracket says."""
        above, below = self.above, self.below
        if above is None:
            raise self._out_of_reach()
        if below is not None:
            return self._between(above, below)
        if isinstance(self.obstacle, BackendRefusedError):
            raise self.obstacle
        if above.cost.value <= _SPENT_EXACTLY * self.radius:
            raise UnboundedTransportError(
                f"The radius ρ = {self.radius:.6g} asks for the critical value λ = {self.floor:.10g}: above it no draw "
                "moves, and below it the reward outgrows λ times the cost, so that no map is the best.",
                ways_out=["A cost that grows faster: ak.costs.SquaredEuclidean().", "A reward that is bounded above."],
            )
        return WeightSearch(RadiusOutcome.NOT_ATTAINED, above)

    def _between(self, above: Moved, below: Moved) -> WeightSearch:
        missing, excess = self.radius - above.cost.value, below.cost.value - self.radius
        nearer, off = (above, missing) if missing <= excess else (below, excess)
        # A coin for what other draws would not show is no use.
        lost = nearer.weight * off / max(1.0, abs(nearer.reward))
        if off <= self._slack(nearer) * self.radius or (
            off <= min(_PART_LEFT * nearer.cost.standard_error, _LEFT * self.radius) and lost <= _LOST_AT_A_DRAW
        ):
            return WeightSearch(RadiusOutcome.REACHED, nearer)
        probability = missing / (missing + excess)
        return WeightSearch(RadiusOutcome.REACHED, above, below, probability)
