"""Rounds of draws for programs over the law: nodes that overlap, and draws that are not independent."""

from __future__ import annotations

import math

import numpy as np
import pytest

import alignkit as ak
from alignkit.contracts import TiltProgram
from alignkit.estimates import Estimate
from alignkit.tilting.direct import DirectTilt
from alignkit.tilting.exact import ExactTiltSampler
from alignkit.tilting.fitted import TiltMoments
from alignkit.tilting.law_program import LawProgram
from alignkit.tilting.law_request import LawRequest
from alignkit.tilting.law_rounds import Node, Rounds
from alignkit.tilting.target import TiltTarget

GAUSSIAN = ak.base.Gaussian(np.zeros(1), 1.0)


def request(mean):
    """The closest law to N(0, 1) of a given mean, which is a shift: log Z = mean²/2."""
    program = TiltProgram(GAUSSIAN, np.zeros((1, 1)), np.ones((1, 1)), 1000)
    return LawRequest(
        target=TiltTarget(program, None, 1.0, np.ones(1)),
        rows=np.ones((1, 1)),
        program=LawProgram(valued=0, equalities=np.array([mean]), bounds=np.zeros(0)),
        names=("E(x)",),
        weight=1.0,
        radius=None,
        check_proper=lambda weight: None,
    )


@pytest.mark.parametrize("mean", [1.0, 9.0])
def test_laws_are_added_until_neighbours_lead_to_the_moments(mean):
    asked = request(mean)
    sampler = ExactTiltSampler()
    fit = Rounds(asked, sampler, sampler.open(asked.extended), engine="auto", seed=0, progress=None).run()
    laws = int(fit.details["program over the law"].split(" laws beside")[0].split()[-1])
    # Base draws alone speak for means up to two or three.
    assert laws <= 2 if mean == 1.0 else laws >= 3
    assert fit.solution.multipliers == pytest.approx([mean], abs=0.02)
    # The error holds all steps between neighbours that hardly overlap, and is finite as they do.
    truth = float(fit.solution.multipliers[0]) ** 2 / 2
    for found in (fit.fitted.moments.log_partition, fit.kl):
        assert abs(found.value - truth) < 4 * found.standard_error < 0.25


def grouped(seed, groups, ess):
    """Draws that share half of their variance with their group."""
    rng = np.random.default_rng(seed)
    islands = np.repeat(np.arange(16), 64)
    shared = rng.normal(size=(16, 1))[islands]
    moments = TiltMoments(Estimate(0.0), Estimate(0.0), Estimate(0.0), ess, 0.0, None)
    fitted = DirectTilt(None, np.zeros((1, 1)), np.zeros((1, 2)), moments)
    return Node(np.zeros(1), fitted, shared + rng.normal(size=(1024, 1)), islands if groups else None)


def test_standard_errors_know_what_draws_share():
    found = [grouped(seed, True, 16.0).means()[0] for seed in range(400)]
    spread = np.std([one.value for one in found])
    assert spread == pytest.approx(math.sqrt(1 / 16 + 1 / 1024), rel=0.1)
    assert np.sqrt(np.mean([one.standard_error**2 for one in found])) == pytest.approx(spread, rel=0.1)
    independent = grouped(0, False, math.inf).means()[0]
    assert independent.standard_error == pytest.approx(math.sqrt(2 / 1024), rel=0.2)


def test_draws_are_worth_less_than_what_they_come_from():
    assert grouped(0, True, math.inf).worth == pytest.approx(1024)
    assert grouped(0, True, 1024.0).worth == pytest.approx(512)
    assert grouped(0, True, 16.0).worth < 16
