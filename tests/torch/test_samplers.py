"""Samplers by choice: what each solver does to the law, whose noise its steps draw, and how one is chosen."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import alignkit as ak
from alignkit.contracts import Bid, Refusal, TiltProgram
from alignkit.errors import AlignkitError, ParameterError
from alignkit_torch import devices, tilt_sampler
from alignkit_torch.solvers import SOLVERS, ancestral, karras_schedule, lay_out, sde, solve_flow, step_noise
from alignkit_torch.stochastic import ancestral_step, sde_step
from alignkit_torch.tilt_sampler import TorchTiltSampler

STOCHASTIC = [name for name, solver in SOLVERS.items() if solver.is_stochastic]
#: Eight modes in 16 dimensions, far apart against their standard deviation of ½.
CENTRES = np.random.default_rng(0).normal(size=(8, 16)) * 2
MIXTURE = ak.base.GaussianMixture(np.full(8, 1 / 8), CENTRES, 0.25)
UNIT = np.random.default_rng(5).normal(size=16)
UNIT /= np.linalg.norm(UNIT)
NONE, ONE = np.zeros((1, 1)), np.ones((1, 1))


def known_by_denoiser(**changes):
    options = {"sigma_min": 0.002, "sigma_max": 80.0, "exact": True, "tail": 0.25} | changes
    return ak.base.Denoiser(MIXTURE.denoise, (16,), **options)


def open_session(base=None, direction=UNIT, **options):
    return TorchTiltSampler(**options).open(TiltProgram(base or known_by_denoiser(), direction[None], ONE, 1000))


def within_modes(draws, centres=CENTRES):
    """The root mean square distance to the nearest mode: √(16·¼) = 2 for the mixture, its tilts' centres given."""
    return math.sqrt(((draws[:, None] - centres) ** 2).sum(axis=2).min(axis=1).mean())


class TestVariance:
    """On a Gaussian a solver is linear in all its noise: the variance it gives is a sum of squares, without error."""

    SD, LOW, HIGH = 0.7, 1e-3, 10.0

    def excess(self, solver, nfe):
        """The variance of what comes out over that of the law, less 1."""

        def gaussian(x, sigma):
            return x * self.SD**2 / (self.SD**2 + sigma[:, None] ** 2)

        def unit(step, x):
            return (torch.arange(len(x)) == step).to(x.dtype)[:, None]

        # One row for each step, which gets its noise alone, and one for the start.
        x = torch.zeros(nfe, 1, dtype=torch.float64)
        x[-1] = math.hypot(self.SD, self.HIGH)
        found = solve_flow(gaussian, x, self.LOW, self.HIGH, nfe=nfe, solver=solver, noise=unit)
        return float((found**2).sum()) / self.SD**2 - 1

    @pytest.mark.parametrize(("solver", "order"), [("ancestral", 1), ("sde", 2), ("dpm_solver_2m", 2), ("ddim", 1)])
    def test_its_error_falls_as_the_order_says(self, solver, order):
        errors = [abs(self.excess(solver, nfe)) for nfe in (64, 128, 256, 512)]
        rates = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
        assert all(order - 0.35 < rate < order + 0.35 for rate in rates), rates

    def test_ancestral_sampling_leaves_out_spread_at_any_number_of_steps(self):
        assert self.excess("ancestral", 16) < -0.2 and self.excess("ancestral", 256) < -0.01


