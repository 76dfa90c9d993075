"""OTT's costs as alignkit's: values, conjugates and maximisers against OTT's own h, with every parameter."""

import pickle
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from ott.geometry import costs, regularizers

import alignkit as ak
from alignkit import registry
from alignkit.errors import BackendUnavailableError, ParameterError
from alignkit.transport.costs import Cost
from alignkit_ott.costs import RegularizedCost, TranslationInvariantCost

D = 4
ORTHOGONAL = np.linalg.qr(np.random.default_rng(3).standard_normal((D, D)))[0][:2]
FACTOR = np.random.default_rng(4).standard_normal((3, D))

#: From a name to an OTT cost and the class it becomes.
GIVEN: dict[str, tuple[Callable[[], costs.CostFn], type[Cost]]] = {
    "SqEuclidean": (costs.SqEuclidean, ak.costs.Weighted),
    "Euclidean": (costs.Euclidean, ak.costs.Euclidean),
    "EuclideanP(1)": (lambda: costs.EuclideanP(1.0), ak.costs.Euclidean),
    "EuclideanP(2)": (lambda: costs.EuclideanP(2.0), ak.costs.Weighted),
    **{
        f"PNormP({p})": (lambda p=p: costs.PNormP(p), kind)
        for p, kind in (
            (1.0, ak.costs.L1),
            (1.3, ak.costs.PNorm),
            (2.0, ak.costs.SquaredEuclidean),
            (4.0, ak.costs.PNorm),
        )
    },
    **{f"SqPNorm({p})": (lambda p=p: costs.SqPNorm(p), ak.costs.PNorm) for p in (1.0, 1.5, 3.0)},
    "elastic L1": (lambda: costs.RegTICost(regularizers.L1(), lam=0.4), ak.costs.ElasticNet),
    "elastic L1, ρ = 2": (lambda: costs.RegTICost(regularizers.L1(), lam=0.4, rho=2.0), RegularizedCost),
    "elastic L2": (lambda: costs.RegTICost(regularizers.SqL2(), lam=0.7, rho=0.5), ak.costs.Weighted),
    "elastic L2 of A": (lambda: costs.RegTICost(regularizers.SqL2(jnp.asarray(FACTOR)), lam=0.7), ak.costs.Mahalanobis),
    "elastic STVS": (lambda: costs.RegTICost(regularizers.STVS(0.5), lam=0.8), RegularizedCost),
    "elastic STVS, ρ = 2": (lambda: costs.RegTICost(regularizers.STVS(0.3), lam=1.5, rho=2.0), RegularizedCost),
    "elastic L1 of A": (
        lambda: costs.RegTICost(regularizers.Orthogonal(regularizers.L1(), jnp.asarray(ORTHOGONAL)), lam=0.6, rho=1.5),
        RegularizedCost,
    ),
}
ROWS = np.random.default_rng(0).standard_normal((12, D)) * np.array([0.2, 1.0, 4.0])[np.arange(12) % 3, None]


class HalfCosh(costs.TICost):
    """Σ cosh(δ) − 1, with a Legendre transform: a cost of the user's own."""

    def h(self, z):
        return jnp.sum(jnp.cosh(z) - 1.0)

    def h_legendre(self, z):
        return jnp.sum(z * jnp.arcsinh(z) - jnp.sqrt(1.0 + z**2) + 1.0)


@pytest.mark.parametrize("name", GIVEN)
def test_the_value_is_otts(name):
    make, kind = GIVEN[name]
    with jax.enable_x64(True):
        given = make()
        expected = [float(given(jnp.asarray(row), jnp.zeros(D))) for row in ROWS]
        cost = ak.costs.from_ott(given)
    assert type(cost) is kind
    np.testing.assert_allclose(cost.value(np.zeros_like(ROWS), ROWS), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, (_, kind) in GIVEN.items() if kind is RegularizedCost] + ["own"])
def test_the_conjugate_is_a_supremum_that_is_attained(name):
    with jax.enable_x64(True):
        cost = ak.costs.from_ott(HalfCosh() if name == "own" else GIVEN[name][0]())
    assert isinstance(cost, TranslationInvariantCost)
    dual = 1.5 * ROWS
    best, earned = cost.best_displacement(dual), cost.conjugate(dual)
    np.testing.assert_allclose((dual * best).sum(axis=1) - cost.of_displacement(best), earned, rtol=1e-9, atol=1e-9)
    near = (
        best[:, None] + np.random.default_rng(1).standard_normal((12, 200, D)) * 10.0 ** -(np.arange(200) % 5)[:, None]
    )
    value = cost.of_displacement(near.reshape(-1, D)).reshape(12, 200)
    assert (np.einsum("nd,njd->nj", dual, near) - value <= earned[:, None] * (1.0 + 1e-9) + 1e-9).all()


