"""The atoms as steps of a program: kinks by maxima and segments, the others by curves.

`alignkit_pyomo.lowering` writes the same functions for Pyomo, where a kink is √(a²). Here it matters in which direction
the objective gains, and so each form takes, for each of its results, whether the objective may gain by more of it (up)
and by less of it (down).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from alignkit.expressions import Atom
from alignkit.expressions.atom import axes_of
from alignkit.expressions.atoms import (
    curves,
    distances,
    elementwise,
    exponential,
    norms,
    order,
    piecewise,
    powers,
    products,
    quadratic,
)
from alignkit_pyomo.linear import Linear, combined
from alignkit_pyomo.lowering import REFUSED
from alignkit_pyomo.program import Sketch
from alignkit_pyomo.steps import Polyline

__all__ = ["FORMS", "UNFORMED", "Form"]

#: From (sketch, atom, the entries of each argument, up, down) to the entries of the atom.
Form = Callable[[Sketch, Any, list[list[Linear]], list[bool], list[bool]], list[Linear]]

_ZERO = Linear()


def _each(function: Callable[[Sketch, Any, Linear, bool, bool], Linear]) -> Form:
    """A form from a function of one entry."""
    return lambda sketch, atom, args, up, down: [
        function(sketch, atom, entry, *gains) for entry, *gains in zip(args[0], up, down, strict=True)
    ]


def _curve(kind: str) -> Form:
    """A form that is a curve of one entry."""
    return _each(lambda sketch, atom, entry, up, down: sketch.curve(kind, [entry], up, down))


def _reduced(function: Callable[[Sketch, Any, list[Linear], bool, bool], Linear]) -> Form:
    """A form from a function of the entries of one result."""

    def form(sketch: Sketch, atom: Any, args: list[list[Linear]], up: list[bool], down: list[bool]) -> list[Linear]:
        shape = atom.args[0].shape
        gone = axes_of(atom.axis, len(shape))
        places = np.moveaxis(np.arange(len(args[0])).reshape(shape), gone, range(-len(gone), 0)).reshape(atom.size, -1)
        groups = [[args[0][place] for place in row] for row in places.tolist()]
        return [function(sketch, atom, *one) for one in zip(groups, up, down, strict=True)]

    return form


def _absolute(sketch: Sketch, entry: Linear, up: bool, down: bool) -> Linear:
    return sketch.largest([entry, -entry], up, down)


def _total(entries: list[Linear]) -> Linear:
    return combined((1.0, entry) for entry in entries)


def _huber(sketch: Sketch, atom: elementwise.Huber, entry: Linear, up: bool, down: bool) -> Linear:
    """min_n n² + 2M|a − n|, whose minimiser is a moved into [−M, M]."""
    M = float(atom.M)
    near = sketch.segments(entry, Polyline.clip(-M, M), True, True) if up else sketch.free(-M, M)
    return sketch.curve("square", [near], up, down) + _absolute(sketch, entry - near, up, down) * (2.0 * M)


def _logistic(sketch: Sketch, atom: Any, entry: Linear, up: bool, down: bool) -> Linear:
    return sketch.curve("log_sum_exp", [entry, _ZERO], up, down)


def _power(sketch: Sketch, atom: powers.Powered, entry: Linear, up: bool, down: bool) -> Linear:
    whole = float(atom.p) == round(atom.p)
    return sketch.curve("power", [entry], up, down, int(atom.p) if whole else float(atom.p))


def _quadratic_form(
    sketch: Sketch, atom: quadratic.QuadForm, args: list[list[Linear]], up: list[bool], down: list[bool]
) -> list[Linear]:
    table = sparse.coo_array(atom.P)
    triples = zip(table.row.tolist(), table.col.tolist(), table.data.tolist(), strict=True)
    halves = tuple((row, column, weight if row == column else 2.0 * weight) for row, column, weight in triples
                   if row <= column and weight)  # fmt: skip
    return [sketch.curve("quadratic", args[0], up[0], down[0], halves)]


def _sum_of_squares(sketch: Sketch, atom: Any, entries: list[Linear], up: bool, down: bool) -> Linear:
    return _total([sketch.curve("square", [entry], up, down) for entry in entries])


def _clip(sketch: Sketch, atom: piecewise.Clip, entry: Linear, up: bool, down: bool) -> Linear:
    return sketch.segments(entry, Polyline.clip(float(atom.lower), float(atom.upper)), up, down)


def _piecewise(sketch: Sketch, atom: piecewise.PiecewiseLinear, entry: Linear, up: bool, down: bool) -> Linear:
    line = Polyline(atom.breakpoints[1:-1], atom.slopes, float(atom.values[1]))
    return sketch.segments(entry, line, up, down)


def _distance(
    sketch: Sketch, atom: distances.DistanceToPoints, args: list[list[Linear]], up: list[bool], down: list[bool]
) -> list[Linear]:
    points = atom.points.reshape(len(atom.points), -1).tolist()
    away = [
        sketch.curve("norm", [entry - place for entry, place in zip(args[0], point, strict=True)], up[0], down[0])
        for point in points
    ]
    return [sketch.smallest(away, up[0], down[0])]


def _tanh(sketch: Sketch, atom: Any, entry: Linear, up: bool, down: bool) -> Linear:
    return sketch.sigmoid(entry * 2.0, up, down) * 2.0 - 1.0


#: From an atom's class to its form.
FORMS: dict[type[Atom], Form] = {
    elementwise.Abs: _each(lambda sketch, atom, entry, up, down: _absolute(sketch, entry, up, down)),
    elementwise.Square: _curve("square"),
    elementwise.Huber: _each(_huber),
    elementwise.Pos: _each(lambda sketch, atom, entry, up, down: sketch.largest([entry, _ZERO], up, down)),
    elementwise.Neg: _each(lambda sketch, atom, entry, up, down: sketch.largest([-entry, _ZERO], up, down)),
    exponential.Exp: _curve("exp"),
    exponential.Logistic: _each(_logistic),
    exponential.Log: _curve("log"),
    exponential.Log1p: _each(lambda sketch, atom, entry, up, down: sketch.curve("log", [entry + 1.0], up, down)),
    exponential.Entr: _curve("entr"),
    powers.Power: _each(_power),
    powers.Sqrt: _curve("sqrt"),
    powers.InvPos: _each(lambda sketch, atom, entry, up, down: sketch.curve("power", [entry], up, down, -1)),
    powers.GeoMean: _reduced(
        lambda sketch, atom, entries, up, down: sketch.curve(
            "product of powers", entries, up, down, tuple(atom.weights.ravel().tolist())
        )
    ),
    norms.Norm1: _reduced(
        lambda sketch, atom, entries, up, down: _total([_absolute(sketch, entry, up, down) for entry in entries])
    ),
    norms.Norm2: _reduced(lambda sketch, atom, entries, up, down: sketch.curve("norm", entries, up, down)),
    norms.NormInf: _reduced(
        lambda sketch, atom, entries, up, down: sketch.largest(
            [signed for entry in entries for signed in (entry, -entry)], up, down
        )
    ),
    norms.PNorm: _reduced(
        lambda sketch, atom, entries, up, down: sketch.curve("p-norm", entries, up, down, float(atom.p))
    ),
    order.Max: _reduced(lambda sketch, atom, entries, up, down: sketch.largest(entries, up, down)),
    order.Min: _reduced(lambda sketch, atom, entries, up, down: sketch.smallest(entries, up, down)),
    order.Maximum: lambda sketch, atom, args, up, down: [
        sketch.largest(list(entries), *gains) for entries, *gains in zip(zip(*args, strict=True), up, down, strict=True)
    ],
    order.Minimum: lambda sketch, atom, args, up, down: [
        sketch.smallest(list(entries), *gains)
        for entries, *gains in zip(zip(*args, strict=True), up, down, strict=True)
    ],
    order.LogSumExp: _reduced(lambda sketch, atom, entries, up, down: sketch.curve("log_sum_exp", entries, up, down)),
    order.SumLargest: _reduced(
        lambda sketch, atom, entries, up, down: sketch.sum_of_largest(entries, float(atom.k), up, down)
    ),
    order.SumSmallest: _reduced(
        lambda sketch, atom, entries, up, down: (
            -sketch.sum_of_largest([-entry for entry in entries], float(atom.k), down, up)
        )
    ),
    quadratic.SumSquares: _reduced(_sum_of_squares),
    quadratic.QuadForm: _quadratic_form,
    quadratic.QuadOverLin: lambda sketch, atom, args, up, down: [
        sketch.curve("square over", [*args[0], args[1][0]], up[0], down[0])
    ],
    curves.Sin: _curve("sin"),
    curves.Cos: _curve("cos"),
    curves.Tanh: _each(_tanh),
    curves.Sigmoid: _each(lambda sketch, atom, entry, up, down: sketch.sigmoid(entry, up, down)),
    curves.Arctan: _curve("arctan"),
    piecewise.Clip: _each(_clip),
    piecewise.PiecewiseLinear: _each(_piecewise),
    distances.DistanceToPoints: _distance,
    products.Product: lambda sketch, atom, args, up, down: [
        sketch.curve("product", list(entries), *gains)
        for entries, *gains in zip(zip(*args, strict=True), up, down, strict=True)
    ],
}

#: Atoms without a form, and why.
UNFORMED = REFUSED
