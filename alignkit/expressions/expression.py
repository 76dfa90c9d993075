"""The base of all expressions: shape, curvature, range, Lipschitz constant, evaluation and operators."""

from __future__ import annotations

import copy
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import array_api_compat
import numpy as np

from alignkit.errors import CurvatureError, ParameterError, ShapeError
from alignkit.expressions.arrays import Array, as_finite, check_shape
from alignkit.expressions.curvature import Curvature, Interval, Sign

if TYPE_CHECKING:
    from alignkit.expressions.leaf import Parameter, Variable

__all__ = ["Condition", "Expression"]

#: The constructors behind the operators ("add", "multiply", …), registered by the modules that define the nodes.
operations: dict[str, Callable[..., Expression]] = {}
#: What a comparison such as `E(x) <= 1` becomes, registered likewise.
comparisons: dict[str, Callable[[Expression, str, Any], Any]] = {}

#: How tightly a printed form binds, loosest first.
SUM, PRODUCT, UNARY, CALL = range(4)
#: A printed form and how tightly it binds.
Printed: TypeAlias = tuple[str, int]
#: Longer printed forms are shown without their middle.
LONGEST_TEXT = 2000


@dataclass(frozen=True, eq=False)
class Condition:
    """One condition of an expression's domain: every entry of a sub-expression lies above a bound.

    Arguments:
        expression: the sub-expression.
        bound: the lower bound.
        strict: whether the bound itself is outside.
    """

    expression: Expression
    bound: float
    strict: bool

    def __str__(self) -> str:
        return f"{self.expression} {'>' if self.strict else '≥'} {self.bound:.6g}"


