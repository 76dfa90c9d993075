"""The promises of a sampler of tilted laws, each examined on laws whose tilts are closed forms."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import array_api_compat
import numpy as np

from alignkit import registry
from alignkit.base import Denoiser
from alignkit.contracts import (
    Bid,
    DenoisingTiltSession,
    Floats,
    Guarantee,
    Refusal,
    TiltProgram,
    TiltSampler,
    TiltSession,
)
from alignkit.expressions.arrays import to_numpy
from alignkit.testing.conformance import (
    Breach,
    Check,
    Promise,
    Report,
    expect,
    expect_citations,
    expect_progress,
    made,
    named,
    run_checks,
)
from alignkit.testing.tilt_examples import TiltExample, by_denoiser, tilt_examples

__all__ = ["ALLOWANCES", "Allowance", "TiltPromise", "check_tilt_sampler", "tilt_checks"]

#: How many standard errors a moment may lie off.
_DEVIATIONS = 5.0
#: What rounding, in float32 and through a sampler's steps, may move a row by, in standard deviations of the base.
_ROUNDING = 1e-4
# A row between two modes may fall either way.
_SAME_SHARE = 0.9
_REFERENCE_ROWS = 50_000
_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
_FEW_ROWS = 24
_MOVE_NFE = 31
_NO_DENOISER = "its draws need no denoiser"


@dataclass(frozen=True)
class Allowance:
    """What a sampler's discretisation may do to a law, beside five standard errors.

    Arguments:
        mean: how far the mean of an entry may lie off, in its standard deviations.
        covariance: how far an entry of the covariance may lie off, in products of two standard deviations.
        probability: how far the probability of a half-space may lie off.
    """

    mean: float
    covariance: float
    probability: float


#: What each guarantee class allows.
ALLOWANCES: Mapping[Guarantee, Allowance] = MappingProxyType(
    {
        Guarantee.EXACT: Allowance(0.0, 0.0, 0.0),
        Guarantee.CERTIFIED: Allowance(0.0, 0.0, 0.0),
        Guarantee.CONSISTENT: Allowance(0.03, 0.08, 0.03),
        Guarantee.CALIBRATED: Allowance(0.1, 0.15, 0.06),
        Guarantee.HEURISTIC: Allowance(math.inf, math.inf, math.inf),
    }
)


class TiltPromise(Promise):
    """What a sampler of tilted laws promises."""

    BIDS = (
        "it answers a program with a bid in finite positive time, or with a refusal that says why, and calls no "
        "denoiser to do so"
    )
    SHAPES = "draws are finite, of shape (n, *shape), for one row as for many"
    FEATURES = "features(x) is ⟨direction, x⟩ for each row and direction, (n, m), float64 on the host"
    MEAN = "draws have the tilted law's mean, up to what the guarantee class allows"
    COVARIANCE = "draws have the tilted law's covariance, up to what the guarantee class allows"
    LAW = "draws fall into half-spaces as often as the tilted law says, up to what the guarantee class allows"
    DIRECTION = "under θ the mean of ⟨θ, x⟩ rises, by a quarter of what it should or more"
    ROWS = "the noise of a row is a function of (seed, stage, row) alone: a batch may be cut anywhere"
    INDEPENDENT = "rows, stages and seeds are independent of each other"
    REPEATS = "the same seed gives the same draws, later in the same session and in a new one"
    TILTS = "each row is drawn from its own tilt"
    INPUT = "coordinates and directions are read and never written to"
    SESSIONS = "sessions of different programs do not interfere"
    PROGRESS = "progress is told as (stage, rows done, rows), done never falling and all rows done at the end"
    EVALUATIONS = (
        "nfe_per_draw is how often a row of `draw` has the base's network evaluated, and `evaluations` counts them"
    )
    RENOISE = "renoise moves draws of a tilted law to other draws of it, up to what the guarantee class allows"
    MOVERS = "a session that calls the denoiser has renoise, take, spread and means, as the contract defines them"
    USEFUL = "at least one program is taken"


def check_tilt_sampler(
    sampler: type[TiltSampler] | Callable[[], TiltSampler] | TiltSampler | str,
    *,
    examples: Sequence[TiltExample] | None = None,
    rows: int = 4000,
    seed: int = 0,
    device: str = "auto",
) -> Report:
    """Examine a sampler of tilted laws, and report what it keeps and what it breaks.

    Arguments:
        sampler: its class, a function that makes it, an instance, or the name of an installed backend.
        examples: the programs to examine it on; `tilt_examples(seed=seed)` if None.
        rows: how many draws moments are taken over.
        seed: fixes programs and draws. A right sampler breaks no promise by chance at one seed in a thousand.
        device: as the engine names it.

    Returns:
        the report, to be printed; `report.raise_broken()` turns it into an error.

    Raises:
        BackendUnavailableError: no installed backend of that name offers it.

    Example:
        >>> from alignkit.tilting.exact import ExactTiltSampler
        >>> check_tilt_sampler(ExactTiltSampler, rows=500).conforms
        True
    """
    if isinstance(sampler, str):
        registry.require(sampler, "tilt_sampler")
    checks = tilt_checks(sampler, examples=examples, rows=rows, seed=seed, device=device)
    return run_checks(f"tilt sampler {named(sampler)}", checks)


def tilt_checks(
    sampler: type[TiltSampler] | Callable[[], TiltSampler] | TiltSampler | str,
    *,
    examples: Sequence[TiltExample] | None = None,
    rows: int = 4000,
    seed: int = 0,
    device: str = "auto",
) -> tuple[Check, ...]:
    """The checks of `check_tilt_sampler` one by one, for a test framework; nothing is drawn before one is called.

    Arguments:
        sampler, examples, rows, seed, device: as for `check_tilt_sampler`.

    Returns:
        a check for each promise and program, to be called without arguments.

    Example:
        ```python
        @pytest.mark.parametrize("check", tilt_checks(MySampler), ids=str)
        def test_conformance(check):
            check()
        ```
    """
    chosen = tuple(tilt_examples(seed=seed) if examples is None else examples)
    bench = _Bench(sampler, chosen, rows, seed, device)
    where_taken: dict[TiltPromise, Callable[[_Bench, TiltExample], str | None]] = {
        TiltPromise.SHAPES: _shapes,
        TiltPromise.FEATURES: _features,
        TiltPromise.MEAN: _mean,
        TiltPromise.COVARIANCE: _covariance,
        TiltPromise.LAW: _law,
        TiltPromise.DIRECTION: _direction,
        TiltPromise.ROWS: _rows,
        TiltPromise.INDEPENDENT: _independent,
        TiltPromise.REPEATS: _repeats,
        TiltPromise.TILTS: _tilts,
        TiltPromise.INPUT: _input,
        TiltPromise.SESSIONS: _sessions,
        TiltPromise.PROGRESS: _progress,
        TiltPromise.EVALUATIONS: _evaluations,
        TiltPromise.RENOISE: _renoise,
        TiltPromise.MOVERS: _movers,
    }
    checks = [Check(TiltPromise.BIDS, example.name, functools.partial(_bids, bench, example)) for example in chosen]
    checks += [
        Check(promise, example.name, functools.partial(_where_taken, examine, bench, example))
        for promise, examine in where_taken.items()
        for example in chosen
    ]
    return (*checks, Check(TiltPromise.USEFUL, None, functools.partial(_useful, bench)))


class _Bench:
    """A sampler with the examples: its bids, sessions and draws, each asked for once and kept."""

    def __init__(self, sampler: Any, examples: tuple[TiltExample, ...], rows: int, seed: int, device: str) -> None:
        self.subject, self.examples, self.rows, self.seed, self.device = sampler, examples, rows, seed, device
        self._answers: dict[TiltExample, Bid | Refusal] = {}
        self._opened: dict[TiltExample, TiltSession] = {}
        self._drawn: dict[tuple[TiltExample, int], Floats] = {}

    @functools.cached_property
    def sampler(self) -> TiltSampler:
        """The sampler that everything but repetitions is asked of."""
        sampler: TiltSampler = made(self.subject, "tilt_sampler")
        return sampler

    def program(self, example: TiltExample) -> TiltProgram:
        return example.program(self.rows, device=self.device)

    def answer(self, example: TiltExample) -> Bid | Refusal:
        if example not in self._answers:
            answer = self.sampler.bid(self.program(example))
            expect(isinstance(answer, Bid | Refusal), f"its bid is a {type(answer).__name__}, neither Bid nor Refusal")
            self._answers[example] = answer
        return self._answers[example]

    def allowance(self, example: TiltExample) -> Allowance:
        answer = self.answer(example)
        assert isinstance(answer, Bid)
        return ALLOWANCES[answer.guarantee]

    def session(self, example: TiltExample) -> TiltSession:
        if example not in self._opened:
            self._opened[example] = self.sampler.open(self.program(example))
        return self._opened[example]

    def new_session(self, example: TiltExample) -> TiltSession:
        """A session of a sampler that has done nothing before."""
        sampler: TiltSampler = made(self.subject, "tilt_sampler")
        return sampler.open(self.program(example))

    def mover(self, example: TiltExample) -> DenoisingTiltSession | None:
        """The session, where it calls the base's denoiser."""
        session = self.session(example)
        return session if session.nfe_per_draw > 0 else None  # type: ignore[return-value]

    def draws(self, example: TiltExample, index: int) -> Floats:
        """`rows` draws of one tilt, (rows, d), on the host."""
        if (example, index) not in self._drawn:
            tilt = example.coordinates[index : index + 1]
            x = self.session(example).draw(tilt, self.rows, seed=self.seed + index)
            self._drawn[example, index] = _flat(x, self.rows, example)
        return self._drawn[example, index]

    def few(
        self,
        session: TiltSession,
        example: TiltExample,
        index: int = 1,
        *,
        rows: int = _FEW_ROWS,
        seed: int | None = None,
        stage: int = 0,
        first_row: int = 0,
    ) -> Floats:
        """A few draws of one tilt, (n, d), on the host."""
        tilt = example.coordinates[index : index + 1].copy()
        seed = self.seed if seed is None else seed
        return _flat(session.draw(tilt, rows, seed=seed, stage=stage, first_row=first_row), rows, example)


