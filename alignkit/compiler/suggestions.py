"""The smallest changes that make an intractable problem tractable, each proved by compiling the changed problem."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from alignkit.base.law import BaseLaw, ExactLaw
from alignkit.compiler.closeness import KL, Closeness, Wasserstein
from alignkit.compiler.diagnosis import Diagnosis
from alignkit.compiler.phrases import brief, named
from alignkit.compiler.summands import Summands
from alignkit.errors import AlignkitError
from alignkit.expressions import Curvature, Expression, inner
from alignkit.expressions.splitting import split
from alignkit.transport.separable import Separable, separable_form

__all__ = ["Judge", "Judgement", "Suggestion", "is_searchable", "suggest"]

#: So many changed problems are compiled at most.
_TRIALS = 30
#: So many suggestions are shown at most.
_SHOWN = 6
#: A factorisation of more entries than this, rows times d, is not repeated for a trial.
_LARGEST_FACTORISATION = 2**21
#: Beyond this d, in entries, not even rewards that need no factorisation are tried again.
_LARGEST_AMBIENT = 2**20
#: Rewards of more nonlinear summands than this are changed as a whole only.
_MOST_SINGLES, _MOST_PAIRED = 8, 5
#: How far above a critical λ one is suggested, relative to it.
_MARGIN = 0.01


@dataclass(frozen=True)
class Judgement:
    """What the compiler found of a problem that some route takes.

    Arguments:
        route: its name.
        backend: who solves it, "none" where no backend is needed; None where nobody does.
    """

    route: str
    backend: str | None


#: Compiles a reward under a closeness: None when no route takes it.
Judge = Callable[[Expression, Closeness], Judgement | None]


@dataclass(frozen=True, eq=False)
class Suggestion:
    """A change after which the problem is tractable.

    Arguments:
        change: what to do, in a sentence without its full stop.
        reward: the reward after the change.
        closeness: the closeness after the change.
        touched: how many summands of the reward change.
        judgement: what the compiler found of the changed problem.
    """

    change: str
    reward: Expression
    closeness: Closeness
    touched: int
    judgement: Judgement

    @property
    def is_served(self) -> bool:
        """Whether an installed backend solves the changed problem, or none is needed."""
        return self.judgement.backend is not None

    def __str__(self) -> str:
        route, backend = self.judgement.route, self.judgement.backend
        if backend is None:
            return f"{self.change}. (Then {route}: tractable, but nothing installed solves it yet.)"
        return f"{self.change}. (Then {route}{'' if backend == 'none' else f', solved by {backend}'}.)"


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A change to try; the opposite of a reward is worth trying however many summands it has."""

    change: str
    reward: Expression
    closeness: Closeness
    touched: int
    is_opposite: bool = False


def is_searchable(diagnosis: Diagnosis) -> bool:
    """Whether compiling changed rewards costs little enough to be done for a message."""
    composition = diagnosis.composition
    if composition.ambient > _LARGEST_AMBIENT:
        return False
    return composition.subspace.is_identity or composition.rows * composition.ambient <= _LARGEST_FACTORISATION


def suggest(diagnosis: Diagnosis, base: BaseLaw, judge: Judge, *, tractable: bool = False) -> tuple[Suggestion, ...]:
    """Try changes of a problem, and return those after which it is tractable, the smallest first.

    Arguments:
        diagnosis: the problem.
        base: the base law p; tangents are taken at its mean where that is known, else at 0.
        judge: compiles a changed problem.
        tractable: whether the problem itself is tractable, so that only changes that get it solved are of use.

    Returns:
        at most six; empty where none of the changes tried helps, or where trials would cost too much.
    """
    if not is_searchable(diagnosis):
        return ()
    found: list[Suggestion] = []
    # The fewest summands that had to change so far, to be solved and to be tractable at all.
    fewest = {True: math.inf, False: math.inf}
    opposite: list[Suggestion] = []
    for candidate in itertools.islice(_candidates(diagnosis, base), _TRIALS):
        if candidate.touched > fewest[True] and not candidate.is_opposite:
            continue
        judgement = judge(candidate.reward, candidate.closeness)
        if judgement is None or (tractable and judgement.backend is None):
            continue
        suggestion = Suggestion(candidate.change, candidate.reward, candidate.closeness, candidate.touched, judgement)
        if candidate.is_opposite:
            opposite.append(suggestion)
            continue
        found.append(suggestion)
        if candidate.touched:
            fewest[suggestion.is_served] = min(fewest[suggestion.is_served], candidate.touched)
    kept = [one for one in found if one.touched <= fewest[one.is_served]]
    return tuple(sorted([*kept, *opposite], key=lambda one: (one.touched, not one.is_served))[:_SHOWN])


def _candidates(diagnosis: Diagnosis, base: BaseLaw) -> Iterator[_Candidate]:
    """Changes to try, the most promising first."""
    reward, closeness = diagnosis.reward, diagnosis.closeness
    yield from _other_closeness(diagnosis)
    terms = diagnosis.summands.terms
    change = f"Flip the sign of the reward, if you meant the opposite: {brief(-reward)}"
    yield _Candidate(change, -reward, closeness, len(terms), is_opposite=True)
    bent = [position for position, term in enumerate(terms) if not term.is_affine()]
    for chosen in _subsets(diagnosis, bent):
        yield from _changed(diagnosis, base, chosen)