class TestLaw:
    """The table of `alignkit_torch.solvers`, within five standard errors (0.4 % of an rms over 1,500 rows) and 1 %."""

    ROWS = 1500
    RMS = {  # noqa: RUF012
        "dpm_solver_2m": {31: 2.044, 100: 2.005},
        "heun": {31: 2.136, 100: 2.014},
        "ddim": {31: 1.893, 100: 1.963},
        "ancestral": {16: 1.505, 31: 1.671, 100: 1.879},
        "sde": {31: 2.088, 100: 2.003},
    }

    @pytest.mark.parametrize(("solver", "nfe"), [(solver, nfe) for solver, rms in RMS.items() for nfe in rms])
    def test_width_of_modes(self, solver, nfe):
        draws = open_session(solver=solver, nfe=nfe).draw(NONE, self.ROWS, seed=0).double().numpy()
        assert within_modes(draws) == pytest.approx(self.RMS[solver][nfe], rel=0.03)

    @pytest.mark.parametrize("solver", ["dpm_solver_2m", "heun", "sde"])
    @pytest.mark.parametrize("strength", [0.0, 2.0])
    def test_second_order_draws_are_as_near_as_exact_ones(self, solver, strength, rows=1000, seeds=4):
        truth = MIXTURE.tilt(strength * UNIT)
        directions = np.random.default_rng(1).normal(size=(16, 50))
        directions /= np.linalg.norm(directions, axis=0)
        reference = np.sort(truth.sample(20 * rows, seed=99) @ directions, axis=0)[10::20]

        def distance(draws):
            return math.sqrt(np.mean((np.sort(draws @ directions, axis=0) - reference) ** 2))

        session = open_session(direction=strength * UNIT if strength else UNIT, solver=solver, nfe=50)
        tilt = ONE if strength else NONE
        ours = [distance(session.draw(tilt, rows, seed=seed).double().numpy()) for seed in range(seeds)]
        best = [distance(truth.sample(rows, seed=100 + seed)) for seed in range(16)]
        error = math.hypot(np.std(ours, ddof=1) / math.sqrt(seeds), np.std(best, ddof=1) / 4)
        assert np.mean(ours) < 1.15 * np.mean(best) + 2 * error

    @pytest.mark.parametrize("solver", STOCHASTIC)
    def test_renoising_under_a_tilt_leaves_its_law(self, solver):
        truth = MIXTURE.tilt(2 * UNIT)
        start = torch.tensor(truth.sample(self.ROWS, seed=0), dtype=torch.float32)
        session = open_session(direction=2 * UNIT, solver=solver)
        moved = session.renoise(start, ONE, sigma=1.0, nfe=31, seed=1, stage=1).double().numpy()
        assert abs(moved - start.numpy()).mean() > 0.2
        # Fewer noise levels than from σ_max: a width within 3 % for second order, within 10 % for first.
        assert within_modes(moved, CENTRES + 0.5 * UNIT) == pytest.approx(2.0, rel=0.03 if solver == "sde" else 0.1)
        # Rows keep to their modes, and so does their mean but for the moves within them.
        spread = 0.5 * math.sqrt(2 / self.ROWS)
        assert abs((moved - start.numpy()).mean(axis=0) @ UNIT) < 4.5 * spread + 0.02


