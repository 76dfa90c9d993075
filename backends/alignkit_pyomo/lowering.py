"""alignkit's expressions in Pyomo: plain algebra, of any curvature, exact wherever the expression is finite.

An argument of an atom is the list of its entries in C order, each a Pyomo expression or a number; a lowering returns
the list of the atom's. What a solver must know:

- Everything is written with + − × ÷, powers with numbers, exp, log, sqrt, sin, cos and atan, which global solvers take;
  only atan, of `arctan`, is unknown to SCIP.
- Kinks come from |a| = √(a²), as Pyomo's interface to SCIP knows no abs, and SCIP recognises it; max(a, b) is
  (a + b + |a − b|)/2. So `abs pos neg huber clip norm1 norm_inf max min maximum minimum piecewise_linear
  distance_to_points` are algebraic too, but nonconvex to a solver that does not look closer.
- `sum_largest`, `sum_smallest` and maxima of over `LARGEST_UNNAMED` entries need auxiliary variables: pass a block.
- `inv_pos`, `quad_over_lin` and odd powers have values outside their domain in Pyomo, and −x³ is no substitute for −inf
  there: unless the range of the argument proves that it stays inside, they need a block too, for the constraint.
- What has no such form is in `REFUSED`, with the reason.

With a block, a sub-expression that stands in several places is written once, and the domain is made of constraints.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from alignkit.errors import BackendRefusedError, ParameterError, ShapeError
from alignkit.expressions import Atom, Expression
from alignkit.expressions.arrays import is_operator
from alignkit.expressions.atom import axes_of
from alignkit.expressions.atoms import (
    curves,
    distances,
    elementwise,
    exponential,
    lipschitz,
    norms,
    order,
    piecewise,
    powers,
    products,
    quadratic,
)
from alignkit.expressions.expression import topological
from alignkit.expressions.linear import LinearForm, linear_form

__all__ = ["LOWERINGS", "REFUSED", "Algebra", "Lowering", "lower", "materialised"]

#: Most entries whose maximum is written without auxiliary variables: its length grows with their square.
LARGEST_UNNAMED = 64
#: Largest matrix an operator is turned into, in entries (32 MB).
LARGEST_DENSE = 2**22


class Algebra:
    """Pyomo's functions of one entry, and those that are written with them.

    Arguments:
        block: where auxiliary variables, the equations that define them and the constraints of the domain go; None
            where there may be none.

    Attributes:
        exp, log, sqrt, sin, cos, atan: Pyomo's functions, of an expression or of a number.
    """

    def __init__(self, block: Any = None) -> None:
        # Here, so that looking at the table costs no import of Pyomo.
        import pyomo.environ as pyo
        from pyomo.common.modeling import unique_component_name

        self.exp, self.log, self.sqrt = pyo.exp, pyo.log, pyo.sqrt
        self.sin, self.cos, self.atan = pyo.sin, pyo.cos, pyo.atan
        self._sum, self._is_moving = pyo.quicksum, pyo.is_potentially_variable
        self._parts: Any = None
        if block is not None:
            self._parts, self._equations = pyo.VarList(), pyo.ConstraintList()
            self._domain = pyo.ConstraintList()
            block.add_component(unique_component_name(block, "auxiliary"), self._parts)
            block.add_component(unique_component_name(block, "definition"), self._equations)
            block.add_component(unique_component_name(block, "domain"), self._domain)

    @property
    def has_block(self) -> bool:
        """Whether auxiliary variables may be made."""
        return self._parts is not None

    def named(self, entry: Any) -> Any:
        """An auxiliary variable that equals an expression, or the expression itself without a block."""
        if self._parts is None or not self._is_moving(entry):
            return entry
        variable = self._parts.add()
        self._equations.add(variable == entry)
        return variable

    def keep_above(self, entry: Any, bound: float) -> None:
        """Constrain an expression to the domain, or to its closure: solvers know no strict inequalities."""
        if self._parts is not None and self._is_moving(entry):
            self._domain.add(entry >= bound)

    def total(self, entries: Iterable[Any]) -> Any:
        """The sum of entries."""
        return self._sum(list(entries))

    def absolute(self, entry: Any) -> Any:
        """|a|."""
        return self.sqrt(entry**2)

    def larger(self, first: Any, second: Any) -> Any:
        """max(a, b)."""
        return self.named((first + second + self.absolute(first - second)) / 2.0)

    def smaller(self, first: Any, second: Any) -> Any:
        """min(a, b)."""
        return -self.larger(-first, -second)

    def largest(self, entries: Sequence[Any]) -> Any:
        """The maximum of any number of entries, halved until pairs are left."""
        entries = list(entries)
        while len(entries) > 1:
            pairs = [self.larger(*entries[start : start + 2]) for start in range(0, len(entries) - 1, 2)]
            entries = pairs + entries[len(pairs) * 2 :]
        return entries[0]


#: From (algebra, atom, the entries of each argument) to the entries of the atom.
Lowering = Callable[[Algebra, Any, list[list[Any]]], list[Any]]


def lower(expression: Expression, variables: Any, block: Any = None) -> Any:
    """An expression as Pyomo expressions of its entries.

    Parameters enter with their present values.

    Arguments:
        expression: an expression of one variable.
        variables: an indexed `Var` with an index for each entry of the variable, in C order; or the entries themselves,
            numbers or Pyomo expressions.
        block: a Pyomo block or model, which gets `VarList` auxiliary and the `ConstraintList`s definition and domain;
            without one there are neither variables nor constraints beside the expression.

    Returns:
        One Pyomo expression for a scalar; else an object array of the expression's shape.

    Raises:
        ParameterError: the expression has several variables.
        ShapeError: the number of entries is not the variable's.
        BackendRefusedError: an atom has no algebraic form, or needs a block; the message names it.

    Example:
        >>> import pyomo.environ as pyo
        >>> from alignkit.expressions import Variable, square, sum
        >>> model = pyo.ConcreteModel()
        >>> model.x = pyo.Var(range(2), initialize={0: 3.0, 1: 1.0})
        >>> float(pyo.value(lower(sum(square(Variable(2))) + 1.0, model.x)))
        11.0
    """
    found = expression.variables()
    if len(found) > 1:
        raise ParameterError(
            f"Pyomo forms are of one variable, and there are {len(found)}.", expression=str(expression)
        )
    entries = list(variables.values() if hasattr(variables, "values") else variables)
    if found and len(entries) != found[0].size:
        raise ShapeError(
            f"The variable {found[0]} has {found[0].size} entries, and {len(entries)} are given.",
            expression=str(expression),
        )
    algebra = Algebra(block)
    atoms = [node for node in topological(expression) if isinstance(node, Atom) and node.depends]
    for atom in atoms:
        _check(atom, algebra, expression)
    forms = {id(arg): linear_form(arg) for atom in atoms for arg in atom.args} | {
        id(expression): linear_form(expression)
    }
    uses = Counter(id(node) for form in forms.values() for node, _ in form.parts)
    bounds: dict[int, float] = {}
    for condition in expression.domain:
        key = id(condition.expression)
        bounds[key] = max(condition.bound, bounds.get(key, -math.inf))
    lowered: dict[int, list[Any]] = {id(variable): entries for variable in found}
    for atom in atoms:
        args = [_combined(forms[id(arg)], lowered, algebra, arg) for arg in atom.args]
        for arg, members in zip(atom.args, args, strict=True):
            if arg.range.lower < bounds.get(id(arg), -math.inf):
                for entry in members:
                    algebra.keep_above(entry, bounds[id(arg)])
        results = LOWERINGS[type(atom)](algebra, atom, args)
        lowered[id(atom)] = [algebra.named(entry) for entry in results] if uses[id(atom)] > 1 else results
    whole = np.empty(expression.size, dtype=object)
    whole[:] = _combined(forms[id(expression)], lowered, algebra, expression)
    return whole.reshape(expression.shape)[()]


def _check(atom: Atom, algebra: Algebra, expression: Expression) -> None:
    if type(atom) not in LOWERINGS:
        reason = REFUSED.get(type(atom), "its class is in no row of alignkit_pyomo.lowering.LOWERINGS")
        raise BackendRefusedError(
            f"{atom} has no Pyomo form: {reason}.",
            expression=str(expression),
            ways_out=(f"leave out {atom.name}", "use another backend"),
        )
    if algebra.has_block:
        return
    outside = [condition for condition in atom.domain if any(condition.expression is arg for arg in atom.args)]
    if _continues(atom) and any(condition.expression.range.lower < condition.bound for condition in outside):
        why = f"has values in Pyomo outside its domain {outside[0]}, and needs a constraint"
    elif isinstance(atom, order.SumLargest | order.SumSmallest):
        why = "needs auxiliary variables in Pyomo"
    elif (count := _compared(atom)) > LARGEST_UNNAMED:
        why = f"compares {count} entries, and needs auxiliary variables in Pyomo"
    else:
        return
    raise BackendRefusedError(
        f"{atom} {why}.",
        expression=str(expression),
        ways_out=("lower(expression, variables, block), with a block or a model to hold them",),
    )


def _continues(atom: Atom) -> bool:
    """Whether the Pyomo form of an atom has values outside the atom's domain."""
    if isinstance(atom, powers.Powered):
        return atom.p == round(atom.p) and not atom.is_even
    return isinstance(atom, quadratic.QuadOverLin) or (isinstance(atom, powers.GeoMean) and atom.count == 1)


