"""Pooled draws against pymbar, closed forms and replicates."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import alignkit as ak
from alignkit.errors import NonFiniteError, ParameterError
from alignkit.tilting.mbar import Pool

LAW = ak.base.GaussianMixture([0.5, 0.3, 0.2], [[-2.0, 0.0], [2.0, 1.0], [0.0, 3.0]], [0.3, 0.5, 0.2])
TILTS = np.array([[0.0, 0.0], [0.8, 0.2], [1.6, 0.4], [0.5, -1.0]])
OTHERS = np.array([[1.2, 0.3], [0.4, -0.4], [2.0, 0.0]])


def pool(seed=0, counts=(300, 200, 100, 250)):
    draws = np.vstack(
        [
            LAW.draw_tilted(tilt[None], n, seed=seed, stage=j)
            for j, (tilt, n) in enumerate(zip(TILTS, counts, strict=True))
        ]
    )
    return draws, Pool(TILTS @ draws.T, np.repeat(np.arange(len(TILTS)), counts))


PYMBAR = """
import json, sys
import numpy as np
from pymbar import MBAR
given = json.load(sys.stdin)
u = -np.array(given["log_ratios"])
counts = np.array(given["counts"])
found = MBAR(np.vstack([u, -np.array(given["others"])]), np.append(counts, np.zeros(len(given["others"]), int)))
differences = found.compute_free_energy_differences()
mean = found.compute_expectations(np.array(given["values"]), state_dependent=False)
print(json.dumps({
    "free": differences["Delta_f"][0].tolist(), "errors": differences["dDelta_f"][0].tolist(),
    "mean": mean["mu"].tolist(), "mean_errors": mean["sigma"].tolist(),
    "overlap": found.compute_overlap()["matrix"].tolist(),
}))
"""


def test_pymbar_finds_the_same():
    """In a process of its own, as pymbar switches jax to double precision for everyone."""
    draws, pooled = pool()
    values = draws[:, 0] + draws[:, 1] ** 2
    given = {
        "log_ratios": pooled.log_ratios.tolist(),
        "counts": pooled.counts.astype(int).tolist(),
        "others": (OTHERS @ draws.T).tolist(),
        "values": values.tolist(),
    }
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PYMBAR)],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    theirs = json.loads(run.stdout.splitlines()[-1])
    every = [*TILTS, *OTHERS]
    ours = [pooled.log_partition(draws @ tilt) for tilt in every]
    np.testing.assert_allclose([one.value for one in ours], -np.array(theirs["free"]), atol=1e-6)
    np.testing.assert_allclose([one.standard_error for one in ours][1:], theirs["errors"][1:], rtol=1e-3)
    assert ours[0].standard_error < 1e-6
    means = [pooled.expectation(draws @ tilt, values) for tilt in every]
    np.testing.assert_allclose([one.value for one in means], theirs["mean"], rtol=1e-6)
    np.testing.assert_allclose([one.standard_error for one in means], theirs["mean_errors"], rtol=1e-3)
    matrix = np.array(theirs["overlap"])[: len(TILTS), : len(TILTS)]
    np.testing.assert_allclose(pooled.overlap, matrix, atol=1e-6)
    np.testing.assert_allclose(pooled.overlap.sum(axis=1), 1.0)


def test_standard_errors_are_those_of_replicates():
    tilts = np.vstack([TILTS[1:], OTHERS])
    found, errors, means, mean_errors = [], [], [], []
    for seed in range(300):
        draws, pooled = pool(seed)
        values, stated = pooled.log_partition_many(tilts @ draws.T)
        found.append(values)
        errors.append(stated)
        mean = pooled.expectation(draws @ OTHERS[0], draws[:, 0])
        means.append(mean.value)
        mean_errors.append(mean.standard_error)
    truth = LAW.log_partition(tilts)
    scores = (np.array(found) - truth) / np.array(errors)
    # 300 replicates: a mean within 4/√300 of 0 but for the bias of a logarithm, a spread within 4/√600 of 1.
    assert np.all(np.abs(scores.mean(axis=0)) < 4 / np.sqrt(300) + 0.05)
    assert np.all(np.abs(scores.std(axis=0) - 1) < 4 / np.sqrt(600))
    of_mean = (np.array(means) - LAW.tilt(OTHERS[0]).mean[0]) / np.array(mean_errors)
    assert abs(of_mean.mean()) < 4 / np.sqrt(300) + 0.05 and abs(of_mean.std() - 1) < 4 / np.sqrt(600)


def test_draws_in_groups_are_worth_less():
    draws, pooled = pool(counts=(400, 400, 400, 400))
    tripled = np.repeat(np.arange(draws.shape[0]), 3)
    copies = Pool(pooled.log_ratios[:, tripled], pooled.laws[tripled], groups=tripled)
    alone, together = pooled.log_partition(draws @ OTHERS[0]), copies.log_partition(draws[tripled] @ OTHERS[0])
    assert together.value == pytest.approx(alone.value)
    # Groups tell their spread themselves; that of independent draws is known from the whole pool.
    assert together.standard_error == pytest.approx(alone.standard_error, rel=0.05)
    ignored = Pool(copies.log_ratios, copies.laws).log_partition(draws[tripled] @ OTHERS[0])
    assert ignored.standard_error == pytest.approx(alone.standard_error / np.sqrt(3), rel=1e-6)


def test_a_further_law_uses_all_draws_again():
    draws, pooled = pool()
    fresh = LAW.draw_tilted(OTHERS[2:], 200, seed=9)
    every = np.vstack([TILTS, OTHERS[2:]])
    grown = pooled.with_law(draws @ OTHERS[2], every @ fresh.T)
    assert grown.counts[-1] == 200 and grown.counts.sum() == pooled.counts.sum() + 200
    everything = np.vstack([draws, fresh])
    before, after = pooled.log_partition(draws @ OTHERS[2]), grown.log_partition(everything @ OTHERS[2])
    assert after.standard_error < before.standard_error
    assert abs(after.value - LAW.log_partition(OTHERS[2])[0]) < 4 * after.standard_error
    assert grown.effective_size(everything @ OTHERS[2]) > pooled.effective_size(draws @ OTHERS[2])


def test_far_laws_converge_from_a_poor_start():
    """Neighbours of little overlap: Newton's steps have to be shortened."""
    law = ak.base.Gaussian([0.0], 1.0)
    tilts = np.array([[0.0], [2.5], [5.0], [7.5]])
    draws = np.vstack([law.draw_tilted(tilt[None], 400, seed=0, stage=j) for j, tilt in enumerate(tilts)])
    pooled = Pool(tilts @ draws.T, np.repeat(np.arange(4), 400))
    found = pooled.log_partition(draws @ tilts[3])
    assert abs(found.value - 0.5 * 7.5**2) < 4 * found.standard_error < 2.0


