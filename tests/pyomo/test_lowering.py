"""Pyomo forms: values against alignkit's own, domains, and a global solver against brute force."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest
from pyomo.contrib.solver.solvers.scip.scip_direct import ScipDirect
from scipy.sparse.linalg import aslinearoperator

import alignkit as ak
import alignkit.expressions as ex
from alignkit import registry
from alignkit.compiler.composition import Recipe
from alignkit.errors import BackendRefusedError, ParameterError, ShapeError
from alignkit.expressions.atom import Atom
from alignkit.expressions.atoms.elementwise import Abs
from alignkit.expressions.table import ENTRIES
from alignkit_pyomo.lowering import LARGEST_UNNAMED, LOWERINGS, REFUSED, lower

SHAPE = (2, 3)
FORM = np.array([[2.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, -1.0]])

#: Forms that the examples of the table leave out.
CASES = {
    "axes": lambda x: ex.norm1(x, axis=0) + ex.max(x, axis=0) - ex.min(x, axis=0) + ex.norm_inf(x, axis=0),
    "axes of squares": lambda x: ex.sum_squares(x, axis=1) * ex.norm2(x, axis=1) + ex.log_sum_exp(x, axis=1),
    "even power": lambda x: ex.power(x, 4) + ex.pnorm(x, 4),
    "fractional powers": lambda x: ex.power(ex.abs(x) + 1.0, 2.5) * ex.power(ex.pos(x) + 1.0, -0.5),
    "indefinite": lambda x: ex.quad_form(x[0] - x[1], FORM),
    "a fraction of an entry": lambda x: ex.sum_largest(x, 2.5) - ex.sum_smallest(x, 1.25),
    "weights": lambda x: ex.geo_mean(x[0], [1.0, 2.0, 3.0]),
    "three arguments": lambda x: ex.maximum(x, -x, 0.3) - ex.minimum(x[0], 0.1, x),
    "zigzag": lambda x: ex.piecewise_linear(x, [-1.0, 0.0, 0.5, 2.0], [1.0, -1.0, 3.0, 0.5]),
    "line": lambda x: ex.piecewise_linear(x, [-1.0, 2.0], [1.0, -2.0]),
    "operator": lambda x: ex.huber(ex.linear_map(aslinearoperator(np.arange(12.0).reshape(2, 6)), x), 3.0),
    "shared": lambda x: (ex.exp(x) - 1.0) * ex.exp(x) + ex.sin(ex.exp(x)),
    "an affine map": lambda x: 2.0 * x[0] - x[1, ::-1] + 1.0,
}


def points(expression: ex.Expression, count: int = 5) -> np.ndarray:
    """Points where the expression, and with it all below it, is finite."""
    drawn = np.random.default_rng(20260511).normal(size=(4000, *SHAPE))
    axes = tuple(range(1, expression.ndim + 1))
    inside = np.isfinite(expression.value(drawn)).all(axis=axes)
    assert inside.sum() >= count
    return drawn[inside][:count]


def model_at(point: np.ndarray) -> Any:
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(point.size), initialize=dict(enumerate(point.ravel().tolist())))
    return model


def values(lowered: Any, model: Any) -> np.ndarray:
    """The value of a lowered expression, its auxiliary variables first set from their definitions."""
    for definition in model.definition.values() if hasattr(model, "definition") else ():
        variable, entry = definition.expr.args
        variable.set_value(pyo.value(entry))
    return np.vectorize(pyo.value, otypes=[float])(lowered)


def atoms() -> Iterator[type[Atom]]:
    pending = [Atom]
    while pending:
        kind = pending.pop()
        pending.extend(kind.__subclasses__())
        if kind.__module__.startswith("alignkit.") and not inspect.isabstract(kind) and "name" in vars(kind):
            yield kind


class TestTable:
    def test_every_atom_has_a_form_or_a_reason(self):
        listed = {kind for entry in ENTRIES for kind in entry.nodes if issubclass(kind, Atom)}
        assert listed | set(atoms()) == LOWERINGS.keys() | REFUSED.keys()
        assert not LOWERINGS.keys() & REFUSED.keys()

    def test_it_is_what_the_registry_hands_out(self):
        assert registry.require("pyomo", "lowering") is LOWERINGS


class TestValues:
    @pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
    def test_examples(self, entry):
        expression = entry.example(ex.Variable(SHAPE))
        if any(kind in REFUSED for kind in entry.nodes):
            with pytest.raises(BackendRefusedError, match="has no Pyomo form"):
                lower(expression, range(6), pyo.Block(concrete=True))
            return
        self.check(expression)

    @pytest.mark.parametrize("name", CASES)
    def test_other_forms(self, name):
        self.check(CASES[name](ex.Variable(SHAPE)))

    def check(self, expression):
        for point in points(expression):
            model = model_at(point)
            lowered = lower(expression, model.x, model)
            assert np.shape(lowered) == expression.shape
            found = values(lowered, model)
            np.testing.assert_allclose(found, expression.value(point), rtol=1e-9, atol=1e-12)
            assert all(pyo.value(condition.body) >= condition.lower for condition in model.domain.values())
            try:
                plain = lower(expression, model.x)
            except BackendRefusedError as error:
                assert "block" in error.ways_out[0]
                continue
            np.testing.assert_allclose(values(plain, model), found, rtol=1e-9, atol=1e-12)

    def test_numbers_may_stand_for_variables(self):
        x = ex.Variable(3)
        expression = ex.norm2(x - 1.0) + ex.max(x) * ex.sigmoid(x[0])
        point = [0.5, -2.0, 3.0]
        assert lower(expression, point) == pytest.approx(float(expression.value(point)), rel=1e-12)

    def test_constants_are_numbers(self):
        np.testing.assert_array_equal(lower(ex.Constant([[1.0, 0.0]]), []), [[1.0, 0.0]])

    def test_parameters_enter_with_their_present_values(self):
        x, target = ex.Variable(2), ex.Parameter(2, value=[1.0, 2.0], name="target")
        expression = ex.sum_squares(x - target)
        assert lower(expression, [0.0, 0.0]) == pytest.approx(5.0)
        target.value = [3.0, 4.0]
        assert lower(expression, [0.0, 0.0]) == pytest.approx(25.0)


class TestSize:
    def test_a_shared_expression_is_written_once_with_a_block(self):
        x = ex.Variable()
        expression = ex.sin(x)
        for _ in range(60):  # 2⁶⁰ times, were it written out
            expression = expression * (expression - 1.0) + 0.3
        model = model_at(np.array(0.7))
        lowered = lower(expression, model.x, model)
        assert len(model.auxiliary) < 130
        assert values(lowered, model) == pytest.approx(float(expression.value(0.7)), rel=1e-9)

    def test_two_expressions_may_share_a_block(self):
        model = model_at(np.arange(3.0))
        x = ex.Variable(3)
        first, second = (lower(expression, model.x, model) for expression in (ex.max(x), ex.min(x)))
        for definition in model.component_data_objects(pyo.Constraint):
            variable, entry = definition.expr.args
            variable.set_value(pyo.value(entry))
        assert (pyo.value(first), pyo.value(second)) == (2.0, 0.0)

    def test_many_entries_are_compared_with_a_block_alone(self):
        x = ex.Variable(LARGEST_UNNAMED + 1)
        expression = ex.max(x)
        with pytest.raises(BackendRefusedError, match=r"max\(x\) compares 65 entries") as caught:
            lower(expression, range(x.size))
        assert "block" in caught.value.ways_out[0]
        point = np.random.default_rng(0).normal(size=x.shape)
        model = model_at(point)
        assert values(lower(expression, model.x, model), model) == pytest.approx(point.max())


class TestDomain:
    @pytest.mark.parametrize(
        "build",
        [ex.inv_pos, lambda x: ex.power(x, 3), lambda x: ex.power(x, -2), lambda x: ex.quad_over_lin(1.0 - x, x)],
        ids=["inv_pos", "cube", "inverse square", "quad_over_lin"],
    )
    def test_forms_that_go_on_outside_are_constrained(self, build):
        x = ex.Variable()
        expression = build(x)
        with pytest.raises(BackendRefusedError, match=r"outside its domain x [>≥] 0") as caught:
            lower(expression, [1.0])
        assert caught.value.ways_out
        model = model_at(np.array(-0.5))
        lower(expression, model.x, model)
        (condition,) = model.domain.values()
        assert pyo.value(condition.body) < condition.lower

    def test_nothing_is_constrained_where_the_range_proves_it(self):
        x = ex.Variable()
        expression = ex.inv_pos(1.0 + ex.square(x)) + ex.log(2.0 + ex.sin(x))
        assert lower(expression, [2.0]) == pytest.approx(float(expression.value(2.0)))
        model = model_at(np.array(2.0))
        lower(expression, model.x, model)
        assert len(model.domain) == 0


class TestRefusals:
    def test_they_name_the_atom_and_the_expression(self):
        x = ex.Variable(SHAPE)
        with pytest.raises(BackendRefusedError, match=r"sigma_max\(x\) has no Pyomo form: singular values") as caught:
            lower(ex.exp(ex.sigma_max(x)) + 1.0, range(6))
        assert caught.value.expression == "exp(sigma_max(x)) + 1"
        assert "leave out sigma_max" in caught.value.ways_out

    def test_an_atom_that_nobody_lowered_is_refused_though_its_parent_is(self):
        class Louder(Abs):
            name = "louder"

        with pytest.raises(BackendRefusedError, match=r"louder\(x\) has no Pyomo form: its class is in no row"):
            lower(Louder(ex.Variable(2)), range(2))

    def test_shapes_and_variables(self):
        x, y = ex.Variable(2), ex.Variable(2, name="y")
        with pytest.raises(ShapeError, match="x has 2 entries, and 3 are given"):
            lower(ex.sum(x), range(3))
        with pytest.raises(ParameterError, match="there are 2"):
            lower(ex.sum(x + y), range(2))


class TestGlobalSolver:
    def maximise(self, expression, bound):
        """The maximum over a box, by SCIP, with its bound."""
        model = pyo.ConcreteModel()
        (variable,) = expression.variables()
        model.x = pyo.Var(range(variable.size), bounds=(-bound, bound))
        model.reward = pyo.Objective(expr=lower(expression, model.x, model), sense=pyo.maximize)
        # SCIP's log goes through a pipe that can fill up and stop it.
        quiet = {"display/verblevel": 0}
        found = ScipDirect().solve(model, time_limit=60, rel_gap=1e-4, solver_options=quiet)
        best = np.array([one.value for one in model.x.values()]).reshape(variable.shape)
        return best, found.incumbent_objective, found.objective_bound

    def test_a_nonconvex_proximal_problem(self):
        z = ex.Variable(2)
        ridge = ex.maximum(ex.sin(3.0 * z[0]), 1.0 - ex.abs(z[1] - 0.5)) + ex.tanh(z[0] * z[1])
        objective = ridge - ex.clip(z[1], -1.0, 1.0) - 0.5 * ex.sum_squares(z - np.array([0.3, -0.4]))
        best, incumbent, bound = self.maximise(objective, 3.0)
        ticks = np.linspace(-3.0, 3.0, 1201)
        grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
        brute = float(objective.value(grid).max())
        assert incumbent >= brute - 1.5e-4
        assert bound <= brute + 1e-3  # the grid's spacing is 0.005, and the objective smooth or peaked on the grid
        assert float(objective.value(best)) == pytest.approx(incumbent, abs=1e-5)

    def test_the_domain_is_kept(self):
        x = ex.Variable()
        # Over all of [−2, 2] the polynomial x − x³ would reach 6 at −2.
        best, incumbent, bound = self.maximise(x - ex.power(x, 3), 2.0)
        assert incumbent == pytest.approx(2.0 / (3.0 * np.sqrt(3.0)), abs=1e-4) == bound
        assert best == pytest.approx(1.0 / np.sqrt(3.0), abs=2e-2)

    def test_a_maximum_of_a_reduced_reward(self):
        x = ak.Variable((8, 8))
        directions = np.random.default_rng(3).normal(size=(2, 64))
        reward = -ak.norm_inf(directions @ ak.vec(x) - 0.5) + ak.quad_form(directions @ ak.vec(x), [[0.1, 0], [0, -1]])
        nonlinear = Recipe(reward).composition.nonlinear
        assert nonlinear.variables()[0].shape == (2,)
        best, incumbent, bound = self.maximise(nonlinear, 2.0)
        ticks = np.linspace(-2.0, 2.0, 801)
        grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
        assert incumbent >= float(nonlinear.value(grid).max()) - 1e-3
        assert float(nonlinear.value(best)) == pytest.approx(incumbent, abs=1e-5)
        assert bound - incumbent < 1e-3
