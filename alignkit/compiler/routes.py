"""Routing as data: reductions are the edges of a graph of problem classes, and the way through it is a route.

A new route is a new row of the table at the end.

Source: the idea of bridges, B. Legat, O. Dowson, J. Dias Garcia, M. Lubin, "MathOptInterface: a data structure for
mathematical optimization problems", 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from alignkit.base.law import BaseLaw
from alignkit.citations import (
    PRECONDITIONED_CRANK_NICOLSON,
    QUADRATIC_REWARDS,
    TRACTABILITY_LANDSCAPE,
    Citation,
)
from alignkit.compiler.closeness import KL, Closeness, Wasserstein
from alignkit.compiler.diagnosis import Diagnosis
from alignkit.compiler.phrases import brief, named
from alignkit.compiler.planned_weight import GRID_DIMENSION_MAX
from alignkit.contracts import Guarantee, ProxProblem, TiltProgram
from alignkit.transport.reduction import is_concave_in_total, reduce_transport

__all__ = [
    "AFFINE",
    "ALLOWING_HEURISTICS",
    "CONCAVE_PROXIMAL",
    "GRID_DIMENSION_MAX",
    "LIPSCHITZ_PROXIMAL",
    "MONTE_CARLO",
    "ONE_TILT",
    "ROUTES",
    "SHIFT",
    "TILTS",
    "Options",
    "Precondition",
    "ProblemClass",
    "Reduction",
    "Route",
    "RouteTable",
    "Terminal",
    "class_of",
    "is_concave_by_weight",
]

#: Largest matrix Q that tilts are taken along, in entries (1 GB).
DIRECTIONS_MAX = 2**27
#: Costs, like the times that backends predict, are for this many rows.
ROWS = 10_000

#: The largest relative gap wanted of rows where a radius is given, if the user asks for none.
_TOLERANCE_WITHIN_RADIUS = 5e-4
#: Multiplications a second that the costs of reductions are counted at.
_MULTIPLICATIONS_PER_SECOND = 1e9


@dataclass(frozen=True)
class ProblemClass:
    """Problems of one form: a node of the graph.

    Arguments:
        name: in a few words.
    """

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Options:
    """What the user asks for beside the problem.

    Arguments:
        backend: "auto", or the name of the only backend to ask.
        rows: how many rows are expected.
        tolerance: the largest relative gap wanted, under Wasserstein closeness; the default of `reduce_transport`
            for the reward if None.
        device: "auto", or as the engine names it.
    """

    backend: str = "auto"
    rows: int = ROWS
    tolerance: float | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Precondition:
    """What a reduction asks of a problem.

    Arguments:
        name: the condition, in a few words.
        holds: whether a diagnosed problem meets it.
        why_not: the reason it does not, naming what stands in the way; asked only where it does not hold.
        limits_dimension: whether it bounds k, so that a reward of fewer affine features would meet it.
    """

    name: str
    holds: Callable[[Diagnosis], bool]
    why_not: Callable[[Diagnosis], str]
    limits_dimension: bool = False


@dataclass(frozen=True)
class Reduction:
    """How problems of one class become problems of another: an edge of the graph.

    Arguments:
        name: in a few words; the route is called by its last reduction.
        source, target: the classes.
        becomes: what the problem becomes, in a sentence.
        preconditions: all must hold; cheap ones first, as the first that fails ends the test.
        cost: the time that the reduction itself adds to 10,000 rows, in seconds; finite and at least 0.
        guarantee: what it promises of the result, in words; empty where it is only a step to the next.
        strength: the same as a class.
        citations: who shows it.
    """

    name: str
    source: ProblemClass
    target: ProblemClass
    becomes: str
    preconditions: tuple[Precondition, ...] = ()
    cost: Callable[[Diagnosis], float] = lambda diagnosis: 0.0
    guarantee: str = ""
    strength: Guarantee = Guarantee.EXACT
    citations: tuple[Citation, ...] = ()

    def applies(self, diagnosis: Diagnosis) -> bool:
        """Whether a problem meets every precondition."""
        return all(one.holds(diagnosis) for one in self.preconditions)

    def failures(self, diagnosis: Diagnosis) -> tuple[Precondition, ...]:
        """The preconditions that a problem does not meet."""
        return tuple(one for one in self.preconditions if not one.holds(diagnosis))


Request = TiltProgram | ProxProblem | None


@dataclass(frozen=True)
class Terminal:
    """How problems of a class are solved, where routes end.

    Arguments:
        problems: the class.
        capability: what a backend must offer; None where nothing is left for it to do, or nothing can be done yet.
        request: what the backend is asked, None where nothing is left. Terminals with the same function share answers.
        missing: why this version cannot solve the class, though it is tractable; empty where it can.
    """

    problems: ProblemClass
    capability: Literal["tilt_sampler", "prox_solver"] | None = None
    request: Callable[[Diagnosis, BaseLaw, Options], Request] = lambda diagnosis, base, options: None
    missing: str = ""


@dataclass(frozen=True)
class Route:
    """A path through the graph, from a closeness to where problems are solved.

    Arguments:
        reductions: its steps, at least one.
        terminal: its end.
    """

    reductions: tuple[Reduction, ...]
    terminal: Terminal

    @property
    def name(self) -> str:
        """The name of its last step, which decides the class."""
        return self.reductions[-1].name

    @property
    def is_served(self) -> bool:
        """Whether this version of alignkit can solve its problems, given a backend where one is needed."""
        return not self.terminal.missing

    @property
    def guarantee(self) -> str:
        """What its steps promise, in words."""
        return "; ".join(step.guarantee for step in self.reductions if step.guarantee)

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The papers of its steps, each once."""
        return tuple(dict.fromkeys(paper for step in self.reductions for paper in step.citations))

    def cost(self, diagnosis: Diagnosis) -> float:
        """The time that its reductions add to 10,000 rows, in seconds."""
        return sum(step.cost(diagnosis) for step in self.reductions)