def _where_taken(
    examine: Callable[[_Bench, TiltExample], str | None], bench: _Bench, example: TiltExample
) -> str | None:
    answer = bench.answer(example)
    return answer.reason if isinstance(answer, Refusal) else examine(bench, example)


def _flat(x: Any, rows: int, example: TiltExample) -> Floats:
    """Draws on the host, (n, d), refused unless they have the law's shape and are finite."""
    wanted = (rows, *example.base.shape)
    expect(tuple(x.shape) == wanted, f"draws have shape {tuple(x.shape)}, not {wanted}")
    values = to_numpy(x).astype(np.float64).reshape(rows, example.base.ambient)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise Breach(f"row {int(np.argmax(bad))} of the draws is not finite")
    return values


def _like(values: Floats, sample: Any, shape: tuple[int, ...]) -> Any:
    """Rows (n, d) as an array of the kind, dtype and device of a session's own draws."""
    xp = array_api_compat.array_namespace(sample)
    rows = values.reshape(len(values), *shape)
    return xp.asarray(rows, dtype=sample.dtype, device=array_api_compat.device(sample))


def _expect_same_rows(found: Floats, expected: Floats, example: TiltExample, otherwise: str) -> None:
    """Raise a `Breach` unless rows agree up to rounding."""
    difference = np.abs(found - expected).max(axis=1) / example.scale.max()
    share = float(np.mean(difference <= _ROUNDING))
    if share < _SAME_SHARE:
        row = int(np.argmax(difference))
        raise Breach(
            f"{otherwise}: {1 - share:.0%} of the rows differ, row {row} by {difference[row]:.3g} standard deviations",
            share=share,
            difference=difference[row],
        )


