"""What an explanation says, as data: for text, for notebooks, and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alignkit.compiler.bids import Answers
from alignkit.compiler.tree import LeftOut, TreeRow
from alignkit.errors import AlignkitError

__all__ = ["Account", "Fact", "RouteRow"]


@dataclass(frozen=True)
class Fact:
    """One thing that is said.

    Arguments:
        label: what it is about; empty where it goes on from the fact above.
        text: the thing.
    """

    label: str
    text: str


@dataclass(frozen=True)
class RouteRow:
    """What is said of a route.

    Arguments:
        name: the route.
        cost: the time that its reduction adds; empty where it cannot be taken.
        verdict: whether it is taken, could be, is tractable but not served, or is excluded.
        reason: why, for the last two.
    """

    name: str
    cost: str
    verdict: Literal["taken", "possible", "tractable", "no"]
    reason: str = ""

    @property
    def answer(self) -> str:
        """The verdict with its reason."""
        if not self.reason:
            return self.verdict
        return f"{self.verdict}{', but ' if self.verdict == 'tractable' else ': '}{self.reason}"


@dataclass(frozen=True, eq=False)
class Account:
    """How a problem is solved, or why it is not.

    Arguments:
        problem: the problem as the compiler sees it.
        heading: what stands over the tree; empty where there is none.
        tree: the reward, node by node.
        routes: every route of the closeness.
        answers: those of the backends.
        plan: the reduction and its guarantee; empty where there is no plan.
        error: what `solve` raises; None where there is a plan.
    """

    problem: tuple[Fact, ...]
    heading: str
    tree: tuple[TreeRow | LeftOut, ...]
    routes: tuple[RouteRow, ...]
    answers: Answers
    plan: tuple[Fact, ...] = ()
    error: AlignkitError | None = None
