"""Ready for accelerators, checked without one.

Tensors on the meta device have no values: whatever reads one back to the host raises there, as it would make an
accelerator wait. A dispatch mode counts such reads, and sees every operation, on real values.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

import alignkit as ak
from alignkit.contracts import TiltProgram
from alignkit.noise import normal
from alignkit_torch import devices
from alignkit_torch.devices import free_memory, rows_that_fit
from alignkit_torch.digits import DenoiseDigits, load_denoiser
from alignkit_torch.solvers import SOLVERS, dpm_solver_2m, dpm_solver_2m_step, karras_schedule, lay_out, step_noise
from alignkit_torch.tilt_sampler import TorchTiltSampler

MIXTURE = ak.base.GaussianMixture(np.full(4, 1 / 4), np.random.default_rng(0).normal(size=(4, 6)) * 2, 0.25)
SHAPES = {"mixture": (6,), "digits": (8, 8)}
DENOISERS = {"mixture": MIXTURE.denoise, "digits": DenoiseDigits(load_denoiser())}
# What makes the host wait for the device: values, and shapes that depend on values.
READS = {
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
    "_unique",
    "_unique2",
}
# What makes the device wait for the host: numbers that are sent there.
SENDS = {"lift_fresh", "lift_fresh_copy", "_to_copy"}


class Operations(TorchDispatchMode):
    """Counts operations by name, and notes the dtypes of the tensors they make."""

    def __init__(self):
        super().__init__()
        self.names, self.dtypes = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.names[name] += 1
        made = out if isinstance(out, (tuple, list)) else [out]
        self.dtypes.update(tensor.dtype for tensor in made if isinstance(tensor, torch.Tensor))
        indices = args[1] if name in {"index", "index_put", "index_put_"} else []
        if any(index is not None and index.dtype in {torch.bool, torch.uint8} for index in indices):
            self.names["nonzero"] += 1
        return out

    def count(self, names):
        return sum(self.names[name] for name in names)


def known_by_denoiser(**options):
    options = {"sigma_min": 0.002, "sigma_max": 80.0, "exact": True} | options
    return ak.base.Denoiser(MIXTURE.denoise, (6,), **options)


def session_of(base, directions=None, **options):
    directions = np.ones((1, base.ambient)) / 4 if directions is None else directions
    return TorchTiltSampler(**options).open(TiltProgram(base, directions, np.eye(len(directions)), 100))


class TestCounting:
    """The counter sees what it is there for."""

    @pytest.mark.parametrize(
        "read",
        [
            lambda x: x.sum().item(),
            lambda x: float(x[0]),
            lambda x: bool((x > 0).all()),
            lambda x: x[x > 0],
            lambda x: x.nonzero(),
            torch.unique,
        ],
    )
    def test_reads_are_counted(self, read):
        with Operations() as seen:
            read(torch.ones(3))
        assert seen.count(READS) >= 1

    def test_arithmetic_is_none(self):
        with Operations() as seen:
            torch.lerp(torch.ones(3), torch.zeros(3), torch.ones(()))
        assert seen.count(READS | SENDS) == 0 and seen.names["lerp"] == 1

    def test_numbers_sent_to_the_device_are_counted(self):
        with Operations() as seen:
            torch.tensor([1.0, 2.0])
        assert seen.count(SENDS) >= 1


@pytest.mark.parametrize("tilted", ["plain", "one tilt", "a tilt per row"])
class TestSteps:
    ROWS = 5

    def parts(self, name, tilted, device, nfe=9):
        shape = SHAPES[name]
        x = torch.ones(self.ROWS, *shape, device=device)
        tilt = {"plain": None, "one tilt": x[:1] / 10, "a tilt per row": x / 10}[tilted]
        return x, tilt, lay_out(karras_schedule(nfe, 0.01, 10.0), x)

    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("name", DENOISERS)
    def test_they_run_without_a_value_being_read(self, name, solver, tilted):
        x, tilt, steps = self.parts(name, tilted, "meta")
        found = SOLVERS[solver](DENOISERS[name], x, steps, tilt, noise=step_noise(0))
        assert found.shape == x.shape and found.device.type == "meta"

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_they_neither_read_nor_send(self, solver, tilted):
        x, tilt, steps = self.parts("mixture", tilted, "cpu")
        MIXTURE.denoise(x, steps[0].sigma)  # its constants are moved once, not once a step
        # Noise is cast to x's dtype where it is made, which counts as sending; that it is not read, meta tensors show.
        noise = [step_noise(0)(step, x) for step in range(len(steps))]
        with torch.no_grad(), Operations() as seen:
            SOLVERS[solver](MIXTURE.denoise, x, steps, tilt, noise=lambda step, _: noise[step])
        assert seen.names["lerp"] > 0
        assert seen.count(READS | SENDS) == 0, seen.names

    def test_a_step_adds_two_operations_to_the_denoisers_and_a_tilt_one_more(self, tilted):
        counts = []
        for nfe in (9, 10):
            x, tilt, steps = self.parts("mixture", tilted, "cpu", nfe)
            with torch.no_grad(), Operations() as seen:
                dpm_solver_2m(lambda x, sigma: x.neg(), x, steps, tilt)
            counts.append(seen.names)
        expected = Counter(lerp=2, neg=1) if tilted == "plain" else Counter(lerp=2, neg=1, addcmul=1)
        assert counts[1] - counts[0] == expected and not counts[0] - counts[1]


class TestDraws:
    COORDINATES = {  # noqa: RUF012
        "plain": np.zeros((1, 1)),
        "one tilt": np.ones((1, 1)),
        "a tilt per row": np.linspace(-1, 1, 12)[:, None],
    }

    @pytest.mark.parametrize("kind", COORDINATES)
    @pytest.mark.parametrize("solver", SOLVERS)
    def test_a_batch_is_read_once_however_many_steps(self, kind, solver, monkeypatch):
        monkeypatch.setattr(devices, "ROWS_MAX", 4)
        reads = []
        for nfe in (5, 21):
            session = session_of(known_by_denoiser(), nfe=nfe, solver=solver)
            start = session.draw(self.COORDINATES[kind], 12, seed=0)
            with Operations() as seen:
                session.draw(self.COORDINATES[kind], 12, seed=0)
                session.renoise(start, self.COORDINATES[kind], sigma=1.0, nfe=nfe, seed=0, stage=1)
            reads.append(seen.count(READS))
        # Three batches each: whether all is finite.
        assert reads == [6, 6]

    @pytest.mark.parametrize("law", ["mixture", "digits"])
    def test_nothing_is_made_in_float64(self, law):
        base = known_by_denoiser() if law == "mixture" else ak.base.digits()
        session = session_of(base)
        coordinates = np.linspace(-1, 1, 6)[:, None]
        start = session.draw(coordinates, 6, seed=0)
        with Operations() as seen:
            session.draw(coordinates, 6, seed=0)
            session.renoise(start, coordinates, sigma=1.0, nfe=5, seed=0, stage=1)
            session.from_noise(session.noise(3, seed=1))
            session.means(coordinates, 80.0)
            session.features(start)
        assert seen.dtypes[torch.float32] > 0
        assert seen.dtypes[torch.float64] == 0

    def test_noise_is_made_where_it_is_used(self):
        with Operations() as seen:
            noise = normal(0, 7, 5, like=torch.empty(0, device="meta"))
        assert noise.device.type == "meta" and noise.dtype == torch.float32
        assert seen.dtypes[torch.float64] == 0


class TestCompilation:
    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    @pytest.mark.parametrize("name", DENOISERS)
    def test_one_graph_serves_every_step(self, name, backend):
        torch.compiler.reset()
        counter = CompileCounterWithBackend(backend)

        @torch.compile(fullgraph=True, backend=counter)
        def step(x, previous, numbers, tilt):
            return dpm_solver_2m_step(DENOISERS[name], x, previous, numbers, tilt)

        x = 10 * normal(0, 6, int(np.prod(SHAPES[name])), like=torch.empty(0)).reshape(6, *SHAPES[name])
        tilt = x.flip(0) / 50
        steps = lay_out(karras_schedule(5, 0.01, 10.0), x)
        with torch.no_grad():
            expected = dpm_solver_2m(DENOISERS[name], x, steps, tilt)
            moved, previous = x, x.clone()
            for numbers in steps:
                moved, previous = step(moved, previous, numbers, tilt)
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)
        assert counter.frame_count == 1


class TestMemory:
    @pytest.mark.parametrize(
        ("row_bytes", "free", "rows"),
        [
            (1 << 20, 1 << 30, 512),
            (1 << 20, 0, 1),
            (1 << 30, 1 << 20, 1),
            (1, 1 << 40, devices.ROWS_MAX),
            (1 << 20, None, 64),
        ],
    )
    def test_half_of_what_is_free_is_filled(self, row_bytes, free, rows):
        assert rows_that_fit(row_bytes, free) == rows

    def test_the_host_does_not_say(self):
        assert free_memory(torch.device("cpu")) is None

    def test_what_torch_holds_for_later_is_free(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 40)
        assert free_memory(torch.device("cuda")) == 130

    @pytest.mark.parametrize("free", [1 << 16, 1 << 18])
    def test_batches_follow_free_memory(self, free, monkeypatch):
        sizes = []

        def counting(x, sigma):
            sizes.append(len(x))
            return MIXTURE.denoise(x, sigma)

        base = ak.base.Denoiser(counting, (6,), sigma_min=0.002, sigma_max=80.0)
        session = session_of(base, nfe=3)
        whole = session.draw(np.ones((1, 1)), 50, seed=0)
        sizes.clear()
        monkeypatch.setattr("alignkit_torch.tilt_session.free_memory", lambda device: free)
        parts = session.draw(np.ones((1, 1)), 50, seed=0)
        assert max(sizes) == rows_that_fit(6 * 256 * 4, free) < 50
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)

    def test_a_batch_that_does_not_fit_after_all_is_halved(self):
        sizes = []

        def hungry(x, sigma):
            sizes.append(len(x))
            if len(x) > 9:
                raise torch.cuda.OutOfMemoryError("no")
            return MIXTURE.denoise(x, sigma)

        base = ak.base.Denoiser(hungry, (6,), sigma_min=0.002, sigma_max=80.0)
        session, told = session_of(base, nfe=3), []
        coordinates = np.linspace(0, 1, 30)[:, None]
        found = session.draw(coordinates, 30, seed=0, progress=lambda *event: told.append(event[1]))
        torch.testing.assert_close(found, session_of(known_by_denoiser(), nfe=3).draw(coordinates, 30, seed=0))
        assert told == sorted(told) and told[-1] == 30
        # What was learned is kept.
        sizes.clear()
        session.draw(coordinates, 30, seed=1)
        assert max(sizes) <= 9

    def test_a_row_that_does_not_fit_is_the_devices_own_error(self):
        def hungry(x, sigma):
            if float(sigma[0]) < 10.0:
                raise torch.cuda.OutOfMemoryError("no")
            return x

        with pytest.raises(torch.cuda.OutOfMemoryError):
            session_of(ak.base.Denoiser(hungry, (6,), sigma_min=0.1, sigma_max=80.0)).draw(np.zeros((1, 1)), 4, seed=0)


def test_the_digits_ask_for_equal_levels_on_the_cpu_alone():
    denoise = DENOISERS["digits"]
    x = torch.zeros(3, 8, 8, device="meta")
    assert denoise(x, torch.ones(3, device="meta")).device.type == "meta"
    x, levels = torch.zeros(4, 8, 8), torch.tensor([0.5, 0.5, 2.0, 2.0])
    together = denoise(x, levels)
    for pair in ([0, 1], [2, 3]):
        torch.testing.assert_close(together[pair], denoise(x[pair], levels[pair]))
