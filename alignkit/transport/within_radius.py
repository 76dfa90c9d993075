"""Fitting a transport map within a radius: λ is found on base draws, and the map there is certified on them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from alignkit.base.law import BaseLaw, ExactLaw
from alignkit.certificates import RadiusCertificate, RadiusPath, TransportCertificate
from alignkit.contracts import Floats, Progress
from alignkit.errors import Status, UnboundedTransportError
from alignkit.estimates import Estimate
from alignkit.expressions import Expression
from alignkit.noise import fold_seed
from alignkit.transport.account import Transported
from alignkit.transport.family import MapFamily
from alignkit.transport.fitted import FittedTransport, Share, certificate_of, scores
from alignkit.transport.radius import Moved, RadiusOutcome, WeightSearch, search_weight
from alignkit.transport.randomised import RandomisedMap
from alignkit.transport.reduction import TransportMap

__all__ = ["draws_wanted", "fit_within_radius"]

#: Draws that stand for p while λ is sought, and where 10,000 of them are moved in so few seconds.
_ROWS, _ROWS_FREE, _FREE = 4096, 16384, 0.1
#: Of how many entries at most (64 MB of float32), but so many draws at least.
_ENTRIES, _FEWEST_ROWS = 2**24, 256
#: The relative duality gap that a solve still calls solved.
_GAP = 1e-3
#: The share of its gain for which the search looks at no smaller λ, as a part of the gap wanted of rows, and at least.
_NEGLIGIBLE_PART, _NEGLIGIBLE = 1e-2, 1e-7


def draws_wanted(base: BaseLaw, seconds: float) -> int:
    """How many draws should stand for p while λ is sought.

    Arguments:
        base: the base law p.
        seconds: the time that 10,000 rows are predicted to take.

    Returns:
        the number; the mean cost over all of p is off by its standard error over so many.

    Example:
        >>> from alignkit.base import Gaussian
        >>> draws_wanted(Gaussian([0.0], 1.0), 0.01), draws_wanted(Gaussian([0.0], 1.0), 1.0)
        (16384, 4096)
    """
    count = _ROWS_FREE if isinstance(base, ExactLaw) and seconds <= _FREE else _ROWS
    return min(count, max(_FEWEST_ROWS, _ENTRIES // max(1, base.ambient)))


def fit_within_radius(
    base: BaseLaw,
    family: MapFamily,
    reward: Expression,
    radius: float,
    guarantee: str,
    *,
    rows: int,
    start: float,
    seed: int,
    progress: Progress = None,
) -> tuple[TransportCertificate, Status, FittedTransport]:
    """Find the best law with W_c(q, p) ≤ ρ, and fit a sampler of it.

    Arguments:
        base: the base law p.
        family: the maps of the reward under the cost, by λ.
        reward: r, as the user wrote it.
        radius: ρ > 0, in units of cost.
        guarantee: what is promised of every map, with its source.
        rows: how many draws stand for p while λ is sought.
        start: a λ to start from where the spread of r over the draws says nothing.
        seed: fixes every draw of the fit, and the coins of `transport`.
        progress: told how far it is.

    Returns:
        the certificate, on the draws that λ was found on; whether the radius is inactive or not attained; the sampler.

    Raises:
        InfeasibleError, UnboundedTransportError, BackendRefusedError: as for `search_weight`.
    """
    x = base.sample(rows, seed=fold_seed(seed, "draws for the radius"), progress=progress)
    before = scores(reward, x)
    spread = float(np.std(before[np.isfinite(before)])) if np.isfinite(before).any() else 0.0

    def measure(weight: float) -> Moved:
        found = family.at(weight).apply(x, progress)
        _check_found(found, weight)
        reached = found.objective + weight * found.cost
        return Moved(weight, Estimate.of_mean(found.cost), float(reached.mean()), float((reached - before).mean()))

    negligible = max(_NEGLIGIBLE, _NEGLIGIBLE_PART * family.tolerance)
    search = search_weight(measure, radius, start=spread / radius or start, negligible=negligible)
    maps = [family.at(search.cheap.weight)]
    fitted = FittedTransport(base, maps[0])
    if search.dear is not None:
        maps.append(family.apart(search.dear.weight))
        coins = fold_seed(seed, "coins of the transport")
        fitted = FittedTransport(base, RandomisedMap(maps[0], maps[1], search.probability, coins))
    probabilities = [1.0] if search.dear is None else [1 - search.probability, search.probability]
    shares = [Share(share, one.apply(x, progress)) for share, one in zip(probabilities, maps, strict=True)]
    achieved = certificate_of(reward, base, x, shares, guarantee)
    certificate = _certify(achieved, search, radius, maps, shares, ess=base.ess)
    return certificate, _status(search.outcome, certificate, family.tolerance), fitted


def _check_found(found: Transported, weight: float) -> None:
    """Raise where some row has no finite best move, as far as the backend sees."""
    lost = ~(np.isfinite(found.objective) & np.isfinite(found.cost))
    if lost.any():
        raise UnboundedTransportError(
            f"At λ = {weight:.6g} no best move was found for {int(lost.sum())} of {len(lost)} base draws, the first of "
            f"them draw {int(np.flatnonzero(lost)[0])}.",
            ways_out=["A smaller radius asks for a larger λ."],
        )


def _certify(
    certificate: TransportCertificate,
    search: WeightSearch,
    radius: float,
    maps: list[TransportMap],
    shares: list[Share],
    *,
    ess: float,
) -> TransportCertificate:
    """The certificate of the maps with that of the radius, on draws of a law all of whose draws have a worth."""

    def bound(position: int) -> Floats:
        weight, found = maps[position].weight, shares[position].moved
        return np.asarray(weight * radius + found.objective + found.gap)

    # Every λ bounds the value; the least of the bounds is the best.
    dual = min((Estimate.of_mean(bound(position), ess=ess) for position in range(len(maps))), key=float)
    gap = math.inf
    if math.isfinite(dual.value):
        gap = (dual.value - certificate.reward_after.value) / max(1.0, abs(dual.value))
    within = RadiusCertificate(
        radius=radius,
        weight=search.weight,
        dual=dual,
        gap=gap,
        costs=tuple(Estimate.of_mean(share.moved.cost, ess=ess) for share in shares),
        probability=None if search.dear is None else search.probability,
        path=RadiusPath.of(radius, search.tried),
    )
    details = certificate.details | {
        "rows": f"{certificate.details['rows']}, those on which λ was found, by {len(search.tried)} maps"
    }
    if search.outcome is not RadiusOutcome.REACHED:
        details["map"] = f"at λ = {search.cheap.weight:.6g}: {search.outcome.value}"
    return replace(certificate, weight=maps[0].weight, radius=within, details=details)


def _status(outcome: RadiusOutcome, certificate: TransportCertificate, tolerance: float) -> Status:
    within = certificate.radius
    assert within is not None
    fine = certificate.rows_unfinished == 0 and certificate.gap_max <= tolerance
    if outcome is RadiusOutcome.NOT_ATTAINED:
        return Status.RADIUS_NOT_ATTAINED if fine else Status.INACCURATE
    if not fine or within.gap > max(_GAP, 2 * tolerance):
        return Status.INACCURATE
    return Status.SOLVED if outcome is RadiusOutcome.REACHED else Status.RADIUS_INACTIVE