@pytest.mark.parametrize("solver", STOCHASTIC)
class TestNoise:
    """Of a step: a function of (seed, stage, row, step), however rows are cut into batches."""

    def test_batches_change_draws_by_rounding_alone(self, solver, monkeypatch):
        session = open_session(solver=solver, nfe=15)
        coordinates = np.linspace(0, 2, 40)[:, None]
        whole = session.draw(coordinates, 40, seed=1)
        moved = session.renoise(whole, coordinates, sigma=1.0, nfe=9, seed=2, stage=1)
        tail = session.draw(coordinates[30:], 10, seed=1, first_row=30)
        np.testing.assert_allclose(tail, whole[30:], atol=1e-5)
        monkeypatch.setattr(devices, "ROWS_MAX", 7)
        np.testing.assert_allclose(session.draw(coordinates, 40, seed=1), whole, atol=1e-5)
        again = session.renoise(whole, coordinates, sigma=1.0, nfe=9, seed=2, stage=1)
        np.testing.assert_allclose(again, moved, atol=1e-5)

    def test_seeds_and_stages_are_told_apart(self, solver):
        session = open_session(solver=solver, nfe=9)
        first = session.draw(ONE, 6, seed=1)
        np.testing.assert_array_equal(open_session(solver=solver, nfe=9).draw(ONE, 6, seed=1), first)
        for other in ({"seed": 2}, {"seed": 1, "stage": 1}):
            assert (session.draw(ONE, 6, **other) != first).all()
        # From one start, so that only the noise of the steps can tell.
        start = torch.zeros(6, 16)
        moves = [
            solve_flow(MIXTURE.denoise, start, 0.002, 5.0, nfe=9, solver=solver, noise=noise)
            for noise in (step_noise(1), step_noise(2), step_noise(1, stage=1), step_noise(1, first_row=6))
        ]
        assert all((moves[0] != other).all() for other in moves[1:])

    def test_each_row_may_have_its_own_tilt(self, solver):
        session = open_session(solver=solver, nfe=15)
        coordinates = np.array([[0.0], [2.0], [-1.0]])
        mixed = session.draw(np.tile(coordinates, (5, 1)), 15, seed=3)
        for number in range(3):
            alone = session.draw(coordinates[number : number + 1], 15, seed=3)
            np.testing.assert_allclose(mixed[number::3], alone[number::3], atol=1e-5)

    def test_a_map_of_given_noise_is_deterministic(self, solver):
        session, flow = open_session(solver=solver, nfe=15), open_session(solver="dpm_solver_2m", nfe=15)
        noise = session.noise(20, seed=4)
        np.testing.assert_array_equal(session.from_noise(noise), flow.from_noise(noise))
        np.testing.assert_array_equal(session.from_noise(noise), session.from_noise(noise))


def test_noise_of_steps_is_standard_and_independent():
    x = torch.empty(400, 5, 10, dtype=torch.float64)
    noise = step_noise(3, stage=2)
    parts = [noise(step, x) for step in range(4)]
    assert all(part.shape == x.shape and part.dtype == x.dtype for part in parts)
    flat = torch.stack([part.reshape(-1) for part in (*parts, step_noise(3, stage=3)(0, x))])
    size = flat.shape[1]
    assert (abs(flat.mean(dim=1)) < 4.5 / math.sqrt(size)).all()
    correlations = flat @ flat.T / size - torch.eye(len(flat))
    assert (abs(correlations) < 4.5 * math.sqrt(2 / size)).all()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("solver", STOCHASTIC)
@pytest.mark.filterwarnings("ignore:Dynamo detected a call:UserWarning")
def test_one_compiled_step_serves_all(solver, backend):
    torch.compiler.reset()
    counter = CompileCounterWithBackend(backend)

    @torch.compile(fullgraph=True, backend=counter)
    def step(x, previous, numbers, tilt, noise):
        if solver == "ancestral":
            return ancestral_step(MIXTURE.denoise, x, numbers, tilt, noise=noise), previous
        return sde_step(MIXTURE.denoise, x, previous, numbers, tilt, noise=noise)

    noise = step_noise(0)
    x = 10 * noise(99, torch.empty(6, 16))
    tilt = x.flip(0) / 50
    steps = lay_out(karras_schedule(5, 0.01, 10.0), x)
    method = {"ancestral": ancestral, "sde": sde}[solver]
    with torch.no_grad():
        expected = method(MIXTURE.denoise, x, steps, tilt, noise=noise)
        moved, previous = x, x.clone()
        for number, numbers in enumerate(steps):
            moved, previous = step(moved, previous, numbers, tilt, noise(number, x))
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


