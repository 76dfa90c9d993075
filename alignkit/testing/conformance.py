"""Checks, what they find, and the report of a whole run."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from alignkit import registry
from alignkit.citations import Citation
from alignkit.contracts import Bid
from alignkit.errors import AlignkitError

__all__ = [
    "Breach",
    "Check",
    "ConformanceError",
    "Outcome",
    "Promise",
    "Report",
    "Verdict",
    "expect",
    "made",
    "run_checks",
]


class Promise(enum.Enum):
    """What a backend promises; the value is the sentence shown to its author."""

    def __str__(self) -> str:
        return str(self.value)

    @property
    def label(self) -> str:
        """The member's name as it stands in reports and in the names of tests."""
        return self.name.lower().replace("_", "-")


class ConformanceError(AlignkitError, AssertionError):
    """A backend broke a promise.

    Arguments:
        promise: which.
        example: the name of the problem it was broken on; None when it is about the backend as a whole.
        found: what was seen instead, with the numbers.
        numbers: the same numbers by name, for programs.

    The four parts stay available as attributes.
    """

    def __init__(
        self, promise: Promise, example: str | None, found: str, *, numbers: Mapping[str, Any] | None = None
    ) -> None:
        self.promise, self.example, self.found = promise, example, found
        self.numbers = dict(numbers or {})
        where = "" if example is None else f" on {example!r}"
        super().__init__(f"[{promise.label}] Promised: {promise}. Found{where}: {found}.")


class Breach(Exception):
    """Raised inside a check by what it finds; `Check` says which promise was broken, and where.

    Arguments:
        found: what was seen, with the numbers.
        numbers: the same numbers by name.
    """

    def __init__(self, found: str, /, **numbers: Any) -> None:
        self.found, self.numbers = found, numbers
        super().__init__(found)


def expect(condition: Any, found: str, /, **numbers: Any) -> None:
    """Raise a `Breach` unless the condition holds."""
    if not condition:
        raise Breach(found, **numbers)


def expect_citations(bid: Bid) -> None:
    """Raise a `Breach` unless the papers of a bid are citations."""
    expect(
        isinstance(bid.citations, tuple) and all(isinstance(paper, Citation) for paper in bid.citations),
        f"its citations are {bid.citations!r}, not a tuple of alignkit.citations.Citation",
    )


def expect_progress(told: Sequence[tuple[Any, ...]], rows: int) -> None:
    """Raise a `Breach` unless progress was told as (stage, done, total), up to the last row."""
    expect(told, "it told nothing")
    for event in told:
        expect(
            len(event) == 3 and isinstance(event[0], str) and all(isinstance(count, int) for count in event[1:]),
            f"it told {event}, not (stage, rows done, rows)",
        )
    done = [event[1] for event in told]
    expect(all(event[2] == rows for event in told), f"of {rows} rows it told a total of {told[-1][2]}")
    expect(done == sorted(done), f"the rows done went {done}")
    expect(done[-1] == rows, f"of {rows} rows it told {done[-1]} done at the end")


class Verdict(enum.Enum):
    """How a check ended; the value is the word shown."""

    KEPT = "kept"
    SKIPPED = "skipped"
    BROKEN = "broken"


@dataclass(frozen=True)
class Outcome:
    """What one check found.

    Arguments:
        promise: what was examined.
        example: the name of the problem it was examined on, or None.
        verdict: kept, broken, or skipped: the backend refuses the problem, or the promise does not apply to it.
        note: why it was skipped.
        error: what was broken.
    """

    promise: Promise
    example: str | None
    verdict: Verdict
    note: str = ""
    error: ConformanceError | None = None


class Examination(Protocol):
    """The inside of a check."""

    def __call__(self) -> str | None:
        """Examine.

        Returns:
            None when the promise is kept, or the reason why nothing was to be examined.

        Raises:
            Breach: the promise is broken.
        """
        ...


