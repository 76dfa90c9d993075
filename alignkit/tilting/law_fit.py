"""Fitting a program over the law: its dual is solved over what is known of p, and q is sampled at the solution.

Where tilts are closed forms the family of laws p·exp⟨a, (r, y)⟩ is known and nothing is estimated; of an exact denoiser
it is known by quadrature. Elsewhere draws stand for it; see `alignkit.tilting.law_rounds`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from alignkit.base.empirical import Empirical
from alignkit.base.law import ExactLaw
from alignkit.contracts import DenoisingTiltSession, Floats, Progress, TiltSampler, TiltSession
from alignkit.errors import ImproperTargetError
from alignkit.estimates import Estimate
from alignkit.noise import categorical, fold_seed, uniform
from alignkit.tilting.direct import DirectTilt
from alignkit.tilting.engines import fit_tilt
from alignkit.tilting.exponential_family import ClosedForms, ExponentialFamily, Quadratures, WeightedDraws
from alignkit.tilting.fitted import FittedTilt, TiltMoments
from alignkit.tilting.law_infeasible import out_of_reach, radius_too_small, refuse_impossible
from alignkit.tilting.law_request import STATUSES, LawFit, LawRequest, Measured
from alignkit.tilting.law_rounds import ROWS, Node, Rounds
from alignkit.tilting.radius import RadiusOutcome

__all__ = ["fit_law"]


def fit_law(
    request: LawRequest, sampler: TiltSampler, *, engine: str = "auto", seed: int, progress: Progress = None
) -> LawFit:
    """Solve a program over the law, and fit a sampler of its solution.

    Arguments:
        request: the program.
        sampler: the backend's.
        engine: as for `fit_tilt`.
        seed: fixes every draw of the fit.
        progress: told how far it is.

    Returns:
        the fit; its status says whether a radius is inactive, or not attained.

    Raises:
        InfeasibleError: no law has the moments, by proof where the support is known, else by the evidence of draws; or
            none within the radius.
        ImproperTargetError: E_p exp(r/λ) is infinite.
        ParameterError: the engine does not fit the law or the reward.
    """
    refuse_impossible(request)
    base, session = request.target.program.base, sampler.open(request.extended)
    if isinstance(base, ExactLaw) and session.nfe_per_draw == 0:
        family: ExponentialFamily | None = None
        if isinstance(base, Empirical):
            family = WeightedDraws(request.statistics(session.features(_rows_of(base))), np.log(base.weights))
        elif request.target.nonlinear is None:
            family = ClosedForms(base, request.extended.directions)
        if family is not None:
            return _fit_known(request, session, family)
    elif base.exact and request.target.nonlinear is None:
        found = _fit_by_quadrature(request, sampler, session, engine=engine, seed=seed, progress=progress)
        if found is not None:
            return found
    return Rounds(request, sampler, session, engine=engine, seed=seed, progress=progress).run()


def _fit_known(request: LawRequest, session: TiltSession, family: ExponentialFamily) -> LawFit:
    solution, outcome = request.solve(family)
    if outcome is RadiusOutcome.TOO_SMALL and solution.is_solved:
        raise radius_too_small(request, solution)
    if not solution.is_solved:
        if not math.isfinite(solution.member.log_partition):
            raise ImproperTargetError(
                f"E_p exp(r/λ) is infinite at λ = {solution.weight:.6g}, so the aligned law does not exist.",
                ways_out=["Raise the weight λ."],
            )
        raise out_of_reach(request, family, solution)
    member = solution.member
    before = family.at(np.zeros(family.size)).mean
    exact = [Estimate(float(value)) for value in member.mean]
    moments = TiltMoments(
        before=Estimate(float(member.slopes @ before)),
        after=Estimate(float(member.slopes @ member.mean)),
        log_partition=Estimate(member.log_partition),
        ess=math.inf,
        nfe_per_sample=0.0,
        calibration=None,
    )
    base = request.target.program.base
    fitted: FittedTilt
    if isinstance(base, Empirical):
        assert isinstance(family, WeightedDraws)
        log_weights = family.log_weights + family.statistics @ member.slopes
        fitted = ReweightedData(base, np.exp(log_weights - np.logaddexp.reduce(log_weights)), moments)
    else:
        fitted = DirectTilt(session, member.slopes[None], request.extended.directions, moments)
    return LawFit(
        fitted=fitted,
        solution=solution,
        status=STATUSES[outcome],
        reward_before=Estimate(float(before[0])),
        reward_after=exact[0],
        moments=tuple(exact[1:]),
        kl=Estimate(member.divergence),
        details={"program over the law": request.described(solution, "closed forms")},
    )


@dataclass(frozen=True, eq=False)
class ReweightedData:
    """Draws of a data set by other weights; see `alignkit.tilting.fitted.FittedTilt`.

    Arguments:
        base: the data.
        weights: of each point, (N,), summing to 1.
        moments: what the fit measured.
    """

    base: Empirical
    weights: Floats
    moments: TiltMoments

    def sample(self, rows: int, *, seed: int, progress: Progress = None) -> Floats:
        """Draw rows, (rows, *shape)."""
        labels = categorical(self.weights[None], uniform(seed, rows, 1)[:, 0])
        if progress is not None:
            progress("sampling", rows, rows)
        return self.base.data[labels].reshape((rows, *self.base.shape))


def _rows_of(base: Empirical) -> Floats:
    return base.data.reshape(-1, *base.shape)


def _fit_by_quadrature(
    request: LawRequest, sampler: TiltSampler, session: TiltSession, *, engine: str, seed: int, progress: Progress
) -> LawFit | None:
    """One tilt of an exact denoiser, its multipliers by quadrature; None where it would be too steep for that."""
    denoising: DenoisingTiltSession = session  # type: ignore[assignment]  # an exact denoiser comes with its session
    family = Quadratures(request.extended, denoising)
    solution, outcome = request.solve(family)
    if outcome is RadiusOutcome.TOO_SMALL and solution.is_solved:
        raise radius_too_small(request, solution)
    if not solution.is_solved:
        if not math.isfinite(family.at(np.eye(1, family.size)[0] / solution.weight).log_partition):
            raise ImproperTargetError(
                f"E_p exp(r/λ) has no end at λ = {solution.weight:.6g}, so the aligned law does not exist.",
                ways_out=["Raise the weight λ."],
            )
        return None
    if outcome is not RadiusOutcome.REACHED:
        return None
    member = solution.member
    target = request.at(member.slopes)
    fitted = fit_tilt(target, sampler, engine=engine, seed=seed, progress=progress)
    draws_seed = fold_seed(seed, "draws")
    node = Node.drawn(request, session, member.slopes, fitted, ROWS, seed=draws_seed, progress=progress)
    nothing = np.zeros((1, family.size))
    base_draws = session.draw(nothing, ROWS, seed=fold_seed(seed, "draws of the base"), progress=progress)
    means = node.means()
    kl = Estimate(member.divergence, family.error + family.precision * float(np.abs(member.slopes) @ family.scale))
    moments = replace(fitted.moments, log_partition=Estimate(member.log_partition, family.error), kl=kl)
    return LawFit(
        fitted=Measured(fitted, moments),
        solution=solution,
        status=STATUSES[outcome],
        reward_before=Estimate.of_mean(request.statistics(session.features(base_draws))[:, 0]),
        reward_after=means[0],
        moments=means[1:],
        kl=kl,
        details=fitted.moments.details
        | {"program over the law": request.described(solution, "quadrature of the denoiser")},
    )