# ---- one promise each


def _bids(bench: _Bench, example: TiltExample) -> str | None:
    answer = bench.answer(example)
    expect(isinstance(answer.backend, str) and answer.backend, "it names no backend")
    if isinstance(answer, Refusal):
        expect(isinstance(answer.reason, str) and answer.reason.strip(), "it refuses without a reason")
        return answer.reason
    expect(isinstance(answer.guarantee, Guarantee), f"its guarantee is {answer.guarantee!r}, not a Guarantee")
    expect(isinstance(answer.method, str) and answer.method, "it names no method")
    expect_citations(answer)
    predicted = []
    for rows in (1, 100_000):
        bid = bench.sampler.bid(replace(bench.program(example), rows=rows))
        expect(isinstance(bid, Bid), "whether it bids depends on the number of rows")
        predicted.append(bid.seconds if isinstance(bid, Bid) else math.nan)
        expect(
            math.isfinite(predicted[-1]) and predicted[-1] > 0,
            f"it predicts {predicted[-1]} seconds",
            seconds=predicted[-1],
        )
    expect(
        predicted[1] >= predicted[0],
        f"it predicts {predicted[0]} s for 1 row, but {predicted[1]} s for 100,000",
        one=predicted[0],
        many=predicted[1],
    )
    if isinstance(example.base, Denoiser):
        counted = _Counted(example)
        bench.sampler.bid(bench.program(counted.example))
        expect(not counted.rows, f"to bid, it had {sum(counted.rows)} rows denoised", rows=sum(counted.rows))
    return None