class Expression(ABC):
    """A real array-valued function of a variable, built by operators and atoms.

    Arguments:
        shape: the shape of its values.
        args: the sub-expressions it is built from.

    Expressions hash by identity and are never changed once built. They compare by identity too, but for those of
    expectations, whose comparisons are constraints.

    Example:
        >>> from alignkit.expressions import Variable, norm1
        >>> reward = 2.0 - norm1(Variable(3) - 1.0)
        >>> reward
        Expression(CONCAVE, UNKNOWN, (), 2 - norm1(x - 1))
        >>> reward.lipschitz, reward.range.upper
        (1.7320508075688772, 2.0)
    """

    __array_ufunc__ = None
    _memoised: ClassVar[tuple[str, ...]] = ("_curvature", "_range", "_lipschitz", "_lipschitz_at", "_split")

    def __init__(self, shape: tuple[int, ...], args: tuple[Expression, ...] = ()) -> None:
        self._shape = check_shape(tuple(int(length) for length in shape), str(type(self).__name__))
        self._args = args
        self._depends: bool = any(arg._depends for arg in args)
        self._has_expectation: bool = any(arg._has_expectation for arg in args)
        self._parameters: tuple[Parameter, ...] = united(args)

    # ---- structure

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the values."""
        return self._shape

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self._shape)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self._shape)

    @property
    def args(self) -> tuple[Expression, ...]:
        """The sub-expressions this one is built from."""
        return self._args

    def variables(self) -> tuple[Variable, ...]:
        """The variables the expression is written in, each once, in order of appearance."""
        from alignkit.expressions.leaf import Variable

        return tuple(node for node in topological(self) if isinstance(node, Variable))

    def _constants(self) -> tuple[Expression, ...]:
        """Expressions without a variable that the node holds beside its arguments, as the matrix of a product."""
        return ()

    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters in the expression, each once, in order of appearance."""
        return self._parameters

    @property
    def depends(self) -> bool:
        """True when a variable, or an expectation, occurs in the expression."""
        return self._depends

    @property
    def has_expectation(self) -> bool:
        """True when an expectation `E(…)` occurs in the expression."""
        return self._has_expectation

    def with_args(self, args: tuple[Expression, ...]) -> Expression:
        """The same node over other arguments of the same shapes.

        Arguments:
            args: one expression for each of `self.args`.

        Returns:
            A new expression.
        """
        node = copy.copy(self)
        node._args = args
        node._depends = any(arg._depends for arg in args)
        node._has_expectation = any(arg._has_expectation for arg in args)
        node._parameters = united((*node._constants(), *args))
        for name in self._memoised:
            node.__dict__.pop(name, None)
        return node

    # ---- what is known of it

    @property
    def curvature(self) -> Curvature:
        """The strongest curvature that disciplined convex programming proves."""
        found: Curvature = self._settled("_curvature", "_own_curvature")
        return found

    @property
    def range(self) -> Interval:
        """Bounds of every entry, by interval calculus."""
        found: Interval = self._settled("_range", "_own_range")
        return found

    @property
    def sign(self) -> Sign:
        """The sign that the range proves."""
        return self.range.sign

    @property
    def lipschitz(self) -> float:
        """A Lipschitz constant of x ↦ expr(x), Euclidean norms on both sides; inf when none is known.

        It holds at the present values of the parameters, and wherever the expression is finite.
        """
        if not self._parameters:
            found: float = self._settled("_lipschitz", "_own_lipschitz", stop=Expression.is_affine)
            return found
        if any(parameter.is_unset for parameter in self._parameters):
            return math.inf
        versions = versions_of(self._parameters)
        if self.__dict__.get("_lipschitz_at") != versions:
            for node in topological(self):
                if node._parameters:
                    node.__dict__.pop("_lipschitz", None)
            self._settled("_lipschitz", "_own_lipschitz", stop=Expression.is_affine)
            self.__dict__["_lipschitz_at"] = versions
        return self.__dict__["_lipschitz"]  # type: ignore[no-any-return]

    @property
    def domain(self) -> tuple[Condition, ...]:
        """The conditions under which the expression is finite; outside, convex atoms are inf and concave ones −inf."""
        return tuple(
            Condition(node.args[position], bound, strict)
            for node in topological(self)
            if node.depends
            for position, bound, strict in node._domain()
        )

    @property
    def curvature_rule(self) -> str:
        """One sentence: the rule that gave the curvature, naming the argument where a rule failed."""
        return self._own_rule()

    def is_constant(self) -> bool:
        """True when the expression does not depend on a variable."""
        return self.curvature is Curvature.CONSTANT

    def is_affine(self) -> bool:
        """True when affine or constant."""
        return self.curvature.is_affine

    def is_convex(self) -> bool:
        """True when proved convex; affine and constant count."""
        return self.curvature.is_convex

    def is_concave(self) -> bool:
        """True when proved concave; affine and constant count."""
        return self.curvature.is_concave

    def _settled(self, memo: str, method: str, stop: Callable[[Expression], bool] | None = None) -> Any:
        if memo not in self.__dict__:
            # Settle sub-expressions first, so that deep sums do not exhaust Python's stack; nothing is unsettled below
            # what is settled, and looking there again at every node would take time quadratic in the depth.
            for node in topological(self, lambda one: memo in one.__dict__ or (stop is not None and stop(one))):
                if memo not in node.__dict__:
                    node.__dict__[memo] = getattr(node, method)()
        return self.__dict__[memo]

    def over(self, lower: float = -math.inf, upper: float = math.inf) -> Expression:
        """The same expression over a box, where ranges, Lipschitz constants and curvature may be sharper.

        Arguments:
            lower: the lower bound of every entry of the variable.
            upper: the upper bound.

        Returns:
            An expression of a variable of the same name and shape, whose claims hold for values inside the box.

        Raises:
            ParameterError: the bounds are not in order, or the expression has no variable or more than one.

        Example:
            >>> from alignkit.expressions import Variable, square
            >>> square(Variable()).over(0.0, 2.0).lipschitz
            4.0
        """
        return operations["over"](self, lower, upper)

    def _domain(self) -> tuple[tuple[int, float, bool], ...]:
        """For arguments on which the node is finite only above a bound: (position, bound, whether strict)."""
        return ()

    @abstractmethod
    def _own_curvature(self) -> Curvature: ...

    @abstractmethod
    def _own_range(self) -> Interval: ...

    @abstractmethod
    def _own_lipschitz(self) -> float: ...

    @abstractmethod
    def _own_rule(self) -> str: ...

    # ---- evaluation

    @abstractmethod
    def _numeric(self, xp: Any, values: list[Array]) -> Array:
        """Evaluate from argument values (n, *arg.shape); constants come as (1, *shape)."""

    def _numeric_with(self, xp: Any, values: list[Array], constants: list[Array]) -> Array:
        """`_numeric` with other values of `_constants()`, (1, *shape) or one for each row, (n, *shape)."""
        raise AssertionError("only nodes with constants of their own are asked")

    def value(self, x: Any = None, *, parameters: Mapping[Parameter, Array] | None = None) -> Array:
        """Evaluate at one point or at a batch of points.

        Arguments:
            x: the variable's value, (*shape), or a batch (n, *shape); numpy, torch or jax. May be left out for
                expressions without a variable.
            parameters: values that take the place of the parameters' own, arrays of x's library and dtype; of the
                parameter's shape, or (n, *shape), one for each row. The result can be differentiated in them by the
                library.

        Returns:
            The value, (*self.shape) or (n, *self.shape), of the same library, device and floating dtype as x.

        Raises:
            ShapeError: x has neither of the two shapes, or the value of a parameter another than its own.
            ParameterError: the expression has more than one variable, or x is not a real array.

        Example:
            >>> from alignkit.expressions import Variable, norm1
            >>> float(norm1(Variable(2)).value([3.0, -4.0]))
            7.0
        """
        nodes, x, batched = self._prepared(x)
        xp = array_api_compat.array_namespace(x)
        given = _given(xp, parameters or {}, x.shape[0])
        result = _forward(nodes, xp, x, given)[id(self)]
        if not batched:
            return xp.reshape(result, self.shape)
        return xp.broadcast_to(result, (x.shape[0], *self.shape))

    def gradient(self, x: Any) -> Array:
        """The gradient of a scalar expression, or a subgradient where it has a kink.

        Arguments:
            x: as for `value`: one point (*shape), or a batch (n, *shape); numpy, torch or jax.

        Returns:
            An array of x's shape, library, device and floating dtype. Outside the domain it is of no meaning.

        Raises:
            ShapeError: the expression is not scalar, or x has another shape.
            ParameterError: as for `value`, or an atom has no derivative, as a user's function without one.

        Example:
            >>> from alignkit.expressions import Variable, norm1
            >>> norm1(Variable(2)).gradient([3.0, -4.0])
            array([ 1., -1.])

        Source: reverse accumulation, A. Griewank, A. Walther, "Evaluating derivatives", 2008, chapter 3.
        """
        if self.size != 1:
            raise ShapeError(
                f"Only scalar expressions have a gradient, and this has shape {self.shape}.",
                expression=str(self),
                ways_out=("take the gradient of inner(h, expression)",),
            )
        nodes, x, batched = self._prepared(x)
        xp = array_api_compat.array_namespace(x)
        values = _forward(nodes, xp, x)
        ones = xp.ones((x.shape[0], *self.shape), dtype=x.dtype, device=array_api_compat.device(x))
        pulled: dict[int, Array] = {id(self): ones}
        total = xp.zeros_like(x)
        for node in reversed(nodes):
            if not node.depends or id(node) not in pulled:
                continue
            cotangent = pulled.pop(id(node))
            if not node.args:
                total = cotangent
                continue
            found = node._pullback(xp, [values[id(arg)] for arg in node.args], values[id(node)], cotangent)
            for arg, part in zip(node.args, found, strict=True):
                if arg.depends:
                    pulled[id(arg)] = pulled[id(arg)] + part if id(arg) in pulled else part
        return total if batched else xp.reshape(total, tuple(total.shape[1:]))

    @abstractmethod
    def _pullback(self, xp: Any, values: list[Array], result: Array, cotangent: Array) -> list[Array]:
        """Transposed derivative: for each argument (n, *arg.shape), the sum over entries of cotangent·∂entry/∂arg.

        Arguments:
            xp: the array namespace.
            values: as for `_numeric`; the value of a constant argument may be (1, *arg.shape).
            result: what `_numeric` gave for them.
            cotangent: (n, *shape).
        """

    def _prepared(self, x: Any) -> tuple[list[Expression], Array, bool]:
        from alignkit.expressions.leaf import Variable

        nodes = topological(self)
        variables = [node for node in nodes if isinstance(node, Variable)]
        if len(variables) > 1:
            names = ", ".join(str(variable) for variable in variables)
            raise ParameterError(
                f"An expression of one variable can be evaluated, and there are {len(variables)}: {names}.",
                expression=str(self),
                ways_out=("write the expression in slices of a single Variable",),
            )
        x, batched = _batch(x, variables[0] if variables else None, self)
        return nodes, x, batched

    # ---- printing

    @abstractmethod
    def _format(self, parts: Sequence[Printed]) -> Printed:
        """The printed form from those of the arguments, and how tightly its outermost operation binds."""

    def _printed(self) -> Printed:
        found: dict[int, Printed] = {}
        for node in topological(self):
            text, strength = node._format([found[id(arg)] for arg in node.args])
            if len(text) > LONGEST_TEXT:
                text = f"{text[: LONGEST_TEXT // 2]} ... {text[-LONGEST_TEXT // 4 :]}"
            found[id(node)] = text, strength
        return found[id(self)]

    def __str__(self) -> str:
        return self._printed()[0]

    def __repr__(self) -> str:
        return f"Expression({self.curvature.name}, {self.sign.name}, {self.shape}, {self})"

    def to_latex(self) -> str:
        """The expression in LaTeX, for mathematics mode: constants as letters over their shape, vectors as columns.

        Returns:
            The formula, without dollar signs; what is too long is left out where three dots stand.

        Example:
            >>> from alignkit.expressions import Variable, sum_squares
            >>> print(sum_squares(Variable(2) - [1.0, 2.0]).to_latex())
            \\left\\|x - \\underset{2}{a}\\right\\|_{2}^{2}
        """
        from alignkit.expressions.latex import latex

        return latex(self)

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.to_latex()}$"

    # ---- operators

    def __add__(self, other: Any) -> Expression:
        return operations["add"](self, other)

    def __radd__(self, other: Any) -> Expression:
        return operations["add"](other, self)

    def __sub__(self, other: Any) -> Expression:
        return operations["subtract"](self, other)

    def __rsub__(self, other: Any) -> Expression:
        return operations["subtract"](other, self)

    def __mul__(self, other: Any) -> Expression:
        return operations["multiply"](self, other)

    def __rmul__(self, other: Any) -> Expression:
        return operations["multiply"](other, self)

    def __truediv__(self, other: Any) -> Expression:
        return operations["divide"](self, other)

    def __rtruediv__(self, other: Any) -> Expression:
        return operations["divide"](other, self)

    def __matmul__(self, other: Any) -> Expression:
        return operations["matmul"](self, other)

    def __rmatmul__(self, other: Any) -> Expression:
        return operations["matmul"](other, self)

    def __neg__(self) -> Expression:
        return operations["negate"](self)

    def __pos__(self) -> Expression:
        return self

    def __pow__(self, exponent: Any) -> Expression:
        return operations["power"](self, exponent)

    def __rpow__(self, base: Any) -> Expression:
        raise CurvatureError(
            f"** takes a number as the exponent, and {self} depends on the variable.",
            expression=f"{base}**{enclosed(self._printed(), CALL)}",
            ways_out=(f"exp(log({base}) * e) for a positive base",),
        )

    def __eq__(self, other: object) -> Any:
        return comparisons["expectations"](self, "==", other)

    def __le__(self, other: Any) -> Any:
        return comparisons["expectations"](self, "<=", other)

    def __ge__(self, other: Any) -> Any:
        return comparisons["expectations"](self, ">=", other)

    def __lt__(self, other: Any) -> Any:
        return comparisons["expectations"](self, "<", other)

    def __gt__(self, other: Any) -> Any:
        return comparisons["expectations"](self, ">", other)

    def __hash__(self) -> int:
        return object.__hash__(self)

    def __getitem__(self, key: Any) -> Expression:
        return operations["index"](self, key)

    def __iter__(self) -> Iterator[Expression]:
        if not self.shape:
            raise TypeError(f"A scalar expression cannot be iterated over: {self}")
        return (self[row] for row in range(self.shape[0]))

    @property
    def T(self) -> Expression:
        """The transpose: all axes in reverse order."""
        return operations["transpose"](self)

    def __bool__(self) -> bool:
        raise TypeError(
            f"The truth value of an expression is not defined: {self}. Evaluate it first with .value(x); "
            "for the larger of two expressions use maximum(a, b), not Python's max."
        )

    def __abs__(self) -> Expression:
        return operations["abs"](self)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(
            f"numpy.{function.__name__} does not apply to expressions; alignkit's own functions do: "
            "ak.sum, ak.mean, ak.max, ak.stack, ak.reshape and the other atoms."
        )

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        # scipy's LinearOperator turns its right operand into an array and never defers to it, while sparse matrices do
        # the same and then defer when they see an object scalar. Only the caller tells the two apart.
        if sys._getframe(1).f_globals.get("__name__", "").startswith("scipy.sparse.linalg"):
            raise linear_map_needed(self)
        scalar = np.empty((), dtype=object)
        scalar[()] = self
        return scalar