def test_laws_out_of_order_are_joined_by_their_neighbours():
    """Few of the laws that follow each other in the pool meet at all."""
    law = ak.base.Gaussian([0.0], 1.0)
    tilts = np.array([0.0, 12.0, 4.0, 8.0, 2.0, 14.0, 6.0, 10.0])[:, None]
    draws = np.vstack([law.draw_tilted(tilt[None], 400, seed=1, stage=j) for j, tilt in enumerate(tilts)])
    pooled = Pool(tilts @ draws.T, np.repeat(np.arange(8), 400))
    values, errors = pooled.log_partition_many(tilts @ draws.T)
    assert np.all(np.abs(values - 0.5 * tilts[:, 0] ** 2)[1:] < 4 * errors[1:]) and errors.max() < 1.0
    np.testing.assert_allclose(pooled.overlap.sum(axis=0), 1.0, atol=1e-9)
    assert 0.0 < pooled.spectral_gap < 0.1


def test_laws_that_share_no_draws_have_an_infinite_error():
    law = ak.base.Gaussian([0.0], 1.0)
    tilts = np.array([[0.0], [1.0], [60.0], [61.0]])
    draws = np.vstack([law.draw_tilted(tilt[None], 200, seed=0, stage=j) for j, tilt in enumerate(tilts)])
    pooled = Pool(tilts @ draws.T, np.repeat(np.arange(4), 200))
    assert pooled.spectral_gap < 1e-12
    _, errors = pooled.log_partition_many(tilts @ draws.T)
    assert errors[1] < 0.2 and np.isinf(errors[2:]).all()
    # What the far laws are like is known, if not how much of p they are.
    far = pooled.expectation(draws @ tilts[3], draws[:, 0])
    assert abs(far.value - 61.0) < 4 * far.standard_error < 1.0
    assert np.isinf(pooled.divergence(draws @ tilts[2]).standard_error)


def test_the_divergence_of_a_tilt_with_its_error():
    scores = []
    for seed in range(200):
        draws, pooled = pool(seed)
        found = pooled.divergence(draws @ OTHERS[0])
        truth = float(OTHERS[0] @ LAW.tilt(OTHERS[0]).mean - LAW.log_partition(OTHERS[0])[0])
        scores.append((found.value - truth) / found.standard_error)
    assert abs(np.mean(scores)) < 4 / np.sqrt(200) + 0.05 and abs(np.std(scores) - 1) < 4 / np.sqrt(400)


def test_many_expectations_are_those_of_each():
    draws, pooled = pool()
    means, errors = pooled.expectation_many(draws @ OTHERS[1], draws.T)
    for column, mean, error in zip(draws.T, means, errors, strict=True):
        one = pooled.expectation(draws @ OTHERS[1], column)
        assert (mean, error) == pytest.approx((one.value, one.standard_error))


def test_blocks_change_nothing(monkeypatch):
    draws, pooled = pool()
    whole = pooled.log_partition_many(OTHERS @ draws.T)
    monkeypatch.setattr("alignkit.tilting.mbar._ENTRIES", 1000)
    cut = Pool(pooled.log_ratios, pooled.laws).log_partition_many(OTHERS @ draws.T)
    np.testing.assert_allclose(cut, whole, rtol=1e-9)


class TestRefusals:
    def test_every_law_has_draws(self):
        with pytest.raises(ParameterError, match="Every law"):
            Pool(np.zeros((2, 3)), np.zeros(3, dtype=np.int64))

    def test_shapes_fit(self):
        with pytest.raises(ParameterError, match=r"\(j, n\)"):
            Pool(np.zeros((2, 3)), np.zeros(4, dtype=np.int64))

    def test_nan_is_refused(self):
        with pytest.raises(NonFiniteError):
            Pool(np.array([[0.0, np.nan]]), np.zeros(2, dtype=np.int64))
