"""What backends answer: bids and refusals for the routes that take a problem."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from alignkit import registry
from alignkit.asking import ask
from alignkit.base.law import BaseLaw
from alignkit.compiler.diagnosis import Diagnosis
from alignkit.compiler.phrases import seconds
from alignkit.compiler.routes import Options, Request, Route
from alignkit.contracts import Bid, Refusal
from alignkit.errors import BackendUnavailableError
from alignkit.registry import BackendStatus

__all__ = ["Answers", "Offer", "collect_offers"]


@dataclass(frozen=True, eq=False)
class Offer:
    """What backends answered for one or more routes.

    Arguments:
        routes: the routes that ask this of a backend.
        request: what was asked; None where nothing is left for a backend to do.
        answers: every backend's bid or refusal, the best bid first.
    """

    routes: tuple[Route, ...]
    request: Request
    answers: tuple[Bid | Refusal, ...]

    @property
    def title(self) -> str:
        """The routes by name."""
        return ", ".join(route.name for route in self.routes)

    @property
    def bids(self) -> tuple[Bid, ...]:
        """The offers among the answers."""
        return tuple(answer for answer in self.answers if isinstance(answer, Bid))

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """The refusals among the answers."""
        return tuple(answer for answer in self.answers if isinstance(answer, Refusal))

    @property
    def is_served(self) -> bool:
        """Whether the routes can be taken."""
        return self.request is None or bool(self.bids)

    def rows(self, chosen: Bid | None = None) -> list[tuple[str, str, str]]:
        """For each answer the backend's name, what the answer is, and what it says."""
        found = []
        for answer in self.answers:
            if isinstance(answer, Refusal):
                found.append((answer.backend, "refused", answer.reason))
            else:
                promise = f"{answer.guarantee.name.lower()}; about {seconds(answer.seconds)} per 10,000 rows"
                found.append((answer.backend, "chosen" if answer is chosen else "bid", f"{answer.method}; {promise}"))
        return found

    @property
    def emptiness(self) -> str:
        """Why there are no answers."""
        if self.request is None:
            return "none needed: the reduction is the solution"
        return "none installed offers what is needed"

    def lines(self, chosen: Bid | None = None) -> list[str]:
        """The answers as rows of a table."""
        found = [f"  {backend:<12} {kind}: {text}" for backend, kind, text in self.rows(chosen)]
        return found or [f"  {self.emptiness}"]


class Answers(tuple[Bid | Refusal, ...]):
    """Every backend's answer, for the route taken and its alternatives, best first; prints as a table.

    Arguments:
        offers: the answers with their routes, those of the route taken first.
        chosen: the accepted bid.
        reason: what is said where no backend was asked.
    """

    offers: tuple[Offer, ...]
    chosen: Bid | None
    reason: str

    def __new__(cls, offers: Iterable[Offer], chosen: Bid | None = None, reason: str = "") -> Answers:
        """Gather the answers of several offers."""
        gathered = tuple(offers)
        answers = super().__new__(cls, (answer for offer in gathered for answer in offer.answers))
        answers.offers, answers.chosen, answers.reason = gathered, chosen, reason
        return answers

    def __str__(self) -> str:
        return "\n".join(self.lines()) or self.reason

    def lines(self) -> list[str]:
        """The rows, under the routes they are for."""
        found = []
        for offer in self.offers:
            found.append(f"Backends for {offer.title}")
            found += offer.lines(self.chosen)
        return found


def collect_offers(
    routes: Sequence[Route],
    diagnosis: Diagnosis,
    base: BaseLaw,
    options: Options,
    statuses: Sequence[BackendStatus],
) -> tuple[Offer, ...]:
    """Ask backends for every route that takes a problem; routes that ask the same are asked for once.

    Arguments:
        routes: those whose preconditions hold.
        diagnosis, base, options: make up the requests; the options say whom to ask.
        statuses: what is installed.

    Returns:
        an offer for each request, in the order of the routes; none for routes this version has no reduction for.

    Raises:
        BackendUnavailableError: the named backend is unknown, or offers nothing that a route needs.
        ParameterError: the tolerance is out of range.
    """
    backend = options.backend
    if backend != "auto" and all(status.name != backend for status in statuses):
        registry.require(backend, "prox_solver", statuses)
    asked: dict[Any, list[Route]] = {}
    for route in routes:
        if route.is_served:
            asked.setdefault((route.terminal.capability, route.terminal.request), []).append(route)
    offers: list[Offer] = []
    unable: BackendUnavailableError | None = None
    for (capability, request_for), group in asked.items():
        request = request_for(diagnosis, base, options)
        answers: tuple[Bid | Refusal, ...] = ()
        if request is not None:
            try:
                answers = ask(capability, request, backend, statuses)
            except BackendUnavailableError as error:
                unable = unable or error
                continue
        offers.append(Offer(tuple(group), request, answers))
    if unable is not None and not offers:
        raise unable
    return tuple(offers)