def linear_map_needed(expression: Expression) -> ParameterError:
    """The error for a `LinearOperator` beside an arithmetic operator."""
    return ParameterError(
        "A scipy LinearOperator does not combine with expressions by operators.",
        expression=str(expression),
        ways_out=(f"linear_map(operator, {expression})",),
    )


def united(args: tuple[Expression, ...]) -> tuple[Parameter, ...]:
    """The parameters of several expressions, each once."""
    if not any(arg._parameters for arg in args):
        return ()
    return tuple(dict.fromkeys(parameter for arg in args for parameter in arg._parameters))


def versions_of(parameters: tuple[Parameter, ...]) -> tuple[int, ...]:
    """What changes exactly when one of the parameters gets another value."""
    return tuple(parameter.version for parameter in parameters)


def _forward(
    nodes: list[Expression], xp: Any, x: Array, given: Mapping[Parameter, Array] | None = None
) -> dict[int, Array]:
    """The value of every node, (n, *shape); (1, *shape) for what has no variable in it.

    Arguments:
        nodes: arguments before what is built from them.
        xp: the array namespace.
        x: (n, *shape).
        given: values of some parameters in place of their own, (1, *shape) or (n, *shape).
    """
    from alignkit.expressions.leaf import Constant, Parameter, Variable

    replaced = {} if given is None else {id(parameter): value for parameter, value in given.items()}
    found: dict[int, Array] = {}
    for node in nodes:
        if isinstance(node, Variable):
            found[id(node)] = x
        elif isinstance(node, Constant | Parameter):
            found[id(node)] = replaced[id(node)] if id(node) in replaced else node.like(x)
        else:
            values = [found[id(arg)] for arg in node.args]
            held = node._constants() if replaced else ()
            if any(id(parameter) in replaced for constant in held for parameter in constant._parameters):
                constants = [_forward(topological(constant), xp, x, given)[id(constant)] for constant in held]
                found[id(node)] = node._numeric_with(xp, values, constants)
            else:
                found[id(node)] = node._numeric(xp, values)
    return found