def _compared(atom: Atom) -> int:
    """How many entries each result is the largest or the smallest of."""
    if isinstance(atom, order.Maximum):
        return len(atom.args)
    if isinstance(atom, distances.DistanceToPoints):
        return len(atom.points)
    return atom.count if isinstance(atom, order.Max | order.Min | norms.NormInf) else 1


def _combined(form: LinearForm, lowered: dict[int, list[Any]], algebra: Algebra, expression: Expression) -> list[Any]:
    """The entries of a linear combination of lowered nodes."""
    from scipy import sparse

    rows: list[list[Any]] = [[offset] if offset else [] for offset in form.offset.tolist()]
    for node, matrix in form.parts:
        entries = lowered[id(node)]
        if matrix is None:
            for row, entry in zip(rows, entries, strict=True):
                row.append(entry)
            continue
        table = sparse.csr_array(materialised(matrix, expression))
        for number, row in enumerate(rows):
            for place in range(table.indptr[number], table.indptr[number + 1]):
                weight, entry = float(table.data[place]), entries[table.indices[place]]
                row.append(entry if weight == 1.0 else weight * entry)
    return [row[0] if len(row) == 1 else algebra.total(row) for row in rows]


def materialised(matrix: Any, expression: Expression) -> Any:
    """A matrix as an array, dense or sparse.

    Arguments:
        matrix: an array or an operator.
        expression: what it comes from, for the message.

    Raises:
        BackendRefusedError: an operator is too large to write out.
    """
    if not is_operator(matrix):
        return matrix
    if math.prod(matrix.shape) > LARGEST_DENSE:
        raise BackendRefusedError(
            f"{expression} comes from an operator of shape {tuple(matrix.shape)}, too large to write out in Pyomo.",
            ways_out=("the reduced problem, over few coordinates", "a sparse matrix in place of the operator"),
        )
    return np.asarray(matrix @ np.eye(matrix.shape[1]))


