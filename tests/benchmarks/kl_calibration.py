"""Whether the intervals that certificates state cover the truth: 1,000 seeded fits of each problem, on exact laws.

Bar: the 95 % intervals (±1.96 standard errors) of log Z, KL(q‖p) and E_q[r] cover the truth in 93 to 97 % of the runs;
where no randomness is left in log Z, it is the truth to 1e-6.

Fits are as small as those that pay for every draw: intervals are hardest to state for few. A cover takes seconds to
find, so that 50 fits share one; none of its intervals depends on the draws it was found from.
"""

from __future__ import annotations

import time

import numpy as np

import alignkit as ak
from alignkit.contracts import TiltProgram
from alignkit.tilting.direct import RejectionTilt, fit_direct
from alignkit.tilting.exact import ExactTiltSession
from alignkit.tilting.target import TiltTarget
from tests.benchmarks.kl_exact import EXAMPLES, MAP, Example, Truth
from tests.benchmarks.mixture import law

RUNS, SHARED = 1_000, 50
COVERAGE = (0.93, 0.97)
EXACT_TO = 1e-6


class Costly(ExactTiltSession):
    """Draws in closed form that are counted as if a denoiser made them."""

    nfe_per_draw = 31


def covered(example: Example, runs: int) -> dict[str, float]:
    """The share of runs whose intervals hold the truth, by quantity; log Z is left out where it is exact."""
    base = law()
    truth = Truth(base, example)
    program = TiltProgram(base, np.vstack([MAP, np.zeros(base.ambient)]), np.eye(1, 3, 2), 1000)
    target = TiltTarget(program, example.declared(ak.Variable(2)), example.weight, np.ones(1))
    session = Costly(base, program.directions)
    expected = {
        "log Z": truth.log_partition,
        "KL": truth.kl,
        "E_q[r]": truth.reward / example.weight,
    }
    hits, measure = dict.fromkeys(expected, 0), None
    for seed in range(runs):
        measure = None if seed % SHARED == 0 else measure
        fitted = fit_direct(target, session, seed=seed, measure=measure)
        assert isinstance(fitted, RejectionTilt)
        measure, found = fitted.mixture.measure, fitted.moments
        assert found.kl is not None
        if found.log_partition.standard_error < EXACT_TO:
            # An interval without width covers nothing or everything: it is held to the truth instead.
            assert abs(found.log_partition.value - truth.log_partition) <= EXACT_TO, (example.name, seed)
            hits.pop("log Z", None)
        estimates = {"log Z": found.log_partition, "KL": found.kl, "E_q[r]": found.after}
        for name in hits:
            hits[name] += abs(estimates[name].value - expected[name]) <= 1.96 * estimates[name].standard_error
    return {name: count / runs for name, count in hits.items()}


def run(runs: int = RUNS) -> bool:
    held = True
    print(f"{runs} fits each; the share of 95 % intervals that hold the truth")
    print("reward         λ      log Z    KL       E_q[r]   seconds a fit")
    for example in EXAMPLES:
        start = time.perf_counter()
        shares = covered(example, runs)
        seconds = (time.perf_counter() - start) / runs
        fine = all(COVERAGE[0] <= share <= COVERAGE[1] for share in shares.values())
        names = ("log Z", "KL", "E_q[r]")
        columns = "".join(f"{f'{shares[name]:.3f}' if name in shares else 'exact':<9}" for name in names)
        print(f"{example.name:<14} {example.weight:<6g} {columns}{seconds:.2g}  {'' if fine else 'MISSED'}", flush=True)
        held &= fine
    return held
