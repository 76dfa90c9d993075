"""The two kinds of inner nodes: affine ones, which know their linear part, and nonlinear atoms."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignkit.errors import ParameterError, ShapeError
from alignkit.expressions.arrays import Array, Floats, as_finite, flat, is_sparse
from alignkit.expressions.curvature import (
    ArgumentRole,
    Curvature,
    Interval,
    Monotonicity,
    compose,
    explain,
)
from alignkit.expressions.expression import CALL, Expression, Printed, operations, topological
from alignkit.expressions.leaf import Constant, Variable, as_expression
from alignkit.expressions.matrices import Factor, Matrix, MovedMatrix, entry_bounds, norm_bound, row_bounds, times

__all__ = ["AffineAtom", "Atom"]


class Node(Expression):
    """What affine nodes and nonlinear atoms share: the composition rule and the printed call."""

    #: The function's name, as the user writes it.
    name: str = ""

    @property
    @abstractmethod
    def is_atom_convex(self) -> bool:
        """Whether the function is jointly convex in its arguments."""

    @property
    @abstractmethod
    def is_atom_concave(self) -> bool:
        """Whether the function is jointly concave in its arguments."""

    @abstractmethod
    def monotonicity(self, position: int) -> Monotonicity:
        """How the function moves with one argument over that argument's range."""

    @abstractmethod
    def _gain(self, position: int) -> float:
        """A Lipschitz constant in one argument over that argument's range, Euclidean norms."""

    def _roles(self) -> list[ArgumentRole]:
        roles = []
        for position, arg in enumerate(self.args):
            curvature = arg.curvature
            # Monotonicity can cost a pass over a large matrix, and affine arguments do not need it.
            steady = Monotonicity.UNKNOWN if curvature.is_affine else self.monotonicity(position)
            roles.append(ArgumentRole(arg, curvature, steady))
        return roles

    def _own_curvature(self) -> Curvature:
        if all(arg.curvature.is_affine for arg in self.args) and self.is_atom_convex and self.is_atom_concave:
            constant = all(arg.curvature is Curvature.CONSTANT for arg in self.args)
            return Curvature.CONSTANT if constant else Curvature.AFFINE
        return compose(self.is_atom_convex, self.is_atom_concave, self._roles())

    def _own_rule(self) -> str:
        return explain(self.name, self.is_atom_convex, self.is_atom_concave, self._roles())

    def _own_lipschitz(self) -> float:
        return sum(chain(self._gain(position), arg.lipschitz) for position, arg in enumerate(self.args))

    def _format(self, parts: Sequence[Printed]) -> Printed:
        inner = ", ".join(text for text, _ in parts)
        options = "".join(f", {option}" for option in self._options())
        return f"{self.name}({inner}{options})", CALL

    def _options(self) -> Sequence[str]:
        return ()