def _rows(atom: Atom, entries: list[Any]) -> list[list[Any]]:
    """The entries of a reduction's argument by result, in C order."""
    shape = atom.args[0].shape
    gone = axes_of(atom.axis, len(shape))
    places = np.moveaxis(np.arange(len(entries)).reshape(shape), gone, range(-len(gone), 0)).reshape(atom.size, -1)
    return [[entries[place] for place in row] for row in places.tolist()]


def _each(function: Callable[[Algebra, Any, Any], Any]) -> Lowering:
    """A lowering from a function of (algebra, atom, entry), applied to every entry."""
    return lambda algebra, atom, args: [function(algebra, atom, entry) for entry in args[0]]


def _reduced(function: Callable[[Algebra, Any, list[Any]], Any]) -> Lowering:
    """A lowering from a function of (algebra, atom, entries), applied to the entries of every result."""
    return lambda algebra, atom, args: [function(algebra, atom, row) for row in _rows(atom, args[0])]


def _huber(algebra: Algebra, atom: elementwise.Huber, entry: Any) -> Any:
    magnitude = algebra.absolute(entry)
    small = algebra.smaller(magnitude, atom.M)
    return small**2 + 2.0 * atom.M * (magnitude - small)


def _p_norm(algebra: Algebra, atom: norms.PNorm, entries: list[Any]) -> Any:
    # |a|^p as (a²)^(p/2): the base of a power that is not whole must be nonnegative.
    even = atom.p == round(atom.p) and round(atom.p) % 2 == 0
    terms = (entry ** int(atom.p) if even else (entry**2) ** (atom.p / 2.0) for entry in entries)
    return algebra.total(terms) ** (1.0 / atom.p)