def _other_closeness(diagnosis: Diagnosis) -> Iterator[_Candidate]:
    reward, weight = diagnosis.reward, diagnosis.weight
    critical = _critical_weight(diagnosis)
    above = _rounded_up(critical * (1 + _MARGIN)) if 0 < critical < math.inf else math.inf
    if isinstance(diagnosis.closeness, Wasserstein):
        if weight <= critical and math.isfinite(above):
            change = f"ak.Wasserstein(weight={above:g}): raise λ above its critical value {critical:.6g}"
            yield _Candidate(change, reward, replace(diagnosis.closeness, weight=above), 0)
        # A λ that stands for those of a radius means nothing under KL.
        price = diagnosis.closeness.present_weight
        yield _Candidate(f"ak.KL(weight={price:g}) in place of Wasserstein", reward, KL(weight=price), 0)
    else:
        change = f"ak.Wasserstein(weight={weight:g}) in place of KL"
        yield _Candidate(change, reward, Wasserstein(weight=weight), 0)
        if weight <= critical and math.isfinite(above):
            change = f"ak.Wasserstein(weight={above:g}) in place of KL, λ above its critical value {critical:.6g}"
            yield _Candidate(change, reward, Wasserstein(weight=above), 0)


def _critical_weight(diagnosis: Diagnosis) -> float:
    """The λ above which λ·c makes up for the curvature that structure shows; 0 where there is none."""
    nonlinear = diagnosis.composition.nonlinear
    if nonlinear is None:
        return 0.0
    parts = split(nonlinear)
    form = separable_form(parts)
    if isinstance(form, Separable):
        return max(0.0, float(form.slopes.max(initial=0.0)))
    return parts.critical_weight


def _rounded_up(value: float) -> float:
    """The next number above with three digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / unit) * unit:.12g}")


def _subsets(diagnosis: Diagnosis, bent: list[int]) -> Iterator[tuple[int, ...]]:
    """Sets of nonlinear summands to change together, by their positions."""
    terms = diagnosis.summands.terms
    convex = isinstance(diagnosis.closeness, KL)
    offending = tuple(at for at in bent if not (terms[at].is_convex() if convex else terms[at].is_concave()))
    if offending:
        yield offending
    # Under KL nothing but convexity helps, so all that offends has to change; elsewhere less may do.
    if convex or len(bent) > _MOST_SINGLES:
        return
    singles = [(at,) for at in (*offending, *(at for at in bent if at not in offending))]
    pairs = itertools.combinations(bent, 2) if len(bent) <= _MOST_PAIRED else ()
    yield from (chosen for chosen in (*singles, *pairs) if chosen != offending)


def _changed(diagnosis: Diagnosis, base: BaseLaw, chosen: tuple[int, ...]) -> Iterator[_Candidate]:
    terms, closeness = diagnosis.summands.terms, diagnosis.closeness
    names = named([brief(terms[at]) for at in chosen])
    rest = [term for at, term in enumerate(terms) if at not in chosen]
    bent, straight = _bent_part(diagnosis, [terms[at] for at in chosen])
    tangent = None if bent is None else _tangent(bent, base)
    if bent is not None and tangent is not None:
        point, line = tangent
        change = f"Replace {brief(bent)} by its tangent at {point}, ak.inner(({brief(bent)}).gradient(x0), x)"
        yield _Candidate(change, _total([*straight, *rest, line]), closeness, len(chosen))
    if any(term.depends for term in rest):
        yield _Candidate(f"Drop {names}", _total(rest), closeness, len(chosen))
        flipped = [-term if at in chosen else term for at, term in enumerate(terms)]
        yield _Candidate(
            f"Flip the sign of {names}, if you meant the opposite", _total(flipped), closeness, len(chosen)
        )


def _bent_part(diagnosis: Diagnosis, chosen: list[Expression]) -> tuple[Expression | None, list[Expression]]:
    """What of some summands is bent the wrong way, and the rest of them; None where that cannot be told."""
    each = [Summands((term,)) for term in chosen]
    wants_convex = diagnosis.wanted is Curvature.CONVEX
    wrong = [(one.concave_part if wants_convex else one.convex_part) is not None for one in each]
    # A tangent to only some of them would be the change of a smaller set.
    if any(wrong) != all(wrong) or not all(one.is_difference_of_convex for one in each):
        return None, []
    parts = Summands(tuple(chosen))
    bent, other = (parts.concave_part, parts.convex_part) if wants_convex else (parts.convex_part, parts.concave_part)
    if bent is None:
        # Bent the right way, but straight it may lower the dimension.
        bent, other = other, None
    return bent, [part for part in (other, parts.affine_part) if part is not None]


def _tangent(part: Expression, base: BaseLaw) -> tuple[str, Expression] | None:
    """The tangent of an expression, with the point named where it touches; None where it is flat, or there is none."""
    (variable,) = part.variables()
    known = isinstance(base, ExactLaw)
    point = base.mean.reshape(base.shape) if isinstance(base, ExactLaw) else np.zeros(base.shape)
    try:
        with np.errstate(all="ignore"):
            value = np.asarray(part.value(point), dtype=np.float64)
            gradient = np.asarray(part.gradient(point), dtype=np.float64)
    except AlignkitError:
        return None
    if not (np.isfinite(value).all() and np.isfinite(gradient).all() and gradient.any()):
        return None
    line = inner(gradient, variable) + (float(value.reshape(())) - float((gradient * point).sum()))
    return f"x0 = the mean of {base.name!r}" if known else "x0 = 0", line


def _total(terms: list[Expression]) -> Expression:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
