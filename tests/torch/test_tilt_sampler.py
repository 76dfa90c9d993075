"""The tilt sampler against exact tilts of a mixture it knows through its denoiser alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import alignkit as ak
from alignkit.contracts import Bid, Guarantee, TiltProgram
from alignkit.errors import NonFiniteError, ParameterError
from alignkit_torch import devices, tilt_session
from alignkit_torch.tilt_sampler import TorchTiltSampler

MIXTURE = ak.base.GaussianMixture(np.full(8, 1 / 8), np.random.default_rng(0).normal(size=(8, 16)) * 2, 0.25)
UNIT = np.random.default_rng(5).normal(size=16)
UNIT /= np.linalg.norm(UNIT)
ONE = np.ones((1, 1))
N = 4000


def known_by_denoiser(**changes):
    options = {"sigma_min": 0.002, "sigma_max": 80.0, "exact": True, "tail": 0.25} | changes
    return ak.base.Denoiser(MIXTURE.denoise, (16,), **options)


def open_session(directions, base=None, **options):
    directions = np.atleast_2d(directions)
    program = TiltProgram(base or known_by_denoiser(), directions, np.eye(len(directions)), 1000)
    return TorchTiltSampler(**options).open(program)


def sliced_w2(draws, reference, projections=100):
    directions = np.random.default_rng(1).normal(size=(16, projections))
    directions /= np.linalg.norm(directions, axis=0)
    levels = ((np.arange(len(draws)) + 0.5) / len(draws) * len(reference)).astype(int)
    ours, truth = np.sort(draws @ directions, axis=0), np.sort(reference @ directions, axis=0)
    return math.sqrt(np.mean((ours - truth[levels]) ** 2))


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0, 5.0])
class TestAgainstExactTilts:
    def test_moments(self, strength):
        theta = strength * UNIT
        draws = open_session(theta).draw(ONE, N, seed=0).double().numpy()
        truth = MIXTURE.tilt(theta)
        # Beside sampling errors, what 31 evaluations leave: 0.03 standard deviations and 5 % of the variance.
        sd = np.sqrt(np.diag(truth.covariance))
        assert (abs(draws.mean(axis=0) - truth.mean) < (4.5 / math.sqrt(N) + 0.03) * sd).all()
        along, width = (draws - truth.mean) @ UNIT, UNIT @ truth.covariance @ UNIT
        assert abs((along**2).mean() / width - 1) < 0.05 + 4.5 * (along**2).std() / width / math.sqrt(N)
        assert abs(draws.var(axis=0).sum() / np.trace(truth.covariance) - 1) < 0.08

    def test_sliced_w2_is_that_of_exact_draws(self, strength):
        theta = strength * UNIT
        session, truth = open_session(theta), MIXTURE.tilt(theta)
        reference = truth.sample(50_000, seed=999)
        ours = [sliced_w2(session.draw(ONE, 2000, seed=seed).double().numpy(), reference) for seed in range(6)]
        best = [sliced_w2(truth.sample(2000, seed=100 + seed), reference) for seed in range(6)]
        error = math.hypot(np.std(ours, ddof=1), np.std(best, ddof=1)) / math.sqrt(6)
        assert np.mean(ours) < 1.15 * np.mean(best) + 3 * error


class TestRows:
    def test_each_row_may_have_its_own_tilt(self):
        directions = np.stack([2 * UNIT, np.roll(UNIT, 3)])
        session = open_session(directions)
        coordinates = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, -2.0]])
        mixed = session.draw(np.tile(coordinates, (5, 1)), 15, seed=3)
        for number in range(3):
            alone = session.draw(coordinates[number : number + 1], 15, seed=3)
            np.testing.assert_allclose(mixed[number::3], alone[number::3], atol=1e-5)

    def test_each_row_is_drawn_from_its_own_tilt(self):
        session = open_session(2 * UNIT)
        coordinates = np.where(np.arange(N) % 2, 1.0, -1.0)[:, None]
        draws = session.draw(coordinates, N, seed=0).double().numpy()
        for sign in (1, -1):
            truth = MIXTURE.tilt(sign * 2 * UNIT)
            scores = draws[coordinates[:, 0] == sign] @ UNIT
            sd = math.sqrt(UNIT @ truth.covariance @ UNIT)
            assert abs(scores.mean() - truth.mean @ UNIT) < (4.5 / math.sqrt(N / 2) + 0.03) * sd

    def test_chunks_change_results_by_rounding_alone(self, monkeypatch):
        session = open_session(2 * UNIT)
        coordinates = np.linspace(0, 1, 40)[:, None]
        whole = session.draw(coordinates, 40, seed=1)
        moved = session.renoise(whole, coordinates, sigma=1.0, nfe=9, seed=2, stage=1)
        monkeypatch.setattr(devices, "ROWS_MAX", 7)
        np.testing.assert_allclose(session.draw(coordinates, 40, seed=1), whole, atol=1e-5)
        again = session.renoise(whole, coordinates, sigma=1.0, nfe=9, seed=2, stage=1)
        np.testing.assert_allclose(again, moved, atol=1e-5)

    def test_the_memory_budget_cuts_chunks(self, monkeypatch):
        sizes = []

        def counting(x, sigma):
            sizes.append(len(x))
            return MIXTURE.denoise(x, sigma)

        law = ak.base.Denoiser(counting, (16,), sigma_min=0.002, sigma_max=80.0, exact=True)
        monkeypatch.setattr(devices, "_MODEST", 10 * 16 * tilt_session._COPIES_PER_ROW * 4)
        open_session(UNIT, law).draw(ONE, 25, seed=0)
        assert max(sizes) == 10

    def test_the_same_seed_gives_the_same_rows(self):
        session = open_session(UNIT)
        first = session.draw(ONE, 6, seed=1)
        np.testing.assert_array_equal(session.draw(ONE, 6, seed=1), first)
        np.testing.assert_array_equal(open_session(UNIT).draw(ONE, 6, seed=1), first)
        assert (session.draw(ONE, 6, seed=2) != first).all()
        assert (session.draw(ONE, 6, seed=1, stage=1) != first).all()

    def test_first_row_numbers_the_rows(self):
        session = open_session(UNIT)
        whole = session.draw(ONE, 12, seed=1)
        np.testing.assert_allclose(session.draw(ONE, 7, seed=1, first_row=5), whole[5:], atol=1e-5)

    def test_float32_and_float64_agree(self):
        narrow = open_session(2 * UNIT).draw(ONE, 50, seed=1)
        wide = open_session(2 * UNIT, known_by_denoiser(dtype="float64")).draw(ONE, 50, seed=1)
        assert narrow.dtype == torch.float32 and wide.dtype == torch.float64
        # A row between two modes may fall either way.
        assert np.quantile(abs(narrow.double() - wide).max(dim=1).values, 0.9) < 0.01

    def test_rows_have_the_laws_shape(self):
        law = ak.base.Gaussian(np.zeros((2, 3)), 1.0)
        session = open_session(np.ones(6), law)
        draws = session.draw(ONE, 4, seed=0)
        assert draws.shape == (4, 2, 3)
        assert session.renoise(draws, ONE, sigma=1.0, nfe=3, seed=0, stage=1).shape == (4, 2, 3)
        np.testing.assert_allclose(session.features(draws), draws.sum(dim=(1, 2))[:, None])

    def test_progress_is_told(self, monkeypatch):
        monkeypatch.setattr(devices, "ROWS_MAX", 4)
        told = []
        open_session(UNIT).draw(ONE, 10, seed=0, progress=lambda *report: told.append(report))
        rows = [done for _, done, _ in told]
        assert {(stage, total) for stage, _, total in told} == {("sampling", 10)}
        # Within a batch by evaluations, and each batch when it is there.
        assert rows == sorted(rows) and {4, 8, 10} <= set(rows) and rows[-1] == 10 and len(told) > 30


class TestEvaluations:
    @pytest.mark.parametrize("solver", ["dpm_solver_2m", "heun"])
    @pytest.mark.parametrize("tilts", ["none", "one for all rows", "one for each row"])
    def test_a_draw_takes_the_evaluations_it_says(self, solver, tilts):
        rows = []

        def counting(x, sigma):
            rows.append(len(x))
            return MIXTURE.denoise(x, sigma)

        law = ak.base.Denoiser(counting, (16,), sigma_min=0.002, sigma_max=80.0, exact=True)
        session = open_session(UNIT, law, nfe=15, solver=solver)
        rows.clear()
        before = session.evaluations
        coordinates = {
            "none": np.zeros((1, 1)),
            "one for all rows": ONE,
            "one for each row": np.linspace(-1, 1, 100)[:, None],
        }
        session.draw(coordinates[tilts], 100, seed=0)
        assert session.nfe_per_draw == 15 and rows == [100] * 15
        assert session.evaluations - before == 1500


class TestRenoising:
    @pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
    def test_it_leaves_the_tilted_law_invariant(self, sigma):
        theta = 2 * UNIT
        truth = MIXTURE.tilt(theta)
        start = torch.tensor(truth.sample(N, seed=0), dtype=torch.float32)
        moved = open_session(theta).renoise(start, ONE, sigma=sigma, nfe=31, seed=1, stage=1).double().numpy()
        assert abs(moved - start.numpy()).mean() > 0.2 * min(sigma, 0.5)
        scores, sd = moved @ UNIT, math.sqrt(UNIT @ truth.covariance @ UNIT)
        assert abs(scores.mean() - truth.mean @ UNIT) < (4.5 / math.sqrt(N) + 0.01) * sd
        assert abs(scores.var() / sd**2 - 1) < 0.03 + 4.5 * ((scores - scores.mean()) ** 2).std() / sd**2 / math.sqrt(N)

    def test_under_another_tilt_it_moves_there(self):
        start = torch.tensor(MIXTURE.sample(2000, seed=0), dtype=torch.float32)
        session = open_session(2 * UNIT)
        before, after = (
            session.renoise(start, np.full((1, 1), at), sigma=4.0, nfe=31, seed=1, stage=1) for at in (0.0, 1.0)
        )
        gained = (session.features(after) - session.features(before)).mean()
        full = 2 * (MIXTURE.tilt(2 * UNIT).mean - MIXTURE.mean) @ UNIT
        assert 0.5 * full < gained < 1.5 * full


class TestSession:
    def test_means_are_tilted_means_at_large_noise(self):
        law = known_by_denoiser(sigma_max=1000.0, dtype="float64")
        found = open_session(UNIT, law).means(np.array([[0.0], [1.0], [3.0]]), 1000.0)
        expected = [[MIXTURE.tilt(at * UNIT).mean @ UNIT] for at in (0.0, 1.0, 3.0)]
        np.testing.assert_allclose(found, expected, atol=1e-3)

    def test_features_are_inner_products_with_the_directions(self):
        directions = np.random.default_rng(0).normal(size=(3, 16))
        x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
        found = open_session(directions).features(x)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, x.double().numpy() @ directions.T, atol=1e-5)

    def test_spread_is_the_root_mean_square_deviation(self):
        x = torch.tensor(MIXTURE.sample(500, seed=0))
        assert open_session(UNIT).spread(x) == pytest.approx(math.sqrt(x.numpy().var(axis=0, ddof=1).mean()))

    def test_take_picks_rows(self):
        x = torch.arange(10.0)[:, None]
        assert open_session(UNIT).take(x, np.array([3, 3, 0]))[:, 0].tolist() == [3.0, 3.0, 0.0]


class TestBids:
    def bid(self, base):
        return TorchTiltSampler().bid(TiltProgram(base, UNIT[None], ONE, 1000))

    def test_exact_denoisers_are_promised_more_than_learned_ones(self):
        exact, learned = self.bid(known_by_denoiser()), self.bid(known_by_denoiser(exact=False))
        assert exact.guarantee is Guarantee.CONSISTENT and learned.guarantee is Guarantee.CALIBRATED
        assert exact.rank < learned.rank
        assert isinstance(exact, Bid) and exact.seconds > 0

    def test_laws_of_ones_own_are_sampled(self):
        class Mine(ak.base.BaseLaw):
            shape, name = (16,), "mine"

            def sample(self, n, *, seed):
                return np.zeros((n, 16))

            def denoise(self, x, sigma):
                return MIXTURE.denoise(x, sigma)

        assert self.bid(Mine()).guarantee is Guarantee.CALIBRATED
        session = TorchTiltSampler().open(TiltProgram(Mine(), UNIT[None], ONE, 1000))
        expected = open_session(UNIT, known_by_denoiser(exact=False)).draw(ONE, 3, seed=0)
        np.testing.assert_allclose(session.draw(ONE, 3, seed=0), expected, atol=1e-5)

    def test_bidding_calls_no_denoiser(self):
        calls = []
        self.bid(ak.base.Denoiser(lambda x, sigma: calls.append(1) or x, (16,), sigma_min=0.1, sigma_max=1.0))
        assert not calls


class TestBadInput:
    @pytest.mark.parametrize("device", ["abacus", "cuda:99", 1.5])
    def test_devices_that_cannot_be_used(self, device):
        program = TiltProgram(known_by_denoiser(), UNIT[None], ONE, 10, device)
        with pytest.raises(ParameterError, match="torch cannot use the device"):
            TorchTiltSampler().open(program)

    def test_networks_that_return_nan_at_large_noise(self):
        law = ak.base.Denoiser(lambda x, sigma: x * math.nan, (16,), sigma_min=0.1, sigma_max=1.0, name="net")
        with pytest.raises(NonFiniteError, match="'net'"):
            open_session(UNIT, law)

    def test_networks_that_return_nan_at_small_noise(self):
        def denoise(x, sigma):
            return torch.where(sigma[:, None] < 1.0, math.nan, MIXTURE.denoise(x, sigma))

        session = open_session(UNIT, ak.base.Denoiser(denoise, (16,), sigma_min=0.002, sigma_max=80.0))
        with pytest.raises(NonFiniteError, match=r"step \d+ of 63, at σ = 0\.\d+, drawing from σ_max, in stage 4"):
            session.draw(ONE, 3, seed=0, stage=4)
        start = session.take(torch.zeros(3, 16), np.arange(3))
        with pytest.raises(NonFiniteError, match=r"step \d+ of 9, at σ = 0\.\d+, renoising, in stage 7"):
            session.renoise(start, ONE, sigma=2.0, nfe=9, seed=0, stage=7)

    def test_networks_that_return_nan_on_tilted_inputs(self):
        def denoise(x, sigma):
            return torch.where(abs(x).max() > 1000, math.nan, MIXTURE.denoise(x, sigma))

        session = open_session(5 * UNIT, ak.base.Denoiser(denoise, (16,), sigma_min=0.002, sigma_max=80.0, exact=True))
        with pytest.raises(NonFiniteError):
            session.means(np.ones((1, 1)), 80.0)
        with pytest.raises(NonFiniteError):
            session.draw(ONE, 3, seed=0)