class AffineAtom(Node):
    """A node that is affine, jointly, in its arguments: a sum over arguments of factor @ vec(argument).

    Subclasses say what their factors are; curvature, range, Lipschitz constants and affine maps follow.
    """

    @property
    def is_atom_convex(self) -> bool:
        """Always true."""
        return True

    @property
    def is_atom_concave(self) -> bool:
        """Always true."""
        return True

    @abstractmethod
    def _factors(self) -> tuple[Factor, ...]:
        """For each argument the linear part in its C-order flattening: None (identity), dense, csr or operator."""

    def _pull(self, position: int, left: Matrix | None) -> Matrix | None:
        """left @ factor, where `left` acts on this node's flattening; overridden where the product has structure."""
        return times(left, self._factors()[position])

    def monotonicity(self, position: int) -> Monotonicity:
        """Increasing or decreasing where the factor's entries have one sign."""
        lower, upper = entry_bounds(self._factors()[position])
        if lower >= 0.0:
            return Monotonicity.INCREASING
        return Monotonicity.DECREASING if upper <= 0.0 else Monotonicity.UNKNOWN

    def _gain(self, position: int) -> float:
        return norm_bound(self._factors()[position])

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        found = []
        for position, arg in enumerate(self.args):
            part = flat(xp, cotangent)
            if arg.depends:
                adjoint = self._adjoint(position)
                part = part if adjoint is None else adjoint.apply(xp, part)
                part = xp.reshape(part, (cotangent.shape[0], *arg.shape))
            found.append(part)
        return found

    def _adjoint(self, position: int) -> MovedMatrix | None:
        """The transpose of a factor, kept, as derivatives are taken many times; None for the identity."""
        kept: dict[int, MovedMatrix | None] = self.__dict__.setdefault("_adjoints", {})
        if position not in kept:
            factor = self._factors()[position]
            kept[position] = None if factor is None else MovedMatrix(factor.T)
        return kept[position]

    def _own_range(self) -> Interval:
        moving = [arg for arg in self.args if not isinstance(arg, Constant)]
        if moving and all(arg.range.is_free for arg in moving):
            return Interval()
        lower, upper = np.zeros(()), np.zeros(())
        for arg, factor in zip(self.args, self._factors(), strict=True):
            least, greatest = row_bounds(factor, *_entry_range(arg))
            lower, upper = lower + least, upper + greatest
        return Interval(float(lower.min()), float(upper.max()))

    def _own_lipschitz(self) -> float:
        if not self.is_affine():
            return super()._own_lipschitz()
        from alignkit.expressions.linear import affine_norm

        return affine_norm(self)


class Atom(Node):
    """A nonlinear function of its arguments: what to subclass for one that is not among the atoms.

    A subclass has a `name`, and gives `is_atom_convex` and `is_atom_concave`, jointly in the arguments; over their
    ranges `monotonicity(position)`, `_own_range()`, bounds of its value, and `_gain(position)`, a Lipschitz constant in
    one of them; and in the array API `_numeric(xp, values)`, its value (n, *shape) at values (n, *arg.shape), and
    `_pullback(xp, values, result, cotangent)`, the transposed derivative there applied to one of its shape, an array
    for each argument. What is claimed has to be true on the whole range. Convex atoms may also give their conjugate, a
    projection onto its domain and a proximal map, for dual methods.

    Arguments:
        shape: of its value.
        args: the arguments.

    Example:
        >>> from alignkit.expressions import Interval, Monotonicity, Variable
        >>> class Bowl(Atom):
        ...     name, is_atom_convex, is_atom_concave = "bowl", True, False
        ...
        ...     def __init__(self, left, right):
        ...         super().__init__(left.shape, (left, right))
        ...
        ...     def monotonicity(self, position):
        ...         return Monotonicity.UNKNOWN
        ...
        ...     def _own_range(self):
        ...         return Interval(1.0)
        ...
        ...     def _gain(self, position):
        ...         return 1.0
        ...
        ...     def _numeric(self, xp, values):
        ...         return xp.sqrt(1.0 + values[0] ** 2 + values[1] ** 2)
        ...
        ...     def _pullback(self, xp, values, result, cotangent):
        ...         return [cotangent * value / result for value in values]
        >>> x = Variable(2)
        >>> bowl = Bowl(x[0], 2.0 * x[1])
        >>> float(bowl.value([2.0, 1.0])), bowl.is_convex(), bowl.gradient([2.0, 1.0])
        (3.0, True, array([0.66666667, 1.33333333]))
    """

    #: The axes reduced, None for all entries or for elementwise atoms.
    axis: int | tuple[int, ...] | None = None
    #: By how much the value moves when every entry of every argument moves by 1; None where it moves otherwise.
    common_shift: float | None = None

    def conjugate(self, dual: Array) -> Array:
        """The convex conjugate φ*(y) = sup_x ⟨y, x⟩ − φ(x), for y in its domain.

        Arguments:
            dual: y, (n, *arg.shape).

        Returns:
            φ*(y), (n,) for reductions over all entries; (n, *arg.shape), entry by entry, for elementwise atoms.

        Raises:
            ParameterError: the atom has no conjugate, or it reduces along an axis.
        """
        raise ParameterError(f"{self.name} has no conjugate in this form.", expression=str(self))

    def project_dual(self, dual: Array) -> Array:
        """A nearby point of the domain of φ*.

        Arguments:
            dual: any y, (n, *arg.shape).

        Returns:
            A point of dom φ*, (n, *arg.shape); y itself where it is feasible.

        Raises:
            ParameterError: the atom has no conjugate, or it reduces along an axis.
        """
        raise ParameterError(f"{self.name} has no conjugate in this form.", expression=str(self))

    def prox(self, points: Array, step: float) -> Array:
        """The proximal map argmin_z φ(z) + ‖z − v‖²/(2·step), where it is a closed form; −φ for concave φ.

        Arguments:
            points: v, (n, *arg.shape).
            step: a positive number.

        Returns:
            z, (n, *arg.shape).

        Raises:
            ParameterError: the atom has no closed form, or it reduces along an axis.

        Source: N. Parikh, S. Boyd, "Proximal algorithms", 2014, chapter 6.
        """
        raise ParameterError(f"{self.name} has no closed proximal map.", expression=str(self))

    def _whole(self) -> None:
        if self.axis is not None:
            raise ParameterError(
                f"The conjugate and the proximal map of {self.name} are defined for the whole array only, "
                f"not along axis {self.axis}.",
                expression=str(self),
            )


