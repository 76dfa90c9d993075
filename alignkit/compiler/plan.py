"""From a declared problem to a plan: compose, diagnose, choose the route, collect bids, choose the backend."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from alignkit import registry
from alignkit.base.law import BaseLaw
from alignkit.compiler.closeness import KL, Closeness, Wasserstein
from alignkit.compiler.diagnosis import Diagnosis, diagnose
from alignkit.compiler.explain import explain_plan
from alignkit.compiler.routes import ROUTES, Route
from alignkit.contracts import Bid, Composition, Guarantee, ProxProblem, Refusal, TiltProgram
from alignkit.errors import (
    BackendRefusedError,
    BackendUnavailableError,
    IntractableError,
    ShapeError,
    UnboundedTransportError,
)
from alignkit.expressions import Expression
from alignkit.transport.reduction import reduce_transport

__all__ = ["Plan", "Verdict", "analyse", "make_plan"]

# Bids predict the time of this many rows.
_ROWS = 1000


@dataclass(frozen=True)
class Verdict:
    """Whether a route takes the problem.

    Arguments:
        route: the row of the table.
        excluded: the reason the problem is outside it; None when inside.
    """

    route: Route
    excluded: str | None


@dataclass(frozen=True, eq=False)
class Plan:
    """How a problem will be solved, and why so; what `Problem.compile()` returns.

    Arguments:
        base: the base law p.
        diagnosis: the reward as the compiler sees it.
        verdicts: every route of the closeness, taken or not, with the reason.
        chosen: the route taken.
        answers: every backend's bid or refusal, the best bid first.
        bid: the one accepted; None when the reduction leaves nothing for a backend to do.
        request: what the backend is asked; None as for the bid.
        tolerance: the largest relative gap wanted, under Wasserstein closeness.
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
    answers: tuple[Bid | Refusal, ...]
    bid: Bid | None
    request: TiltProgram | ProxProblem | None
    tolerance: float
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
    def backend(self) -> str:
        """The name of the backend chosen; "none" where no backend is needed."""
        return "none" if self.bid is None else self.bid.backend

    @property
    def guarantee(self) -> str:
        """What is promised: the reduction's part with its source, and the backend's."""
        backend = Guarantee.EXACT if self.bid is None else self.bid.guarantee
        return f"{self.chosen.guarantee} ({self.chosen.source}); {self.backend}: {backend.sentence}"

    def __str__(self) -> str:
        return explain_plan(self)


def analyse(
    reward: Expression, composition: Composition, base: BaseLaw, closeness: Closeness
) -> tuple[Diagnosis, tuple[Verdict, ...]]:
    """Diagnose a composed reward, and hold it against every route of its closeness.

    Raises:
        ShapeError: the variable's shape is not the base law's.
    """
    if composition.shape != base.shape:
        raise ShapeError(
            f"The reward's variable has shape {composition.shape}, but the base law {base.name!r} draws {base.shape}.",
            ways_out=["Declare x = ak.Variable(base.shape).", "Reshape inside the reward: ak.reshape(x, …)."],
            expression=str(reward),
        )
    diagnosis = diagnose(reward, composition, closeness)
    rows = [route for route in ROUTES if isinstance(closeness, route.closeness)]
    return diagnosis, tuple(Verdict(route, route.excludes(diagnosis)) for route in rows)


def make_plan(
    diagnosis: Diagnosis,
    verdicts: tuple[Verdict, ...],
    base: BaseLaw,
    *,
    backend: str = "auto",
    device: str = "auto",
    tolerance: float = 1e-6,
) -> Plan:
    """Choose the route and the backend of an analysed problem.

    Arguments:
        diagnosis, verdicts: what `analyse` gave.
        base: the base law p.
        backend: "auto" or a backend's name.
        device: "auto", or as the engine names it.
        tolerance: the largest relative gap wanted, under Wasserstein closeness.

    Raises:
        IntractableError: no route takes the problem.
        UnboundedTransportError: the reward outgrows λ·c.
        BackendUnavailableError: the named backend is unknown or not installed, or nothing serves the route.
        BackendRefusedError: the named backend, or every one, refused.
    """
    closeness = diagnosis.closeness
    problem = None
    if isinstance(closeness, Wasserstein):
        # Before the routes: an unbounded transport is a stronger verdict than an intractable one.
        try:
            problem = reduce_transport(
                diagnosis.composition, closeness.present_weight, rows=_ROWS, tolerance=tolerance, device=device
            )
        except UnboundedTransportError as error:
            # The reduction knows f over w alone; the user wrote r over x.
            raise UnboundedTransportError(
                error.message, ways_out=error.ways_out, expression=str(diagnosis.reward)
            ) from error
    route = _choose_route(diagnosis, verdicts)
    request: TiltProgram | ProxProblem | None = problem
    if isinstance(closeness, KL):
        directions = (diagnosis.composition.linear / closeness.present_weight)[None]
        request = TiltProgram(base, directions, np.ones((1, 1)), _ROWS, device)
    answers: tuple[Bid | Refusal, ...] = ()
    bid = None
    if request is None:
        _require_known(backend)
    else:
        answers, bid = _collect(route, request, backend)
    return Plan(
        base, diagnosis, verdicts, route, answers, bid, request, tolerance, warnings=tuple(_warnings(base, closeness))
    )