class _Counted:
    """An example known by its denoiser, which counts the rows it is given.

    Arguments:
        evaluations_per_denoise: of its network for a row.

    Attributes:
        example: the same example with the counting denoiser.
        rows: the number of rows of each evaluation.
    """

    def __init__(self, example: TiltExample, *, evaluations_per_denoise: int = 1) -> None:
        self.rows: list[int] = []

        def denoise(x: Any, sigma: Any) -> Any:
            self.rows.append(int(x.shape[0]))
            return example.law.denoise(x, sigma)

        base = by_denoiser(
            example.law, denoise, exact=example.base.exact, evaluations_per_denoise=evaluations_per_denoise
        )
        self.example = replace(example, base=base)


def _shapes(bench: _Bench, example: TiltExample) -> str | None:
    bench.draws(example, 0)
    bench.few(bench.session(example), example, rows=1)
    return None


def _features(bench: _Bench, example: TiltExample) -> str | None:
    session = bench.session(example)
    x = session.draw(example.coordinates[1:2], _FEW_ROWS, seed=bench.seed)
    found = session.features(x)
    wanted = (_FEW_ROWS, len(example.directions))
    expect(
        isinstance(found, np.ndarray) and found.shape == wanted and found.dtype == np.float64,
        f"features are {type(found).__name__} of {getattr(found, 'dtype', 'no dtype')} and shape "
        f"{np.shape(found)}, not float64 of shape {wanted}",
    )
    expected = _flat(x, _FEW_ROWS, example) @ example.directions.T
    size = np.abs(expected).max() + np.abs(example.directions).max()
    difference = np.abs(found - expected).max()
    expect(
        difference <= _ROUNDING * size,
        f"features differ by {difference:.3g} from ⟨direction, x⟩, whose largest is {np.abs(expected).max():.3g}",
        difference=difference,
    )
    return None


def _mean(bench: _Bench, example: TiltExample) -> str | None:
    for index in range(len(example.coordinates)):
        _expect_mean(bench.draws(example, index), bench, example, index)
    return None


def _expect_mean(draws: Floats, bench: _Bench, example: TiltExample, index: int) -> None:
    truth = example.tilted(index)
    sd = np.sqrt(np.diag(truth.covariance))
    error = sd / math.sqrt(len(draws))
    _expect_close(
        draws.mean(axis=0), truth.mean, error, bench.allowance(example).mean * sd, f"{_tilt(example, index)} the mean"
    )


def _covariance(bench: _Bench, example: TiltExample) -> str | None:
    for index in range(len(example.coordinates)):
        _expect_covariance(bench.draws(example, index), bench, example, index)
    return None


def _expect_covariance(draws: Floats, bench: _Bench, example: TiltExample, index: int) -> None:
    truth = example.tilted(index)
    centred = draws - truth.mean
    products = np.einsum("ni,nj->nij", centred, centred)
    error = products.std(axis=0) / math.sqrt(len(draws))
    sd = np.sqrt(np.diag(truth.covariance))
    allowed = bench.allowance(example).covariance
    _expect_close(
        products.mean(axis=0),
        truth.covariance,
        error,
        allowed * np.outer(sd, sd) if math.isfinite(allowed) else np.inf,
        f"{_tilt(example, index)} the covariance",
    )


