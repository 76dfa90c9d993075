"""Samplers broken on purpose, each of which the suite must catch by the promise it breaks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alignkit.contracts import Bid, Guarantee, Refusal
from alignkit.testing import ALLOWANCES, Allowance, TiltPromise, check_tilt_sampler, tilt_examples
from alignkit.tilting.exact import ExactTiltSampler, ExactTiltSession
from alignkit_torch.tilt_sampler import TorchTiltSampler
from alignkit_torch.tilt_session import TorchTiltSession

EXAMPLES = {example.name: example for example in tilt_examples()}
#: Those that mutants are held against: closed forms, and one that has to be denoised.
CLOSED = [EXAMPLES[name] for name in ("Gaussian of shape (2, 3)", "mixture")]
DENOISED = [EXAMPLES["denoiser of a mixture"]]


class Exact(ExactTiltSampler):
    """Right; its mutants change the session."""

    guarantee = Guarantee.EXACT

    class Session(ExactTiltSession):
        def __init__(self, base, directions):
            super().__init__(base, directions)
            self.base, self.directions = base, directions

    def bid(self, program):
        answer = super().bid(program)
        return answer if isinstance(answer, Refusal) else replace(answer, guarantee=self.guarantee)

    def open(self, program):
        return self.Session(program.base, program.directions)


class Biased(Exact):
    class Session(Exact.Session):
        def draw(self, coordinates, rows, **numbers):
            return super().draw(coordinates, rows, **numbers) + 0.3


class TooNarrow(Exact):
    class Session(Exact.Session):
        def draw(self, coordinates, rows, **numbers):
            x = super().draw(coordinates, rows, **numbers)
            mean = self.base.tilt(coordinates[0] @ self.directions).mean.reshape(self.base.shape)
            return mean + 0.8 * (x - mean) if len(coordinates) == 1 else x


class RightMomentsWrongLaw(Exact):
    """The Gaussian of the right mean and covariance: only the shape of the law gives it away."""

    class Session(Exact.Session):
        def draw(self, coordinates, rows, *, seed, stage=0, first_row=0, progress=None):
            from alignkit.noise import normal

            noise = normal(seed, rows, self.base.ambient, stage=stage, first_row=first_row)
            tilts, chosen = np.unique(coordinates @ self.directions, axis=0, return_inverse=True)
            laws = [self.base.tilt(tilt) for tilt in tilts]
            means = np.stack([law.mean for law in laws])[chosen]
            roots = np.stack([np.linalg.cholesky(law.covariance) for law in laws])[chosen]
            x = means + np.einsum("nij,nj->ni", np.broadcast_to(roots, (rows, *roots.shape[1:])), noise)
            if progress is not None:
                progress("sampling", rows, rows)
            return np.reshape(x, (rows, *self.base.shape))


class WrongSign(Exact):
    class Session(Exact.Session):
        def draw(self, coordinates, rows, **numbers):
            return super().draw(-coordinates, rows, **numbers)


class HeuristicWithTheWrongSign(WrongSign):
    guarantee = Guarantee.HEURISTIC


class IgnoresTheTilt(Exact):
    class Session(Exact.Session):
        def draw(self, coordinates, rows, **numbers):
            return super().draw(0.0 * coordinates, rows, **numbers)


class TiltsByTheFirst(Exact):
    class Session(Exact.Session):
        def draw(self, coordinates, rows, **numbers):
            return super().draw(coordinates[:1], rows, **numbers)


class OneNoiseForAllRows(Exact):
    class Session(Exact.Session):
        def draw(self, coordinates, rows, **numbers):
            x = super().draw(coordinates, rows, **numbers)
            return x[:1] + 0.0 * x if len(coordinates) == 1 else x


class AntitheticPairs(Exact):
    """Rows 2i and 2i + 1 mirror each other: means converge faster, and rows are not independent."""

    class Session(Exact.Session):
        def draw(self, coordinates, rows, *, first_row=0, progress=None, **numbers):
            if len(coordinates) > 1:
                return super().draw(coordinates, rows, first_row=first_row, progress=progress, **numbers)
            start = first_row - first_row % 2
            count = rows + first_row - start
            x = super().draw(coordinates, count + count % 2, first_row=start, progress=None, **numbers)
            mean = self.base.tilt(coordinates[0] @ self.directions).mean.reshape(self.base.shape)
            x[1::2] = 2.0 * mean - x[::2]
            if progress is not None:
                progress("sampling", rows, rows)
            return x[first_row - start :][:rows]


class NoiseOfTheBatch(Exact):
    class Session(Exact.Session):
        def draw(self, coordinates, rows, *, seed, **numbers):
            return super().draw(coordinates, rows, seed=seed + 1000 * rows, **numbers)


class ForgetsTheFirstRow(Exact):
    class Session(Exact.Session):
        def draw(self, coordinates, rows, *, first_row=0, **numbers):
            return super().draw(coordinates, rows, **numbers)


class ForgetsTheStage(Exact):
    class Session(Exact.Session):
        def draw(self, coordinates, rows, *, stage=0, **numbers):
            return super().draw(coordinates, rows, **numbers)


class ForgetsTheSeed(Exact):
    class Session(Exact.Session):
        def draw(self, coordinates, rows, *, seed, **numbers):
            return super().draw(coordinates, rows, seed=5, **numbers)


class NoiseOfTheSession(Exact):
    opened = 0

    class Session(Exact.Session):
        offset = 0

        def draw(self, coordinates, rows, *, seed, **numbers):
            return super().draw(coordinates, rows, seed=seed + self.offset, **numbers)

    def open(self, program):
        session = super().open(program)
        NoiseOfTheSession.opened += 1
        session.offset = 7919 * NoiseOfTheSession.opened
        return session


class WritesToTheCoordinates(Exact):
    class Session(Exact.Session):
        def draw(self, coordinates, rows, **numbers):
            coordinates += 0.0
            return super().draw(coordinates, rows, **numbers)


class NarrowFeatures(Exact):
    class Session(Exact.Session):
        def features(self, x):
            return super().features(x).astype(np.float32)


class FeaturesOfTheFirstDirection(Exact):
    class Session(Exact.Session):
        def features(self, x):
            return np.repeat(super().features(x)[:, :1], len(self.directions), axis=1)


class KeepsSessionsByLaw(Exact):
    opened: dict = {}  # noqa: RUF012

    def open(self, program):
        return self.opened.setdefault(id(program.base), super().open(program))


class TellsNothing(Exact):
    class Session(Exact.Session):
        def draw(self, coordinates, rows, *, progress=None, **numbers):
            return super().draw(coordinates, rows, **numbers)


class FlattensTheDraws(Exact):
    class Session(Exact.Session):
        def draw(self, coordinates, rows, **numbers):
            return super().draw(coordinates, rows, **numbers).reshape(rows, -1)


class DrawsNan(Exact):
    class Session(Exact.Session):
        def draw(self, coordinates, rows, **numbers):
            x = super().draw(coordinates, rows, **numbers)
            x[-1] = np.nan
            return x


class CannotDrawOne(Exact):
    class Session(Exact.Session):
        def draw(self, coordinates, rows, **numbers):
            return super().draw(coordinates, rows, **numbers).squeeze()


class EvaluatesHalfTimes(Exact):
    class Session(Exact.Session):
        nfe_per_draw = 0.5


class RefusesEverything(Exact):
    def bid(self, program):
        return Refusal("mutant", "not today")


class RefusesWithoutAReason(Exact):
    def bid(self, program):
        return Refusal("mutant", "") if program.base.name == "Gaussian" else super().bid(program)


class BidsForNothing(Exact):
    def bid(self, program):
        return Bid("mutant", "magic", Guarantee.EXACT, -1.0)


# ---- those that need a denoiser


class Denoising(TorchTiltSampler):
    """Right; its mutants change the session."""

    class Session(TorchTiltSession):
        pass

    def open(self, program):
        import torch

        return self.Session(program.base, program.directions, torch.device("cpu"))


class TriesBeforeItBids(Denoising):
    def bid(self, program):
        self.open(program)
        return super().bid(program)


class Undercounts(Denoising):
    class Session(Denoising.Session):
        def __init__(self, *opened):
            super().__init__(*opened)
            self.nfe_per_draw = 15


class CountsCallsAlone(Denoising):
    class Session(Denoising.Session):
        def __init__(self, *opened):
            super().__init__(*opened)
            self.nfe_per_draw //= self.base.evaluations_per_denoise


class ForgetsWhatItSpent(Denoising):
    class Session(Denoising.Session):
        def draw(self, coordinates, rows, **numbers):
            spent = self.evaluations
            x = super().draw(coordinates, rows, **numbers)
            self.evaluations = spent
            return x


class StaysPut(Denoising):
    class Session(Denoising.Session):
        def renoise(self, x, coordinates, **numbers):
            return x


class RenoisesUntilted(Denoising):
    class Session(Denoising.Session):
        def renoise(self, x, coordinates, **numbers):
            return super().renoise(x, 0.0 * coordinates, **numbers)


class RenoisesByBatch(Denoising):
    class Session(Denoising.Session):
        def renoise(self, x, coordinates, *, first_row=0, **numbers):
            return super().renoise(x, coordinates, **numbers)


class TakesInOrder(Denoising):
    class Session(Denoising.Session):
        def take(self, x, indices):
            return x[: len(indices)]


class SpreadsByVariance(Denoising):
    class Session(Denoising.Session):
        def spread(self, x):
            return super().spread(x) ** 2


class MeansOfTheBase(Denoising):
    class Session(Denoising.Session):
        def means(self, coordinates, sigma):
            return super().means(0.0 * coordinates, sigma)


class CannotTake(Denoising):
    class Session(Denoising.Session):
        take = None


P = TiltPromise
#: The promises that a mutant breaks, all of them and no others.
MUTANTS = {
    Biased: {P.MEAN, P.LAW, P.COVARIANCE},
    TooNarrow: {P.COVARIANCE, P.LAW, P.TILTS},
    RightMomentsWrongLaw: {P.LAW},
    WrongSign: {P.MEAN, P.COVARIANCE, P.LAW, P.DIRECTION},
    HeuristicWithTheWrongSign: {P.DIRECTION},
    IgnoresTheTilt: {P.MEAN, P.COVARIANCE, P.LAW, P.DIRECTION},
    TiltsByTheFirst: {P.TILTS},
    AntitheticPairs: {P.INDEPENDENT, P.TILTS, P.LAW},
    NoiseOfTheBatch: {P.ROWS},
    ForgetsTheFirstRow: {P.ROWS, P.INDEPENDENT},
    ForgetsTheStage: {P.INDEPENDENT},
    ForgetsTheSeed: {P.INDEPENDENT},
    NoiseOfTheSession: {P.REPEATS, P.SESSIONS},
    WritesToTheCoordinates: {P.INPUT},
    NarrowFeatures: {P.FEATURES},
    FeaturesOfTheFirstDirection: {P.FEATURES},
    KeepsSessionsByLaw: {P.SESSIONS},
    TellsNothing: {P.PROGRESS},
    RefusesEverything: {P.USEFUL},
    RefusesWithoutAReason: {P.BIDS},
    BidsForNothing: {P.BIDS},
    TriesBeforeItBids: {P.BIDS},
    Undercounts: {P.EVALUATIONS},
    CountsCallsAlone: {P.EVALUATIONS},
    ForgetsWhatItSpent: {P.EVALUATIONS},
    StaysPut: {P.RENOISE},
    RenoisesUntilted: {P.RENOISE},
    RenoisesByBatch: {P.ROWS},
    TakesInOrder: {P.MOVERS},
    SpreadsByVariance: {P.MOVERS},
    MeansOfTheBase: {P.MOVERS},
    CannotTake: {P.MOVERS},
}
#: Broken so early, or so often, that other promises break with them.
AT_LEAST = {
    OneNoiseForAllRows: P.INDEPENDENT,
    FlattensTheDraws: P.SHAPES,
    DrawsNan: P.SHAPES,
    CannotDrawOne: P.SHAPES,
    EvaluatesHalfTimes: P.EVALUATIONS,
}


def report_on(sampler):
    denoising = issubclass(sampler, Denoising)
    return check_tilt_sampler(sampler, examples=DENOISED if denoising else CLOSED, rows=1000 if denoising else 4000)


@pytest.mark.parametrize("sampler", [Exact, Denoising])
def test_what_is_right_conforms(sampler):
    report = report_on(sampler)
    assert report.conforms, report


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_mutants_are_caught_by_the_promise_they_break(mutant):
    report = report_on(mutant)
    assert {error.promise for error in report.broken} == MUTANTS[mutant], report


@pytest.mark.parametrize("mutant", AT_LEAST, ids=lambda mutant: mutant.__name__)
def test_mutants_that_break_more_are_caught_by_that_promise_too(mutant):
    report = report_on(mutant)
    assert AT_LEAST[mutant] in {error.promise for error in report.broken}, report


def test_every_promise_has_a_mutant():
    assert set().union(*MUTANTS.values(), AT_LEAST.values()) == set(TiltPromise)


def test_the_error_names_the_tilt_and_the_numbers():
    error = next(error for error in report_on(Biased).broken if error.promise is P.MEAN)
    assert error.example == "Gaussian of shape (2, 3)"
    assert error.numbers["deviations"] > 5 and error.numbers["found"] > error.numbers["truth"]
    assert "under the tilt [0. 0.]" in str(error) and f"{error.numbers['truth']:.5g}" in str(error)


def test_a_stronger_guarantee_never_allows_more():
    ordered = [ALLOWANCES[guarantee] for guarantee in sorted(Guarantee, reverse=True)]
    for name in ("mean", "covariance", "probability"):
        values = [getattr(allowance, name) for allowance in ordered]
        assert values == sorted(values)
    assert ALLOWANCES[Guarantee.EXACT] == Allowance(0.0, 0.0, 0.0)