def _given(xp: Any, parameters: Mapping[Parameter, Array], rows: int) -> dict[Parameter, Array]:
    """Values of parameters with a leading axis, of length 1 or n."""
    found = {}
    for parameter, value in parameters.items():
        shape = tuple(value.shape)
        if shape == parameter.shape:
            found[parameter] = xp.reshape(value, (1, *shape))
        elif shape == (rows, *parameter.shape):
            found[parameter] = value
        else:
            raise ShapeError(
                f"The parameter {parameter} has shape {parameter.shape}, and the value given for it {shape}.",
                ways_out=(f"a value of its shape, or one for each row, ({rows}, *shape)",),
            )
    return found


def topological(root: Expression, stop: Callable[[Expression], bool] | None = None) -> list[Expression]:
    """All sub-expressions, each once, arguments before what is built from them; nothing below where `stop` holds."""
    order: list[Expression] = []
    seen: set[int] = set()
    stack: list[tuple[Expression, bool]] = [(root, False)]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            if stop is None or not stop(node):
                stack.extend((arg, False) for arg in reversed(node.args))
    return order


def bracketed(expression: Expression, strength: int) -> str:
    """The printed form, in parentheses if it binds less tightly than `strength`."""
    return enclosed(expression._printed(), strength)


def enclosed(part: Printed, strength: int) -> str:
    """A printed form, in parentheses if it binds less tightly than `strength`."""
    return part[0] if part[1] >= strength else f"({part[0]})"