def _quadratic_form(algebra: Algebra, atom: quadratic.QuadForm, args: list[list[Any]]) -> list[Any]:
    from scipy import sparse

    table, entries = sparse.coo_array(atom.P), args[0]
    triples = zip(table.row.tolist(), table.col.tolist(), table.data.tolist(), strict=True)
    return [
        algebra.total(
            (weight if row == column else 2.0 * weight) * (entries[row] * entries[column])
            for row, column, weight in triples
            if row <= column and weight
        )
    ]


def _sum_of_largest(algebra: Algebra, k: float, entries: list[Any]) -> Any:
    """By selection: each pass carries the largest entry to the front."""
    part, whole = math.modf(k)
    chosen = []
    for _ in range(int(whole) + (part > 0.0)):
        front, others = entries[0], []
        for entry in entries[1:]:
            larger = algebra.larger(front, entry)
            others.append(front + entry - larger)
            front = larger
        chosen.append(front)
        entries = [algebra.named(entry) for entry in others]
    return algebra.total([*chosen[: int(whole)], *(part * entry for entry in chosen[int(whole) :])])


def _clip(algebra: Algebra, atom: piecewise.Clip, entry: Any) -> Any:
    ends = algebra.absolute(entry - atom.lower) - algebra.absolute(entry - atom.upper)
    return (atom.lower + atom.upper + ends) / 2.0


def _piecewise_linear(algebra: Algebra, atom: piecewise.PiecewiseLinear, entry: Any) -> Any:
    """s·x + c + Σ δ_j·|x − b_j|, s the mean of the first and the last slope and 2δ_j what the slope gains at b_j."""
    kinks, gains = atom.breakpoints[1:-1].tolist(), (np.diff(atom.slopes) / 2.0).tolist()
    slope, start = float(atom.slopes[0] + atom.slopes[-1]) / 2.0, float(atom.breakpoints[0])
    level = float(atom.values[0]) - slope * start
    level -= sum(gain * (kink - start) for gain, kink in zip(gains, kinks, strict=True))
    bends = [gain * algebra.absolute(entry - kink) for gain, kink in zip(gains, kinks, strict=True)]
    return algebra.total([level, slope * entry, *bends])


def _distance(algebra: Algebra, atom: distances.DistanceToPoints, args: list[list[Any]]) -> list[Any]:
    apart = [
        algebra.sqrt(algebra.total((entry - place) ** 2 for entry, place in zip(args[0], point, strict=True)))
        for point in atom.points.reshape(len(atom.points), -1).tolist()
    ]
    return [-algebra.largest([-distance for distance in apart])]


def _geometric_mean(algebra: Algebra, atom: powers.GeoMean, entries: list[Any]) -> Any:
    return math.prod(entry**weight for entry, weight in zip(entries, atom.weights.ravel().tolist(), strict=True))


def _power(algebra: Algebra, atom: powers.Power, entry: Any) -> Any:
    return entry ** (int(atom.p) if atom.p == round(atom.p) else atom.p)