class TestChoice:
    def drawn(self, base, **options):
        return open_session(base, **options).draw(ONE, 4, seed=0)

    def test_the_base_may_choose_and_the_sampler_has_the_last_word(self):
        plain, chosen = known_by_denoiser(), known_by_denoiser(solver="sde", nfe=9)
        np.testing.assert_array_equal(self.drawn(chosen), self.drawn(plain, solver="sde", nfe=9))
        np.testing.assert_array_equal(self.drawn(chosen, solver="heun"), self.drawn(plain, solver="heun", nfe=9))
        np.testing.assert_array_equal(self.drawn(chosen, nfe=15), self.drawn(plain, solver="sde", nfe=15))
        np.testing.assert_array_equal(self.drawn(plain), self.drawn(plain, solver="dpm_solver_2m", nfe=31))

    def test_samples_of_the_base_are_drawn_as_it_says(self):
        chosen = known_by_denoiser(solver="ancestral", nfe=9)
        expected = open_session(solver="ancestral", nfe=9).draw(NONE, 4, seed=0)
        np.testing.assert_allclose(chosen.sample(4, seed=0), expected, atol=1e-6)

    def test_the_base_chooses_for_problems(self):
        base = known_by_denoiser(solver="sde", nfe=17)
        x = ak.Variable(16)
        aligned = ak.Problem(ak.inner(UNIT, x), base, ak.KL(weight=1.0)).solve(seed=0)
        assert aligned.certificate.nfe_per_sample == pytest.approx(17)

    def test_bids_name_the_choice_and_cite_its_paper(self):
        program = TiltProgram(known_by_denoiser(solver="ddim", nfe=20), UNIT[None], ONE, 100)
        bid = TorchTiltSampler().bid(program)
        assert isinstance(bid, Bid) and bid.method.startswith("ddim on") and "20 NFE" in bid.method
        assert [paper.key for paper in bid.citations] == ["ddim_2020", "karras_2022"]

    @pytest.mark.parametrize(("solver", "way_out"), [("ancestral", "sde"), ("ddim", "dpm_solver_2m")])
    def test_plans_say_which_choices_do_not_keep_the_law(self, solver, way_out):
        problem = ak.Problem(ak.inner(UNIT, ak.Variable(16)), known_by_denoiser(solver=solver), ak.KL(weight=1.0))
        (line,) = [line for line in problem.explain().splitlines() if "too narrow" in line]
        assert f"chosen: {solver}" in line and f"solver='{way_out}' keeps the law" in line

    @pytest.mark.parametrize("solver", [None, "dpm_solver_2m", "heun", "sde"])
    def test_of_those_that_keep_it_there_is_nothing_to_say(self, solver):
        problem = ak.Problem(ak.inner(UNIT, ak.Variable(16)), known_by_denoiser(solver=solver), ak.KL(weight=1.0))
        assert "too narrow" not in problem.explain()

    def test_every_solver_has_a_paper(self):
        assert tilt_sampler._PAPERS.keys() == SOLVERS.keys()

    def test_unknown_names_are_refused_with_the_choices(self):
        base = known_by_denoiser(solver="euler")
        answer = TorchTiltSampler().bid(TiltProgram(base, UNIT[None], ONE, 100))
        assert isinstance(answer, Refusal) and "'euler'" in answer.reason
        assert all(name in answer.reason for name in SOLVERS)
        for draw in (lambda: base.sample(2, seed=0), lambda: open_session(base)):
            with pytest.raises(ParameterError, match="'euler'") as caught:
                draw()
            assert all(name in str(caught.value) for name in SOLVERS)
        x = ak.Variable(16)
        with pytest.raises(AlignkitError, match="'euler'"):
            ak.Problem(ak.inner(UNIT, x), base, ak.KL(weight=1.0)).solve(seed=0)


