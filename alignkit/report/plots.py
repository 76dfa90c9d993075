"""The pictures of a result: one method a figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from alignkit.base.law import checked_count
from alignkit.certificates import KLCertificate, TransportCertificate
from alignkit.compiler.plan import Plan
from alignkit.errors import ParameterError
from alignkit.noise import checked_seed
from alignkit.report.distributions import gaps_figure, rewards_figure
from alignkit.report.path import path_figure
from alignkit.report.samples import sample_figure, shown_at_once
from alignkit.report.study import Study, study_of
from alignkit.report.tilts import tilts_figure, tilts_of
from alignkit.tilting.fitted import FittedTilt
from alignkit.transport.fitted import FittedTransport

__all__ = ["Plots"]

_ROWS = 512


@dataclass(frozen=True, eq=False)
class Plots:
    """The pictures of one result, each a matplotlib figure that pyplot does not know of: show or save it.

    Arguments:
        plan: how the problem was solved.
        certificate: what was achieved.
        fitted: the sampler.
        check_fresh: raises StaleFitError where a parameter has changed since the fit.

    Example:
        >>> import alignkit as ak
        >>> x = ak.Variable((2,))
        >>> aligned = ak.Problem(ak.sum(x), ak.base.Gaussian([0.0, 0.0], 1.0), ak.KL(weight=1.0)).solve(seed=0)
        >>> aligned.plot.rewards().savefig("rewards.png")  # doctest: +SKIP
    """

    plan: Plan
    certificate: KLCertificate | TransportCertificate
    fitted: FittedTilt | FittedTransport
    check_fresh: Callable[[], None]

    def samples(self, n: int | None = None, *, seed: int = 0) -> Any:
        """Draws before and after alignment; under transport the n-th of one was moved to the n-th of the other.

        Arguments:
            n: how many of each; if None 16 pictures or curves, 512 points or numbers.
            seed: fixes them.

        Returns:
            a matplotlib figure: pictures for shapes (h, w) and (channels, h, w), a scatter for (2,), a histogram for
            single numbers, else curves over the entries with their mean.

        Raises:
            ParameterError: n or the seed is out of range.
            StaleFitError: a parameter of the problem has changed since the fit.

        Example:
            >>> import alignkit as ak
            >>> x = ak.Variable((2,))
            >>> problem = ak.Problem(ak.sum(x), ak.base.Gaussian([0.0, 0.0], 1.0), ak.KL(weight=1.0))
            >>> figure = problem.solve(seed=0).plot.samples()
        """
        rows = shown_at_once(self.plan.base.shape) if n is None else n
        study = self._study(rows, seed, shown=rows)
        panels = {"before": study.seen_before, "after": study.seen_after}
        return sample_figure(panels, is_paired=study.is_paired)

    def rewards(self, n: int = _ROWS, *, seed: int = 0) -> Any:
        """Histograms of the reward before and after alignment, on a common axis.

        Arguments:
            n: of how many draws each.
            seed: fixes them.

        Returns:
            a matplotlib figure; it says how many rewards are not finite.

        Raises:
            ParameterError, StaleFitError: as for `samples`.
        """
        study = self._study(n, seed)
        return rewards_figure(study.rewards_before, study.rewards_after)

    def gaps(self, n: int = _ROWS, *, seed: int = 0) -> Any:
        """Under Wasserstein closeness, histograms of how far each move may be from the best, and of its cost.

        Arguments:
            n: of how many moves.
            seed: fixes the base draws.

        Returns:
            a matplotlib figure.

        Raises:
            ParameterError: under KL closeness, where nothing is moved; or as for `samples`.
            StaleFitError: as for `samples`.
        """
        if not isinstance(self.fitted, FittedTransport):
            raise ParameterError(
                "Gaps are of moves, but under KL closeness no draw is moved.",
                ways_out=["aligned.plot.tilts() and aligned.plot.path().", "ak.Wasserstein(weight=…)."],
            )
        study = self._study(n, seed)
        assert study.gaps is not None and study.costs is not None
        return gaps_figure(study.gaps, study.costs, tolerance=self.plan.tolerance)

    def tilts(self) -> Any:
        """Under KL closeness, the tilts that the law is a mixture of, and their mean in the space of draws.

        Returns:
            a matplotlib figure: weights over θ, drawn where each particle has a law of tilts, along the two directions
            of widest spread for k > 2; and the mean tilt as draws are looked at.

        Raises:
            ParameterError: the law is drawn without tilts.
        """
        if isinstance(self.fitted, FittedTransport):
            raise ParameterError(
                "Tilts make up laws under KL closeness, and this problem was solved under Wasserstein closeness.",
                ways_out=["aligned.plot.gaps().", "ak.KL(weight=…)."],
            )
        found = tilts_of(self.fitted, self.plan.base.shape)
        if found is None:
            raise ParameterError(
                f"This law is drawn without tilts: {self.plan.route}, by the backend {self.plan.backend!r}.",
                ways_out=["aligned.plot.rewards() and aligned.plot.samples()."],
            )
        return tilts_figure(found)

    def path(self) -> Any:
        """The way that the fit took: every λ on the way to that of a radius, and the stages of annealing under KL.

        Returns:
            a matplotlib figure: λ and how far the best law there is from the base law, beside ρ; the share of the
            reward, and the effective sample size. Of these, what there was.

        Raises:
            ParameterError: λ was given, and nothing was annealed.
        """
        stages = () if isinstance(self.fitted, FittedTransport) else self.fitted.moments.stages
        sought = self.certificate.path
        if sought is None and not stages:
            raise ParameterError(
                "There is no path: this law was fitted at a λ that was given, without annealing.",
                ways_out=["aligned.plot.rewards() and aligned.plot.samples().", "Under KL, engine='annealed'."],
            )
        return path_figure(stages, sought, distance=self.plan.closeness.distance)

    def _study(self, n: int, seed: int, shown: int | None = None) -> Study:
        self.check_fresh()
        return study_of(self.plan, self.fitted, checked_count(n), seed=checked_seed(seed), shown=shown)