def _choose_route(diagnosis: Diagnosis, verdicts: tuple[Verdict, ...]) -> Route:
    admitted = [verdict.route for verdict in verdicts if verdict.excluded is None]
    if not admitted:
        raise _intractable(diagnosis, verdicts)
    for route in admitted:
        if route.capability is not None:
            return route
    raise BackendUnavailableError(
        f"The problem is tractable ({admitted[0].name}: {admitted[0].reduction}), but this version of alignkit has no "
        f"reduction for it yet.",
        ways_out=["Use an affine reward under KL.", "Use ak.Wasserstein(weight=…) if the reward is concave."],
        expression=str(diagnosis.reward),
    )


def _intractable(diagnosis: Diagnosis, verdicts: tuple[Verdict, ...]) -> IntractableError:
    """The error for a problem that no route takes: why, and what is tractable nearby."""
    reasons = "; ".join(f"{verdict.route.name}: {verdict.excluded}" for verdict in verdicts)
    if isinstance(diagnosis.closeness, KL):
        why = (
            f"KL alignment of a reward that is {diagnosis.curvature} is hard in the worst case, even in one dimension "
            f"(“The tractability landscape of diffusion alignment”, arXiv 2605.11361)."
        )
        ways_out = [
            "Use a convex upper part of the reward, or its linearisation.",
            "Flip the sign if you meant the opposite: −r is convex where r is concave.",
        ]
        if diagnosis.curvature.is_concave:
            ways_out.insert(0, "Use ak.Wasserstein(weight=…): concave rewards are tractable there in any dimension.")
    else:
        why = (
            f"Wasserstein alignment of a reward that is {diagnosis.curvature}, with k = {diagnosis.dimension} and "
            f"Lipschitz constant {diagnosis.lipschitz:.3g}, is in no tractable class."
        )
        ways_out = [
            "Use a concave reward (any dimension), or a Lipschitz one of at most three linear features.",
            "Raise λ until λ·c dominates the reward's convex part.",
        ]
        if diagnosis.curvature.is_convex:
            ways_out.insert(0, "Use ak.KL(weight=…): convex rewards of low dimension are tractable there.")
    return IntractableError(
        f"{why} Curvature: {diagnosis.rule} Routes: {reasons}.",
        ways_out=ways_out,
        expression=str(diagnosis.reward),
    )


def _collect(route: Route, request: Any, backend: str) -> tuple[tuple[Bid | Refusal, ...], Bid]:
    """Every backend's answer, best first, and the accepted bid."""
    assert route.capability is not None
    if backend == "auto":
        names = registry.offers(route.capability)
    else:
        names = (backend,)
        registry.require(backend, route.capability)
    answers = [_answer(name, route.capability, request) for name in names]
    bids = sorted((answer for answer in answers if isinstance(answer, Bid)), key=lambda bid: bid.rank)
    refusals = [answer for answer in answers if isinstance(answer, Refusal)]
    if not bids:
        if not refusals:
            raise BackendUnavailableError(
                f"No installed backend offers a {route.capability.replace('_', ' ')} for the route {route.name!r}.",
                ways_out=["`alignkit backends` lists what is installed and what is missing."],
            )
        reasons = "; ".join(f"{refusal.backend}: {refusal.reason}" for refusal in refusals)
        raise BackendRefusedError(
            f"No backend takes the route {route.name!r}: {reasons}.",
            ways_out=["Use backend='auto'." if backend != "auto" else "Install another backend, or change the reward."],
        )
    return (*bids, *refusals), bids[0]


def _answer(name: str, capability: str, request: Any) -> Bid | Refusal:
    """One backend's bid or refusal, under the name it is registered by; a broken one refuses."""
    try:
        answer = registry.require(name, capability)().bid(request)
        if isinstance(answer, Bid | Refusal):
            return replace(answer, backend=name)
        return Refusal(name, f"broken: its bid is a {type(answer).__name__}, neither Bid nor Refusal")
    # A plug-in is somebody else's code and may raise anything; the others must stay usable.
    except Exception as error:
        return Refusal(name, f"broken: {type(error).__name__}: {error}")


def _require_known(backend: str) -> None:
    """Refuse a backend's name that no one registered, even where the plan needs none."""
    known = {status.name for status in registry.installed_backends()}
    if backend != "auto" and backend not in known:
        registry.require(backend, "prox_solver")


def _warnings(base: BaseLaw, closeness: Closeness) -> list[str]:
    if isinstance(closeness, KL) and base.tail is None:
        return [
            f"the tail of {base.name!r} is unknown, so it could not be checked that E_p exp(r/λ) is finite; "
            "declare tail='bounded' or a tail variance"
        ]
    return []
