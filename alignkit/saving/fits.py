"""Fitted samplers in files: the arrays that they draw from. A backend's session is opened anew, nothing is solved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from alignkit import registry
from alignkit.base import Empirical
from alignkit.compiler.closeness import Wasserstein
from alignkit.compiler.plan import Plan
from alignkit.contracts import PushforwardSession, TiltProgram, TiltSession
from alignkit.errors import ParameterError
from alignkit.saving.records import NotStorableError
from alignkit.tilting.annealed import AnnealedTilt
from alignkit.tilting.direct import DirectTilt, RejectionTilt
from alignkit.tilting.fitted import FittedTilt
from alignkit.tilting.heuristic import HeuristicTilt, NoiseParticles, NoiseWalk, values_on_host
from alignkit.tilting.law_fit import ReweightedData
from alignkit.tilting.law_request import Measured
from alignkit.tilting.mixture import TiltMixture
from alignkit.tilting.path import TiltPath
from alignkit.tilting.pooled import PooledTilt
from alignkit.tilting.target import TiltTarget
from alignkit.transport.fitted import FittedTransport
from alignkit.transport.randomised import RandomisedMap
from alignkit.transport.reduction import TransportMap

__all__ = ["Fitted", "fit_from", "fit_parts"]

Fitted = FittedTilt | FittedTransport

#: Particles whose reward tells whether a function is the one that was saved, and how far it may be off, relatively.
_PROBES, _SAME = 8, 1e-3


def fit_parts(fitted: Fitted) -> dict[str, Any]:
    """What a fitted sampler is made of.

    Raises:
        NotStorableError: it is of a class that is not known here.
    """
    kind = type(fitted)
    if kind not in _PARTS:
        raise NotStorableError(f"a sampler of the class {kind.__name__}")
    return {"kind": kind.__name__} | _PARTS[kind](fitted)


def fit_from(parts: Mapping[str, Any], plan: Plan) -> Fitted:
    """The sampler again, on the plan's backend.

    Raises:
        BackendUnavailableError: the backend is not installed.
        ParameterError: the reward is a function that is not the one that was saved.
    """
    return _MADE[parts["kind"]](parts, plan)


# ---- tilts of the base law


def _of_program(program: TiltProgram) -> dict[str, Any]:
    return {name: getattr(program, name) for name in ("directions", "coordinates", "rows")}


def _program(parts: Mapping[str, Any], plan: Plan) -> TiltProgram:
    assert isinstance(plan.request, TiltProgram)
    return TiltProgram(base=plan.base, **parts, device=plan.request.device)


def _opened(program: TiltProgram, plan: Plan) -> TiltSession:
    session: TiltSession = registry.require(plan.backend, "tilt_sampler")().open(program)
    return session


def _of_target(target: TiltTarget) -> dict[str, Any]:
    return {
        "program": _of_program(target.program),
        "is_linear": target.nonlinear is None,
        "weight": target.weight,
        "linear": target.linear,
    }


def _target(parts: Mapping[str, Any], plan: Plan) -> TiltTarget:
    nonlinear = None if parts["is_linear"] else plan.composition.nonlinear
    return TiltTarget(_program(parts["program"], plan), nonlinear, parts["weight"], parts["linear"])


def _of_direct(fitted: DirectTilt) -> dict[str, Any]:
    return {"coordinates": fitted.coordinates, "directions": fitted.directions, "moments": fitted.moments}


def _direct(parts: Mapping[str, Any], plan: Plan) -> DirectTilt:
    assert isinstance(plan.request, TiltProgram)
    known = {name: parts[name] for name in ("coordinates", "directions")}
    return DirectTilt(_opened(replace(plan.request, **known), plan), **known, moments=parts["moments"])


def _of_rejection(fitted: RejectionTilt) -> dict[str, Any]:
    mixture = fitted.mixture
    return {
        "target": _of_target(mixture.target),
        "measure": mixture.measure,
        "shares": mixture.shares,
        "moments": fitted.moments,
    }


def _rejection(parts: Mapping[str, Any], plan: Plan) -> RejectionTilt:
    target = _target(parts["target"], plan)
    mixture = TiltMixture(target, _opened(target.program, plan), parts["measure"], parts["shares"])
    return RejectionTilt(mixture, parts["moments"])


def _of_islands(fitted: AnnealedTilt | PooledTilt) -> dict[str, Any]:
    path = fitted.path
    return {
        "target": _of_target(path.target),
        "measure": path.measure,
        "reach": path.reach,
        "weights": fitted.weights,
        "moments": fitted.moments,
    }


def _islands(parts: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    target = _target(parts["target"], plan)
    return {
        "path": TiltPath(target, parts["measure"], parts["reach"]),
        "session": _opened(target.program, plan),
        "weights": parts["weights"],
        "moments": parts["moments"],
    }


def _of_annealed(fitted: AnnealedTilt) -> dict[str, Any]:
    own = {name: getattr(fitted, name) for name in ("particles", "features", "sigma", "nfe")}
    return _of_islands(fitted) | own


def _annealed(parts: Mapping[str, Any], plan: Plan) -> AnnealedTilt:
    common = _islands(parts, plan)
    own = {name: parts[name] for name in ("features", "sigma", "nfe")}
    directions = common["path"].target.program.directions.shape[0]
    return AnnealedTilt(**common, **own, particles=_moved(parts["particles"], common["session"], directions))


def _pooled(parts: Mapping[str, Any], plan: Plan) -> PooledTilt:
    return PooledTilt(**_islands(parts, plan), coordinates=parts["coordinates"])


def _moved(values: NDArray[Any], session: TiltSession, directions: int) -> Any:
    """Draws as the session's own arrays, of a session opened on so many directions."""
    # Noise costs no evaluations, where a session knows it.
    like = session.noise(1, seed=0) if hasattr(session, "noise") else session.draw(np.zeros((1, directions)), 1, seed=0)
    xp = array_api_compat.array_namespace(like)
    return xp.asarray(values, dtype=like.dtype, device=array_api_compat.device(like))