def _law(bench: _Bench, example: TiltExample) -> str | None:
    for index in range(len(example.coordinates)):
        reference = example.tilted(index).sample(_REFERENCE_ROWS, seed=bench.seed)
        truth = np.sort(reference.reshape(_REFERENCE_ROWS, -1) @ example.directions.T, axis=0)
        scores = bench.draws(example, index) @ example.directions.T
        for number in range(len(example.directions)):
            levels = [_level(truth[:, number], share) for share in _LEVELS]
            below = np.searchsorted(truth[:, number], levels) / _REFERENCE_ROWS
            found = np.searchsorted(np.sort(scores[:, number]), levels) / len(scores)
            error = np.sqrt(below * (1 - below) * (1 / len(scores) + 1 / _REFERENCE_ROWS))
            _expect_close(
                found,
                below,
                error,
                bench.allowance(example).probability,
                f"{_tilt(example, index)} the share of draws with ⟨direction {number}, x⟩ below "
                f"{np.array2string(np.array(levels), precision=3)}",
            )
    return None


def _level(values: Floats, share: float) -> float:
    """A number near a quantile of sorted values that lies between two of them: a sampler may blur a data point."""
    at = values[int(share * len(values))]
    above = values[np.searchsorted(values, at, side="right") :]
    return float(0.5 * (at + (above[0] if len(above) else at)))


def _expect_close(found: Floats, truth: Floats, error: Floats, allowed: Floats | float, what: str) -> None:
    """Raise a `Breach` unless all numbers lie within five standard errors and the allowance of the truth."""
    # Where a law has no spread, its numbers are still rounded.
    error = error + 1e-9 * (1.0 + np.abs(truth))
    excess = (np.abs(found - truth) - allowed) / error
    worst = np.unravel_index(int(np.argmax(excess)), excess.shape)
    if not excess[worst] <= _DEVIATIONS:
        raise Breach(
            f"{what} has {found[worst]:.5g} at index {tuple(map(int, worst))}, where {truth[worst]:.5g} is right, "
            f"{excess[worst]:.3g} standard errors beyond what is allowed",
            found=found[worst],
            truth=truth[worst],
            deviations=excess[worst],
        )


def _tilt(example: TiltExample, index: int) -> str:
    return f"under the tilt {np.array2string(example.coordinates[index], precision=3)} of the directions"


def _direction(bench: _Bench, example: TiltExample) -> str | None:
    for index in range(1, len(example.coordinates)):
        theta = example.coordinates[index] @ example.directions
        before, after = bench.draws(example, 0) @ theta, bench.draws(example, index) @ theta
        error = math.sqrt((before.var() + after.var()) / bench.rows)
        gain, right = after.mean() - before.mean(), float(theta @ (example.tilted(index).mean - example.law.mean))
        expect(
            gain >= right / 4 - _DEVIATIONS * error and gain > 0,
            f"{_tilt(example, index)} the mean of ⟨θ, x⟩ changes by {gain:.4g}, where {right:.4g} is right",
            gain=gain,
            right=right,
        )
    return None


def _rows(bench: _Bench, example: TiltExample) -> str | None:
    session, cut = bench.session(example), _FEW_ROWS // 3
    whole = bench.few(session, example)
    for rows, first in ((cut, 0), (_FEW_ROWS - cut, cut), (1, cut)):
        part = bench.few(session, example, rows=rows, first_row=first)
        _expect_same_rows(
            part, whole[first : first + rows], example, f"drawn as {rows} rows from row {first} on, they are others"
        )
    if (mover := bench.mover(example)) is not None:
        start = session.draw(example.coordinates[:1], _FEW_ROWS, seed=bench.seed)
        tilt = example.coordinates[1:2]
        move = functools.partial(mover.renoise, sigma=float(example.scale.max()), nfe=9, seed=bench.seed + 1, stage=3)
        moved = _flat(move(start, tilt), _FEW_ROWS, example)
        part = _flat(move(start[cut:], tilt, first_row=cut), _FEW_ROWS - cut, example)
        _expect_same_rows(part, moved[cut:], example, f"renoised from row {cut} on, they are others")
    return None