@dataclass(frozen=True)
class RouteTable:
    """The graph: reductions in order of preference among equally cheap ones, and where they end.

    Arguments:
        reductions: its edges.
        terminals: one for each class that problems are solved in.

    Example:
        >>> from alignkit.compiler.closeness import KL
        >>> [route.name for route in ROUTES.routes(class_of(KL(weight=1.0)))]
        ['linear tilt', 'mixture of tilts']
    """

    reductions: tuple[Reduction, ...]
    terminals: tuple[Terminal, ...]

    def routes(self, source: ProblemClass) -> tuple[Route, ...]:
        """Every path without a repeated class from `source` to a terminal, in the order of the table."""
        ends = {terminal.problems: terminal for terminal in self.terminals}
        found: list[Route] = []
        waiting: list[tuple[Reduction, ...]] = [(step,) for step in reversed(self.reductions) if step.source == source]
        while waiting:
            path = waiting.pop()
            here = path[-1].target
            if here in ends:
                found.append(Route(path, ends[here]))
            passed = {source, *(step.target for step in path)}
            waiting += [
                (*path, step) for step in reversed(self.reductions) if step.source == here and step.target not in passed
            ]
        return tuple(found)

    def with_rows(self, *reductions: Reduction, terminals: tuple[Terminal, ...] = ()) -> RouteTable:
        """A table with further rows."""
        return replace(self, reductions=(*self.reductions, *reductions), terminals=(*self.terminals, *terminals))


# ---- preconditions


def _is_convex(diagnosis: Diagnosis) -> bool:
    return diagnosis.curvature.is_convex


def _is_dominated(diagnosis: Diagnosis) -> bool:
    closeness = diagnosis.closeness
    assert isinstance(closeness, Wasserstein)
    return is_concave_in_total(diagnosis.composition, diagnosis.weight, closeness.cost)


def is_concave_by_weight(diagnosis: Diagnosis) -> bool:
    """Whether the problem is planned for large λ, as r − λ·c is concave for those alone of all a radius may ask for.

    Arguments:
        diagnosis: of a problem under Wasserstein closeness.
    """
    nonlinear = diagnosis.composition.nonlinear
    if diagnosis.closeness.radius is None or nonlinear is None or nonlinear.is_concave():
        return False
    return _is_dominated(diagnosis)


def _why_not_dominated(diagnosis: Diagnosis) -> str:
    which = "" if diagnosis.closeness.radius is None else ", for every λ that the radius may ask for"
    return f"{diagnosis.shortfall}; nothing shows that λ·c makes up for it{which}"


