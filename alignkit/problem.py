"""The problem: a reward, a base law and a closeness."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from alignkit import registry
from alignkit.aligned import Aligned
from alignkit.base.law import BaseLaw
from alignkit.certificates import KLCertificate, TransportCertificate
from alignkit.compiler.bids import Answers
from alignkit.compiler.closeness import KL, Closeness, Wasserstein
from alignkit.compiler.composition import Recipe
from alignkit.compiler.declaration import Declaration
from alignkit.compiler.diagnosis import Diagnosis
from alignkit.compiler.explain import Explanation, explain_refusal, with_law_terms
from alignkit.compiler.law_terms import certify_law, checked_constraints, law_request, separate_law_terms
from alignkit.compiler.plan import Plan, analyse, answers_for, make_plan, plan_again
from alignkit.compiler.refusals import NO_PLAN
from alignkit.compiler.routes import ALLOWING_HEURISTICS, ROUTES, class_of
from alignkit.compiler.verdicts import Verdict, judge
from alignkit.contracts import Progress, ProxSession, ProxSolver, TiltProgram, TiltSampler
from alignkit.errors import ImproperTargetError, ParameterError, Status
from alignkit.expressions import (
    Constraint,
    Expression,
    Parameter,
    Variable,
    as_expression,
    expectations,
    from_cvxpy,
)
from alignkit.expressions.atoms.lipschitz import black_box
from alignkit.expressions.expression import versions_of
from alignkit.expressions.imported import is_cvxpy
from alignkit.noise import checked_seed
from alignkit.report.progress import Narrator, progress_lines
from alignkit.tilting.engines import choose_engine, fit_tilt
from alignkit.tilting.fitted import FittedTilt
from alignkit.tilting.heuristic import fit_heuristic, values_on_host
from alignkit.tilting.law_fit import fit_law
from alignkit.transport.family import MapFamily
from alignkit.transport.fitted import FittedTransport
from alignkit.transport.within_radius import draws_wanted, fit_within_radius

__all__ = ["KL", "Problem", "Wasserstein"]


@dataclass(frozen=True, eq=False)
class _Analysis:
    """What the compiler found at one set of values of the parameters, by their versions."""

    versions: tuple[int, ...]
    recipe: Recipe
    diagnosis: Diagnosis
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, eq=False)
class _Solved:
    """What a later solve with other values of the parameters can use again."""

    options: tuple[str, str, float | None]
    versions: tuple[tuple[Parameter, int], ...]
    plan: Plan
    backend: TiltSampler | ProxSolver | None
    session: ProxSession | None = None


class Problem:
    """Align a base law p to a reward r: find q that maximises E_q[r] − λ·D(q, p).

    Arguments:
        reward: a scalar expression of one variable of the base law's shape, of alignkit or of cvxpy; or a function of
            your own from a batch (n, *shape), in the sampler's arrays, to (n,), of which nothing is known, so that only
            `solve(heuristic=True)` takes it.
        base: the base law p, any of `ak.base`.
        closeness: D, with its price λ or its bound ρ: `ak.KL(weight=λ)`, `ak.KL(radius=ρ)`,
            `ak.Wasserstein(weight=λ)`, `ak.Wasserstein(radius=ρ)`.
        constraints: under KL, conditions on expectations under q: `[ak.E(x[0]) == 1, ak.E(B @ ak.vec(x)) <= b]`.

    Under KL the reward may hold concave functions of expectations too, `r(x) + ak.log(ak.E(ak.inner(h, x)))`: utilities
    of the law itself.

    A new value of an `ak.Parameter` takes effect at the next call. `solve` then keeps the route, the backend and what
    the backend compiled where they still serve; `compile` looks at everything anew, as after installing a backend.

    Raises:
        ParameterError: the reward has no variable, or more than one, or an argument is of the wrong kind; or
            expectations are used under Wasserstein closeness.
        CurvatureError: a function of expectations in the reward is not concave.
        ShapeError: the reward is not a scalar, or its variable has not the base law's shape.

    Example:
        >>> import alignkit as ak
        >>> x = ak.Variable((2,))
        >>> problem = ak.Problem(3 * x[0] - x[1], ak.base.Gaussian([0.0, 0.0], 1.0), ak.KL(weight=2.0))
        >>> print(problem.solve(seed=0).certificate.reward_after)
        5
    """

    def __init__(
        self, reward: Any, base: BaseLaw, closeness: Closeness, constraints: Sequence[Constraint] = ()
    ) -> None:
        if not isinstance(base, BaseLaw):
            raise ParameterError(
                f"The base law must be one of ak.base, not {type(base).__name__}.",
                ways_out=["Wrap a torch denoiser: ak.base.Denoiser(denoise, shape, sigma_min=…, sigma_max=…)."],
            )
        if not isinstance(closeness, KL | Wasserstein):
            raise ParameterError(
                f"Closeness must be ak.KL(weight=λ) or ak.Wasserstein(weight=λ), not {closeness!r}.",
                ways_out=["ak.KL(weight=1.0).", "ak.Wasserstein(weight=1.0)."],
            )
        self.reward: Expression = _as_reward(reward, base)
        self.base = base
        self.closeness = closeness
        self.constraints = checked_constraints(constraints)
        if isinstance(closeness, Wasserstein):
            _check_no_expectations(self.reward, self.constraints)
        self._terms = separate_law_terms(self.reward, self.constraints, base.shape)
        self._analysis: _Analysis | None = None
        self._last: _Solved | None = None
        if not any(parameter.is_unset for parameter in self.parameters):
            self._analysed()

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters of the reward, of the constraints and of the closeness, each once."""
        own = (*self.reward.parameters(), *self._terms.parameters(), *self.closeness.parameters)
        return tuple(dict.fromkeys(own))

    def _analysed(self) -> _Analysis:
        """The diagnosis and the verdicts at the present values of the parameters."""
        versions = versions_of(self.parameters)
        if self._analysis is None or self._analysis.versions != versions:
            recipe = None if self._analysis is None else self._analysis.recipe
            if recipe is None or not recipe.refresh():
                recipe = Recipe(self._terms.reward)
            found = analyse(self._terms.reward, recipe.composition, self.base, self.closeness)
            self._analysis = _Analysis(versions, recipe, *found)
        return self._analysis

    def compile(
        self, *, backend: str = "auto", device: str = "auto", tolerance: float | None = None, heuristic: bool = False
    ) -> Plan:
        """Check the problem, choose its route and its backend, without drawing anything.

        Arguments:
            backend: "auto", or a backend's name to insist on.
            device: "auto", "cpu", "cuda", … as the engine names it.
            tolerance: the largest relative gap wanted, under Wasserstein closeness; if None 1e-6, and 1e-3 where the
                reward is not concave and maxima are searched for, half of it within a radius.
            heuristic: allow a method without a bound, where there is no other.

        Returns:
            the plan; print it for an explanation.

        Raises:
            IntractableError: hard in the worst case; the message holds the reason and the ways out. It is a
                DimensionError where only the dimension of the reward is in the way.
            ImproperTargetError: p·exp(r/λ) has no finite normaliser.
            UnboundedTransportError: the reward outgrows λ·c.
            BackendUnavailableError: the backend is unknown or not installed; the message says what to install.
            BackendRefusedError: the backend, or every one, refused.
        """
        found = self._analysed()
        table = ALLOWING_HEURISTICS if heuristic else ROUTES
        routes = table.routes(class_of(self.closeness))
        return make_plan(
            found.diagnosis,
            judge(routes, found.diagnosis) if heuristic else found.verdicts,
            self.base,
            backend=backend,
            device=device,
            tolerance=tolerance,
            table=table,
        )

    def explain(self) -> Explanation:
        """The reward as the compiler sees it, its route, the table of bids and the guarantee; or why there is none.

        Returns:
            a string; a notebook shows it as a table.
        """
        try:
            explanation = self.compile().explain()
        except NO_PLAN as error:
            found = self._analysed()
            explanation = explain_refusal(found.diagnosis, found.verdicts, self.base, self.backends(), error)
        return with_law_terms(explanation, self._terms.utility, self.constraints)

    def to_latex(self) -> str:
        """The problem in LaTeX, for mathematics mode: constants as letters over their shape.

        Returns:
            the formula, without dollar signs.

        Example:
            >>> import alignkit as ak
            >>> x = ak.Variable(2)
            >>> problem = ak.Problem(ak.norm2(x), ak.base.Gaussian([0.0, 0.0], 1.0), ak.KL(weight=2.0))
            >>> print(problem.to_latex())
            \\max_{q}\\; \\mathbb{E}_{x \\sim q}\\left[\\left\\|x\\right\\|_{2}\\right] - 2\\, \\mathrm{KL}...
        """
        # Imported here, as most programs never write formulas.
        from alignkit.compiler.formula import problem_latex

        return problem_latex(self.reward, self.base, self.closeness, self.constraints)

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.to_latex()}$"

    def backends(self) -> Answers:
        """What every backend answers, for the route taken and for the others that take the problem.

        Returns:
            a tuple of `Bid` and `Refusal`, those for the route taken first and the better bid first; it prints as a
            table. Empty where no backend is needed, or where no route takes the problem.

        Example:
            >>> import alignkit as ak
            >>> x = ak.Variable((2,))
            >>> problem = ak.Problem(ak.sum(x), ak.base.Gaussian([0.0, 0.0], 1.0), ak.KL(weight=2.0))
            >>> [answer.backend for answer in problem.backends()]
            ['exact', 'torch']
        """
        found = self._analysed()
        return answers_for(found.diagnosis, found.verdicts, self.base)

    def is_tractable(self) -> bool:
        """Whether some route takes the problem and some installed backend serves it."""
        try:
            found = self._analysed()
            make_plan(found.diagnosis, found.verdicts, self.base, ways_out=False)
        except NO_PLAN:
            return False
        return True

    def cite(self, style: str = "text") -> str:
        """The papers that a solution rests on: of the route, of the rules that proved it, of the backend's method.

        Arguments:
            style: "text", a line for each, or "bibtex".

        Returns:
            the citations, each once.

        Raises:
            ParameterError: another style.
            IntractableError, ImproperTargetError, UnboundedTransportError, BackendUnavailableError,
            BackendRefusedError: as for `compile`.

        Example:
            >>> import alignkit as ak
            >>> x = ak.Variable((2,))
            >>> problem = ak.Problem(ak.sum(x), ak.base.Gaussian([0.0, 0.0], 1.0), ak.KL(weight=2.0))
            >>> print(problem.cite())
            “The tractability landscape of diffusion alignment”, 2026, arXiv 2605.11361
        """
        if style not in {"text", "bibtex"}:
            raise ParameterError(f"There is no style {style!r} of citation.", ways_out=["Use 'text' or 'bibtex'."])
        papers = self.compile().citations
        if style == "bibtex":
            return "\n\n".join(paper.bibtex for paper in papers)
        return "\n".join(str(paper) for paper in papers)

    def solve(
        self,
        *,
        seed: int,
        tolerance: float | None = None,
        backend: str = "auto",
        engine: str = "auto",
        device: str = "auto",
        heuristic: bool = False,
        ridge: float | None = None,
        verbose: bool = False,
        progress: bool | None = None,
    ) -> Aligned:
        """Fit the aligned law once; then draw from it as often as you like.

        Arguments:
            seed: fixes every random draw of the fit.
            tolerance: the largest relative gap wanted, under Wasserstein closeness; as for `compile`.
            backend: "auto", or a backend's name to insist on.
            engine: under KL: "auto", "direct" or "annealed".
            device: "auto", "cpu", "cuda", … as the engine names it.
            heuristic: under KL, allow annealed Monte Carlo without a bound where no other route takes the reward.
            ridge: κ > 0 relaxes constraints to a penalty of ‖left − right‖²/2κ, in units of reward; None or 0 has them
                hold.
            verbose: print the plan, and the time of each stage when it ends; the logger `alignkit` is always told.
            progress: True shows progress lines, False none, None on a terminal or in a notebook.

        Returns:
            the fitted sampler with its certificate.

        Raises:
            ParameterError: an unknown engine, a seed out of range, or a ridge below 0 or without constraints.
            InfeasibleError: no law meets the constraints, or none within the radius; the message says whether that is
                proved.
            ImproperTargetError: as for `compile`; or it could not be decided there, and the fit found it so.
            IntractableError, UnboundedTransportError, BackendUnavailableError, BackendRefusedError: as for `compile`.
            NonFiniteError: the denoiser returned a NaN or an infinity.
        """
        seed, start, narrator = checked_seed(seed), time.perf_counter(), Narrator(verbose)
        kappa = self._checked_ridge(ridge)
        options = (backend, device, tolerance)
        plan = self._planned_again(options) or self.compile(
            backend=backend, device=device, tolerance=tolerance, heuristic=heuristic
        )
        self._check_choices(plan, engine, tolerance)
        narrator.say(plan, logging.DEBUG)
        narrator.say_time(f"Planned: {plan.route}, backend {plan.backend!r},")
        versions = tuple((parameter, parameter.version) for parameter in self.parameters)
        found: tuple[KLCertificate | TransportCertificate, Status, FittedTilt | FittedTransport]
        with progress_lines(progress, narrator) as report:
            if isinstance(plan.request, TiltProgram):
                sampler = registry.require(plan.backend, "tilt_sampler")()
                fit = partial(self._fit_law, ridge=kappa) if self._asks_of_law else self._fit_tilt
                try:
                    found = fit(plan, plan.request, sampler, engine=engine, seed=seed, progress=report)
                except ImproperTargetError as error:
                    raise _as_explained(error, plan) from error.__cause__
                self._last = _Solved(options, versions, plan, sampler)
            else:
                maps = self._maps(plan, versions)
                found = self._fit_transport(plan, maps, seed=seed, progress=report)
                self._last = _Solved(options, versions, plan, maps.solver, maps.session)
        certificate, status, fitted = found
        narrator.say_time(f"{status} Done")
        return Aligned(plan, certificate, status, fitted, versions, self._declared(seed, start))

    def _declared(self, seed: int, start: float) -> Declaration:
        """The problem as a result remembers it, solved since a time of `time.perf_counter`."""
        seconds = time.perf_counter() - start
        return Declaration(self.reward, self._terms.utility, self.constraints, seed, seconds)

    def _check_choices(self, plan: Plan, engine: str, tolerance: float | None) -> None:
        """Raise where the user's choices do not fit the plan."""
        if isinstance(plan.request, TiltProgram):
            if plan.target is not None:
                choose_engine(plan.target, engine)
            if tolerance is not None:
                raise ParameterError(
                    "tolerance= is a relative gap, which only Wasserstein closeness has.", ways_out=["Leave it out."]
                )
        elif engine != "auto":
            raise ParameterError(f"engine={engine!r} is a choice under KL closeness alone.", ways_out=["Leave it out."])
        if self._asks_of_law and plan.is_heuristic:
            raise ParameterError(
                "Annealed Monte Carlo takes a weight and a reward of draws: no expectation, constraint or radius.",
                ways_out=["ak.KL(weight=λ) without constraints.", "A convex reward, which needs no heuristic."],
                expression=str(self.reward),
            )

    def _fit_law(
        self,
        plan: Plan,
        asked: TiltProgram,
        sampler: TiltSampler,
        *,
        engine: str,
        ridge: float,
        seed: int,
        progress: Progress,
    ) -> tuple[KLCertificate, Status, FittedTilt]:
        """Under KL, where multipliers have to be found."""
        rows = self._terms.rows()
        request = law_request(self._terms, rows, plan, asked, ridge=ridge)
        fit = fit_law(request, sampler, engine=engine, seed=seed, progress=progress)
        return certify_law(fit, rows, plan), fit.status, fit.fitted

    def _fit_tilt(
        self,
        plan: Plan,
        asked: TiltProgram,
        sampler: TiltSampler,
        *,
        engine: str,
        seed: int,
        progress: Progress,
    ) -> tuple[KLCertificate, Status, FittedTilt]:
        """Under KL, at a given weight and for a reward of draws."""
        weight, target = self.closeness.present_weight, plan.target
        fitted: FittedTilt
        if target is None:
            constant = 0.0
            fitted = fit_heuristic(
                asked, sampler.open(asked), values_on_host(self.reward), weight, seed=seed, progress=progress
            )
        else:
            constant = plan.composition.constant
            fitted = fit_tilt(target, sampler, engine=engine, seed=seed, progress=progress)
        certificate = fitted.moments.certify(weight, constant, plan.guarantee)
        fine = certificate.calibration is None or certificate.calibration.holds
        return certificate, Status.SOLVED if fine else Status.INACCURATE, fitted

    def _fit_transport(
        self, plan: Plan, maps: MapFamily, *, seed: int, progress: Progress
    ) -> tuple[TransportCertificate, Status, FittedTransport]:
        """Under Wasserstein closeness."""
        assert isinstance(self.closeness, Wasserstein)
        radius, weight = self.closeness.present_radius, plan.diagnosis.weight
        seconds = 0.0 if plan.bid is None else plan.bid.seconds
        if radius is not None:
            rows = draws_wanted(self.base, seconds)
            return fit_within_radius(
                self.base, maps, self.reward, radius, plan.guarantee,
                rows=rows, start=weight, seed=seed, progress=progress,
            )  # fmt: skip
        fitted = FittedTransport(self.base, maps.at(weight))
        certificate = fitted.certify(self.reward, plan.guarantee, seconds=seconds, seed=seed, progress=progress)
        finished = certificate.rows_unfinished == 0 and certificate.gap_max <= plan.tolerance
        return certificate, Status.SOLVED if finished else Status.INACCURATE, fitted

    @property
    def _asks_of_law(self) -> bool:
        """Whether multipliers have to be found: for a utility of expectations, for constraints, or for a radius."""
        return not self._terms.is_plain or (isinstance(self.closeness, KL) and self.closeness.radius is not None)

    def _checked_ridge(self, ridge: float | None) -> float:
        if ridge is None:
            return 0.0
        if isinstance(ridge, bool) or not isinstance(ridge, int | float | np.integer | np.floating):
            raise ParameterError(f"ridge={ridge!r} is not a number.", ways_out=["ridge=0.1."])
        if not 0 <= ridge < math.inf:
            raise ParameterError(
                f"ridge={ridge!r} is out of range: the penalty ‖left − right‖²/2κ needs 0 < κ < ∞.",
                ways_out=["A small positive ridge stays close to the constraints.", "Leave it out to have them hold."],
            )
        if ridge > 0 and not self.constraints:
            raise ParameterError(
                "ridge= relaxes constraints, and the problem has none.", ways_out=["Leave it out.", "constraints=[…]."]
            )
        return float(ridge)

    def _planned_again(self, options: tuple[str, str, float | None]) -> Plan | None:
        """The plan of the last solve at the present values of the parameters, where it still serves."""
        last = self._last
        if last is None or not self.parameters or last.options != options:
            return None
        found = self._analysed()
        return plan_again(last.plan, found.diagnosis, found.verdicts, last.backend, device=options[1])

    def _maps(self, plan: Plan, versions: tuple[tuple[Parameter, int], ...]) -> MapFamily:
        """The plan's transport maps by λ, with the session of the last solve where that is free."""
        closeness = plan.closeness
        assert isinstance(closeness, Wasserstein) and not isinstance(plan.request, TiltProgram)
        solver: ProxSolver | None = None
        session, last = None, self._last
        if plan.request is not None:
            solver = registry.require(plan.backend, "prox_solver")()
            # While λ is sought, a result that still draws needs its session for itself.
            is_free = closeness.radius is None or (last is not None and last.versions != versions)
            if last is not None and self.parameters and is_free and last.plan.backend == plan.backend:
                session = last.session
        return MapFamily(plan.composition, closeness.cost, plan.request, solver, session)

    def __repr__(self) -> str:
        subject = "".join(f", {constraint}" for constraint in self.constraints)
        return f"Problem(maximise {self.closeness.objective}, r = {self.reward}, p = {self.base.name}{subject})"


