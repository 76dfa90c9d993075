"""DECLARE: variables, affine maps and atoms, with their curvature, ranges and Lipschitz constants."""

from alignkit.expressions.affine import inner, multiply
from alignkit.expressions.arrays import constant_like, logsumexp
from alignkit.expressions.atom import AffineAtom, Atom
from alignkit.expressions.atoms.elementwise import abs, huber, pos, square
from alignkit.expressions.atoms.norms import norm1, norm2, norm_inf
from alignkit.expressions.atoms.order import log_sum_exp, max, maximum, min, minimum
from alignkit.expressions.atoms.quadratic import quad_form, sum_squares
from alignkit.expressions.curvature import Curvature, Interval, Monotonicity, Sign
from alignkit.expressions.expression import Condition, Expression
from alignkit.expressions.layout import concatenate, reshape, stack, vec
from alignkit.expressions.leaf import Constant, Parameter, Variable, as_expression
from alignkit.expressions.linear import AffineMap, affine_map
from alignkit.expressions.operators import linear_map
from alignkit.expressions.reductions import cumsum, diff, mean, sum, trace
from alignkit.expressions.subspace import Subspace

__all__ = [
    "AffineAtom",
    "AffineMap",
    "Atom",
    "Condition",
    "Constant",
    "Curvature",
    "Expression",
    "Interval",
    "Monotonicity",
    "Parameter",
    "Sign",
    "Subspace",
    "Variable",
    "abs",
    "affine_map",
    "as_expression",
    "concatenate",
    "constant_like",
    "cumsum",
    "diff",
    "huber",
    "inner",
    "linear_map",
    "log_sum_exp",
    "logsumexp",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "multiply",
    "norm1",
    "norm2",
    "norm_inf",
    "pos",
    "quad_form",
    "reshape",
    "square",
    "stack",
    "sum",
    "sum_squares",
    "trace",
    "vec",
]