@dataclass(frozen=True, eq=False)
class Check:
    """One promise of one backend on one example, to be called without arguments.

    `str(check)` is a name for it, as `pytest.mark.parametrize("check", checks, ids=str)` wants.

    Arguments:
        promise: what is examined.
        example: the name of the problem it is examined on, or None.
        examine: does it.
    """

    promise: Promise
    example: str | None
    examine: Examination = field(repr=False)

    def __call__(self) -> Outcome:
        """Examine the promise.

        Returns:
            whether it was kept, or skipped.

        Raises:
            ConformanceError: it is broken, or the backend raised something of its own.
        """
        try:
            note = self.examine()
        except Breach as breach:
            raise ConformanceError(self.promise, self.example, breach.found, numbers=breach.numbers) from None
        # A backend may raise anything; whatever it is, it was not promised.
        except Exception as error:
            found = f"{type(error).__name__}: {str(error) or 'without a message'}"
            raise ConformanceError(self.promise, self.example, f"it raised {found.rstrip('.')}") from error
        verdict = Verdict.KEPT if note is None else Verdict.SKIPPED
        return Outcome(self.promise, self.example, verdict, note or "")

    def __str__(self) -> str:
        return self.promise.label if self.example is None else f"{self.promise.label}[{self.example}]"


@dataclass(frozen=True)
class Report:
    """What all checks of a backend found; print it for a table.

    Arguments:
        subject: what was examined.
        outcomes: of each check, in order.
    """

    subject: str
    outcomes: tuple[Outcome, ...]

    @property
    def conforms(self) -> bool:
        """Whether no promise is broken."""
        return not self.broken

    @property
    def broken(self) -> tuple[ConformanceError, ...]:
        """What was broken, in order."""
        return tuple(outcome.error for outcome in self.outcomes if outcome.error is not None)

    @property
    def refused(self) -> Mapping[str, str]:
        """The examples refused, each with its reason."""
        return {
            outcome.example: outcome.note
            for outcome in self.outcomes
            if outcome.promise.label == "bids" and outcome.verdict is Verdict.SKIPPED and outcome.example is not None
        }

    def raise_broken(self) -> None:
        """Raise the first broken promise, if there is one.

        Raises:
            ConformanceError: with what was found.
        """
        for error in self.broken:
            raise error

    def __str__(self) -> str:
        broken = len(self.broken)
        title = f"{self.subject}: {'conforms' if not broken else f'{broken} of {len(self.outcomes)} checks broken'}"
        lines = [title]
        for promise in dict.fromkeys(outcome.promise for outcome in self.outcomes):
            counts = {
                verdict: sum(one.verdict is verdict for one in self.outcomes if one.promise is promise)
                for verdict in Verdict
            }
            shown = ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items() if count)
            lines.append(f"  {promise.label:<14} {shown:<28} {promise}")
        lines += [f"  refused {example!r}: {reason}" for example, reason in self.refused.items()]
        for promise in dict.fromkeys(error.promise for error in self.broken):
            first, *others = (error for error in self.broken if error.promise is promise)
            lines.append(str(first))
            if others:
                lines.append(f"  and on {len(others)} more: {', '.join(repr(other.example) for other in others)}")
        return "\n".join(lines)


def run_checks(subject: str, checks: Iterable[Check]) -> Report:
    """Run checks one after the other, whatever they find.

    Arguments:
        subject: what is examined, for the report's title.
        checks: from `prox_checks`, `tilt_checks` or `manifest_checks`.
    """
    outcomes = []
    for check in checks:
        try:
            outcomes.append(check())
        except ConformanceError as error:
            outcomes.append(Outcome(check.promise, check.example, Verdict.BROKEN, error=error))
    return Report(subject, tuple(outcomes))


def made(subject: Any, capability: str) -> Any:
    """The backend's implementation itself, from its registered name, its class or another maker, or itself."""
    if isinstance(subject, str):
        return registry.require(subject, capability)()
    return subject if hasattr(subject, "bid") and not isinstance(subject, type) else subject()


def named(subject: Any) -> str:
    """What a report calls the subject of `made`."""
    if isinstance(subject, str):
        return subject
    return str(getattr(subject, "__qualname__", type(subject).__qualname__))