def test_ott_takes_the_wrong_proximal_map_where_rho_is_not_1():
    """The fault of 0.6.0 that alignkit goes around; once OTT mends it this fails, and its own may be used."""
    dual = ROWS[2]
    with jax.enable_x64(True):
        for rho in (1.0, 2.0):
            given = costs.RegTICost(regularizers.L1(), lam=0.4, rho=rho)
            best = np.sign(dual) * np.maximum(np.abs(dual) - 0.4, 0.0) / rho
            truth = 0.5 * rho * (best**2).sum()
            mine = ak.costs.from_ott(given)
            np.testing.assert_allclose(mine.conjugate(dual[None]), [truth], rtol=1e-12)
            otts = float(given.h_legendre(jnp.asarray(dual)))
            assert (abs(otts - truth) < 1e-9 * truth) == (rho == 1.0)


def test_ott_scales_the_proximal_map_of_stvs_wrongly():
    rows = np.linspace(-3.0, 3.0, 25)
    with jax.enable_x64(True):
        regularizer = regularizers.STVS(0.5)
        grid = np.linspace(-3.0, 3.0, 60_001)
        values = np.asarray(jax.vmap(lambda x: regularizer(x[None]))(jnp.asarray(grid)))
        for weight in (1.0, 0.6):
            best = grid[np.argmin(weight * values + 0.5 * (grid - rows[:, None]) ** 2, axis=1)]
            otts = np.asarray(regularizer.prox(jnp.asarray(rows), weight))
            assert (np.abs(otts - best).max() < 2e-4) == (weight == 1.0)
            cost = ak.costs.from_ott(costs.RegTICost(regularizer, lam=weight))
            mine = cost.best_displacement(np.repeat(rows[:, None], D, axis=1))
            grid_best = grid[np.argmin(weight * values + 0.5 * grid**2 - grid * rows[:, None], axis=1)]
            assert np.abs(mine - grid_best[:, None]).max() < 2e-4


def test_what_is_wrapped_takes_torch_and_jax_and_can_be_pickled():
    cost = ak.costs.from_ott(costs.RegTICost(regularizers.L1(), lam=0.4, rho=2.0))
    expected = (ROWS**2).sum(axis=1) + 0.4 * np.abs(ROWS).sum(axis=1)
    again = pickle.loads(pickle.dumps(cost))
    zero = np.zeros_like(ROWS)
    np.testing.assert_allclose(again.value(zero, ROWS), expected, rtol=1e-7)
    of_torch = cost.value(torch.zeros(12, D), torch.as_tensor(ROWS, dtype=torch.float32))
    assert of_torch.dtype == torch.float32
    np.testing.assert_allclose(of_torch.numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(cost.value(jnp.zeros((12, D)), jnp.asarray(ROWS))), expected, rtol=1e-5)
    assert "‖x − y‖² + 0.4·L1" in repr(cost) and cost.ambient is None


class Uneven(costs.TICost):
    def h(self, z):
        return jnp.sum(z**2 + jnp.maximum(z, 0.0))

    def h_legendre(self, z):
        return jnp.sum(z**2)


class Wavy(HalfCosh):
    def h(self, z):
        return jnp.sum(z**2 * (1.0 + 0.9 * jnp.cos(3.0 * z)))


class WrongLegendre(HalfCosh):
    def h_legendre(self, z):
        return 0.5 * super().h_legendre(z)


class NoLegendre(costs.TICost):
    def h(self, z):
        return jnp.sum(z**4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (costs.Cosine, "not translation invariant"),
        (costs.NegDotProduct, "not translation invariant"),
        (lambda: costs.PNormP(0.5), "convex cost for 1 ≤ p"),
        (lambda: costs.EuclideanP(1.5), "Euclidean(power=1.5)"),
        (lambda: costs.RegTICost(regularizers.L1(), lam=0.4, rho=0.0), "strictly convex for ρ > 0"),
        (lambda: costs.RegTICost(regularizers.STVS(0.5), lam=2.5), "bends down"),
        (lambda: costs.RegTICost(regularizers.SqKOverlap(2), lam=0.5), "proximal map, that is not that of its h"),
        (Uneven, "not even"),
        (Wavy, "not convex"),
        (WrongLegendre, "not that of its h"),
        (NoLegendre, "no Legendre transform"),
    ],
)
def test_costs_that_will_not_do_are_refused_with_the_reason(make, words):
    with pytest.raises(ParameterError, match=None) as caught:
        ak.Wasserstein(weight=1.0, cost=make())
    assert words in str(caught.value), str(caught.value)


def test_other_objects_are_no_ott_costs():
    with pytest.raises(ParameterError, match="need no import"):
        ak.costs.from_ott(ak.costs.L1())
    with pytest.raises(ParameterError, match="one of ak"):
        ak.Wasserstein(weight=1.0, cost="l1")


def test_without_ott_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(registry, "is_importable", lambda engine: engine != "ott")
    with pytest.raises(BackendUnavailableError, match=r"pip install ott-jax"):
        ak.Wasserstein(weight=1.0, cost=costs.SqEuclidean())


def test_a_cost_for_points_of_another_size_is_refused():
    cost = costs.RegTICost(regularizers.Orthogonal(regularizers.L1(), jnp.asarray(ORTHOGONAL)), lam=0.6)
    base = ak.base.Gaussian(np.zeros(D + 1), 1.0)
    with pytest.raises(ak.errors.ShapeError, match=f"{D} entries"):
        ak.Problem(-ak.sum_squares(ak.Variable(D + 1)), base, ak.Wasserstein(weight=1.0, cost=cost)).compile()
