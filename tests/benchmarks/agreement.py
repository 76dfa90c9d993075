"""Every pair of proximal solvers that both take a problem, on 200 random problems that they share.

Bar: no two answers differ by more than their certified gaps. Pairs that share fewer of the problems tried are listed.
"""

from __future__ import annotations

import itertools
from collections import Counter

from tests.transport.agreement import BACKENDS, KINDS, bidders, check_agreement, problem_of

WANTED, SEEDS = 200, 320


def run() -> bool:
    shared: Counter[tuple[str, str]] = Counter()
    failures = 0
    for seed in range(SEEDS):
        for kind in KINDS:
            problem, points = problem_of(kind, seed)
            taken = tuple(bidders(problem))
            missing = [pair for pair in itertools.combinations(taken, 2) if shared[pair] < WANTED]
            if not missing:
                continue
            try:
                compared = check_agreement(problem, points, {name for pair in missing for name in pair})
            except AssertionError as error:
                failures += 1
                print(f"  {kind.__name__}, seed {seed}: {error}", flush=True)
                continue
            shared.update(itertools.combinations(compared, 2))
    for pair in itertools.combinations(BACKENDS, 2):
        print(f"{pair[0]:<8} {pair[1]:<8} {shared[pair]} problems")
    print(f"{failures} disagreements")
    return failures == 0
