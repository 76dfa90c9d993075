"""Proximal solvers against each other: whatever two installed backends both take, they agree within their gaps.

`python -m tests.benchmarks agreement` compares every pair on 200 problems and more.
"""

import itertools
from collections import Counter

import pytest

from tests.transport.agreement import BACKENDS, KINDS, PRICED, bidders, check_agreement, priced_problem_of, problem_of

EACH = 22
#: jax takes a second to compile each problem, and SCIP to solve some: they take part in some, as often as this says.
EVERY = {"ott": 7, "pyomo": 11}


def taking_part(seed):
    return [name for name in BACKENDS if seed % EVERY.get(name, 1) == 0]


@pytest.mark.parametrize("start", range(0, EACH, 11))
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_backends_agree_within_their_gaps(kind, start):
    for seed in range(start, start + 11):
        check_agreement(*problem_of(kind, seed), taking_part(seed))


@pytest.mark.parametrize("place", range(len(PRICED)), ids=lambda place: f"{place}: {PRICED[place].formula}")
def test_backends_agree_under_other_costs(place):
    for seed in range(24 if place == 0 else 4):  # ℓ1 has solvers of its own
        check_agreement(*priced_problem_of(place, seed), taking_part(seed))


def test_the_problems_are_shared_by_backends():
    """Or nothing above would compare anything."""
    takers = [tuple(bidders(problem_of(kind, seed)[0], taking_part(seed))) for kind in KINDS for seed in range(EACH)]
    assert sum(len(names) >= 2 for names in takers) >= 200
    shared = Counter(pair for names in takers for pair in itertools.combinations(names, 2))
    assert set(BACKENDS) >= {"cvxpy", "torch"} and shared["cvxpy", "torch"] >= 200
    # The grid takes few dimensions.
    for pair in itertools.combinations(BACKENDS, 2):
        few = len({"grid", *EVERY}.intersection(pair))
        assert shared[pair] >= (40, 5, 0)[few], shared
