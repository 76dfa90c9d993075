"""Problems from declaration to samples: certificates against closed forms, reproducibility, and every bad input."""

from __future__ import annotations

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import alignkit as ak
from alignkit.errors import (
    BackendRefusedError,
    BackendUnavailableError,
    IntractableError,
    NonFiniteError,
    ParameterError,
    ShapeError,
    Status,
    UnboundedTransportError,
)

X = ak.Variable((2,))
SLOPE = np.array([2.0, -1.0])
REWARD = ak.inner(SLOPE, X) + 3.0
WEIGHT = 2.5
LAWS = {
    "Gaussian": ak.base.Gaussian([1.0, -1.0], [[1.0, 0.5], [0.5, 2.0]]),
    "mixture": ak.base.GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [2.0, 1.0]], [0.25, 1.0]),
    "data": ak.base.Empirical(np.random.default_rng(0).normal(size=(300, 2))),
}


@pytest.fixture(scope="module")
def solved():
    return {
        (name, backend): ak.Problem(REWARD, law, ak.KL(weight=WEIGHT)).solve(seed=0, backend=backend)
        for name, law in LAWS.items()
        for backend in ("exact", "torch")
    }


def truth(law):
    """Rewards before and after, KL and log Z of r/λ, from the law's own tilt."""
    theta = SLOPE / WEIGHT
    log_z = law.log_partition(theta)[0]
    after = theta @ law.tilt(theta).mean
    return (
        SLOPE @ law.mean + 3.0,
        WEIGHT * after + 3.0,
        after - log_z,
        log_z + 3.0 / WEIGHT,
    )


