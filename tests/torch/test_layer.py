"""Transport maps that torch differentiates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import alignkit as ak
from alignkit.errors import (
    BackendUnavailableError,
    NotDifferentiableError,
    ParameterError,
    ShapeError,
    StaleFitError,
)
from alignkit.transport.randomised import RandomisedMap

RNG = np.random.default_rng(0)
D = 4
BASE = ak.base.Gaussian(np.zeros(D), 1.0)
x = ak.Variable(D)
ROWS = RNG.normal(size=(2, D))
POINTS = RNG.normal(size=(3, D))


def solved(reward, weight=1.5, base=BASE):
    return ak.Problem(reward, base, ak.Wasserstein(weight=weight)).solve(seed=0, tolerance=1e-10)


def leaf(value, dtype=torch.float64):
    return torch.tensor(value, dtype=dtype, requires_grad=True)


REWARDS = {
    "norm1": lambda t, m: -ak.norm1(m @ x - t),
    "log_sum_exp": lambda t, m: -ak.log_sum_exp(m @ x - t) + x[0],
    "quadratic": lambda t, m: -ak.sum_squares(m @ x - t),
}


@pytest.mark.parametrize("name", REWARDS)
def test_gradients_pass_torchs_own_check(name):
    t, m = ak.Parameter(2, [0.3, -0.2], name="t"), ak.Parameter((2, D), ROWS, name="m")
    aligned = solved(REWARDS[name](t, m))
    options = {"eps": 1e-4, "atol": 1e-4, "rtol": 1e-4}
    assert torch.autograd.gradcheck(aligned.transport, (leaf(POINTS),), **options)
    layer = aligned.layer("torch", parameters=[t, m], weight=True)
    inputs = leaf(POINTS), leaf([0.31, -0.25]), leaf(1.02 * ROWS), leaf(1.4)
    assert torch.autograd.gradcheck(layer, inputs, **options)


def test_transport_is_attached_where_torch_records_and_is_what_it_was():
    aligned = solved(-ak.norm1(x))
    points = leaf(POINTS)
    moved = aligned.transport(points)
    assert moved.requires_grad and moved.grad_fn is not None
    assert torch.equal(moved.detach(), aligned.transport(points.detach()))
    details = aligned.transport(points, return_details=True)
    assert details.y.requires_grad and isinstance(details.gap, np.ndarray)
    with torch.no_grad():
        assert not aligned.transport(points).requires_grad
    assert not aligned.transport(points.detach()).requires_grad
    (2.0 * moved).sum().backward()
    expected = 2.0 * (np.abs(POINTS) > 1.0 / 1.5)
    np.testing.assert_allclose(points.grad.numpy(), expected, atol=1e-12)


def test_shapes_and_precisions_are_those_of_x():
    image = ak.Variable((2, 2))
    aligned = solved(-ak.sum_squares(image), base=ak.base.Gaussian(np.zeros((2, 2)), 1.0))
    for dtype, unit in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        points = leaf(POINTS.reshape(3, 2, 2), dtype)
        aligned.transport(points).sum().backward()
        assert points.grad.dtype == dtype and points.grad.shape == points.shape
        np.testing.assert_allclose(points.grad.double().numpy(), 1.5 / 3.5, rtol=unit)
    far = leaf([[100.7, -300.3, 50.1, 7.0]], torch.bfloat16)
    solved(-ak.norm1(x - 1.0)).transport(far).sum().backward()
    assert (far.grad == 1.0).all()


def test_descent_through_the_map_finds_the_parameters_that_made_the_data():
    t = ak.Parameter(D, np.zeros(D), name="t")
    layer = solved(-ak.sum_squares(x - t), weight=2.0).layer("torch", parameters=[t], weight=True)
    truth = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)
    points = torch.from_numpy(POINTS)
    wanted = layer(points, truth, torch.tensor(1.0))
    guess, log_weight = torch.zeros(D, dtype=torch.float64, requires_grad=True), leaf(0.7)
    optimiser = torch.optim.LBFGS([guess, log_weight], line_search_fn="strong_wolfe", max_iter=50)

    def loss():
        optimiser.zero_grad()
        found = (layer(points, guess, log_weight.exp()) - wanted).square().sum()
        found.backward()
        return found

    optimiser.step(loss)
    np.testing.assert_allclose(guess.detach().numpy(), truth.numpy(), atol=1e-4)
    assert log_weight.exp().item() == pytest.approx(1.0, abs=1e-4)


def test_the_solution_does_not_change_with_its_layer():
    t = ak.Parameter(D, np.zeros(D), name="t")
    aligned = solved(-ak.norm1(x - t), weight=2.0)
    before = aligned.transport(POINTS)
    layer = aligned.layer("torch", parameters=[t])
    layer(leaf(POINTS), leaf(np.full(D, 3.0))).sum().backward()
    np.testing.assert_array_equal(aligned.transport(POINTS), before)
    # Nor does the layer with the problem.
    t.value = np.ones(D)
    np.testing.assert_allclose(layer(torch.from_numpy(POINTS), torch.zeros(D)).numpy(), before, atol=1e-9)


def test_refusals_come_when_the_derivative_is_asked_for():
    aligned = solved(-ak.norm1(x), weight=2.0)
    points = leaf([[0.5, 2.0, 2.0, 2.0], [0.4, 2.0, 2.0, 2.0]])
    moved = aligned.transport(points)
    with pytest.raises(NotDifferentiableError, match=r"row 0: norm1\(x\) is at a kink") as caught:
        moved.sum().backward(retain_graph=True)
    assert caught.value.rows == (0,)
    moved[1].sum().backward()
    np.testing.assert_allclose(points.grad.numpy(), [[0, 0, 0, 0], [0, 1, 1, 1]], atol=1e-12)
    layer = aligned.layer("torch")
    with pytest.raises(NotDifferentiableError, match="row 0"):
        layer(points).sum().backward()


def test_no_rows_are_fine():
    aligned = solved(-ak.norm1(x))
    points = leaf(np.zeros((0, D)))
    aligned.transport(points).sum().backward()
    aligned.layer("torch")(points).sum().backward()
    assert points.grad.shape == (0, D)


def test_a_coin_between_two_maps_has_no_derivative():
    aligned = solved(-ak.norm1(x))
    coin = RandomisedMap(aligned.fitted.map, solved(-ak.norm1(x)).fitted.map, 0.5, 0)
    tossed = replace(aligned, fitted=replace(aligned.fitted, map=coin))
    with pytest.raises(NotDifferentiableError, match="coin"):
        tossed.layer("torch")
    with pytest.raises(NotDifferentiableError, match="coin"):
        tossed.transport(leaf(POINTS)).sum().backward()


def test_mistakes_are_named():
    t, other = ak.Parameter(D, np.zeros(D), name="t"), ak.Parameter(D, name="other")
    aligned = solved(-ak.norm1(x - t))
    with pytest.raises(ParameterError, match="other is not so; the reward has t"):
        aligned.layer("torch", parameters=[other])
    with pytest.raises(BackendUnavailableError, match="'tensorflow'"):
        aligned.layer("tensorflow")
    layer = aligned.layer("torch", parameters=[t])
    with pytest.raises(ParameterError, match="takes x and 1 values"):
        layer(torch.zeros(1, D))
    with pytest.raises(ShapeError, match="t has shape"):
        layer(torch.zeros(1, D), torch.zeros(2))
    moved = aligned.transport(leaf(POINTS))
    t.value = np.ones(D)
    with pytest.raises(StaleFitError):
        moved.sum().backward()
    with pytest.raises(StaleFitError):
        aligned.layer("torch")
    tilted = ak.Problem(ak.sum(x), BASE, ak.KL(weight=1.0)).solve(seed=0)
    with pytest.raises(ParameterError, match="KL"):
        tilted.layer("torch")