def _independent(bench: _Bench, example: TiltExample) -> str | None:
    session, rows = bench.session(example), bench.rows
    first = bench.few(session, example, index=0, rows=rows, seed=bench.seed)
    others = {
        "the next row": np.roll(first, 1, axis=0),
        "the same row under the next seed": bench.few(session, example, index=0, rows=rows, seed=bench.seed + 1),
        "the same row of the next stage": bench.few(session, example, index=0, rows=rows, stage=1),
        "the row ten further on": bench.few(session, example, index=0, rows=rows, first_row=10),
    }
    spread = first.std(axis=0)
    expect(
        (spread > _ROUNDING * example.scale).all(),
        f"all rows are the same: their standard deviation is {spread.min():.3g}",
        spread=spread.min(),
    )
    for what, second in others.items():
        centred, beside = first - first.mean(axis=0), second - second.mean(axis=0)
        correlation = (centred * beside).mean(axis=0) / np.maximum(spread * second.std(axis=0), 1e-300)
        worst = int(np.argmax(np.abs(correlation)))
        expect(
            np.abs(correlation[worst]) < _DEVIATIONS / math.sqrt(rows),
            f"entry {worst} of a row and of {what} are correlated by {correlation[worst]:.3g} over {rows} rows",
            correlation=correlation[worst],
        )
    return None


def _repeats(bench: _Bench, example: TiltExample) -> str | None:
    session = bench.session(example)
    first = bench.few(session, example)
    bench.few(session, example, seed=bench.seed + 7)
    _expect_same_rows(bench.few(session, example), first, example, "drawn again, the rows are others")
    _expect_same_rows(
        bench.few(bench.new_session(example), example), first, example, "in a new session, the rows are others"
    )
    return None


