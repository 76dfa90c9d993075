"""Rejection sampling: which rows are kept, in which order, and what is left when a proposal fails."""

from __future__ import annotations

import numpy as np
import pytest

import alignkit as ak
from alignkit.contracts import TiltProgram
from alignkit.errors import NonFiniteError
from alignkit.noise import uniform
from alignkit.tilting.exact import ExactTiltSampler
from alignkit.tilting.rejection import draw_accepted

BASE = ak.base.Gaussian(np.zeros(1), 1.0)
SESSION = ExactTiltSampler().open(TiltProgram(BASE, np.ones((1, 1)), np.ones((1, 1)), 100))
RATE = 0.3


def propose(first, count):
    """Row i is i itself, and so is its feature."""
    rows = np.arange(first, first + count, dtype=np.float64)[:, None]
    return rows, rows


def drawn(rows, *, seed=0, acceptance=RATE, propose=propose, ambient=1, **options):
    def log_acceptance(features):
        return np.full(len(features), np.log(RATE))

    draws, numbers = draw_accepted(
        SESSION, propose, log_acceptance, rows, acceptance=acceptance, ambient=ambient, seed=seed, **options
    )
    np.testing.assert_array_equal(draws[:, 0], numbers)
    return draws


def test_rows_are_the_first_accepted_whatever_the_batches():
    everything = drawn(2000)[:, 0]
    assert (np.diff(everything) > 0).all()
    # Batches of one row, of 17 and of all.
    for batches in ({"ambient": 1 << 28}, {"acceptance": 1.0}, {"acceptance": 1e-3}):
        np.testing.assert_array_equal(drawn(50, **batches)[:, 0], everything[:50])


def test_the_share_kept_is_the_probability():
    last = drawn(20_000)[-1, 0] + 1
    assert abs(20_000 / last - RATE) < 4 * np.sqrt(RATE * (1 - RATE) / last)


def test_seeds_choose_others():
    assert not np.array_equal(drawn(50), drawn(50, seed=1))


def test_acceptance_does_not_share_noise_with_ancestors():
    """Were it so, a small uniform number would pick an early particle and keep it."""
    kept = drawn(5000)[:, 0].astype(int)
    numbers = uniform(0, kept[-1] + 1, 1)[:, 0][kept]
    assert abs(numbers.mean() - 0.5) < 4 / np.sqrt(12 * len(kept))


def test_progress_counts_what_is_kept():
    told = []
    drawn(500, progress=lambda *report: told.append(report))
    assert told[-1] == ("sampling", 500, 500) and [one[1] for one in told] == sorted(one[1] for one in told)


def test_draws_before_a_failure_are_kept():
    def fail_later(first, count):
        if first > 0:
            raise NonFiniteError("NaN")
        return propose(first, count)

    with pytest.raises(NonFiniteError) as caught:
        drawn(500, acceptance=1.0, propose=fail_later)
    np.testing.assert_array_equal(caught.value.draws, drawn(500)[: len(caught.value.draws)])
    assert len(caught.value.draws) > 100

    def fail(first, count):
        raise NonFiniteError("NaN")

    with pytest.raises(NonFiniteError) as caught:
        drawn(5, propose=fail)
    assert caught.value.draws is None