def _why_not_lipschitz(diagnosis: Diagnosis) -> str:
    steep = [brief(term) for term in diagnosis.steep]
    return f"no Lipschitz constant of f is known: {named(steep)}" if steep else "no Lipschitz constant of f is known"


def _why_not_few(diagnosis: Diagnosis) -> str:
    return f"k = {diagnosis.dimension} is above {GRID_DIMENSION_MAX}: the rank of {diagnosis.described_features}"


AFFINE = Precondition("the reward is affine", lambda found: found.is_affine, lambda found: found.shortfall_of_affine)
NOT_AFFINE = Precondition(
    "the reward is not affine", lambda found: not found.is_affine, lambda found: "the reward is affine: there is no f"
)
CONVEX = Precondition("the reward is convex", _is_convex, lambda found: found.shortfall)
FEW_DIRECTIONS = Precondition(
    f"k·d ≤ {DIRECTIONS_MAX}",
    lambda found: found.dimension * found.composition.ambient <= DIRECTIONS_MAX,
    lambda found: f"Q would have {found.dimension}×{found.composition.ambient} entries, too many to tilt along",
    limits_dimension=True,
)
HAS_MEASURE = Precondition(
    "exp(f/λ) is, or is bounded by, a mixture of exponentials that is known",
    lambda found: found.missing_measure is None,
    lambda found: found.missing_measure or "",
    limits_dimension=True,
)
TAME = Precondition(
    "beside its quadratic part f grows no faster than linearly, or the data are bounded",
    lambda found: found.outgrown_measure is None,
    lambda found: found.outgrown_measure or "",
)
CONCAVE_IN_TOTAL = Precondition("r − λ·c is concave", _is_dominated, _why_not_dominated)
LIPSCHITZ = Precondition("f is Lipschitz", lambda found: math.isfinite(found.lipschitz), _why_not_lipschitz)
FEW_DIMENSIONS = Precondition(
    f"k ≤ {GRID_DIMENSION_MAX}",
    lambda found: found.dimension <= GRID_DIMENSION_MAX,
    _why_not_few,
    limits_dimension=True,
)


# ---- costs and requests


def _cost_of_shift(diagnosis: Diagnosis) -> float:
    """One addition an entry."""
    return ROWS * diagnosis.composition.ambient / _MULTIPLICATIONS_PER_SECOND


def _cost_of_projection(diagnosis: Diagnosis) -> float:
    """Qx and Qᵀz; nothing to multiply where Q is the identity."""
    subspace = diagnosis.composition.subspace
    products = 0 if subspace.is_identity else 2 * subspace.dimension
    return _cost_of_shift(diagnosis) * (1 + products)


def _tilt_program(diagnosis: Diagnosis, base: BaseLaw, options: Options) -> TiltProgram:
    composition = diagnosis.composition
    rows = composition.subspace.embed(np.eye(composition.dimension)).reshape(-1, composition.ambient)
    directions = np.vstack([rows, composition.linear / diagnosis.closeness.present_weight])
    known = np.eye(1, composition.dimension + 1, composition.dimension)
    return TiltProgram(base, directions, known, options.rows, options.device)


def _base_program(diagnosis: Diagnosis, base: BaseLaw, options: Options) -> TiltProgram:
    nothing = np.zeros((1, diagnosis.composition.ambient))
    return TiltProgram(base, nothing, np.zeros((1, 1)), options.rows, options.device)


def _prox_problem(diagnosis: Diagnosis, base: BaseLaw, options: Options) -> ProxProblem | None:
    closeness = diagnosis.closeness
    assert isinstance(closeness, Wasserstein)
    request = reduce_transport(
        diagnosis.composition,
        diagnosis.weight,
        cost=closeness.cost,
        rows=options.rows,
        tolerance=options.tolerance,
        device=options.device,
    )
    if request is None or options.tolerance is not None or closeness.radius is None:
        return request
    # The gaps of rows add to that of λ.
    return replace(request, tolerance=min(request.tolerance, _TOLERANCE_WITHIN_RADIUS))


# ---- the table