@pytest.mark.parametrize("name", LAWS)
class TestKL:
    def test_closed_form_certificates_are_exact(self, solved, name):
        certificate = solved[name, "exact"].certificate
        found = (certificate.reward_before, certificate.reward_after, certificate.kl, certificate.log_partition)
        for estimate, expected in zip(found, truth(LAWS[name]), strict=True):
            assert float(estimate) == pytest.approx(expected, rel=1e-10) and estimate.standard_error == 0
        assert certificate.nfe_per_sample == 0 and certificate.acceptance == 1 and math.isinf(certificate.ess)

    def test_sampled_certificates_are_within_their_errors(self, solved, name):
        law, certificate = LAWS[name], solved[name, "torch"].certificate
        found = (certificate.reward_before, certificate.reward_after, certificate.kl, certificate.log_partition)
        sd = math.sqrt(SLOPE @ law.covariance @ SLOPE)
        for estimate, expected in zip(found, truth(law), strict=True):
            assert abs(float(estimate) - expected) < 4 * estimate.standard_error + 0.02 * sd
        assert certificate.nfe_per_sample == 31

    @pytest.mark.parametrize("backend", ["exact", "torch"])
    def test_samples_follow_the_tilted_law(self, solved, name, backend):
        n, tilted = 6000, LAWS[name].tilt(SLOPE / WEIGHT)
        draws = solved[name, backend].sample(n, seed=1)
        assert draws.shape == (n, 2) and isinstance(draws, np.ndarray)
        sd = np.sqrt(np.diag(tilted.covariance))
        assert (abs(draws.mean(axis=0) - tilted.mean) < (4.5 / math.sqrt(n) + 0.02) * sd).all()
        # Of the variance 4 % stands for the sampler's steps; a schedule too wide for the law once made it 20 %.
        error = ((draws - tilted.mean) ** 2).std(axis=0) / sd**2 / math.sqrt(n)
        assert (abs(draws.var(axis=0) / sd**2 - 1) < 0.04 + 4.5 * error).all()

    @pytest.mark.parametrize("backend", ["exact", "torch"])
    def test_draw_i_does_not_depend_on_n(self, solved, name, backend):
        aligned = solved[name, backend]
        np.testing.assert_allclose(aligned.sample(10, seed=4)[:5], aligned.sample(5, seed=4), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("backend", ["exact", "torch"])
    def test_solving_again_gives_the_same(self, solved, name, backend):
        again = ak.Problem(REWARD, LAWS[name], ak.KL(weight=WEIGHT)).solve(seed=0, backend=backend)
        assert again.certificate == solved[name, backend].certificate
        np.testing.assert_array_equal(again.sample(5, seed=1), solved[name, backend].sample(5, seed=1))
        assert (again.sample(5, seed=2) != again.sample(5, seed=1)).any()


class TestKLResults:
    def test_a_learned_denoiser_is_annealed_and_calibrated(self):
        law = LAWS["mixture"]
        base = ak.base.Denoiser(law.denoise, (2,), sigma_min=0.002, sigma_max=80.0)
        aligned = ak.Problem(REWARD, base, ak.KL(weight=WEIGHT)).solve(seed=0)
        certificate = aligned.certificate
        sd = math.sqrt(SLOPE @ law.covariance @ SLOPE)
        found = (certificate.reward_before, certificate.reward_after, certificate.kl, certificate.log_partition)
        for estimate, expected in zip(found, truth(law), strict=True):
            assert abs(float(estimate) - expected) < 4 * estimate.standard_error + 0.02 * sd
        assert certificate.calibration.holds and aligned.status is Status.SOLVED
        np.testing.assert_allclose(aligned.sample(10, seed=4)[:5], aligned.sample(5, seed=4), atol=1e-5)

    def test_the_log_partition_is_the_certificates(self, solved):
        aligned = solved["Gaussian", "exact"]
        assert aligned.log_partition == aligned.certificate.log_partition

    def test_certificates_print_every_number(self, solved):
        text = str(solved["mixture", "torch"].certificate)
        for words in ("reward before", "reward after", "KL(q‖p)", "log partition", "±", "guarantee", "arXiv"):
            assert words in text

    def test_pictures_of_any_shape(self):
        base = ak.base.Gaussian(np.zeros((2, 3)), 1.0)
        x = ak.Variable((2, 3))
        aligned = ak.Problem(ak.sum(x[0, :]), base, ak.KL(weight=0.5)).solve(seed=0)
        draws = aligned.sample(4000, seed=0)
        assert draws.shape == (4000, 2, 3)
        np.testing.assert_allclose(draws.mean(axis=0), [[2.0] * 3, [0.0] * 3], atol=4.5 / math.sqrt(4000))

    def test_a_reward_that_cancels_leaves_the_base(self):
        problem = ak.Problem(ak.sum(X) - ak.sum(X) + 1.0, LAWS["mixture"], ak.KL(weight=1.0))
        aligned = problem.solve(seed=0)
        assert float(aligned.certificate.kl) == pytest.approx(0, abs=1e-12)
        assert float(aligned.certificate.reward_after) == 1.0
        np.testing.assert_array_equal(aligned.sample(5, seed=0), LAWS["mixture"].sample(5, seed=0))

    def test_the_weight_may_be_any_real_number_type(self):
        for weight in (2, np.float32(2.0), np.int64(2)):
            aligned = ak.Problem(REWARD, LAWS["Gaussian"], ak.KL(weight=weight)).solve(seed=0)
            assert float(aligned.certificate.kl) == pytest.approx(0.5 * SLOPE @ LAWS["Gaussian"].covariance @ SLOPE / 4)


class TestKinds:
    @pytest.mark.parametrize("backend", ["exact", "torch"])
    def test_draws_come_in_the_kind_and_dtype_asked_for(self, solved, backend):
        aligned = solved["Gaussian", backend]
        plain = aligned.sample(3, seed=0)
        as_torch = aligned.sample(3, seed=0, like=torch.empty(0, dtype=torch.float32))
        assert isinstance(as_torch, torch.Tensor) and as_torch.dtype == torch.float32
        as_jax = aligned.sample(3, seed=0, like=jnp.empty(0))
        assert isinstance(as_jax, jax.Array)
        as_numpy = aligned.sample(3, seed=0, like=np.empty(0, dtype=np.float32))
        assert isinstance(as_numpy, np.ndarray) and as_numpy.dtype == np.float32
        for draws in (as_torch, as_jax, as_numpy):
            np.testing.assert_allclose(np.asarray(draws), plain, rtol=1e-5)

    def test_pairs_come_in_the_kind_asked_for(self):
        aligned = ak.Problem(REWARD, LAWS["Gaussian"], ak.Wasserstein(weight=1.0)).solve(seed=0)
        pair = aligned.sample(3, seed=0, return_base=True, like=torch.empty(0))
        assert all(isinstance(half, torch.Tensor) for half in pair)

    def test_other_kinds_are_refused(self, solved):
        with pytest.raises(ParameterError, match="like='torch'"):
            solved["Gaussian", "exact"].sample(3, seed=0, like="torch")


class TestWasserstein:
    @pytest.mark.parametrize("name", LAWS)
    def test_affine_rewards_shift_by_their_slope_over_the_weight(self, name):
        aligned = ak.Problem(REWARD, LAWS[name], ak.Wasserstein(weight=WEIGHT)).solve(seed=0)
        before, after = aligned.sample(50, seed=1, return_base=True)
        np.testing.assert_array_equal(before, LAWS[name].sample(50, seed=1))
        np.testing.assert_allclose(after, before + SLOPE / WEIGHT, atol=1e-12)
        np.testing.assert_array_equal(aligned.sample(50, seed=1), after)
        certificate = aligned.certificate
        assert float(certificate.transport_cost) == pytest.approx(0.5 * SLOPE @ SLOPE / WEIGHT**2)
        gain = float(certificate.reward_after) - float(certificate.reward_before)
        assert gain == pytest.approx(SLOPE @ SLOPE / WEIGHT)
        assert certificate.gap_max <= 1e-9 and certificate.rows_unfinished == 0
        assert aligned.status is Status.SOLVED and aligned.plan.backend == "none"

    def test_transport_moves_ones_own_data_and_keeps_its_kind(self):
        aligned = ak.Problem(REWARD, LAWS["Gaussian"], ak.Wasserstein(weight=WEIGHT)).solve(seed=0)
        mine = torch.ones(3, 2)
        moved = aligned.transport(mine)
        assert isinstance(moved, torch.Tensor) and moved.dtype == torch.float32
        np.testing.assert_allclose(moved, np.tile(1 + SLOPE / WEIGHT, (3, 1)), rtol=1e-6)

    def test_concave_rewards_are_solved_to_their_closed_form(self):
        aligned = ak.Problem(-ak.norm1(X), LAWS["mixture"], ak.Wasserstein(weight=2.0)).solve(seed=0)
        before, after = aligned.sample(200, seed=1, return_base=True)
        np.testing.assert_allclose(after, np.sign(before) * np.maximum(abs(before) - 0.5, 0), atol=1e-6)
        assert aligned.certificate.gap_max <= 1e-6

    def test_draw_i_does_not_depend_on_n(self):
        aligned = ak.Problem(-ak.norm1(X), LAWS["mixture"], ak.Wasserstein(weight=2.0)).solve(seed=0)
        np.testing.assert_allclose(aligned.sample(10, seed=4)[:5], aligned.sample(5, seed=4), atol=1e-8)

    def test_there_is_no_log_partition(self):
        aligned = ak.Problem(REWARD, LAWS["Gaussian"], ak.Wasserstein(weight=1.0)).solve(seed=0)
        with pytest.raises(ParameterError, match="no log-partition"):
            aligned.log_partition


class TestExplain:
    def test_an_affine_reward_under_kl(self):
        text = ak.Problem(REWARD, LAWS["mixture"], ak.KL(weight=WEIGHT)).explain()
        for words in (
            str(REWARD), "affine", "k = 0 of d = 2", "E_q[r] − 2.5·KL(q‖p)", f"‖g‖ = {math.sqrt(5):.4g}", "linear tilt",
            "taken", "exact        chosen", "torch        bid", "guarantee", "arXiv 2605.11361", "per 10,000 rows",
        ):  # fmt: skip
            assert words in text, words

    def test_refusals_stand_in_the_table_with_their_reason(self):
        base = ak.base.Denoiser(LAWS["mixture"].denoise, (2,), sigma_min=0.01, sigma_max=50.0, name="net")
        text = ak.Problem(REWARD, base, ak.KL(weight=1.0)).explain()
        assert "exact        refused: 'net' is known through its denoiser alone" in text
        assert "warning" in text and "tail" in text

    def test_a_concave_reward_under_wasserstein(self):
        base = ak.base.Gaussian(np.zeros((3, 4)), 1.0)
        x = ak.Variable((3, 4))
        text = ak.Problem(-ak.norm1(x[0, :2]) + ak.sum(x), base, ak.Wasserstein(weight=2.0)).explain()
        for words in (
            "concave",
            "k = 2 of d = 12",
            "W_c(q, p)",
            "½‖x − y‖²",
            "concave proximal transport",
            "Lipschitz",
        ):
            assert words in text, words

    def test_rules_name_the_sub_expression(self):
        text = ak.Problem(ak.square(X[0]) + ak.norm1(X), LAWS["mixture"], ak.KL(weight=1.0)).explain()
        line = next(line for line in text.splitlines() if "curvature" in line)
        assert "convex" in line and ("square" in line or "norm1" in line or "sum" in line)

    def test_what_has_no_plan_is_explained_with_the_error(self):
        text = ak.Problem(-ak.square(X[0]), LAWS["mixture"], ak.KL(weight=1.0)).explain()
        assert (
            "IntractableError" in text and "Ways out" in text and "ak.Wasserstein" in text and "k = 1 of d = 2" in text
        )

    def test_every_route_of_the_closeness_stands_in_the_explanation(self):
        concave = ak.Problem(-ak.norm1(X), LAWS["mixture"], ak.Wasserstein(weight=1.0))
        lines = [line for line in concave.explain().splitlines() if "proximal transport " in line]
        assert [line.split()[-1] for line in lines] == ["taken", "possible"]
        assert "each row up to its gap" in concave.compile().guarantee

    def test_a_lipschitz_reward_is_solved_with_a_certificate(self):
        problem = ak.Problem(ak.norm1(X), LAWS["mixture"], ak.Wasserstein(weight=1.0))
        plan = problem.compile()
        assert (plan.route, plan.backend) == ("Lipschitz proximal transport", "grid")
        aligned = problem.solve(seed=0)
        x = np.array([[0.5, -2.0], [0.0, 1.0], [-3.0, 0.1]])
        moved = aligned.transport(x, return_details=True)
        # Away from 0, entry by entry; at 0 either way is as good.
        away = np.array([[1.5, -3.0], [-1.0, 2.0], [-4.0, 1.1]])
        assert (moved.relative_gap <= 1e-3).all() and not moved.unfinished.any()
        np.testing.assert_allclose(moved.y, away, atol=np.sqrt(2e-3))
        assert moved.tied.tolist() == [False, True, False]

    def test_a_lipschitz_reward_too_rough_to_search_is_refused_by_each_backend(self):
        reward = ak.lipschitz(lambda x: np.sin(x).sum(axis=1), 1e6, X)
        problem = ak.Problem(reward, LAWS["mixture"], ak.Wasserstein(weight=1.0))
        with pytest.raises(BackendRefusedError, match=r"Lipschitz proximal transport.*cvxpy.*evaluations a row"):
            problem.compile()
        steep = ak.Problem(ak.square(ak.norm1(X)), LAWS["mixture"], ak.Wasserstein(weight=1.0)).explain()
        assert "no Lipschitz constant of f is known" in steep

    def test_explaining_is_printing_the_plan(self):
        problem = ak.Problem(REWARD, LAWS["mixture"], ak.KL(weight=1.0))
        assert problem.explain() == str(problem.compile())

    def test_solve_prints_the_plan_when_asked(self, capsys):
        problem = ak.Problem(REWARD, LAWS["Gaussian"], ak.KL(weight=1.0))
        problem.solve(seed=0)
        assert capsys.readouterr().out == ""
        problem.solve(seed=0, verbose=True)
        printed = capsys.readouterr().out
        assert printed.startswith(problem.explain()) and "Planned: " in printed and "Done in " in printed

    def test_is_tractable(self):
        base = LAWS["mixture"]
        assert ak.Problem(REWARD, base, ak.KL(weight=1.0)).is_tractable()
        assert not ak.Problem(-ak.square(X[0]), base, ak.KL(weight=1.0)).is_tractable()
        assert ak.Problem(-ak.square(X[0]), base, ak.Wasserstein(weight=1.0)).is_tractable()
        assert not ak.Problem(ak.square(X[0]), base, ak.Wasserstein(weight=1.0)).is_tractable()


class TestBadInput:
    """Each its own error, raised before the denoiser is called once."""

    @pytest.fixture(autouse=True)
    def counted(self):
        self.calls = []

        def denoise(x, sigma):
            self.calls.append(1)
            return LAWS["Gaussian"].denoise(x, sigma)

        self.base = ak.base.Denoiser(denoise, (2,), sigma_min=0.01, sigma_max=50.0, name="net")
        yield
        assert not self.calls

    def fails(self, error, says, reward, closeness, **options):
        with pytest.raises(error, match=says) as caught:
            ak.Problem(reward, self.base, closeness).solve(**({"seed": 0} | options))
        return caught.value

    @pytest.mark.parametrize("closeness", [ak.KL, ak.Wasserstein])
    @pytest.mark.parametrize("weight", [0, -1.0, math.nan, math.inf, True, "1", None, [1.0]])
    def test_weights(self, closeness, weight):
        name = closeness.__name__
        with pytest.raises(ParameterError, match=rf"{name}\(weight=λ\)|{name} takes either weight=λ") as caught:
            closeness(weight=weight)
        assert isinstance(caught.value, ValueError) and caught.value.ways_out

    @pytest.mark.parametrize("closeness", [ak.KL, ak.Wasserstein])
    def test_a_number_without_a_name_is_asked_for_its_name(self, closeness):
        with pytest.raises(ParameterError, match=r"\(0\.1\) leaves open what 0\.1 is") as caught:
            closeness(0.1)
        weight, radius = (eval(way.split(", in ")[0].rstrip("."), {"ak": ak}) for way in caught.value.ways_out)
        assert weight == closeness(weight=0.1) and radius == closeness(radius=0.1)
        names = inspect.signature(closeness).parameters.values()
        assert all(name.kind is name.KEYWORD_ONLY for name in names)

    def test_costs(self):
        with pytest.raises(ParameterError, match="cost"):
            ak.Wasserstein(weight=1.0, cost="euclidean")

    @pytest.mark.parametrize("reward", [3.0, np.float64(1.0), ak.sum(np.ones(3))], ids=["float", "numpy", "constant"])
    def test_a_reward_without_the_variable(self, reward):
        self.fails(ParameterError, "does not depend on a variable", reward, ak.KL(weight=1.0))

    def test_two_variables(self):
        error = self.fails(ParameterError, "has 2", ak.sum(X) + ak.sum(ak.Variable((2,), name="y")), ak.KL(weight=1.0))
        assert "y" in str(error)

    def test_another_shape_names_both_shapes_and_the_reward(self):
        reward = ak.sum(ak.Variable((3, 4)))
        error = self.fails(ShapeError, r"\(3, 4\).*'net'.*\(2,\)", reward, ak.KL(weight=1.0))
        assert str(reward) in str(error)

    def test_a_reward_that_is_no_scalar(self):
        self.fails(ShapeError, r"\(2,\)", 2 * X, ak.KL(weight=1.0))

    def test_constants_that_are_not_finite(self):
        with pytest.raises(NonFiniteError):
            ak.Problem(ak.inner(np.array([1.0, np.nan]), X), self.base, ak.KL(weight=1.0))

    @pytest.mark.parametrize(
        "base", [None, 3, lambda x, sigma: x, ak.KL(weight=1.0)], ids=["None", "int", "function", "KL"]
    )
    def test_a_base_that_is_no_law(self, base):
        with pytest.raises(ParameterError, match=r"base law must be one of ak\.base"):
            ak.Problem(REWARD, base, ak.KL(weight=1.0))

    @pytest.mark.parametrize("closeness", [None, 1.0, "KL", ak.KL])
    def test_a_closeness_that_is_none(self, closeness):
        with pytest.raises(ParameterError, match=r"ak\.KL"):
            ak.Problem(REWARD, self.base, closeness)

    def test_concave_under_kl_is_intractable_with_the_reason_and_ways_out(self):
        error = self.fails(IntractableError, "concave.*hard in the worst case", -ak.norm1(X), ak.KL(weight=1.0))
        assert "arXiv 2605.11361" in str(error) and error.expression == str(-ak.norm1(X))
        assert any("ak.Wasserstein" in way for way in error.ways_out) and len(error.ways_out) >= 2
        assert ".." not in error.message

    def test_no_curvature_under_kl_is_intractable_without_a_wasserstein_promise(self):
        error = self.fails(
            IntractableError, "curvatures disagree", ak.square(X[0]) - ak.square(X[1]), ak.KL(weight=1.0)
        )
        assert not any("concave rewards are tractable" in way for way in error.ways_out)

    @pytest.mark.parametrize("scale", [1.0, 3.0])
    def test_unbounded_transport_names_the_critical_weight(self, scale):
        reward = scale * ak.square(X[0])
        error = self.fails(UnboundedTransportError, "outgrows", reward, ak.Wasserstein(weight=scale))
        assert f"critical value {2 * scale:g}" in str(error) and f"λ > {2 * scale:g}" in str(error)
        ak.Problem(reward, self.base, ak.Wasserstein(weight=2.01 * scale)).compile()

    @pytest.mark.parametrize("closeness", [ak.KL(weight=1.0), ak.Wasserstein(weight=1.0)], ids=["KL", "Wasserstein"])
    def test_unknown_backends_say_what_is_known_and_what_was_meant(self, closeness):
        error = self.fails(BackendUnavailableError, "no backend 'ottt'", REWARD, closeness, backend="ottt")
        assert "torch" in str(error) and "Did you mean 'ott'?" in str(error)

    def test_backends_that_refuse(self):
        error = self.fails(
            BackendRefusedError, "'net' is known through its denoiser", REWARD, ak.KL(weight=1.0), backend="exact"
        )
        assert error.ways_out

    def test_backends_that_offer_something_else(self):
        self.fails(BackendUnavailableError, "no prox solver", -ak.norm1(X), ak.Wasserstein(weight=1.0), backend="exact")
        self.fails(BackendUnavailableError, "no tilt sampler", REWARD, ak.KL(weight=1.0), backend="cvxpy")

    @pytest.mark.parametrize("engine", ["smc", None, ""])
    def test_unknown_engines(self, engine):
        self.fails(ParameterError, "Unknown engine", REWARD, ak.KL(weight=1.0), engine=engine)

    def test_the_direct_engine_on_a_learned_denoiser(self):
        error = self.fails(ParameterError, "never saw", REWARD, ak.KL(weight=1.0), engine="direct")
        assert any("annealed" in way for way in error.ways_out)

    def test_an_engine_under_wasserstein(self):
        self.fails(ParameterError, "KL closeness alone", REWARD, ak.Wasserstein(weight=1.0), engine="direct")

    @pytest.mark.parametrize("closeness", [ak.KL(weight=1.0), ak.Wasserstein(weight=1.0)], ids=["KL", "Wasserstein"])
    @pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, None, "0"])
    def test_seeds(self, closeness, seed):
        self.fails(ParameterError, "seed must be an integer", REWARD, closeness, seed=seed)

    def test_a_seed_is_never_left_out(self):
        with pytest.raises(TypeError, match="seed"):
            ak.Problem(REWARD, self.base, ak.KL(weight=1.0)).solve()

    @pytest.mark.parametrize("tolerance", [0.0, -1e-6, 1.0, math.nan])
    def test_tolerances(self, tolerance):
        self.fails(ParameterError, "tolerance", -ak.norm1(X), ak.Wasserstein(weight=1.0), tolerance=tolerance)

    def test_a_tolerance_under_kl(self):
        self.fails(ParameterError, "only Wasserstein", REWARD, ak.KL(weight=1.0), tolerance=1e-3)

    def test_devices(self):
        self.fails(ParameterError, "device 'abacus'", REWARD, ak.KL(weight=1.0), device="abacus")