# ---- data, and what more is known of a sampler


def _reweighted(parts: Mapping[str, Any], plan: Plan) -> ReweightedData:
    assert isinstance(plan.base, Empirical)
    return ReweightedData(plan.base, parts["weights"], parts["moments"])


def _measured(parts: Mapping[str, Any], plan: Plan) -> Measured:
    sampler = fit_from(parts["sampler"], plan)
    assert not isinstance(sampler, FittedTransport)
    return Measured(sampler, parts["moments"])


# ---- Metropolis steps


def _of_heuristic(fitted: HeuristicTilt) -> dict[str, Any]:
    particles = fitted.particles
    return {
        "noise": particles.noise,
        "x": particles.x,
        "exponents": particles.exponents,
        "weights": fitted.weights,
        "size": fitted.size,
        "moments": fitted.moments,
    }


def _heuristic(parts: Mapping[str, Any], plan: Plan) -> HeuristicTilt:
    assert isinstance(plan.request, TiltProgram)
    session: PushforwardSession = _opened(plan.request, plan)  # type: ignore[assignment]  # as it did for the fit
    reward, weight = plan.diagnosis.reward, plan.closeness.present_weight
    noise, x = (_moved(parts[name], session, 1) for name in ("noise", "x"))
    particles = NoiseParticles(noise, x, parts["exponents"])
    score = values_on_host(reward)
    probes = np.arange(min(_PROBES, particles.exponents.size))
    found = score(session.take(x, probes)) / weight
    if not np.allclose(found, particles.exponents[probes], rtol=_SAME, atol=_SAME):
        raise ParameterError(
            f"The reward {reward} is not the one that was saved: it gives other values at the same draws.",
            ways_out=["Declare the function as it was when the result was saved.", "Solve the problem again."],
            expression=str(reward),
        )
    walk = NoiseWalk(session, score, weight)
    return HeuristicTilt(walk, particles, parts["weights"], parts["size"], parts["moments"])


# ---- transport


def _of_transport(fitted: FittedTransport) -> dict[str, Any]:
    found = fitted.map
    if isinstance(found, RandomisedMap):
        coin = {"probability": found.probability, "seed": found.seed}
        return {"weights": (found.cheap.weight, found.dear.weight), "coin": coin}
    return {"weights": (found.weight,), "coin": None}


def _transport(parts: Mapping[str, Any], plan: Plan) -> FittedTransport:
    maps = [_map(weight, plan) for weight in parts["weights"]]
    if parts["coin"] is None:
        return FittedTransport(plan.base, maps[0])
    return FittedTransport(plan.base, RandomisedMap(maps[0], maps[1], **parts["coin"]))


def _map(weight: float, plan: Plan) -> TransportMap:
    closeness, request = plan.closeness, plan.request
    assert isinstance(closeness, Wasserstein) and not isinstance(request, TiltProgram)
    session = None
    if request is not None:
        session = registry.require(plan.backend, "prox_solver")().open(replace(request, weight=weight))
    return TransportMap(plan.composition, weight, session, plan.tolerance, closeness.cost)


_PARTS: dict[type, Callable[[Any], dict[str, Any]]] = {
    DirectTilt: _of_direct,
    RejectionTilt: _of_rejection,
    AnnealedTilt: _of_annealed,
    PooledTilt: lambda fitted: _of_islands(fitted) | {"coordinates": fitted.coordinates},
    ReweightedData: lambda fitted: {"weights": fitted.weights, "moments": fitted.moments},
    Measured: lambda fitted: {"sampler": fit_parts(fitted.sampler), "moments": fitted.moments},
    HeuristicTilt: _of_heuristic,
    FittedTransport: _of_transport,
}
_MADE: dict[str, Callable[[Mapping[str, Any], Plan], Fitted]] = {
    "DirectTilt": _direct,
    "RejectionTilt": _rejection,
    "AnnealedTilt": _annealed,
    "PooledTilt": _pooled,
    "ReweightedData": _reweighted,
    "Measured": _measured,
    "HeuristicTilt": _heuristic,
    "FittedTransport": _transport,
}
