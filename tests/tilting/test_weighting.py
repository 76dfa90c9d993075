"""Importance weights: effective sample size, steps and systematic resampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from alignkit.noise import uniform
from alignkit.tilting.weighting import effective_size, largest_step, systematic_resampling

SCORES = arrays(np.float64, st.integers(2, 50), elements=st.floats(-20, 20))


class TestEffectiveSize:
    @settings(deadline=None)
    @given(SCORES, st.floats(-500, 500))
    def test_it_lies_between_one_and_n_and_ignores_scale(self, logs, shift):
        size = effective_size(logs)
        assert 1 - 1e-9 <= size <= logs.size + 1e-9
        assert effective_size(logs + shift) == pytest.approx(size, rel=1e-9)

    def test_m_equal_weights_among_n_count_m(self):
        assert effective_size(np.where(np.arange(10) < 4, 0.0, -np.inf)) == pytest.approx(4)

    def test_large_logs_do_not_overflow(self):
        assert effective_size(np.array([1e5, 1e5, 0.0])) == pytest.approx(2)


class TestLargestStep:
    @settings(deadline=None)
    @given(SCORES, st.floats(0.1, 0.9))
    def test_the_step_keeps_the_share_and_a_longer_one_does_not(self, scores, share):
        step = largest_step(scores, share, at_most=1.0)
        assert 0 < step <= 1
        assert effective_size(step * scores) >= share * scores.size * (1 - 1e-9)
        if step < 1:
            assert effective_size(1.001 * step * scores) <= share * scores.size * (1 + 1e-6)

    def test_gaussian_scores_have_the_known_step(self):
        """For scores of variance v the share is exp(−s²v), so a half is kept by s = √(log 2 / v)."""
        scores = 3.0 * np.random.default_rng(0).normal(size=400_000)
        assert largest_step(scores, 0.5, at_most=1.0) == pytest.approx(np.sqrt(np.log(2)) / 3, rel=0.02)

    def test_constant_scores_allow_the_whole_step(self):
        assert largest_step(np.full(10, 7.0), 0.5, at_most=0.3) == 0.3


class TestResampling:
    def test_counts_are_within_one_of_the_expected(self):
        logs = np.random.default_rng(0).normal(size=(5, 100)) * 2
        chosen = systematic_resampling(logs, uniform(0, 5, 1))
        expected = 100 * np.exp(logs) / np.exp(logs).sum(axis=1, keepdims=True)
        counts = np.bincount(chosen, minlength=500).reshape(5, 100)
        assert (abs(counts - expected) < 1 + 1e-9).all()

    def test_islands_keep_to_themselves(self):
        logs = np.zeros((4, 10))
        logs[1] += 100.0
        chosen = systematic_resampling(logs, uniform(0, 4, 1)).reshape(4, 10)
        np.testing.assert_array_equal(chosen // 10, np.arange(4)[:, None] * np.ones(10))

    @settings(deadline=None)
    @given(st.floats(1e-9, 1 - 1e-9))
    def test_equal_weights_keep_every_particle(self, number):
        np.testing.assert_array_equal(
            np.sort(systematic_resampling(np.zeros((1, 64)), np.array([[number]]))), range(64)
        )

    @settings(deadline=None)
    @given(st.sampled_from([2.0**-33, 0.5, 1 - 2.0**-33]), st.integers(1, 20))
    def test_weightless_particles_never_survive(self, number, islands):
        logs = np.full((islands, 8), -np.inf)
        logs[:, 3] = 0.0
        chosen = systematic_resampling(logs, np.full((islands, 1), number))
        np.testing.assert_array_equal(chosen.reshape(islands, 8) % 8, 3)

    def test_it_is_unbiased(self):
        logs = np.log([[0.05, 0.15, 0.8]])
        counts = sum(
            np.bincount(systematic_resampling(logs, np.array([[u]])), minlength=3) for u in uniform(0, 4000, 1)[:, 0]
        )
        share = counts / counts.sum()
        np.testing.assert_allclose(share, [0.05, 0.15, 0.8], atol=4.5 * 0.5 / np.sqrt(4000))
