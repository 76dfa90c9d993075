"""What can only be checked on an accelerator: run where CUDA is present (`pytest tests/gpu`)."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch

import alignkit as ak
from alignkit.contracts import ProxProblem, TiltProgram
from alignkit.noise import normal
from alignkit_torch.devices import free_memory
from alignkit_torch.prox import TorchProxSolver
from alignkit_torch.solvers import SOLVERS, karras_schedule, lay_out, step_noise
from alignkit_torch.tilt_sampler import TorchTiltSampler

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none")

DEVICE = "cuda"
MIXTURE = ak.base.GaussianMixture(np.full(8, 1 / 8), np.random.default_rng(0).normal(size=(8, 16)) * 2, 0.25)
ROWS = 512
TILTS = {
    "plain": np.zeros((1, 1)),
    "one tilt": np.ones((1, 1)),
    "a tilt per row": np.linspace(-1.0, 1.0, ROWS)[:, None],
}


@pytest.fixture(scope="module")
def laws():
    mixture = ak.base.Denoiser(MIXTURE.denoise, (16,), sigma_min=0.002, sigma_max=80.0, exact=True, name="mixture")
    return {"mixture": mixture, "digits": ak.base.digits()}


def open_session(base, device, **options):
    direction = np.ones((1, base.ambient)) * 2 / np.sqrt(base.ambient)
    return TorchTiltSampler(**options).open(TiltProgram(base, direction, np.ones((1, 1)), ROWS, device))


def test_noise_is_that_of_the_cpu():
    here = normal(3, 100, 37, stage=2, first_row=5, like=torch.empty(0))
    there = normal(3, 100, 37, stage=2, first_row=5, like=torch.empty(0, device=DEVICE))
    assert there.device.type == DEVICE
    torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mixture", "digits"])
@pytest.mark.parametrize("kind", TILTS)
class TestDraws:
    def test_they_are_those_of_the_cpu(self, laws, name, kind):
        found = {}
        for device in ("cpu", DEVICE):
            session = open_session(laws[name], device)
            drawn = session.draw(TILTS[kind], ROWS, seed=1)
            moved = session.renoise(drawn, TILTS[kind], sigma=1.0, nfe=15, seed=2, stage=1)
            assert drawn.device.type == moved.device.type == device
            found[device] = drawn.cpu().reshape(ROWS, -1), moved.cpu().reshape(ROWS, -1)
        for here, there in zip(found["cpu"], found[DEVICE], strict=True):
            # A row between two modes may fall either way.
            difference = (here - there).abs().amax(dim=1)
            assert float(difference.quantile(0.9)) < 0.01

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_the_steps_never_wait_for_the_host(self, laws, name, kind, solver):
        base = laws[name]
        x = normal(0, ROWS, base.ambient, like=torch.empty(0, device=DEVICE)).reshape(ROWS, *base.shape)
        tilt = None if kind == "plain" else 0.1 * (x[:1] if kind == "one tilt" else x)
        steps = lay_out(karras_schedule(SOLVERS[solver].steps(15), base.sigma_min, 10.0), x)
        with torch.no_grad():
            base.denoise(x, steps[0].sigma)  # constants and weights are moved the first time
            torch.cuda.set_sync_debug_mode("error")
            try:
                found = SOLVERS[solver](base.denoise, 10 * x, steps, tilt, noise=step_noise(0))
            finally:
                torch.cuda.set_sync_debug_mode("default")
        assert bool(torch.isfinite(found).all())


def test_the_counter_of_waits_works_here():
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchronizing"):
            float(torch.ones(2, device=DEVICE).sum())
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", ["one tilt", "a tilt per row"])
def test_a_tilted_draw_takes_the_time_of_a_plain_one(laws, kind, rows=8192, pairs=15):
    session = open_session(laws["digits"], DEVICE)
    coordinates = {"plain": np.zeros((1, 1)), kind: np.repeat(TILTS[kind], rows // len(TILTS[kind]), axis=0)}
    if kind == "one tilt":
        coordinates[kind] = TILTS[kind]
    for part in coordinates.values():
        session.draw(part, rows, seed=0)
    ratios = []
    for pair in range(pairs):
        seconds = {}
        # Who goes first alternates, so that neither always finds the device at its fastest.
        for name in sorted(coordinates, reverse=bool(pair % 2)):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            session.draw(coordinates[name], rows, seed=pair)
            stop.record()
            torch.cuda.synchronize()
            seconds[name] = start.elapsed_time(stop)
        ratios.append(seconds[kind] / seconds["plain"])
    assert statistics.median(ratios) <= 1.05


class TestMemory:
    def test_it_says_what_is_free(self):
        device = torch.device(DEVICE)
        before = free_memory(device)
        held = torch.empty(64 << 20, dtype=torch.uint8, device=device)
        assert before - free_memory(device) == pytest.approx(held.numel(), rel=0.5)
        del held
        # Given back to torch's own pool, it counts as free.
        assert free_memory(device) == pytest.approx(before, rel=0.01)

    def test_draws_get_by_with_what_there_is(self, laws):
        """Each row takes a hundred times what is planned for, and the process may have a small part of the device."""

        def hungry(x, sigma):
            room = torch.zeros((len(x), 25_600 * 16), device=x.device)
            return MIXTURE.denoise(x, sigma) + room[:, :1]

        base = ak.base.Denoiser(hungry, (16,), sigma_min=0.002, sigma_max=80.0, exact=True)
        rows, row_bytes = 4096, 25_600 * 16 * 4
        expected = open_session(laws["mixture"], DEVICE, nfe=5).draw(np.ones((1, 1)), rows, seed=0)
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(DEVICE).total_memory
        torch.cuda.set_per_process_memory_fraction(
            min(1.0, (torch.cuda.memory_reserved(DEVICE) + rows * row_bytes / 4) / total)
        )
        try:
            found = open_session(base, DEVICE, nfe=5).draw(np.ones((1, 1)), rows, seed=0)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mixture", "digits"])
def test_a_compiled_step_serves_every_step(laws, name):
    from alignkit_torch.solvers import dpm_solver_2m, dpm_solver_2m_step

    torch.compiler.reset()
    denoise = laws[name].denoise
    step = torch.compile(
        lambda x, previous, numbers, tilt: dpm_solver_2m_step(denoise, x, previous, numbers, tilt), fullgraph=True
    )
    shape = laws[name].shape
    x = 10 * normal(0, ROWS, laws[name].ambient, like=torch.empty(0, device=DEVICE)).reshape(ROWS, *shape)
    tilt = x.flip(0) / 50
    steps = lay_out(karras_schedule(9, 0.01, 10.0), x)
    with torch.no_grad():
        expected = dpm_solver_2m(denoise, x, steps, tilt)
        moved, previous = x, x.clone()
        for numbers in steps:
            moved, previous = step(moved, previous, numbers, tilt)
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-3)


def test_a_problem_is_solved_there(laws):
    x = ak.Variable((8, 8))
    problem = ak.Problem(ak.sum(x) / 16, laws["digits"], ak.KL(weight=0.5))
    here, there = (problem.solve(seed=0, device=device) for device in ("cpu", DEVICE))
    error = np.hypot(here.certificate.reward_after.standard_error, there.certificate.reward_after.standard_error)
    assert abs(float(here.certificate.reward_after) - float(there.certificate.reward_after)) <= 4 * error
    assert there.sample(4, seed=1).shape == (4, 8, 8)


def proximal(dimension):
    """A reward of each method, over (dimension,)."""
    random = np.random.default_rng(0)
    matrix = random.normal(size=(dimension + 2, dimension)) / np.sqrt(dimension)
    w = ak.Variable(dimension)
    a = matrix @ w + random.normal(size=dimension + 2)
    return {
        "smooth": -ak.log_sum_exp(3.0 * a) - ak.sum(ak.huber(a, 0.2)),
        "box": -ak.norm1(a),
        "simplex": ak.min(a),
        "separable": -ak.norm1(w - 1.0),
        "quadratic": -ak.sum_squares(a),
    }


class TestProximalMaps:
    @pytest.mark.parametrize("kind", proximal(2))
    @pytest.mark.parametrize(("dimension", "rows"), [(3, 20_000), (24, 2000), (200, 50)])
    def test_they_are_those_of_the_cpu(self, kind, dimension, rows, weight=0.5):
        f = proximal(dimension)[kind]
        points = np.random.default_rng(1).normal(size=(rows, dimension))
        here, there = (
            TorchProxSolver().open(ProxProblem(f, weight, dimension, rows, device=device)).solve(points)
            for device in ("cpu", DEVICE)
        )
        assert not here.unfinished.any() and not there.unfinished.any()
        away = np.linalg.norm(here.maximiser - there.maximiser, axis=1)
        assert (away <= np.sqrt(2 * here.gap / weight) + np.sqrt(2 * there.gap / weight) + 1e-12).all()

    @pytest.mark.parametrize("kind", ["smooth", "box", "simplex"])
    def test_rows_with_a_weight_each(self, kind):
        random = np.random.default_rng(1)
        points, weights = random.normal(size=(500, 5)), 10.0 ** random.uniform(-4, 3, 500)
        session = TorchProxSolver().open(ProxProblem(proximal(5)[kind], 1.0, 5, 500, device=DEVICE))
        assert not session.solve_weighted(points, weights).unfinished.any()

    @pytest.mark.parametrize("kind", ["smooth", "box", "simplex"])
    def test_a_step_waits_a_few_times_however_many_rows(self, kind):
        session = TorchProxSolver().open(ProxProblem(proximal(5)[kind], 0.5, 5, 4000, device=DEVICE))
        points = np.random.default_rng(1).normal(size=(4000, 5))
        session.solve(points[:10])
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with pytest.warns(UserWarning, match="synchronizing") as waits:
                session.solve(points)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert len(waits) < 1000
