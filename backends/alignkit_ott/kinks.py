"""Where a function has a kink, from its atoms."""

from __future__ import annotations

from alignkit.expressions import Expression
from alignkit.expressions.atom import Atom
from alignkit.expressions.atoms.distances import DistanceToPoints
from alignkit.expressions.atoms.elementwise import Abs, Neg, Pos, Square
from alignkit.expressions.atoms.lipschitz import UserFunction
from alignkit.expressions.atoms.norms import Norm, Norm2
from alignkit.expressions.atoms.order import Max, Maximum, Min, SumOfSome
from alignkit.expressions.atoms.piecewise import Clip, PiecewiseLinear
from alignkit.expressions.atoms.quadratic import SumSquares
from alignkit.expressions.expression import topological

__all__ = ["kinked_atom"]

#: Atoms that need not be differentiable, or of which that is not known; subclasses included.
_KINKED = (Abs, Pos, Neg, Norm, Max, Min, Maximum, SumOfSome, Clip, PiecewiseLinear, DistanceToPoints, UserFunction)
#: Atoms whose squares are differentiable, as each has its kink where it is 0.
_SMOOTH_WHEN_SQUARED = (Abs, Pos, Neg, Norm2)


def kinked_atom(nonlinear: Expression) -> Atom | None:
    """An atom that may make f nondifferentiable; None where f is proved differentiable inside its domain.

    Arguments:
        nonlinear: f.

    Example:
        >>> from alignkit.expressions import Variable, norm1, pos, square
        >>> w = Variable(2)
        >>> kinked_atom(square(pos(w[0]))) is None, str(kinked_atom(square(w[0]) - norm1(w)))
        (True, 'norm1(x)')
    """
    squared: dict[int, bool] = {}
    for node in topological(nonlinear):
        for arg in node.args:
            squared[id(arg)] = squared.get(id(arg), True) and isinstance(node, Square | SumSquares)
    for node in topological(nonlinear):
        if isinstance(node, _KINKED) and node.depends:
            assert isinstance(node, Atom)
            if not (squared.get(id(node), False) and isinstance(node, _SMOOTH_WHEN_SQUARED)):
                return node
    return None
