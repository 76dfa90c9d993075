"""From a declared problem to a plan: diagnose, choose the route, collect bids, choose the backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from alignkit import registry
from alignkit.base.law import BaseLaw
from alignkit.citations import DISCIPLINED_CONVEX_PROGRAMMING, RISK_VIA_TRANSPORT, Citation
from alignkit.compiler.bids import Answers, Offer, collect_offers
from alignkit.compiler.closeness import KL, Closeness, Wasserstein
from alignkit.compiler.composition import compose
from alignkit.compiler.diagnosis import Diagnosis, diagnose
from alignkit.compiler.explain import Explanation, explain_plan
from alignkit.compiler.paths import Edge, cheapest_path
from alignkit.compiler.refusals import NO_PLAN, about_reward, intractable, unserved
from alignkit.compiler.routes import (
    MONTE_CARLO,
    ROUTES,
    Options,
    ProblemClass,
    Reduction,
    Request,
    Route,
    RouteTable,
    class_of,
    is_concave_by_weight,
)
from alignkit.compiler.suggestions import Judgement, Suggestion, suggest
from alignkit.compiler.verdicts import Verdict, judge
from alignkit.contracts import Bid, Composition, Guarantee, ProxProblem, ProxSolver, Refusal, TiltProgram, TiltSampler
from alignkit.errors import (
    WITHOUT_BOUND,
    AlignkitError,
    BackendRefusedError,
    BackendUnavailableError,
    ImproperTargetError,
    IntractableError,
    ShapeError,
    UnboundedTransportError,
)
from alignkit.expressions import Expression
from alignkit.registry import BackendStatus
from alignkit.tilting.properness import check_proper
from alignkit.tilting.target import TiltTarget
from alignkit.transport.reduction import check_transport

__all__ = ["Plan", "analyse", "answers_for", "make_plan", "plan_again", "suggestions_for"]

_SOLVED = ProblemClass("solved")
#: Said of a radius where a convex part of the reward limits λ from below.
_LARGE_WEIGHTS = (
    "r − λ·c is concave for λ above a critical value alone: a radius that asks for less is not attained, or refused "
    "when it is solved"
)


@dataclass(frozen=True, eq=False)
class Plan:
    """How a problem will be solved, and why so; what `Problem.compile()` returns.

    Arguments:
        base: the base law p.
        diagnosis: the reward as the compiler sees it.
        verdicts: every route of the closeness, taken or not, with the reason.
        chosen: the route taken.
        offers: what backends answered, for the route taken and for the others that take the problem.
        bid: the one accepted; None when the reduction leaves nothing for a backend to do.
        request: what the backend is asked; None as for the bid.
        warnings: what could not be decided at compile time.

    Example:
        >>> import alignkit as ak
        >>> x = ak.Variable((2,))
        >>> plan = ak.Problem(ak.sum(x), ak.base.Gaussian([0.0, 0.0], 1.0), ak.KL(weight=1.0)).compile()
        >>> plan.route, plan.backend, plan.dimension
        ('linear tilt', 'exact', 0)
    """

    base: BaseLaw
    diagnosis: Diagnosis
    verdicts: tuple[Verdict, ...]
    chosen: Route
    offers: tuple[Offer, ...]
    bid: Bid | None
    request: Request
    warnings: tuple[str, ...] = field(default=())

    @property
    def composition(self) -> Composition:
        """The reward as f(Qx) + ⟨g, x⟩ + c."""
        return self.diagnosis.composition

    @property
    def closeness(self) -> Closeness:
        """The user's choice of closeness."""
        return self.diagnosis.closeness

    @property
    def dimension(self) -> int:
        """The intrinsic dimension k of the reward."""
        return self.diagnosis.dimension

    @property
    def route(self) -> str:
        """The name of the route taken."""
        return self.chosen.name

    @property
    def tolerance(self) -> float:
        """The largest relative gap wanted, under Wasserstein closeness; 0 where the reduction is the solution."""
        return self.request.tolerance if isinstance(self.request, ProxProblem) else 0.0

    @property
    def backend(self) -> str:
        """The name of the backend chosen; "none" where no backend is needed."""
        return "none" if self.bid is None else self.bid.backend

    @property
    def is_heuristic(self) -> bool:
        """Whether it comes without a bound, which the user has to allow."""
        return self.chosen.terminal.problems == MONTE_CARLO

    @property
    def target(self) -> TiltTarget | None:
        """The law to sample by tilts along the directions that the backend is asked for; None on other routes."""
        if not isinstance(self.request, TiltProgram) or self.is_heuristic:
            return None
        return TiltTarget(self.request, self.composition.nonlinear, self.closeness.present_weight, np.ones(1))

    @property
    def answers(self) -> tuple[Bid | Refusal, ...]:
        """Every backend's bid or refusal for the route taken, the best bid first."""
        return next(offer.answers for offer in self.offers if self.chosen in offer.routes)

    @property
    def guarantee(self) -> str:
        """What is promised: the reduction's part with its sources, and the backend's."""
        if self.is_heuristic:
            return self.chosen.guarantee
        backend = Guarantee.EXACT if self.bid is None else self.bid.guarantee
        sources = "; ".join(paper.short for paper in self.chosen.citations)
        reduction = f"{self.chosen.guarantee} ({sources})" if sources else self.chosen.guarantee
        return f"{reduction}; {self.backend}: {backend.sentence}"

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The papers it rests on: of the route, of the radius, of the calculus of curvature, of the backend."""
        calculus = () if self.diagnosis.is_affine else (DISCIPLINED_CONVEX_PROGRAMMING,)
        backend = () if self.bid is None else self.bid.citations
        is_within = isinstance(self.closeness, Wasserstein) and self.closeness.radius is not None
        duality = (RISK_VIA_TRANSPORT,) if is_within else ()
        return tuple(dict.fromkeys((*self.chosen.citations, *duality, *calculus, *backend)))

    def explain(self) -> Explanation:
        """An account of it in words, as `print` shows it; a table in notebooks."""
        return explain_plan(self)

    def to_latex(self) -> str:
        """The reduced problem in LaTeX, for mathematics mode.

        Returns:
            the formula, in the environment `aligned` of amsmath, which notebooks know.

        Example:
            >>> import alignkit as ak
            >>> x = ak.Variable(2)
            >>> plan = ak.Problem(ak.sum(x), ak.base.Gaussian([0.0, 0.0], 1.0), ak.KL(weight=1.0)).compile()
            >>> print(plan.to_latex())
            \\begin{aligned} r\\left(x\\right) &= \\left\\langle \\underset{2}{g},\\, x\\right\\rangle \\\\ q...
        """
        # Imported here, as most programs never write formulas.
        from alignkit.compiler.formula import plan_latex

        return plan_latex(self)

    def __str__(self) -> str:
        return self.explain()

    def _repr_html_(self) -> str:
        return self.explain()._repr_html_()


def analyse(
    reward: Expression,
    composition: Composition,
    base: BaseLaw,
    closeness: Closeness,
    table: RouteTable = ROUTES,
) -> tuple[Diagnosis, tuple[Verdict, ...]]:
    """Diagnose a composed reward, and hold it against every route of its closeness.

    Arguments:
        reward: as the user wrote it.
        composition: what `compose` made of it.
        base: the base law p.
        closeness: the user's choice.
        table: the routes there are.

    Raises:
        ShapeError: the variable's shape is not the base law's.
    """
    if composition.shape != base.shape:
        raise ShapeError(
            f"The reward's variable has shape {composition.shape}, but the base law {base.name!r} draws {base.shape}.",
            ways_out=["Declare x = ak.Variable(base.shape).", "Reshape inside the reward: ak.reshape(x, …)."],
            expression=str(reward),
        )
    diagnosis = diagnose(reward, composition, closeness, base)
    return diagnosis, judge(table.routes(class_of(closeness)), diagnosis)


def make_plan(
    diagnosis: Diagnosis,
    verdicts: tuple[Verdict, ...],
    base: BaseLaw,
    *,
    backend: str = "auto",
    device: str = "auto",
    tolerance: float | None = None,
    table: RouteTable = ROUTES,
    ways_out: bool = True,
) -> Plan:
    """Choose the route and the backend of an analysed problem: the cheapest path through the table.

    Arguments:
        diagnosis, verdicts: what `analyse` gave.
        base: the base law p.
        backend: "auto" or a backend's name.
        device: "auto", or as the engine names it.
        tolerance: the largest relative gap wanted, under Wasserstein closeness; that of `Options` if None.
        table: the routes there are, as for `analyse`; changed problems are held against it too.
        ways_out: whether an error should come with changes that make the problem tractable, which takes time to find.

    Raises:
        IntractableError: no route takes the problem; `DimensionError` where only its dimension is in the way.
        UnboundedTransportError: the reward outgrows λ·c.
        ImproperTargetError: E_p exp(r/λ) is infinite.
        BackendUnavailableError: the named backend is unknown or not installed, or nothing serves the route.
        BackendRefusedError: the named backend, or every one, refused.
    """
    statuses = registry.installed_backends()
    options = Options(backend=backend, tolerance=tolerance, device=device)
    try:
        return _plan(diagnosis, verdicts, base, options, statuses)
    except NO_PLAN as error:
        if not ways_out or backend != "auto":
            raise
        # Both hold for a problem as it stands, and only a backend is missing.
        tractable = isinstance(error, BackendUnavailableError | BackendRefusedError)
        found = _suggestions(diagnosis, base, table, statuses, tractable=tractable)
        heuristics = isinstance(error, IntractableError) and isinstance(diagnosis.closeness, KL)
        raise _with_ways_out(error, found, allows_heuristics=heuristics) from error.__cause__


def plan_again(
    plan: Plan,
    diagnosis: Diagnosis,
    verdicts: tuple[Verdict, ...],
    backend: TiltSampler | ProxSolver | None,
    *,
    device: str = "auto",
) -> Plan | None:
    """The same route and backend for other values of the parameters, without asking every backend again.

    Arguments:
        plan: what was made for earlier values.
        diagnosis, verdicts: what `analyse` gave for the present ones.
        backend: the plan's own, None where it needs none.
        device: as for `make_plan`.

    Returns:
        the plan; None where f is another, or the route or the backend no longer takes the problem.

    Raises:
        UnboundedTransportError, ImproperTargetError: as for `make_plan`.
    """
    same = diagnosis.composition.nonlinear is plan.composition.nonlinear
    if not same or not any(verdict.admits and verdict.route == plan.chosen for verdict in verdicts):
        return None
    warnings = _check_target(diagnosis, verdicts, plan.base)
    terminal = plan.chosen.terminal
    # Where the reduction is the solution no tolerance was decided on.
    options = Options(tolerance=plan.tolerance or None, device=device)
    request = terminal.request(diagnosis, plan.base, options)
    # A sampler is asked for tilts, a solver for a proximal problem.
    if backend is not None and isinstance(backend.bid(request), Refusal):  # type: ignore[arg-type]
        return None
    return replace(plan, diagnosis=diagnosis, verdicts=verdicts, request=request, warnings=warnings)


def answers_for(diagnosis: Diagnosis, verdicts: tuple[Verdict, ...], base: BaseLaw, *, device: str = "auto") -> Answers:
    """What each backend answers, for the route taken and for the others that take the problem.

    Arguments:
        diagnosis, verdicts, base, device: as for `make_plan`.
    """
    statuses = registry.installed_backends()
    options = Options(device=device)
    try:
        plan = _plan(diagnosis, verdicts, base, options, statuses)
    except NO_PLAN as error:
        admitted = [verdict.route for verdict in verdicts if verdict.admits]
        offers: tuple[Offer, ...] = ()
        if isinstance(error, BackendUnavailableError | BackendRefusedError):
            offers = collect_offers(admitted, diagnosis, base, options, statuses)
        return Answers(
            offers, reason=f"No backend was asked ({type(error).__name__}); print problem.explain() for the reasons."
        )
    return Answers(plan.offers, plan.bid)


def suggestions_for(
    diagnosis: Diagnosis, verdicts: tuple[Verdict, ...], base: BaseLaw, table: RouteTable = ROUTES
) -> tuple[Suggestion, ...]:
    """The smallest changes after which a problem without a plan has one, as the compiler itself finds.

    Arguments:
        diagnosis, verdicts: what `analyse` gave.
        base: the base law p.
        table: the routes there are.

    Returns:
        the suggestions; none for a problem that has a plan.
    """
    statuses = registry.installed_backends()
    try:
        _plan(diagnosis, verdicts, base, Options(), statuses)
    except NO_PLAN as error:
        tractable = isinstance(error, BackendUnavailableError | BackendRefusedError)
        return _suggestions(diagnosis, base, table, statuses, tractable=tractable)
    return ()


def _plan(
    diagnosis: Diagnosis,
    verdicts: tuple[Verdict, ...],
    base: BaseLaw,
    options: Options,
    statuses: Sequence[BackendStatus],
) -> Plan:
    # Before the routes: that there is no map is a stronger verdict than that it is hard to find. A law by tilting that
    # no route takes is not looked at.
    warnings = _check_target(diagnosis, verdicts, base)
    admitted = [verdict.route for verdict in verdicts if verdict.admits]
    if not admitted:
        raise intractable(diagnosis, verdicts)
    try:
        offers = collect_offers(admitted, diagnosis, base, options, statuses)
    except BackendUnavailableError as error:
        raise about_reward(error, diagnosis) from None
    path = cheapest_path(_edges(offers, diagnosis), class_of(diagnosis.closeness), _SOLVED)
    if path is None:
        raise unserved(diagnosis, verdicts, offers, options.backend)
    steps = tuple(edge.label for edge in path if isinstance(edge.label, Reduction))
    offer, chosen = next((offer, route) for offer in offers for route in offer.routes if route.reductions == steps)
    bid = path[-1].label
    return Plan(
        base=base,
        diagnosis=diagnosis,
        verdicts=verdicts,
        chosen=chosen,
        offers=(offer, *(other for other in offers if other is not offer)),
        bid=bid if isinstance(bid, Bid) else None,
        request=offer.request,
        warnings=warnings,
    )


def _check_target(diagnosis: Diagnosis, verdicts: tuple[Verdict, ...], base: BaseLaw) -> tuple[str, ...]:
    """Raise when the law that the user asks for does not exist; warn where that is not decided at compile time."""
    closeness, composition = diagnosis.closeness, diagnosis.composition
    try:
        if isinstance(closeness, Wasserstein):
            check_transport(composition, diagnosis.weight, closeness.cost, reward=diagnosis.reward)
            if is_concave_by_weight(diagnosis):
                return (_LARGE_WEIGHTS,)
        # Under a radius λ is found later, and held against the critical λ there.
        elif closeness.radius is None and (diagnosis.has_wanted or any(verdict.admits for verdict in verdicts)):
            return check_proper(diagnosis.reward, composition, base, closeness.present_weight)
    except AlignkitError as error:
        raise about_reward(error, diagnosis) from None
    return ()


def _edges(offers: Sequence[Offer], diagnosis: Diagnosis) -> list[Edge[Reduction | Bid | None]]:
    """The reductions that hold, each once, and a last edge for every bid."""
    steps = dict.fromkeys(step for offer in offers for route in offer.routes for step in route.reductions)
    edges: list[Edge[Reduction | Bid | None]] = [
        Edge(step.source, step.target, step.strength, step.cost(diagnosis), step) for step in steps
    ]
    for offer in offers:
        ends = dict.fromkeys(route.terminal.problems for route in offer.routes)
        if offer.request is None:
            edges += [Edge(end, _SOLVED, Guarantee.EXACT, 0.0, None) for end in ends]
        else:
            edges += [Edge(end, _SOLVED, bid.guarantee, bid.seconds, bid) for end in ends for bid in offer.bids]
    return edges


def _suggestions(
    diagnosis: Diagnosis, base: BaseLaw, table: RouteTable, statuses: Sequence[BackendStatus], *, tractable: bool
) -> tuple[Suggestion, ...]:
    def find(reward: Expression, closeness: Closeness) -> Judgement | None:
        try:
            changed, verdicts = analyse(reward, compose(reward), base, closeness, table)
        # A changed reward may be no reward at all, as one without the variable.
        except AlignkitError:
            return None
        if not any(verdict.admits for verdict in verdicts):
            return None
        try:
            plan = _plan(changed, verdicts, base, Options(), statuses)
        except (BackendUnavailableError, BackendRefusedError):
            return Judgement(next(verdict.route.name for verdict in verdicts if verdict.admits), None)
        except AlignkitError:
            return None
        return Judgement(plan.route, plan.backend)

    return suggest(diagnosis, base, find, tractable=tractable)


def _with_ways_out(error: AlignkitError, found: Sequence[Suggestion], *, allows_heuristics: bool) -> AlignkitError:
    """The error with proved ways out. That there is no target has ways out of its own, beside them."""
    own = error.ways_out if isinstance(error, UnboundedTransportError | ImproperTargetError) or not found else ()
    ways = (*own, *(str(suggestion) for suggestion in found), *((WITHOUT_BOUND,) if allows_heuristics else ()))
    return type(error)(error.message, ways_out=ways, expression=error.expression)