def _batch(x: Any, variable: Variable | None, expression: Expression) -> tuple[Array, bool]:
    if x is None:
        if variable is not None:
            raise ParameterError(f"value() needs a value for the variable {variable}.", expression=str(expression))
        return np.zeros(1), False
    if not array_api_compat.is_array_api_obj(x):
        x = np.array(as_finite(x, "The point"))
    xp = array_api_compat.array_namespace(x)
    if xp.isdtype(x.dtype, "complex floating"):
        raise ParameterError("The point is complex; expressions are real.", expression=str(expression))
    if not xp.isdtype(x.dtype, "real floating"):
        wide = xp.result_type(xp.float32, float) if array_api_compat.is_jax_array(x) else xp.float64
        x = xp.astype(x, wide)
    if variable is None:
        return xp.reshape(x, (-1,))[:1], False
    shape = tuple(x.shape)
    if shape == variable.shape:
        return xp.reshape(x, (1, *shape)), False
    if shape[1:] == variable.shape and len(shape) == len(variable.shape) + 1:
        return x, True
    batch = ", ".join(["n", *(str(length) for length in variable.shape)])
    raise ShapeError(
        f"The point has shape {shape}, but the variable {variable} has shape {variable.shape}: "
        f"pass one point {variable.shape} or a batch ({batch}{'' if variable.shape else ','}).",
        expression=str(expression),
    )