class TestBadSampling:
    @pytest.fixture(scope="class")
    @staticmethod
    def results():
        calls = []

        def denoise(x, sigma):
            calls.append(1)
            return LAWS["Gaussian"].denoise(x, sigma)

        def made(exact):
            return ak.base.Denoiser(denoise, (2,), sigma_min=0.01, sigma_max=50.0, exact=exact)

        return calls, [
            ak.Problem(REWARD, made(True), ak.KL(weight=1.0)).solve(seed=0),
            ak.Problem(REWARD, made(False), ak.KL(weight=1.0)).solve(seed=0),
            ak.Problem(REWARD, made(True), ak.Wasserstein(weight=1.0)).solve(seed=0),
        ]

    @pytest.mark.parametrize(
        "arguments",
        [{"n": n, "seed": 0} for n in (0, -1, 2.0, True, "3", None)]
        + [{"n": 3, "seed": seed} for seed in (-1, 2**64, 0.5, None)],
        ids=str,
    )
    def test_numbers_and_seeds_are_refused_before_any_sampling(self, results, arguments):
        calls, solved = results
        calls.clear()
        for aligned in solved:
            with pytest.raises(ParameterError):
                aligned.sample(**arguments)
        assert not calls

    def test_pairs_under_kl(self, results):
        for aligned in results[1][:2]:
            with pytest.raises(ParameterError, match="pairs") as caught:
                aligned.sample(3, seed=0, return_base=True)
            assert any("Wasserstein" in way for way in caught.value.ways_out)

    def test_transport_under_kl(self, results):
        for aligned in results[1][:2]:
            with pytest.raises(ParameterError, match="no map"):
                aligned.transport(np.zeros((3, 2)))

    def test_data_of_another_shape_or_not_finite(self, results):
        transported = results[1][2]
        with pytest.raises(ShapeError, match=r"\(2,\).*\(3, 4\)"):
            transported.transport(np.zeros((3, 4)))
        with pytest.raises(NonFiniteError, match="Row 1"):
            transported.transport(np.array([[0.0, 0.0], [np.nan, 0.0]]))