class Reduction(Atom):
    """An atom of one argument that reduces some of its axes, or all of them.

    Arguments:
        arg: the argument.
        axis: None for all entries, or the axes.

    Raises:
        ShapeError: an axis is out of range.
    """

    def __init__(self, arg: Expression, axis: int | tuple[int, ...] | None = None) -> None:
        self.axis = normalise_axis(axis, arg, self.name)
        super().__init__(reduced_shape(arg.shape, self.axis), (arg,))

    @property
    def count(self) -> int:
        """How many entries each result is made of."""
        return self.args[0].size // self.size

    def of_group(self) -> Reduction:
        """The same function of the entries of one result: of a variable of shape (count,), reduced as a whole."""
        group = self.with_args((Variable((self.count,)),))
        assert isinstance(group, Reduction)
        Reduction.__init__(group, group.args[0])
        return group

    def _batch_axes(self) -> tuple[int, ...]:
        return batch_axes(self.axis, self.args[0].ndim)

    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        return [self._widened(xp, cotangent) * self._slope(xp, values[0], self._widened(xp, result))]

    @abstractmethod
    def _slope(self, xp: Any, value: Array, result: Array) -> Array:
        """A subgradient of each result in the entries it is made of: (n, *arg.shape).

        Arguments:
            xp: the array namespace.
            value: the argument, (n, *arg.shape).
            result: the results, with the reduced axes kept.
        """

    def _widened(self, xp: Any, results: Array) -> Array:
        """(n, *shape) with the reduced axes back, of length 1, to stand beside values of the argument."""
        return xp.reshape(results, (results.shape[0], *kept_shape(self.args[0].shape, self.axis)))

    def _options(self) -> Sequence[str]:
        return () if self.axis is None else (f"axis={self.axis}",)


def chain(gain: float, inner: float) -> float:
    """gain·inner with 0·inf = 0."""
    return 0.0 if gain == 0.0 or inner == 0.0 else gain * inner