UNDER_KL = ProblemClass("alignment under KL")
ONE_TILT = ProblemClass("one linear tilt")
TILTS = ProblemClass("a mixture of linear tilts")
MONTE_CARLO = ProblemClass("annealed Monte Carlo")
UNDER_WASSERSTEIN = ProblemClass("alignment under Wasserstein")
SHIFT = ProblemClass("a shift")
PROXIMAL = ProblemClass("a proximal problem in k dimensions")
CONCAVE_PROXIMAL = ProblemClass("a concave proximal problem")
LIPSCHITZ_PROXIMAL = ProblemClass("a Lipschitz proximal problem in few dimensions")


def class_of(closeness: Closeness) -> ProblemClass:
    """Where the routes of a problem start."""
    return UNDER_KL if isinstance(closeness, KL) else UNDER_WASSERSTEIN


ROUTES = RouteTable(
    reductions=(
        Reduction(
            name="linear tilt",
            source=UNDER_KL,
            target=ONE_TILT,
            becomes="q is the one linear tilt p·exp⟨θ, x⟩ with θ = g/λ",
            preconditions=(AFFINE,),
            cost=_cost_of_shift,
            guarantee="the target is this tilt exactly",
            citations=(TRACTABILITY_LANDSCAPE,),
        ),
        Reduction(
            name="mixture of tilts",
            source=UNDER_KL,
            target=TILTS,
            becomes="q is a mixture of linear tilts, by a convex program over their weights",
            preconditions=(NOT_AFFINE, CONVEX, FEW_DIRECTIONS, HAS_MEASURE, TAME),
            cost=_cost_of_projection,
            guarantee="the target is a mixture of tilts, exact by rejection where the mixture bounds it",
            citations=(QUADRATIC_REWARDS, TRACTABILITY_LANDSCAPE),
        ),
        Reduction(
            name="shift",
            source=UNDER_WASSERSTEIN,
            target=SHIFT,
            becomes="T(x) = x + g/λ",
            preconditions=(AFFINE,),
            cost=_cost_of_shift,
            guarantee="T is the optimal map exactly",
            citations=(TRACTABILITY_LANDSCAPE,),
        ),
        Reduction(
            name="reduction to the row space",
            source=UNDER_WASSERSTEIN,
            target=PROXIMAL,
            becomes="T(x) = x + g/λ + Qᵀ(z − Qx), z = argmax f(z) − (λ/2)‖z − Qx‖²: k dimensions, however large d is",
            preconditions=(NOT_AFFINE,),
            cost=_cost_of_projection,
            citations=(TRACTABILITY_LANDSCAPE,),
        ),
        Reduction(
            name="concave proximal transport",
            source=PROXIMAL,
            target=CONCAVE_PROXIMAL,
            becomes="z by a concave program for each row",
            preconditions=(CONCAVE_IN_TOTAL,),
            guarantee="T is the optimal map, each row up to its gap",
            citations=(TRACTABILITY_LANDSCAPE,),
        ),
        Reduction(
            name="Lipschitz proximal transport",
            source=PROXIMAL,
            target=LIPSCHITZ_PROXIMAL,
            becomes="z by global search for each row",
            preconditions=(FEW_DIMENSIONS, LIPSCHITZ),
            guarantee="T is an optimal map, each row up to its gap",
            citations=(TRACTABILITY_LANDSCAPE,),
        ),
    ),
    terminals=(
        Terminal(ONE_TILT, "tilt_sampler", _tilt_program),
        Terminal(TILTS, "tilt_sampler", _tilt_program),
        Terminal(SHIFT, request=_prox_problem),
        Terminal(CONCAVE_PROXIMAL, "prox_solver", _prox_problem),
        Terminal(LIPSCHITZ_PROXIMAL, "prox_solver", _prox_problem),
    ),
)

#: The table where the user allows what has no bound.
ALLOWING_HEURISTICS = ROUTES.with_rows(
    Reduction(
        name="annealed Monte Carlo",
        source=UNDER_KL,
        target=MONTE_CARLO,
        becomes="draws of p are moved towards q by Metropolis steps on the noise they are made of, as r is raised",
        guarantee="heuristic, no bound: right only if the Metropolis steps mix",
        strength=Guarantee.HEURISTIC,
        citations=(PRECONDITIONED_CRANK_NICOLSON,),
    ),
    terminals=(Terminal(MONTE_CARLO, "tilt_sampler", _base_program),),
)
