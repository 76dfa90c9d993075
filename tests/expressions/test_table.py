"""The table of atoms is complete: classes, exports, documentation and backends hold to it; each row keeps its word."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import alignkit as ak
import alignkit.expressions as ex
import alignkit_cvxpy.lowering
import alignkit_pyomo.lowering
from alignkit.cli import main
from alignkit.expressions import ENTRIES, Curvature, Entry, Sign, atoms

SHAPE = (2, 3)
POINTS = np.random.default_rng(0).uniform(0.3, 2.0, size=(7, *SHAPE))
rows = pytest.mark.parametrize("row", ENTRIES, ids=lambda row: row.name)
named = pytest.mark.parametrize("row", [row for row in ENTRIES if row.function], ids=lambda row: row.name)


def node_classes() -> set[type[ex.Expression]]:
    """Every class of expression that can be made: those defined in the language, but for leaves and abstract bases."""
    found = set()
    for package in (ex, atoms):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            for value in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(value) and issubclass(value, ex.AffineAtom | ex.Atom) and value.name:
                    found.add(value)
    return found


def bases(classes: set[type[ex.Expression]]) -> set[type[ex.Expression]]:
    return {one for one in classes if inspect.isabstract(one) or one in (ex.AffineAtom, ex.Atom)}


def test_every_class_stands_in_one_row() -> None:
    listed = [node for row in ENTRIES for node in row.nodes]
    assert len(listed) == len(set(listed))
    missing = node_classes() - bases(node_classes()) - set(listed)
    assert {one.__name__ for one in missing} == set()


def test_names_are_exported_and_nothing_else_is() -> None:
    functions = {row.name: row.function for row in ENTRIES if row.function}
    assert len(functions) == sum(row.function is not None for row in ENTRIES)
    for name, function in functions.items():
        assert getattr(ak, name) is function and getattr(ex, name) is function
    shadowing = {"abs", "max", "min", "sum"}
    assert {name for name in functions if name not in ak.__all__} == shadowing
    others = {"KL", "Aligned", "Constant", "Expression", "Parameter", "Plan", "Problem", "Variable", "Wasserstein"}
    others |= {"Constraint", "E", "base", "costs", "errors", "from_cvxpy", "installed_backends"}
    others |= {"wasserstein_distance", "tilt", "TiltedLaw", "tilted_pipeline", "load"}
    assert set(ak.__all__) == (set(functions) - shadowing) | others


@named
def test_every_function_is_documented(row: Entry) -> None:
    text = inspect.getdoc(row.function) or ""
    for section in ("Arguments:", "Returns:", "Example:"):
        assert section in text, f"{row.name} has no {section}"


def test_the_command_line_and_the_page_list_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["atoms"]) == 0
    printed = capsys.readouterr().out
    page = (Path(__file__).parents[2] / "tutorials" / "atoms.md").read_text(encoding="utf-8")
    for row in ENTRIES:
        assert any(line.split()[0] == row.name.split()[0] and row.formula in line for line in printed.splitlines())
        formula = row.formula.replace("|", r"\|")
        assert f"| `{row.name}` | {row.kind} | {formula} |" in page


@rows
def test_examples_have_the_curvature_of_their_row(row: Entry) -> None:
    expression = row.example(ex.Variable(SHAPE))
    expected = {"affine": Curvature.AFFINE, "convex": Curvature.CONVEX, "concave": Curvature.CONCAVE}
    assert expression.curvature is expected.get(row.kind, Curvature.UNKNOWN)
    if row.nodes:
        assert any(isinstance(node, row.nodes) for node in ex.expression.topological(expression))


@rows
def test_examples_have_values_gradients_signs_and_ranges(row: Entry) -> None:
    expression = row.example(ex.Variable(SHAPE))
    values = expression.value(POINTS)
    assert values.shape == (len(POINTS), *expression.shape) and np.isfinite(values).all()
    np.testing.assert_allclose(expression.value(torch.tensor(POINTS)).numpy(), values, rtol=1e-12, atol=1e-12)
    with jax.enable_x64(True):
        np.testing.assert_allclose(expression.value(jnp.asarray(POINTS)), values, rtol=1e-12, atol=1e-12)
    boxed = expression.over(0.3, 2.0)
    for bounds in (expression.range, boxed.range):
        assert bounds.lower <= values.min() + 1e-12 and values.max() <= bounds.upper + 1e-12
    assert np.isfinite(boxed.lipschitz)
    assert boxed.range.is_bounded or row.name == "lipschitz"  # the user has not said
    if expression.sign is Sign.NONNEGATIVE:
        assert values.min() >= 0
    scalar = ex.inner(np.random.default_rng(1).normal(size=expression.shape), expression)
    direction = np.random.default_rng(2).normal(size=POINTS.shape)
    slope = (scalar.value(POINTS + 1e-6 * direction) - scalar.value(POINTS - 1e-6 * direction)) / 2e-6
    found = (scalar.gradient(POINTS) * direction).reshape(len(POINTS), -1).sum(axis=1)
    np.testing.assert_allclose(found, slope, rtol=1e-6, atol=1e-6)


#: The classes that are not affine.
ATOMS = [node for row in ENTRIES for node in row.nodes if issubclass(node, ex.Atom)]


def test_every_atom_lowers_to_cvxpy_or_says_why_not() -> None:
    known = set(alignkit_cvxpy.lowering.LOWERINGS) | set(alignkit_cvxpy.lowering.UNLOWERED)
    assert {node.__name__ for node in ATOMS if node not in known} == set()


def test_every_atom_lowers_to_pyomo_or_says_why_not() -> None:
    known = set(alignkit_pyomo.lowering.LOWERINGS) | set(alignkit_pyomo.lowering.REFUSED)
    assert {node.__name__ for node in ATOMS if node not in known} == set()


@rows
def test_every_node_prints_in_latex(row: Entry) -> None:
    text = row.example(ex.Variable(SHAPE)).to_latex()
    assert text.count("{") == text.count("}") and text.count(r"\left") == text.count(r"\right")
    assert "operatorname{x" not in text


def test_names_are_cvxpys_where_cvxpy_has_the_atom() -> None:
    ours_alone = {"distance_to_points", "piecewise_linear", "lipschitz", "clip", "sigmoid", "arctan", "linear_map"}
    ours_alone |= {"sin", "cos", "tanh", "inner", "norm2", "total_variation"}
    names = {row.name for row in ENTRIES if row.function}
    assert {name for name in names if not hasattr(cp, name)} <= ours_alone