class TestCounting:
    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("nfe", [8, 9])
    def test_evaluations_are_those_of_the_network(self, solver, nfe):
        rows = []

        def guided(x, sigma):
            rows.append(2 * len(x))
            return MIXTURE.denoise(x, sigma)

        base = ak.base.Denoiser(
            guided, (16,), sigma_min=0.002, sigma_max=80.0, exact=True, evaluations_per_denoise=2, nfe=nfe
        )
        session = open_session(base, solver=solver)
        # A row alone, two together, and the mean.
        opened = 2 * (1 + 2 + 1)
        assert session.evaluations == sum(rows) == opened
        drawn = session.draw(ONE, 10, seed=0)
        assert sum(rows) - opened == 10 * session.nfe_per_draw
        # Heun's steps take two calls each and the last one: an odd number.
        assert session.nfe_per_draw == 2 * (7 if solver == "heun" and nfe == 8 else nfe)
        session.renoise(drawn, ONE, sigma=1.0, nfe=5, seed=0, stage=1)
        session.from_noise(session.noise(3, seed=0))
        session.means(np.ones((4, 1)), 80.0)
        assert session.evaluations == sum(rows)

    def test_bids_and_certificates_count_them_too(self):
        base = known_by_denoiser(evaluations_per_denoise=2, nfe=9)
        bid = TorchTiltSampler().bid(TiltProgram(base, UNIT[None], ONE, 100))
        assert "18 NFE" in bid.method
        alone = TorchTiltSampler().bid(TiltProgram(known_by_denoiser(nfe=9), UNIT[None], ONE, 100))
        assert bid.seconds == pytest.approx(2 * alone.seconds)
        x = ak.Variable(16)
        aligned = ak.Problem(ak.inner(UNIT, x), base, ak.KL(weight=1.0)).solve(seed=0)
        assert aligned.certificate.nfe_per_sample == pytest.approx(18)

    def test_so_does_the_certificate_of_annealing(self):
        x, law = ak.Variable(2), ak.base.Gaussian(np.zeros(2), 1.0)
        spent = []
        for calls in (1, 2):
            base = ak.base.Denoiser(
                law.denoise, (2,), sigma_min=0.004, sigma_max=80.0, exact=True, tail=1.0, evaluations_per_denoise=calls
            )
            problem = ak.Problem(ak.max(2 * x), base, ak.KL(weight=1.0))
            spent.append(problem.solve(seed=0, engine="annealed").certificate.nfe_per_sample)
        assert spent[1] == pytest.approx(2 * spent[0]) and spent[0] >= 1


class TestMemory:
    @pytest.mark.parametrize("solver", ["dpm_solver_2m", "sde"])
    def test_what_a_row_takes_cuts_batches(self, solver):
        sizes = []

        def counting(x, sigma):
            sizes.append(len(x))
            return MIXTURE.denoise(x, sigma)

        arguments = {"sigma_min": 0.002, "sigma_max": 80.0, "exact": True, "solver": solver, "nfe": 9}
        tight = open_session(ak.base.Denoiser(counting, (16,), row_bytes=devices._MODEST // 3, **arguments))
        loose = open_session(ak.base.Denoiser(MIXTURE.denoise, (16,), **arguments))
        coordinates = np.linspace(-1, 1, 10)[:, None]
        found, whole = (session.draw(coordinates, 10, seed=2) for session in (tight, loose))
        np.testing.assert_allclose(found, whole, atol=1e-5)
        moved, whole = (
            session.renoise(whole, coordinates, sigma=1.0, nfe=5, seed=3, stage=1) for session in (tight, loose)
        )
        np.testing.assert_allclose(moved, whole, atol=1e-5)
        assert max(sizes) == 3


def test_a_narrower_dtype_around_the_sampler_leaves_its_arithmetic_alone():
    """Products of matrices are what autocast narrows; those of tilts and directions are the sampler's own."""

    def elementwise(x, sigma):
        return x / (1 + sigma[:, None] ** 2)

    base = ak.base.Denoiser(elementwise, (16,), sigma_min=0.002, sigma_max=80.0, exact=True)
    session = open_session(base, direction=2 * UNIT)
    expected = session.draw(ONE, 10, seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = session.draw(ONE, 10, seed=0)
        features, means = session.features(found), session.means(ONE, 80.0)
    torch.testing.assert_close(found, expected)
    np.testing.assert_allclose(features, session.features(expected), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(means, session.means(ONE, 80.0), rtol=1e-5)
