"""Counter-based noise: known answers of the generator, its statistics, and that batches may be cut anywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats

from alignkit.errors import ParameterError
from alignkit.noise import _philox, categorical, fold_seed, normal, uniform

SEEDS = st.integers(0, 2**64 - 1)


def words(counter: tuple[int, int, int, int], seed: int) -> list[str]:
    # Counters are arrays, as in use: their products wrap modulo 2⁶⁴.
    first, second = (np.array([value], dtype=np.int64) for value in counter[:2])
    return [f"{int(np.asarray(word).reshape(-1)[0]):08x}" for word in _philox(first, second, *counter[2:], seed)]


class TestKnownAnswers:
    """From Random123's kat_vectors, philox4x32 with 10 rounds."""

    def test_counter_zero(self):
        assert words((0, 0, 0, 0), 0) == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]

    def test_all_ones(self):
        ones = 0xFFFFFFFF
        assert words((ones, ones, ones, ones), 2**64 - 1) == ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"]

    def test_digits_of_pi(self):
        counter = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
        assert words(counter, 0x299F31D0 << 32 | 0xA4093822) == ["d16cfe09", "94fdcceb", "5001e420", "24126ea1"]

    def test_uniform_numbers_are_the_words_in_order(self):
        expected = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
        np.testing.assert_array_equal(uniform(0, 1, 4)[0] * 2.0**32 - 0.5, expected)


class TestLaws:
    N = 200_000

    def test_normal_draws_have_the_moments_of_a_normal(self):
        z = normal(3, self.N // 5, 5).ravel()
        # Variances of z^k: 1, 2, 15, 96 about means 0, 1, 0, 3.
        for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            assert abs((z**power).mean() - mean) < 4.5 * math.sqrt(variance / z.size)

    def test_normal_draws_pass_kolmogorov_and_smirnov(self):
        assert stats.kstest(normal(11, self.N, 1)[:, 0], "norm").pvalue > 1e-3

    def test_float32_normal_draws_are_normal(self):
        z = normal(11, self.N, 1, like=torch.empty(0))[:, 0]
        assert z.dtype == torch.float32
        assert stats.kstest(z.double().numpy(), "norm").pvalue > 1e-3

    def test_uniform_draws_are_uniform_inside_the_open_interval(self):
        u = uniform(5, self.N, 1)[:, 0]
        assert u.min() > 0 and u.max() < 1
        assert stats.kstest(u, "uniform").pvalue > 1e-3

    @pytest.mark.parametrize("lag", ["columns", "rows", "stages", "seeds", "high stage bits"])
    def test_streams_are_uncorrelated(self, lag):
        n = 50_000
        z = normal(0, n, 2)
        first, second = {
            "columns": (z[:, 0], z[:, 1]),
            "rows": (z[:-1, 0], z[1:, 0]),
            "stages": (z[:, 0], normal(0, n, 2, stage=1)[:, 0]),
            "seeds": (z[:, 0], normal(1, n, 2)[:, 0]),
            "high stage bits": (z[:, 0], normal(0, n, 2, stage=1 << 32)[:, 0]),
        }[lag]
        for a, b in ((first, second), (first**2 - 1, second**2 - 1)):
            assert abs((a * b).mean()) < 4.5 * a.std() * b.std() / math.sqrt(a.size)

    def test_categorical_labels_have_their_probabilities(self):
        mass = np.array([[0.0, 1.0, 3.0, 0.0, 4.0]])
        counts = np.bincount(categorical(mass, uniform(0, self.N, 1)[:, 0]), minlength=5)
        share = mass[0] / mass.sum()
        np.testing.assert_array_less(abs(counts - self.N * share), 4.5 * np.sqrt(self.N * share * (1 - share)) + 1e-9)

    def test_categorical_takes_a_law_per_row(self):
        mass = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
        assert categorical(mass, np.array([0.99, 0.01, 0.6])).tolist() == [0, 1, 1]


class TestCounters:
    @settings(deadline=None, max_examples=40)
    @given(seed=SEEDS, first=st.integers(0, 2**31), cut=st.integers(1, 6), size=st.integers(1, 9))
    def test_rows_may_be_cut_anywhere(self, seed, first, cut, size):
        whole = normal(seed, 7, size, stage=3, first_row=first)
        parts = [
            normal(seed, cut, size, stage=3, first_row=first),
            normal(seed, 7 - cut, size, stage=3, first_row=first + cut),
        ]
        np.testing.assert_array_equal(whole, np.concatenate(parts))

    def test_no_number_of_a_row_comes_twice(self):
        assert np.unique(uniform(9, 4, 1001)).size == 4 * 1001

    def test_blocks_of_the_implementation_do_not_show(self):
        # More counters than one block holds, in rows longer and shorter than it.
        for rows, size in ((40_000, 5), (3, 140_000)):
            np.testing.assert_array_equal(normal(2, rows, size)[-1:], normal(2, 1, size, first_row=rows - 1))

    @settings(deadline=None, max_examples=40)
    @given(seed=SEEDS, stage=st.integers(0, 2**40))
    def test_torch_and_numpy_give_the_same_numbers(self, seed, stage):
        like = torch.empty(0, dtype=torch.float64)
        np.testing.assert_array_equal(uniform(seed, 4, 7, stage=stage), uniform(seed, 4, 7, stage=stage, like=like))
        np.testing.assert_allclose(
            normal(seed, 4, 7, stage=stage), normal(seed, 4, 7, stage=stage, like=like).numpy(), rtol=0, atol=4e-15
        )

    def test_different_seeds_and_stages_differ(self):
        draws = {normal(seed, 1, 1, stage=stage).item() for seed in (0, 1, 2**32, 2**63) for stage in (0, 1, 2**32)}
        assert len(draws) == 12


class TestSeeds:
    @pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, None, "0"])
    def test_bad_seeds_are_refused(self, seed):
        for draw in (lambda: normal(seed, 1, 1), lambda: uniform(seed, 1, 1), lambda: fold_seed(seed, "x")):
            with pytest.raises(ParameterError, match="seed must be an integer"):
                draw()

    def test_numpy_integers_are_seeds(self):
        np.testing.assert_array_equal(normal(np.uint64(2**63), 2, 2), normal(2**63, 2, 2))

    def test_purposes_get_seeds_of_their_own(self):
        purposes = ["", "pilot", "base pilot", "tilted pilot", "annealing", "calibration"]
        folded = {fold_seed(seed, purpose) for seed in (0, 1, 2**40) for purpose in purposes}
        assert len(folded) == 3 * len(purposes)
        assert fold_seed(5, "pilot") == fold_seed(5, "pilot")
