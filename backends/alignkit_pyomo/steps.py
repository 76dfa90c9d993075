"""What a program computes one after the other: the kinks and curves of a reward, each as rows and relations of a model.

A step has an output t = φ(a) of affine inputs a. Where the objective only gains by a larger t, t ≤ φ(a) is all that has
to hold, and where it only gains by a smaller one t ≥ φ(a): max a is then linear in one direction, and takes binary
variables in the other. Coefficients beside the binaries are the least that are valid over the box of the row.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alignkit.contracts import Floats
from alignkit_pyomo.linear import Affine, Linear, combined
from alignkit_pyomo.model import Model, Relation

__all__ = ["Free", "Function", "Largest", "Polyline", "Segments", "Sigmoid", "Step", "SumOfLargest"]

#: Up to so many entries their maximum has coefficients from the range of each difference, else from their own ranges.
_COMPARED = 32
#: Kinds of which t ≥ φ(a) and t ≤ φ(a) are convex.
_CONVEX = frozenset({"exp", "square", "norm", "p-norm", "square over", "log_sum_exp"})
_CONCAVE = frozenset({"log", "entr", "sqrt", "product of powers"})
#: Beyond this a sigmoid is constant.
_FLAT = 40.0


@dataclass(frozen=True, eq=False)
class Step(ABC):
    """t = φ(a).

    Arguments:
        inputs: a, over z and the outputs of the steps before.
        at_most, at_least: which of t ≤ φ(a) and t ≥ φ(a) have to hold.
    """

    inputs: Affine
    at_most: bool
    at_least: bool

    @abstractmethod
    def bounds(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """Bounds of φ for inputs in boxes, (n, m) to (n,)."""

    @abstractmethod
    def write(self, model: Model, inputs: list[Linear], output: Linear) -> None:
        """Constrain the output."""

    def recession(self) -> tuple[Step, float]:
        """What a piecewise linear step tends to far out, and a bound of how far they lie apart for equal inputs."""
        raise NotImplementedError(f"{type(self).__name__} is not piecewise linear.")

    @property
    def slope(self) -> float:
        """By how much φ moves at most when every input moves by 1, for piecewise linear steps."""
        return 1.0

    @property
    def is_nonlinear(self) -> bool:
        """Whether it takes a relation."""
        return False

    @property
    def is_bent(self) -> bool:
        """Whether its relation is not convex."""
        return False

    @property
    def is_wave(self) -> bool:
        """Whether it bends to and fro without end."""
        return False

    @property
    def needs_box(self) -> bool:
        """Whether it takes bounds on its inputs."""
        return True

    @property
    def choices(self) -> int:
        """How many binary variables it takes, at most."""
        return 0


@dataclass(frozen=True, eq=False)
class Free(Step):
    """A variable that the objective chooses.

    Arguments:
        lower, upper: its bounds.
    """

    lower: float
    upper: float

    def bounds(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """Its own, (n,) each."""
        return np.full(len(low), self.lower), np.full(len(low), self.upper)

    def write(self, model: Model, inputs: list[Linear], output: Linear) -> None:
        """Nothing to constrain."""

    @property
    def needs_box(self) -> bool:
        """No."""
        return False


@dataclass(frozen=True, eq=False)
class Largest(Step):
    """The maximum of the inputs."""

    def bounds(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """The maxima of the bounds, (n, m) to (n,)."""
        return low.max(axis=1), high.max(axis=1)

    def recession(self) -> tuple[Step, float]:
        """Itself."""
        return self, 0.0

    def write(self, model: Model, inputs: list[Linear], output: Linear) -> None:
        """Above every input, and not above the one that is chosen."""
        ranges = [model.range_of(entry) for entry in inputs]
        least = max(low for low, _ in ranges)
        live = [place for place, (_, high) in enumerate(ranges) if high >= least]
        if len(live) == 1:
            model.equal(output, inputs[live[0]])
            return
        if self.at_least:
            for place in live:
                model.keep(output - inputs[place], lower=0.0)
        if not self.at_most:
            return
        if len(live) == 2:
            first = model.binary()
            chosen = [first, Linear({}, 1.0) - first]
        else:
            chosen = [model.binary() for _ in live]
            model.keep(combined((1.0, one) for one in chosen), 1.0, 1.0)
        for place, choice in zip(live, chosen, strict=True):
            if len(live) <= _COMPARED:
                ahead = max(model.range_of(inputs[other] - inputs[place])[1] for other in live)
            else:
                ahead = max(ranges[other][1] for other in live) - ranges[place][0]
            # t ≤ a where the input is chosen, and t ≤ a + what others may be ahead of it elsewhere.
            model.keep(output - inputs[place] + choice * ahead, upper=ahead)

    @property
    def needs_box(self) -> bool:
        """Where a choice has to be made."""
        return self.at_most

    @property
    def choices(self) -> int:
        """One for each input; one for two."""
        count = len(self.inputs.constant)
        return 0 if not self.at_most else 1 if count == 2 else count


@dataclass(frozen=True, eq=False)
class Polyline:
    """A piecewise linear function of one number.

    Arguments:
        kinks: (p,), increasing.
        slopes: (p + 1,), before, between and after them.
        level: the value at the first kink.
    """

    kinks: Floats
    slopes: Floats
    level: float

    @staticmethod
    def clip(lower: float, upper: float) -> Polyline:
        """min(max(a, lower), upper)."""
        return Polyline(np.array([lower, upper]), np.array([0.0, 1.0, 0.0]), lower)

    def value(self, points: Floats) -> Floats:
        """The function, of any shape to the same."""
        found = self.level + self.slopes[0] * (points - self.kinks[0])
        for kink, gain in zip(self.kinks, np.diff(self.slopes), strict=True):
            found = found + gain * np.maximum(points - kink, 0.0)
        return np.asarray(found)

    def limit(self, places: Floats) -> Floats:
        """The value far out, by the sign of each place."""
        slope = np.where(places > 0.0, self.slopes[-1], -self.slopes[0])
        with np.errstate(invalid="ignore"):
            far = slope * np.inf
        return np.where(slope == 0.0, np.where(places > 0.0, self.value(self.kinks[-1]), self.level), far)


@dataclass(frozen=True, eq=False)
class Segments(Step):
    """A piecewise linear function of one input.

    Arguments:
        line: the function.
    """

    line: Polyline

    def bounds(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """Those of the values at the ends and at the kinks inside, (n, 1) to (n,)."""
        places = np.concatenate([low, np.clip(self.line.kinks[None], low, high), high], axis=1)
        inside = np.where(np.isinf(places), 0.0, places)
        found = np.where(np.isinf(places), self.line.limit(places), self.line.value(inside))
        return found.min(axis=1), found.max(axis=1)

    def recession(self) -> tuple[Step, float]:
        """The first and the last slope, from the origin."""
        ends = np.array([self.line.slopes[0], self.line.slopes[-1]])
        far = Polyline(np.zeros(1), ends, 0.0)
        # The difference is linear between these places and constant beyond them.
        places = np.append(self.line.kinks, 0.0)
        return replace(self, line=far), float(np.abs(self.line.value(places) - far.value(places)).max())

    @property
    def slope(self) -> float:
        """The steepest."""
        return float(np.abs(self.line.slopes).max())

    def write(self, model: Model, inputs: list[Linear], output: Linear) -> None:
        """Lines where it is concave or convex in the right direction, else a choice of the segment."""
        (entry,) = inputs
        low, high = model.range_of(entry)
        kinks = self.line.kinks
        corners = kinks[(kinks > low) & (kinks < high)]
        first = int(np.searchsorted(kinks, low, side="right"))
        slopes = self.line.slopes[first : first + len(corners) + 1]
        # Each line through a kink of it, or through any point where there is none.
        anchors = np.concatenate([corners[:1], corners]) if len(corners) else np.array([_finite(low, high)])
        heights = self.line.value(anchors) - slopes * anchors
        gains = np.diff(slopes)
        lines = [entry * slope + height for slope, height in zip(slopes.tolist(), heights.tolist(), strict=True)]
        if len(lines) == 1:
            model.equal(output, lines[0])
        elif (gains <= 0.0).all() and not self.at_least:
            for line in lines:
                model.keep(output - line, upper=0.0)
        elif (gains >= 0.0).all() and not self.at_most:
            for line in lines:
                model.keep(output - line, lower=0.0)
        else:
            ends = [low, *corners.tolist(), high]
            pieces = list(zip(ends[:-1], ends[1:], slopes.tolist(), heights.tolist(), strict=True))
            self._choose(model, entry, output, pieces)

    @staticmethod
    def _choose(model: Model, entry: Linear, output: Linear, pieces: list[tuple[float, float, float, float]]) -> None:
        """Multiple choice: the input is a sum of one part for each segment, all 0 but that of the one chosen."""
        chosen, parts, total = [], [], []
        for low, high, slope, height in pieces:
            choice, part = model.binary(), Linear.of(model.column(min(low, 0.0), max(high, 0.0)))
            model.keep(part - choice * low, lower=0.0)
            model.keep(part - choice * high, upper=0.0)
            chosen.append(choice)
            parts.append(part)
            total.append(part * slope + choice * height)
        model.keep(combined((1.0, one) for one in chosen), 1.0, 1.0)
        model.equal(entry, combined((1.0, one) for one in parts))
        model.equal(output, combined((1.0, one) for one in total))

    @property
    def _bends(self) -> tuple[bool, bool]:
        gains = np.diff(self.line.slopes)
        return bool((gains > 0.0).any()), bool((gains < 0.0).any())

    @property
    def needs_box(self) -> bool:
        """Where a choice has to be made."""
        up, down = self._bends
        return (up and self.at_most) or (down and self.at_least)

    @property
    def choices(self) -> int:
        """One for each segment."""
        return len(self.line.slopes) if self.needs_box else 0


def _finite(low: float, high: float) -> float:
    return low if math.isfinite(low) else high if math.isfinite(high) else 0.0


@dataclass(frozen=True, eq=False)
class SumOfLargest(Step):
    """The sum of the largest inputs.

    Arguments:
        count: of how many; a fraction of an entry counts by that fraction.
    """

    count: float

    def bounds(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """The same sums of the bounds, (n, m) to (n,)."""
        return self._total(low), self._total(high)

    def recession(self) -> tuple[Step, float]:
        """Itself."""
        return self, 0.0

    @property
    def slope(self) -> float:
        """How many entries count."""
        return self.count

    def _total(self, entries: Floats) -> Floats:
        part, whole = math.modf(self.count)
        weights = np.zeros(entries.shape[1])
        weights[: int(whole)] = 1.0
        if part:
            weights[int(whole)] = part
        used = weights > 0.0
        return np.asarray(np.sort(entries, axis=1)[:, ::-1][:, used] @ weights[used])

    def write(self, model: Model, inputs: list[Linear], output: Linear) -> None:
        """At least count·q + Σ max(a − q, 0) for every q, and at most the sum of those chosen."""
        ranges = [model.range_of(entry) for entry in inputs]
        if self.at_least:
            level = Linear.of(model.column(min(low for low, _ in ranges), max(high for _, high in ranges)))
            above = [Linear.of(model.column(0.0, math.inf)) for _ in inputs]
            for entry, excess in zip(inputs, above, strict=True):
                model.keep(excess - entry + level, lower=0.0)
            model.keep(output - level * self.count - combined((1.0, excess) for excess in above), lower=0.0)
        if not self.at_most:
            return
        part, whole = math.modf(self.count)
        total, used = [], [Linear() for _ in inputs]
        for weight, wanted in ((1.0, whole), (part, 1.0)):
            if weight == 0.0 or wanted == 0.0:
                continue
            chosen = [model.binary() for _ in inputs]
            model.keep(combined((1.0, one) for one in chosen), wanted, wanted)
            for place, (entry, choice, (low, high)) in enumerate(zip(inputs, chosen, ranges, strict=True)):
                taken = Linear.of(model.column(min(low, 0.0), max(high, 0.0)))
                model.keep(taken - choice * high, upper=0.0)
                model.keep(taken - entry - choice * low, upper=-low)
                total.append(taken * weight)
                used[place] = used[place] + choice
        for one in used:
            if len(one.terms) > 1:
                model.keep(one, upper=1.0)
        model.keep(output - combined((1.0, one) for one in total), upper=0.0)

    @property
    def needs_box(self) -> bool:
        """Where a choice has to be made."""
        return self.at_most

    @property
    def choices(self) -> int:
        """One for each input."""
        return len(self.inputs.constant) if self.at_most else 0


#: From inputs in boxes, (n, m) each, and numbers to bounds of φ, (n,) each.
_Bounds = Callable[[Floats, Floats, Any], tuple[Floats, Floats]]


@dataclass(frozen=True, eq=False)
class Function(Step):
    """A curve.

    Arguments:
        kind: a key of `BOUNDS`.
        numbers: what it takes beside its inputs.
    """

    kind: str = ""
    numbers: Any = None

    def bounds(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """By its monotonicity, (n, m) to (n,)."""
        with np.errstate(all="ignore"):
            lower, upper = BOUNDS[self.kind](low, high, self.numbers)
        return np.where(np.isnan(lower), -np.inf, lower), np.where(np.isnan(upper), np.inf, upper)

    def write(self, model: Model, inputs: list[Linear], output: Linear) -> None:
        """A relation between columns."""
        column = output.column
        assert column is not None
        named = tuple(model.named(entry) for entry in inputs)
        model.relations.append(Relation(self.kind, named, column, self.numbers, self.at_most, self.at_least))

    @property
    def is_nonlinear(self) -> bool:
        """Yes."""
        return True

    @property
    def is_bent(self) -> bool:
        """Whether its relation is not convex."""
        return (self.at_most and self.kind not in _CONCAVE) or (self.at_least and self.kind not in _CONVEX)

    @property
    def is_wave(self) -> bool:
        """Whether it is a sine or a cosine."""
        return self.kind in ("sin", "cos")


@dataclass(frozen=True, eq=False)
class Sigmoid(Function):
    """1/(1 + e^(−a)), with a held where the exponential is a number to a solver."""

    kind: str = "sigmoid"

    def write(self, model: Model, inputs: list[Linear], output: Linear) -> None:
        """Beyond ±40 the function is 0 or 1 up to 4e-18."""
        (entry,) = inputs
        low, high = model.range_of(entry)
        if low < -_FLAT or high > _FLAT:
            held = Linear.of(model.column(-_FLAT, _FLAT))
            Segments(self.inputs, True, True, Polyline.clip(-_FLAT, _FLAT)).write(model, [entry], held)
            entry = held
        super().write(model, [entry], output)


def _increasing(function: Callable[[Floats], Floats]) -> _Bounds:
    return lambda low, high, _: (function(low[:, 0]), function(high[:, 0]))


def _of_magnitude(function: Callable[[Floats, Any], Floats]) -> _Bounds:
    """Of a function that grows with |a|."""

    def bounds(low: Floats, high: Floats, numbers: Any) -> tuple[Floats, Floats]:
        least, most = _magnitudes(low, high)
        return function(least[:, 0], numbers), function(most[:, 0], numbers)

    return bounds


def _magnitudes(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    inside = (low <= 0.0) & (high >= 0.0)
    return np.where(inside, 0.0, np.minimum(np.abs(low), np.abs(high))), np.maximum(np.abs(low), np.abs(high))


def _norm(low: Floats, high: Floats, _numbers: Any) -> tuple[Floats, Floats]:
    least, most = _magnitudes(low, high)
    return np.linalg.norm(least, axis=1), np.linalg.norm(most, axis=1)


def _p_norm(low: Floats, high: Floats, exponent: float) -> tuple[Floats, Floats]:
    ends = _magnitudes(low, high)
    least, most = (np.sum(size**exponent, axis=1) ** (1.0 / exponent) for size in ends)
    return least, most


def _corners(function: Callable[[Floats, Floats], Floats]) -> _Bounds:
    def bounds(low: Floats, high: Floats, _numbers: Any) -> tuple[Floats, Floats]:
        found = np.stack([function(one[:, 0], two[:, 1]) for one in (low, high) for two in (low, high)])
        return found.min(axis=0), found.max(axis=0)

    return bounds


def _quadratic(low: Floats, high: Floats, numbers: Any) -> tuple[Floats, Floats]:
    lower, upper = np.zeros((2, len(low)))
    for row, column, weight in numbers:
        if row == column:
            least, most = _magnitudes(low[:, [row]], high[:, [row]])
            ends = weight * least[:, 0] ** 2, weight * most[:, 0] ** 2
        else:
            ends = tuple(
                weight * end for end in _corners(np.multiply)(low[:, [row, column]], high[:, [row, column]], None)
            )
        lower, upper = lower + np.minimum(*ends), upper + np.maximum(*ends)
    return lower, upper


def _power(low: Floats, high: Floats, exponent: float) -> tuple[Floats, Floats]:
    if exponent == round(exponent) and round(exponent) % 2 == 0 and exponent > 0:
        return _of_magnitude(lambda size, _: size**exponent)(low, high, None)
    ends = np.maximum(low[:, 0], 0.0) ** exponent, np.maximum(high[:, 0], 0.0) ** exponent
    return np.minimum(*ends), np.maximum(*ends)


def _geometric(low: Floats, high: Floats, weights: Any) -> tuple[Floats, Floats]:
    powers = np.asarray(weights)
    return (np.maximum(low, 0.0) ** powers).prod(axis=1), (np.maximum(high, 0.0) ** powers).prod(axis=1)


def _square_over(low: Floats, high: Floats, _numbers: Any) -> tuple[Floats, Floats]:
    _, most = _norm(low[:, :-1], high[:, :-1], None)
    below = low[:, -1]
    return np.zeros(len(low)), np.where(below > 0.0, most**2 / below, np.inf)


def _soft_maximum(low: Floats, high: Floats, _numbers: Any) -> tuple[Floats, Floats]:
    return low.max(axis=1), high.max(axis=1) + math.log(low.shape[1])


def _unit(low: Floats, _high: Floats, _numbers: Any) -> tuple[Floats, Floats]:
    return np.full(len(low), -1.0), np.ones(len(low))


def _entropy(low: Floats, high: Floats, _numbers: Any) -> tuple[Floats, Floats]:
    ends = np.maximum(high[:, 0], 0.0)
    return np.minimum(0.0, np.where(ends > 0.0, -ends * np.log(ends), 0.0)), np.full(len(low), math.exp(-1.0))


#: From the kind of a function to its bounds.
BOUNDS: dict[str, _Bounds] = {
    "exp": _increasing(np.exp),
    "log": _increasing(lambda ends: np.log(np.maximum(ends, 0.0))),
    "entr": _entropy,
    "sqrt": _increasing(lambda ends: np.sqrt(np.maximum(ends, 0.0))),
    "sin": _unit,
    "cos": _unit,
    "sigmoid": _increasing(lambda ends: 1.0 / (1.0 + np.exp(-ends))),
    "arctan": _increasing(np.arctan),
    "square": _of_magnitude(lambda size, _: size**2),
    "power": _power,
    "product": _corners(np.multiply),
    "quadratic": _quadratic,
    "product of powers": _geometric,
    "norm": _norm,
    "p-norm": _p_norm,
    "square over": _square_over,
    "log_sum_exp": _soft_maximum,
}
