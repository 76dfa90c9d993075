"""Asking backends for bids, of which one that is broken only loses its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from alignkit import registry
from alignkit.contracts import Bid, Guarantee, ProxProblem, Refusal
from alignkit.registry import BackendStatus

__all__ = ["ask"]


def ask(capability: str, request: Any, backend: str, statuses: Sequence[BackendStatus]) -> tuple[Bid | Refusal, ...]:
    """What backends answer to a request: bids, the best first, then refusals.

    Arguments:
        capability: what they are asked for, by the name of a manifest's field.
        request: a `TiltProgram` or a `ProxProblem`.
        backend: the name of one, or "auto" for all that are available.
        statuses: what is installed.

    Raises:
        BackendUnavailableError: the named backend does not offer the capability.
    """
    names: tuple[str, ...] = (backend,)
    if backend == "auto":
        names = registry.offers(capability, statuses)
    else:
        registry.require(backend, capability, statuses)
    answers = [_answer(name, capability, request, statuses) for name in names]
    bids = sorted((answer for answer in answers if isinstance(answer, Bid)), key=lambda bid: bid.rank)
    return (*bids, *(answer for answer in answers if isinstance(answer, Refusal)))


def _answer(name: str, capability: str, request: Any, statuses: Sequence[BackendStatus]) -> Bid | Refusal:
    """One backend's bid or refusal, under the name it is registered by; a broken one refuses."""
    try:
        solver = registry.require(name, capability, statuses)()
        displacement = request.displacement if isinstance(request, ProxProblem) else None
        # One that was written for quadratic costs would answer another problem than was asked.
        if displacement is not None and not getattr(solver, "takes_displacements", False):
            return Refusal(name, f"takes quadratic costs alone, and this is {displacement.cost.formula}")
        answer = solver.bid(request)
        if not isinstance(answer, Bid | Refusal):
            return Refusal(name, f"broken: its bid is a {type(answer).__name__}, neither Bid nor Refusal")
        if isinstance(answer, Bid):
            promise: object = answer.guarantee
            if not isinstance(promise, Guarantee):
                return Refusal(name, f"broken: it promises {promise!r}, which is no Guarantee")
            if not (math.isfinite(answer.seconds) and answer.seconds >= 0):
                return Refusal(name, f"broken: it predicts {answer.seconds!r} seconds")
        return replace(answer, backend=name)
    # A plug-in is somebody else's code and may raise anything; the others must stay usable.
    except Exception as error:
        return Refusal(name, f"broken: {type(error).__name__}: {error}")
