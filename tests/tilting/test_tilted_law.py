"""Tilts of base laws that are base laws again: against closed forms, and of networks that see only so far."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

import alignkit as ak
from alignkit import registry
from alignkit.errors import CalibrationWarning, NonFiniteError, ParameterError, ShapeError
from alignkit.tilting import annealed, tilted_law

EXACT = ak.base.GaussianMixture([0.3, 0.7], [[[-1.0, 0.0]], [[2.0, 1.0]]], 0.25)
LEVELS = {"sigma_min": 0.002, "sigma_max": 80.0}
THETA = np.array([[1.5, -2.0]])
BASE = ak.base.Denoiser(EXACT.denoise, EXACT.shape, exact=True, tail=0.25, dtype="float64", name="mixture", **LEVELS)

WIDE = ak.base.GaussianMixture([0.5, 0.3, 0.2], np.random.default_rng(0).normal(size=(3, 6)), 0.25)
#: Standardised inputs of the network have norms around √6; those of this norm and more look alike to it.
SEEN = 6.0
STRENGTH = 4.0
UNIT = np.full(6, 1 / math.sqrt(6))
DRAWS = 2048
#: A reward of draws of the tilt.
REST = 0.5 * np.eye(6)[0]


class ShortSighted:
    """The exact denoiser of `WIDE`, but for inputs far from where noisy draws of it lie; counts its rows."""

    def __init__(self, seen=SEEN):
        self.seen, self.rows = seen, 0

    def __call__(self, x, sigma):
        self.rows += len(x)
        scale = torch.sqrt(sigma**2 + 1)[:, None]
        centre = torch.as_tensor(WIDE.mean, dtype=x.dtype, device=x.device)
        standardised = (x - centre) / scale
        norms = standardised.norm(dim=1, keepdim=True)
        return WIDE.denoise(centre + scale * standardised * (self.seen / norms).clamp(max=1.0), sigma)


def short_sighted(**options):
    options = {"tail": 0.25, "name": "short-sighted"} | LEVELS | options
    return ak.base.Denoiser(ShortSighted(), (6,), **options)


@pytest.fixture(scope="module")
def learned():
    return short_sighted()


@pytest.fixture(scope="module")
def calibrated(learned):
    return ak.tilt(learned, STRENGTH * UNIT, seed=0)


class TestExactDenoisers:
    @pytest.mark.parametrize("strength", [0.0, 1.0, 4.0])
    def test_the_denoiser_is_that_of_the_closed_form_at_every_level(self, strength):
        law, closed = ak.tilt(BASE, strength * THETA), ak.tilt(EXACT, strength * THETA)
        rng = np.random.default_rng(1)
        for sigma in np.geomspace(0.002, 80.0, 12):
            x = closed.sample(16, seed=2) + sigma * rng.normal(size=(16, 1, 2))
            levels = np.full(16, sigma)
            np.testing.assert_allclose(law(x, levels), closed.denoise(x, levels), atol=1e-9)
            found = law(torch.tensor(x), torch.tensor(levels))
            np.testing.assert_allclose(found.numpy(), closed.denoise(x, levels), atol=1e-9)

    def test_each_row_has_its_own_level(self):
        x, sigma = np.random.default_rng(0).normal(size=(7, 1, 2)), np.geomspace(0.002, 80.0, 7)
        np.testing.assert_allclose(ak.tilt(BASE, THETA)(x, sigma), EXACT.tilt(THETA).denoise(x, sigma), atol=1e-9)

    def test_nothing_is_fitted(self):
        law = ak.tilt(BASE, THETA)
        assert (law.switch, law.particles, law.calibration, law.certificate) == (math.inf, None, None, None)
        assert law.ess == math.inf and law.is_trustworthy and law.exact

    def test_draws_have_the_moments_of_the_closed_form(self):
        n, closed = 4000, EXACT.tilt(THETA)
        flat = ak.tilt(BASE, THETA).sample(n, seed=0).reshape(n, 2)
        variance = np.diag(closed.covariance)
        assert (abs(flat.mean(axis=0) - closed.mean) < 4.5 * np.sqrt(variance / n)).all()
        # Three per cent stand for the steps of the sampler, beside the sampling error.
        assert (abs(flat.var(axis=0) / variance - 1) < 0.03 + 4.5 * math.sqrt(2 / n)).all()

    def test_an_analytic_law_gives_its_own(self):
        law = ak.tilt(EXACT, THETA.ravel())
        assert isinstance(law, ak.base.GaussianMixture)
        np.testing.assert_array_equal(law.means, EXACT.tilt(THETA).means)


class TestArithmetic:
    def test_tilts_add_up(self):
        law = ak.tilt(ak.tilt(BASE, THETA), [0.5, 0.5])
        assert law.base is BASE and law.theta.shape == (1, 2)
        np.testing.assert_array_equal(law.theta, THETA + 0.5)
        x, sigma = np.random.default_rng(0).normal(size=(3, 1, 2)), np.array([0.1, 1.0, 10.0])
        np.testing.assert_allclose(law(x, sigma), EXACT.tilt(THETA + 0.5).denoise(x, sigma), atol=1e-9)

    def test_a_tilt_and_its_opposite_are_the_base(self, learned, calibrated):
        law = ak.tilt(calibrated, -calibrated.theta)
        assert law.base is learned and law.particles is None
        x, sigma = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 1.0, 5.0, 80.0])
        torch.testing.assert_close(law(x, sigma), learned(x, sigma), rtol=0, atol=0)

    def test_a_learned_law_is_fitted_anew_from_its_base(self, learned, calibrated):
        again = ak.tilt(ak.tilt(learned, STRENGTH / 2 * UNIT, calibrate=False), STRENGTH / 2 * UNIT, seed=0)
        np.testing.assert_array_equal(again.particles.data, calibrated.particles.data)
        assert again.switch == calibrated.switch


class TestLearnedDenoisers:
    """A network that is exact where it was trained, and takes whatever lies farther for the edge of that."""

    TRUTH = WIDE.tilt(STRENGTH * UNIT)

    def deviation(self, law):
        """Of E⟨u, x⟩ over draws from the truth, and its standard error, in base standard deviations."""
        scores = law.sample(DRAWS, seed=1).astype(np.float64) @ UNIT
        sd = math.sqrt(UNIT @ WIDE.covariance @ UNIT)
        error = scores.std() * math.sqrt(1 / DRAWS + (0.0 if law.particles is None else 1 / law.ess))
        return (scores.mean() - UNIT @ self.TRUTH.mean) / sd, error / sd

    def test_draws_are_those_of_the_tilt(self, calibrated):
        assert calibrated.is_trustworthy and calibrated.calibration.holds
        found, error = self.deviation(calibrated)
        assert abs(found) <= 0.05 + 3 * error

    def test_without_calibration_they_are_not(self, learned):
        law = ak.tilt(learned, STRENGTH * UNIT, calibrate=False)
        assert law.particles is None and law.switch == math.inf and not law.exact
        found, error = self.deviation(law)
        assert abs(found) > 0.1 + 3 * error

    def test_it_says_what_the_fit_measured(self, calibrated):
        certificate, scores = calibrated.certificate, STRENGTH * UNIT
        after, before = certificate.reward_after, certificate.reward_before
        sd = math.sqrt(scores @ WIDE.covariance @ scores)
        assert abs(after.value - scores @ self.TRUTH.mean) <= 0.05 * sd + 3 * after.standard_error
        assert abs(before.value - scores @ WIDE.mean) <= 0.05 * sd + 3 * before.standard_error
        found = certificate.log_partition
        assert abs(found.value - WIDE.log_partition(scores)[0]) <= 0.05 * sd + 3 * found.standard_error
        assert calibrated.ess == certificate.ess <= len(calibrated.particles.data)

    def test_the_particles_are_draws_of_it(self, calibrated):
        scores = calibrated.particles.data @ UNIT
        mean = calibrated.particles.weights @ scores
        error = scores.std() / math.sqrt(calibrated.ess)
        assert abs(mean - UNIT @ self.TRUTH.mean) <= 0.05 * math.sqrt(UNIT @ WIDE.covariance @ UNIT) + 3 * error

    def test_the_native_fit_is_the_same(self, learned, calibrated):
        x = ak.Variable((6,))
        aligned = ak.Problem(ak.inner(STRENGTH * UNIT, x), learned, ak.KL(weight=1.0)).solve(seed=0, backend="torch")
        np.testing.assert_allclose(aligned.fitted.particles.numpy(), calibrated.particles.data, atol=1e-4)
        np.testing.assert_allclose(aligned.fitted.weights, calibrated.particles.weights, rtol=1e-6)
        assert aligned.certificate.calibration.sigma == pytest.approx(calibrated.switch, rel=1e-5)

    def test_the_same_seed_gives_the_same_law_and_draws_do_not_depend_on_their_number(self, calibrated):
        np.testing.assert_allclose(calibrated.sample(20, seed=3)[:5], calibrated.sample(5, seed=3), atol=1e-4)

    def test_what_the_base_says_of_itself_is_carried_over(self):
        base = short_sighted(
            solver="heun", nfe=41, row_bytes=1000, evaluations_per_denoise=2, data_range=(-9.0, 9.0), dtype="float64"
        )
        law = ak.tilt(base, UNIT, calibrate=False)
        names = ["shape", "tail", "exact", "sigma_min", "sigma_max", "data_range", "dtype", "solver", "nfe"]
        for name in [*names, "row_bytes", "evaluations_per_denoise"]:
            assert getattr(law, name) == getattr(base, name), name
        assert law.name == "short-sighted, tilted" and "‖θ‖=1" in repr(law)
        assert law.theta.dtype == np.float64 and not law.theta.flags.writeable

    def test_as_many_particles_are_kept_as_fit(self, learned, calibrated, monkeypatch):
        monkeypatch.setattr(tilted_law, "_PARTICLE_BYTES", 500 * 6 * 4)
        few = ak.tilt(learned, STRENGTH * UNIT, seed=0)
        kept = len(few.particles.data)
        assert 400 <= kept <= 500 and few.particles.weights.sum() == pytest.approx(1.0)
        scores = calibrated.particles.data @ UNIT
        change = few.particles.mean @ UNIT - calibrated.particles.mean @ UNIT
        # They share what ancestors they come from, so that they spread no more than draws would.
        assert abs(change) < 4 * scores.std() / math.sqrt(kept)


class TestTheSwitch:
    LEVELS = torch.tensor([0.01, 0.5, 80.0, 20.0])

    @pytest.fixture
    def law(self, calibrated):
        network = ShortSighted()
        base = ak.base.Denoiser(network, (6,), **LEVELS)
        return tilted_law.TiltedLaw(base, calibrated.theta, particles=calibrated.particles, switch=calibrated.switch)

    @pytest.fixture
    def x(self):
        return torch.randn(4, 6, generator=torch.Generator().manual_seed(0))

    def expected(self, law, x):
        low = law.base(x + self.LEVELS[:, None] ** 2 * torch.tensor(law.theta, dtype=x.dtype), self.LEVELS)
        return torch.cat([low[:2], law.particles.denoise(x, self.LEVELS)[2:]])

    def test_rows_take_the_half_of_their_own_level(self, law, x):
        torch.testing.assert_close(law(x, self.LEVELS), self.expected(law, x), rtol=0, atol=0)
        for row in range(4):
            alone = law(x[row : row + 1], self.LEVELS[row : row + 1])
            torch.testing.assert_close(alone, self.expected(law, x)[row : row + 1], rtol=1e-4, atol=1e-4)

    def test_the_switch_itself_is_the_particles(self, law, x):
        levels = torch.full((4,), law.switch, dtype=torch.float64)
        torch.testing.assert_close(law(x.double(), levels), law.particles.denoise(x.double(), levels), rtol=0, atol=0)

    def test_one_number_serves_for_all_rows(self, law, x):
        for sigma in (0.5, np.float32(20.0), 1):
            expected = law(x, torch.full((4,), float(sigma)))
            torch.testing.assert_close(law(x, sigma), expected, rtol=0, atol=0)

    def test_no_rows_are_no_rows(self, law, x):
        assert law(x[:0], self.LEVELS[:0]).shape == (0, 6)

    @pytest.mark.filterwarnings("ignore:Dynamo detected")
    def test_it_may_be_compiled(self, law, x):
        compiled = torch.compile(law.denoise, backend="eager")
        torch.testing.assert_close(compiled(x, self.LEVELS), law(x, self.LEVELS))

    def test_only_the_half_that_is_needed_runs(self, law, x):
        law(x, self.LEVELS[2:].repeat(2))
        assert law.base._network.rows == 0
        law(x, 5.0)
        assert law.base._network.rows == 0
        law(x, self.LEVELS[:2].repeat(2))
        assert law.base._network.rows == 4

    def test_nothing_is_read_back_from_an_accelerator(self, law, x):
        # Tensors on the meta device have no values: whatever reads one raises.
        found = law(x.to("meta"), self.LEVELS.to("meta"))
        assert found.shape == x.shape and found.device.type == "meta"

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_small_types_are_kept_and_reckoned_with_in_a_larger(self, law, x, dtype):
        levels = torch.tensor([5.0, 20.0, 40.0, 80.0])
        found = law(x.to(dtype), levels.to(dtype))
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), law(x.to(dtype).float(), levels), rtol=1e-2, atol=1e-2)

    def test_rows_of_another_shape_are_refused(self, law):
        with pytest.raises(ShapeError, match=r"\(5,\).*has \(6,\)"):
            law(torch.zeros(2, 5), torch.ones(2))


class TestTooStrong:
    def test_a_warning_and_the_law_say_so(self):
        base = ak.base.Denoiser(ShortSighted(seen=5.0), (6,), name="myopic", **LEVELS)
        with pytest.warns(CalibrationWarning, match=r"‖θ‖ = 10 is beyond what 'myopic'.*drift.*worth \d+ draws"):
            law = ak.tilt(base, 10 * UNIT)
        assert not law.is_trustworthy and not law.calibration.holds
        assert "beyond the model's calibration" in repr(law)

    def test_what_holds_does_not_warn(self, learned):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ak.tilt(learned, UNIT)

    def test_annealing_that_does_not_end_is_an_error(self, learned, monkeypatch):
        monkeypatch.setattr(annealed, "_STAGES_MAX", 2)
        with pytest.raises(ParameterError, match="‖θ‖ = 30 is too strong for 'short-sighted'"):
            ak.tilt(learned, 30 * UNIT)


class TestAsABase:
    def test_under_kl_a_reward_of_an_exact_tilt_meets_the_closed_form(self):
        x = ak.Variable(BASE.shape)
        reward = ak.square(ak.sum(x)) / 4 + ak.inner([[0.3, -0.2]], x)
        law = ak.tilt(BASE, THETA)
        found, truth = (
            ak.Problem(reward, base, ak.KL(weight=1.0)).solve(seed=0).certificate for base in (law, EXACT.tilt(THETA))
        )
        joint = math.hypot(found.log_partition.standard_error, truth.log_partition.standard_error)
        assert abs(found.log_partition.value - truth.log_partition.value) <= 0.03 + 4 * joint
        joint = math.hypot(found.reward_after.standard_error, truth.reward_after.standard_error)
        assert abs(found.reward_after.value - truth.reward_after.value) <= 0.03 + 4 * joint

    def test_under_kl_an_affine_reward_of_a_learned_tilt_is_one_more_tilt(self, learned, calibrated, monkeypatch):
        monkeypatch.setattr(annealed, "_PARTICLES_MAX", 1024)
        x = ak.Variable((6,))
        found = ak.Problem(ak.inner(REST, x), calibrated, ak.KL(weight=1.0)).solve(seed=1).certificate
        truth = WIDE.tilt(STRENGTH * UNIT + REST).mean @ REST
        sd = math.sqrt(REST @ TestLearnedDenoisers.TRUTH.covariance @ REST)
        assert abs(found.reward_after.value - truth) <= 0.05 * sd + 3 * found.reward_after.standard_error
        assert found.reward_before.value < found.reward_after.value

    def test_under_wasserstein_it_is_transported(self):
        x = ak.Variable(BASE.shape)
        reward = -ak.norm1(x)
        law = ak.tilt(BASE, THETA)
        found, truth = (
            ak.Problem(reward, base, ak.Wasserstein(weight=2.0)).solve(seed=0).certificate
            for base in (law, EXACT.tilt(THETA))
        )
        for name in ("reward_before", "reward_after", "transport_cost"):
            ours, theirs = getattr(found, name), getattr(truth, name)
            assert abs(ours.value - theirs.value) <= 0.02 + 4 * math.hypot(ours.standard_error, theirs.standard_error)
        assert found.gap_max <= 1e-6

    @pytest.mark.parametrize(
        ("closeness", "names"),
        [
            (ak.KL(weight=1.0), ("reward_before", "reward_after", "log_partition", "kl")),
            (ak.Wasserstein(weight=1.0), ("reward_before", "reward_after")),
        ],
    )
    def test_standard_errors_take_in_that_its_draws_share_particles(self, calibrated, monkeypatch, closeness, names):
        monkeypatch.setattr(annealed, "_PARTICLES_MAX", 1024)
        apart = tilted_law.TiltedLaw(
            calibrated.base, calibrated.theta, particles=calibrated.particles, switch=calibrated.switch
        )
        reward = ak.inner(REST, ak.Variable((6,)))
        shared, alone = (ak.Problem(reward, law, closeness).solve(seed=1).certificate for law in (calibrated, apart))
        assert f"worth {calibrated.ess:.0f} independent ones" in str(shared) and "base law" not in str(alone)
        before = TestLearnedDenoisers.TRUTH
        least = REST @ before.covariance @ REST / calibrated.ess
        for name in names:
            error, plain = (getattr(one, name).standard_error for one in (shared, alone))
            if name == "reward_before":
                assert error**2 - plain**2 == pytest.approx(least, rel=0.25)
            assert error > plain, name

    def test_the_tail_is_that_of_the_base(self):
        reward = ak.sum_squares(ak.Variable(BASE.shape))
        warned = [
            ak.Problem(reward, base, ak.KL(weight=0.1)).compile().warnings for base in (BASE, ak.tilt(BASE, THETA))
        ]
        assert warned[0] and len(warned[0]) == len(warned[1])
        assert list(ak.tilt(BASE, THETA).tail_covariances()) == list(BASE.tail_covariances())


class TestBadInput:
    @pytest.mark.parametrize(
        ("theta", "error", "says"),
        [
            ([1.0, 2.0, 3.0], ShapeError, r"shape \(3,\).*'mixture' has shape \(1, 2\)"),
            (np.zeros((2, 1, 2)), ShapeError, r"\(2, 1, 2\)"),
            (1.0, ShapeError, r"shape \(\)"),
            ([], ParameterError, "empty"),
            ([np.nan, 0.0], NonFiniteError, "the tilt θ has 1 entries"),
            (["a", "b"], ParameterError, "real numbers"),
        ],
    )
    def test_tilts(self, theta, error, says):
        with pytest.raises(error, match=says):
            ak.tilt(BASE, theta)

    def test_a_tensor_is_a_tilt(self):
        law = ak.tilt(BASE, torch.tensor(THETA, requires_grad=True))
        np.testing.assert_array_equal(law.theta, THETA)

    @pytest.mark.parametrize("base", [EXACT.denoise, None, torch.nn.Identity()])
    def test_what_is_no_law_names_the_way_in(self, base):
        with pytest.raises(ParameterError, match=r"must be one of ak\.base(.|\n)*ak\.base\.Denoiser"):
            ak.tilt(base, THETA)

    def test_seeds(self):
        with pytest.raises(ParameterError, match="seed"):
            ak.tilt(BASE, THETA, seed=-1)

    @pytest.mark.parametrize("particles", [0, -16, 16, 100, 64.0])
    def test_particles(self, particles):
        with pytest.raises(ParameterError, match="multiple of 16"):
            ak.tilt(BASE, THETA, particles=particles)

    def test_nan_of_the_network_is_reported(self):
        base = ak.base.Denoiser(lambda x, sigma: x * float("nan"), (6,), name="broken", **LEVELS)
        with pytest.raises(NonFiniteError, match="'broken'"):
            ak.tilt(base, UNIT)

    def test_without_a_backend_it_says_what_to_install(self, monkeypatch, learned):
        monkeypatch.setattr(registry, "offers", lambda *_: ("exact",))
        with pytest.raises(
            ak.errors.BackendUnavailableError, match=r"tilts of 'short-sighted'(.|\n)*pip install torch"
        ):
            ak.tilt(learned, UNIT)


def test_a_pipeline_is_handed_to_a_backend(monkeypatch):
    seen = {}

    def offered(capability):
        seen["capability"] = capability
        return lambda pipeline, theta, **options: (pipeline, theta, options)

    monkeypatch.setattr(registry, "offered", offered)
    assert ak.tilted_pipeline("pipeline", [1.0], seed=3) == ("pipeline", [1.0], {"seed": 3})
    assert seen["capability"] == "pipeline_tilt"
