"""The cheapest path against every path there is, on random graphs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alignkit.compiler.paths import Edge, cheapest_path


def every_path(edges, source, goal, passed=()):
    """All paths without a repeated node, as positions of edges, by exhaustion."""
    if source == goal:
        return [()]
    found = []
    for position, edge in enumerate(edges):
        if edge.source == source and edge.target not in (*passed, source):
            found += [(position, *rest) for rest in every_path(edges, edge.target, goal, (*passed, source))]
    return found


def worth(edges, path):
    """What paths are compared by: the weakest promise, the cost, the length, the order of the table."""
    steps = [edges[position] for position in path]
    return (-min(step.strength for step in steps), sum(step.cost for step in steps), len(steps), path)


def random_graph(generator, nodes, count):
    pairs = generator.integers(0, nodes, size=(count, 2))
    # Multiples of a quarter add up without rounding, and few values make ties.
    costs = generator.integers(0, 6, size=count) / 4.0
    strengths = generator.integers(0, 3, size=count)
    return [
        Edge(int(source), int(target), int(strength), float(cost), position)
        for position, ((source, target), cost, strength) in enumerate(zip(pairs, costs, strengths, strict=True))
    ]


@pytest.mark.parametrize("seed", range(20))
def test_no_path_is_better_than_the_one_found(seed):
    generator = np.random.default_rng(seed)
    reached = 0
    for _ in range(30):
        edges = random_graph(generator, nodes=int(generator.integers(2, 7)), count=int(generator.integers(1, 13)))
        found = cheapest_path(edges, 0, 1)
        paths = every_path(edges, 0, 1)
        assert (found is None) == (not paths)
        if found is not None:
            reached += 1
            best = min(paths, key=lambda path: worth(edges, path))
            assert tuple(edge.label for edge in found) == best
    assert reached > 5


def test_the_same_graph_gives_the_same_path_whatever_its_nodes_are():
    edges = [Edge(source, target, 1, 1.0, label) for source, target, label in (
        (complex(0, 1), "b", "first"), (complex(0, 1), "c", "second"), ("b", "d", "third"), ("c", "d", "fourth"),
    )]  # fmt: skip
    for _ in range(3):
        assert [edge.label for edge in cheapest_path(edges, complex(0, 1), "d")] == ["first", "third"]


def test_a_weak_step_loses_to_any_strong_path():
    edges = [Edge("a", "c", 0, 0.0, "weak"), Edge("a", "b", 1, 50.0, "in"), Edge("b", "c", 1, 50.0, "out")]
    assert [edge.label for edge in cheapest_path(edges, "a", "c")] == ["in", "out"]
    assert [edge.label for edge in cheapest_path(edges[:2], "a", "c")] == ["weak"]


def test_the_goal_itself_needs_no_step_and_no_edges_lead_nowhere():
    assert cheapest_path([], "a", "a") == ()
    assert cheapest_path([], "a", "b") is None


@pytest.mark.parametrize("cost", [-1.0, math.nan, math.inf])
def test_costs_that_cannot_be_added_up_are_refused(cost):
    with pytest.raises(ValueError, match="finite and at least 0"):
        Edge("a", "b", 1, cost, "step")