def normalise_axis(axis: int | tuple[int, ...] | None, arg: Expression, name: str) -> int | tuple[int, ...] | None:
    """Axes counted from the front.

    Raises:
        ShapeError: an axis is out of range or named twice.
    """
    if axis is None:
        return None
    axes = (axis,) if isinstance(axis, int | np.integer) else tuple(axis)
    found = []
    for one in axes:
        if not isinstance(one, int | np.integer) or not -arg.ndim <= one < arg.ndim:
            raise ShapeError(f"{name}: axis {one!r} is out of range for {arg} of shape {arg.shape}.")
        found.append(int(one) % arg.ndim)
    if len(set(found)) < len(found):
        raise ShapeError(f"{name}: an axis is named twice in {axis} for {arg} of shape {arg.shape}.")
    return found[0] if isinstance(axis, int | np.integer) else tuple(sorted(found))


def axes_of(axis: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    """The reduced axes as a tuple."""
    if axis is None:
        return tuple(range(ndim))
    return axis if isinstance(axis, tuple) else (axis,)


def batch_axes(axis: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    """The reduced axes of values (n, *shape)."""
    return tuple(one + 1 for one in axes_of(axis, ndim))


def kept_shape(shape: tuple[int, ...], axis: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape with the reduced axes of length 1."""
    gone = axes_of(axis, len(shape))
    return tuple(1 if position in gone else length for position, length in enumerate(shape))


def reduced_shape(shape: tuple[int, ...], axis: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape without the reduced axes."""
    gone = axes_of(axis, len(shape))
    return tuple(length for position, length in enumerate(shape) if position not in gone)


def folded(node: Expression) -> Expression:
    """The node, or its value as a `Constant` when no variable is in it.

    Raises:
        NonFiniteError: the value overflows.
    """
    if node.depends or node.parameters():
        return node
    with np.errstate(over="ignore", invalid="ignore"):
        return Constant(node.value(), what=lambda: f"The constant {node}")


def substitute(root: Expression, known: Mapping[int, Expression]) -> Expression:
    """The expression with some of its nodes replaced, the others shared where nothing below them changes.

    Arguments:
        root: any expression.
        known: from the identity of a node to what takes its place, of the same shape.
    """
    found = dict(known)
    for node in topological(root, lambda one: id(one) in known):
        if id(node) in found:
            continue
        args = tuple(found[id(arg)] for arg in node.args)
        same = all(new is old for new, old in zip(args, node.args, strict=True))
        found[id(node)] = node if same else folded(node.with_args(args))
    return found[id(root)]


def _over(root: Expression, lower: Any, upper: Any) -> Expression:
    variables = root.variables()
    if len(variables) != 1:
        raise ParameterError(
            f"over(lower, upper) takes an expression of one variable, and there are {len(variables)}.",
            expression=str(root),
        )
    if not (isinstance(lower, int | float) and isinstance(upper, int | float)) or not lower <= upper:
        raise ParameterError(f"over(lower, upper) takes numbers in order, not {lower!r} and {upper!r}.")
    (variable,) = variables
    return substitute(root, {id(variable): variable._within(Interval(float(lower), float(upper)))})


def _entry_range(arg: Expression) -> tuple[Floats, Floats]:
    if isinstance(arg, Constant):
        entries = arg.dense().ravel()
        return entries, entries
    return np.asarray(arg.range.lower), np.asarray(arg.range.upper)


def as_argument(value: object, name: str) -> Expression:
    """An argument of a named function as an expression."""
    if isinstance(value, Expression):
        return value
    try:
        return as_expression(value)
    except ParameterError as error:
        raise ParameterError(f"{name}: {error.message}", ways_out=error.ways_out) from error


def constant_argument(value: Any, what: str) -> Floats:
    """The entries of an argument that has to be constant, as a new float64 array; dense.

    Raises:
        ParameterError: it depends on a variable or a parameter; `what` names it.
    """
    if isinstance(value, Expression):
        if value.depends or value.parameters():
            raise ParameterError(f"{what} are constants, and {value} is not.")
        value = value.value()
    found = as_finite(value, what)
    return found.toarray() if is_sparse(found) else found  # type: ignore[no-any-return]


operations.update(over=_over)
