"""Mixtures behind every scheduler and prediction: the denoiser exactly, and draws in mean sliced W2 over 30 seeds.

The long version, with more draws for each seed, is `python -m tests.benchmarks diffusers_laws`.
"""

from __future__ import annotations

import diffusers
import pytest
import torch

import alignkit as ak
from tests.benchmarks.diffusers_laws import (
    ERROR_BAR,
    EXACT,
    NFE_BAR,
    RATIO_BAR,
    SEEDS,
    cells,
    denoiser_error,
    draw_ratios,
    label,
    truths,
)
from tests.diffusers.networks import mixture_network

DRAWS = 100


@pytest.mark.parametrize("scheduler", list(cells()), ids=label)
class TestEveryScheduler:
    def test_the_converted_denoiser_is_the_exact_one_at_every_level_of_the_schedule(self, scheduler):
        assert denoiser_error(scheduler) <= ERROR_BAR

    def test_plain_and_tilted_draws_match_the_exact_laws(self, scheduler):
        network = mixture_network(EXACT, scheduler, dtype=torch.float32)
        law = ak.base.from_diffusers(network, scheduler, exact=True, tail=0.25)
        network.rows = 0
        plain, tilted = draw_ratios(law, DRAWS)
        assert plain.holds, plain
        assert tilted.holds, tilted
        # The session looks once at the law's mean.
        assert network.rows <= NFE_BAR * 2 * DRAWS * SEEDS + 1


class TestTheStatistic:
    """It must be able to fail: on draws of another law, and on a network read by another table."""

    def test_draws_without_the_tilt_are_found_out(self):
        _, tilted = truths(DRAWS)
        found = tilted.ratio([EXACT.sample(DRAWS, seed=seed) for seed in range(SEEDS)])
        assert found.value - 2 * found.error > 2 * RATIO_BAR

    def test_a_network_read_by_another_table_is_found_out(self):
        network = mixture_network(EXACT, diffusers.DDPMScheduler(clip_sample=False), dtype=torch.float32)
        other = diffusers.DDPMScheduler(clip_sample=False, beta_schedule="squaredcos_cap_v2")
        plain, _ = draw_ratios(ak.base.from_diffusers(network, other, exact=True), DRAWS)
        assert not plain.holds