def _check_no_expectations(reward: Expression, constraints: tuple[Constraint, ...]) -> None:
    """Transport moves draws one by one, and knows no law."""
    found = [str(constraint) for constraint in constraints] + [str(leaf) for leaf in expectations(reward)]
    if found:
        raise ParameterError(
            f"{found[0]} speaks of the law q, but Wasserstein closeness moves each draw by itself: only KL closeness "
            "has multipliers for expectations.",
            ways_out=[
                "ak.KL(weight=λ) in place of Wasserstein.",
                "Add the affine expression to the reward, with a multiplier of your choice, without E.",
            ],
            expression=str(reward),
        )


def _as_explained(error: ImproperTargetError, plan: Plan) -> ImproperTargetError:
    """That a fit found no finite normaliser, after what the plan said of it."""
    said = (f"{warning[0].upper()}{warning[1:]}." for warning in plan.warnings)
    return ImproperTargetError(
        " ".join([*said, error.message]),
        ways_out=error.ways_out,
        expression=error.expression or str(plan.diagnosis.reward),
    )


def _as_reward(reward: Any, base: BaseLaw) -> Expression:
    """The reward as an expression; a function as a black box."""
    if is_cvxpy(reward):
        return from_cvxpy(reward)
    if callable(reward):
        return black_box(reward, Variable(base.shape))
    return as_expression(reward)
