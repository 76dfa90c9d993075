"""DECLARE: variables, affine maps and atoms, with their curvature, ranges and Lipschitz constants."""

from alignkit.expressions.affine import inner, multiply
from alignkit.expressions.arrays import constant_like, logsumexp
from alignkit.expressions.atom import AffineAtom, Atom
from alignkit.expressions.atoms.curves import arctan, cos, sigmoid, sin, tanh
from alignkit.expressions.atoms.distances import distance_to_points
from alignkit.expressions.atoms.elementwise import (
    ConcaveElementwise,
    ConvexElementwise,
    Even,
    abs,
    huber,
    neg,
    pos,
    square,
)
from alignkit.expressions.atoms.exponential import entr, exp, log, log1p, logistic
from alignkit.expressions.atoms.lipschitz import lipschitz
from alignkit.expressions.atoms.norms import norm, norm1, norm2, norm_inf, pnorm, sigma_max, total_variation
from alignkit.expressions.atoms.order import log_sum_exp, max, maximum, min, minimum, sum_largest, sum_smallest
from alignkit.expressions.atoms.piecewise import clip, piecewise_linear
from alignkit.expressions.atoms.powers import geo_mean, inv_pos, power, sqrt
from alignkit.expressions.atoms.quadratic import quad_form, quad_over_lin, sum_squares
from alignkit.expressions.curvature import Curvature, Interval, Monotonicity, Sign
from alignkit.expressions.entry import Entry
from alignkit.expressions.expectation import Constraint, E, Expectation, expectations, without_expectations
from alignkit.expressions.expression import Condition, Expression
from alignkit.expressions.imported import from_cvxpy
from alignkit.expressions.layout import concatenate, reshape, stack, vec
from alignkit.expressions.leaf import Constant, Parameter, Variable, as_expression
from alignkit.expressions.linear import AffineMap, affine_map
from alignkit.expressions.operators import linear_map
from alignkit.expressions.reductions import cumsum, diff, mean, sum, trace
from alignkit.expressions.subspace import Subspace
from alignkit.expressions.table import ENTRIES

__all__ = [
    "ENTRIES",
    "AffineAtom",
    "AffineMap",
    "Atom",
    "ConcaveElementwise",
    "Condition",
    "Constant",
    "Constraint",
    "ConvexElementwise",
    "Curvature",
    "E",
    "Entry",
    "Even",
    "Expectation",
    "Expression",
    "Interval",
    "Monotonicity",
    "Parameter",
    "Sign",
    "Subspace",
    "Variable",
    "abs",
    "affine_map",
    "arctan",
    "as_expression",
    "clip",
    "concatenate",
    "constant_like",
    "cos",
    "cumsum",
    "diff",
    "distance_to_points",
    "entr",
    "exp",
    "expectations",
    "from_cvxpy",
    "geo_mean",
    "huber",
    "inner",
    "inv_pos",
    "linear_map",
    "lipschitz",
    "log",
    "log1p",
    "log_sum_exp",
    "logistic",
    "logsumexp",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "multiply",
    "neg",
    "norm",
    "norm1",
    "norm2",
    "norm_inf",
    "piecewise_linear",
    "pnorm",
    "pos",
    "power",
    "quad_form",
    "quad_over_lin",
    "reshape",
    "sigma_max",
    "sigmoid",
    "sin",
    "sqrt",
    "square",
    "stack",
    "sum",
    "sum_largest",
    "sum_smallest",
    "sum_squares",
    "tanh",
    "total_variation",
    "trace",
    "vec",
    "without_expectations",
]
