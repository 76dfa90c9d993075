"""The cheapest path through a graph whose edges have a guarantee and a cost."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Edge", "cheapest_path"]

Label = TypeVar("Label")


@dataclass(frozen=True)
class Edge(Generic[Label]):
    """A step from one node to another.

    Arguments:
        source, target: the nodes.
        strength: what the step promises; a path promises what its weakest step does.
        cost: finite and at least 0; costs add up along a path.
        label: what the step stands for.
    """

    source: Hashable
    target: Hashable
    strength: int
    cost: float
    label: Label

    def __post_init__(self) -> None:
        if not 0.0 <= self.cost < float("inf"):
            raise ValueError(f"The cost of {self.label} is {self.cost}; costs are finite and at least 0.")


def cheapest_path(edges: Sequence[Edge[Label]], source: Hashable, goal: Hashable) -> tuple[Edge[Label], ...] | None:
    """The path of the strongest promise, and of least cost among those.

    Arguments:
        edges: the graph; of paths of equal cost the shorter wins, then the one whose steps come first in this order.
        source, goal: its ends.

    Returns:
        the steps, none where the source is the goal; None when no path leads there.

    Example:
        >>> edges = [Edge("a", "c", 1, 5.0, "direct"), Edge("a", "b", 1, 1.0, "in"), Edge("b", "c", 1, 1.0, "out")]
        >>> [edge.label for edge in cheapest_path(edges, "a", "c")]
        ['in', 'out']

    Source: E. W. Dijkstra, "A note on two problems in connexion with graphs", 1959.
    """
    # The weakest step of a path is no sum, so each promise gets a search of its own among the steps that keep it.
    for strength in sorted({edge.strength for edge in edges}, reverse=True) or [0]:
        found = _shortest([edge if edge.strength >= strength else None for edge in edges], source, goal)
        if found is not None:
            return tuple(edges[position] for position in found)
    return None


def _shortest(edges: Sequence[Edge[Label] | None], source: Hashable, goal: Hashable) -> tuple[int, ...] | None:
    leaving: dict[Hashable, list[tuple[int, Edge[Label]]]] = {}
    for position, edge in enumerate(edges):
        if edge is not None:
            leaving.setdefault(edge.source, []).append((position, edge))
    # Nodes need not be ordered, and the counter keeps them from being compared.
    counter = itertools.count()
    waiting: list[tuple[float, int, tuple[int, ...], int, Hashable]] = [(0.0, 0, (), next(counter), source)]
    settled: set[Hashable] = set()
    while waiting:
        cost, steps, path, _, node = heapq.heappop(waiting)
        if node == goal:
            return path
        if node in settled:
            continue
        settled.add(node)
        for position, edge in leaving.get(node, []):
            if edge.target not in settled:
                entry = (cost + edge.cost, steps + 1, (*path, position), next(counter), edge.target)
                heapq.heappush(waiting, entry)
    return None