#: From an atom's class to its form in Pyomo.
LOWERINGS: dict[type[Atom], Lowering] = {
    elementwise.Abs: _each(lambda algebra, atom, entry: algebra.absolute(entry)),
    elementwise.Square: _each(lambda algebra, atom, entry: entry**2),
    elementwise.Huber: _each(_huber),
    elementwise.Pos: _each(lambda algebra, atom, entry: (entry + algebra.absolute(entry)) / 2.0),
    elementwise.Neg: _each(lambda algebra, atom, entry: (algebra.absolute(entry) - entry) / 2.0),
    exponential.Exp: _each(lambda algebra, atom, entry: algebra.exp(entry)),
    exponential.Logistic: _each(lambda algebra, atom, entry: algebra.log(1.0 + algebra.exp(entry))),
    exponential.Log: _each(lambda algebra, atom, entry: algebra.log(entry)),
    exponential.Log1p: _each(lambda algebra, atom, entry: algebra.log(1.0 + entry)),
    exponential.Entr: _each(lambda algebra, atom, entry: -entry * algebra.log(entry)),
    powers.Power: _each(_power),
    powers.Sqrt: _each(lambda algebra, atom, entry: algebra.sqrt(entry)),
    powers.InvPos: _each(lambda algebra, atom, entry: 1.0 / entry),
    powers.GeoMean: _reduced(_geometric_mean),
    norms.Norm1: _reduced(lambda algebra, atom, entries: algebra.total(map(algebra.absolute, entries))),
    norms.Norm2: _reduced(lambda algebra, atom, entries: algebra.sqrt(algebra.total(entry**2 for entry in entries))),
    norms.NormInf: _reduced(lambda algebra, atom, entries: algebra.largest([algebra.absolute(one) for one in entries])),
    norms.PNorm: _reduced(_p_norm),
    order.Max: _reduced(lambda algebra, atom, entries: algebra.largest(entries)),
    order.Min: _reduced(lambda algebra, atom, entries: -algebra.largest([-entry for entry in entries])),
    order.Maximum: lambda algebra, atom, args: [algebra.largest(row) for row in zip(*args, strict=True)],
    order.Minimum: lambda algebra, atom, args: [
        -algebra.largest([-entry for entry in row]) for row in zip(*args, strict=True)
    ],
    order.LogSumExp: _reduced(lambda algebra, atom, entries: algebra.log(algebra.total(map(algebra.exp, entries)))),
    order.SumLargest: _reduced(lambda algebra, atom, entries: _sum_of_largest(algebra, atom.k, entries)),
    order.SumSmallest: _reduced(
        lambda algebra, atom, entries: -_sum_of_largest(algebra, atom.k, [-entry for entry in entries])
    ),
    quadratic.SumSquares: _reduced(lambda algebra, atom, entries: algebra.total(entry**2 for entry in entries)),
    quadratic.QuadForm: _quadratic_form,
    quadratic.QuadOverLin: lambda algebra, atom, args: [algebra.total(entry**2 for entry in args[0]) / args[1][0]],
    curves.Sin: _each(lambda algebra, atom, entry: algebra.sin(entry)),
    curves.Cos: _each(lambda algebra, atom, entry: algebra.cos(entry)),
    curves.Tanh: _each(lambda algebra, atom, entry: 1.0 - 2.0 / (1.0 + algebra.exp(2.0 * entry))),
    curves.Sigmoid: _each(lambda algebra, atom, entry: 1.0 / (1.0 + algebra.exp(-entry))),
    curves.Arctan: _each(lambda algebra, atom, entry: algebra.atan(entry)),
    piecewise.Clip: _each(_clip),
    piecewise.PiecewiseLinear: _each(_piecewise_linear),
    distances.DistanceToPoints: _distance,
    products.Product: lambda algebra, atom, args: [first * second for first, second in zip(*args, strict=True)],
}

#: Atoms without a form, and why.
REFUSED: dict[type[Atom], str] = {
    norms.SigmaMax: "singular values are no algebraic expression of the entries of a matrix",
    lipschitz.UserFunction: "of a function of the user's own only the values are known",
}