def _tilts(bench: _Bench, example: TiltExample) -> str | None:
    session, count = bench.session(example), len(example.coordinates)
    times = -(-_FEW_ROWS // count)
    mixed = _flat(
        session.draw(np.tile(example.coordinates, (times, 1)), times * count, seed=bench.seed), times * count, example
    )
    for index in range(count):
        alone = bench.few(session, example, index=index, rows=times * count)
        _expect_same_rows(
            mixed[index::count],
            alone[index::count],
            example,
            f"{_tilt(example, index)}, drawn beside rows of other tilts, rows are others than by themselves",
        )
    return None


def _input(bench: _Bench, example: TiltExample) -> str | None:
    program = replace(
        bench.program(example), directions=example.directions.copy(), coordinates=example.coordinates.copy()
    )
    tilts = np.tile(example.coordinates, (2, 1))
    given = {"directions": program.directions, "coordinates": program.coordinates, "coordinates of rows": tilts}
    before = {name: values.copy() for name, values in given.items()}
    for values in given.values():
        values.setflags(write=False)
    session = bench.sampler.open(program)
    session.features(session.draw(tilts, len(tilts), seed=bench.seed))
    for name, values in given.items():
        expect(np.array_equal(values, before[name]), f"the {name} were written to")
    return None


def _sessions(bench: _Bench, example: TiltExample) -> str | None:
    expected = bench.few(bench.session(example), example)
    twice = replace(example, directions=2.0 * example.directions)
    sessions = [bench.sampler.open(bench.program(one)) for one in (example, twice)]
    tilt = example.coordinates[1:2]
    sessions[1].draw(tilt, _FEW_ROWS, seed=bench.seed)
    _expect_same_rows(
        bench.few(sessions[0], example), expected, example, "beside a session of twice the tilt, rows are others"
    )
    half = _flat(sessions[1].draw(tilt / 2, _FEW_ROWS, seed=bench.seed), _FEW_ROWS, example)
    _expect_same_rows(half, expected, example, "half of twice a direction is another tilt")
    return None


def _progress(bench: _Bench, example: TiltExample) -> str | None:
    told: list[tuple[Any, ...]] = []
    session = bench.session(example)
    x = session.draw(example.coordinates[1:2], _FEW_ROWS, seed=bench.seed, progress=lambda *event: told.append(event))
    expect_progress(told, _FEW_ROWS)
    _expect_same_rows(
        _flat(x, _FEW_ROWS, example),
        bench.few(session, example),
        example,
        "told to report progress, it drew other rows",
    )
    return None


def _evaluations(bench: _Bench, example: TiltExample) -> str | None:
    nfe = bench.session(example).nfe_per_draw
    expect(isinstance(nfe, int) and nfe >= 0, f"nfe_per_draw is {nfe!r}")
    if not isinstance(example.base, Denoiser):
        return None if nfe == 0 else "the law is no Denoiser, whose evaluations could be counted"
    # As under guidance: a call of the denoiser has its network evaluated twice.
    counted = _Counted(example, evaluations_per_denoise=2)
    session = bench.sampler.open(bench.program(counted.example))
    # What a session does once for a tilt is no row's.
    bench.few(session, counted.example)
    counted.rows.clear()
    before = session.evaluations
    bench.few(session, counted.example, seed=bench.seed + 1)
    found, told = 2 * sum(counted.rows) / _FEW_ROWS, session.evaluations - before
    expect(
        abs(found - session.nfe_per_draw) <= 0.5,
        f"a row took {found:.4g} evaluations, two a call, and nfe_per_draw says {session.nfe_per_draw}",
        found=found,
        said=session.nfe_per_draw,
    )
    expect(
        told == 2 * sum(counted.rows),
        f"rows took {2 * sum(counted.rows)} evaluations, two a call, and `evaluations` grew by {told}",
        told=told,
    )
    return None


def _renoise(bench: _Bench, example: TiltExample) -> str | None:
    session = bench.mover(example)
    if session is None:
        return _NO_DENOISER
    sample = session.draw(example.coordinates[:1], 1, seed=bench.seed)
    sigma = float(example.scale.max())
    for index in range(len(example.coordinates)):
        start = example.tilted(index).sample(bench.rows, seed=bench.seed + 100 + index).reshape(bench.rows, -1)
        x = session.renoise(
            _like(start, sample, example.base.shape),
            example.coordinates[index : index + 1],
            sigma=sigma,
            nfe=_MOVE_NFE,
            seed=bench.seed,
            stage=2,
        )
        moved = _flat(x, bench.rows, example)
        step = math.sqrt(float(np.mean((moved - start) ** 2)))
        least = 0.1 * math.sqrt(float(np.diag(example.tilted(index).covariance).mean()))
        expect(step > least, f"noised at σ = {sigma:.3g} and denoised, rows moved by {step:.3g} alone", step=step)
        _expect_mean(moved, bench, example, index)
        _expect_covariance(moved, bench, example, index)
    return None


def _movers(bench: _Bench, example: TiltExample) -> str | None:
    session = bench.mover(example)
    if session is None:
        return _NO_DENOISER
    missing = [name for name in ("renoise", "take", "spread", "means") if not callable(getattr(session, name, None))]
    expect(not missing, f"it calls the denoiser {session.nfe_per_draw} times a draw, and has no {', '.join(missing)}")
    x = session.draw(example.coordinates[:1], _FEW_ROWS, seed=bench.seed)
    host = _flat(x, _FEW_ROWS, example)
    chosen = np.array([3, 3, 0, _FEW_ROWS - 1])
    taken = _flat(session.take(x, chosen), len(chosen), example)
    expect(np.array_equal(taken, host[chosen]), f"take(x, {chosen.tolist()}) gives other rows")
    spread, right = session.spread(x), math.sqrt(float(host.var(axis=0).mean()))
    expect(
        # Whether a variance is over n or n − 1 is left open.
        abs(spread / right - 1.0) < 1.0 / _FEW_ROWS,
        f"spread(x) is {spread:.5g}, where the root mean square deviation of an entry is {right:.5g}",
        spread=spread,
        right=right,
    )
    for sigma in (4.0 * float(example.scale.max()), example.base.sigma_max):
        found = session.means(example.coordinates, sigma)
        start = (example.law.mean + sigma**2 * (example.coordinates @ example.directions)).reshape(
            -1, *example.base.shape
        )
        denoised = example.law.denoise(start, np.full(len(start), sigma)).reshape(len(start), -1)
        expected = denoised @ example.directions.T
        unit = np.abs(example.directions) @ example.scale
        expect(np.shape(found) == expected.shape, f"means have shape {np.shape(found)}, not {expected.shape}")
        difference = float((np.abs(found - expected) / unit).max())
        expect(
            difference < 0.01,
            f"means(…, σ = {sigma:.4g}) are off by {difference:.3g} standard deviations of ⟨direction, x⟩",
            difference=difference,
        )
    return None


def _useful(bench: _Bench) -> str | None:
    for example in bench.examples:
        # A bid that breaks is said where it breaks.
        try:
            if isinstance(bench.answer(example), Bid):
                return None
        except Exception:
            continue
    raise Breach(f"none of the {len(bench.examples)} programs was taken")
