"""alignkit: declare a reward, and turn a pre-trained diffusion model into a sampler that favours it.

import alignkit as ak

base = ak.base.digits()
x = ak.Variable(base.shape)
problem = ak.Problem(8 * ak.mean(x[:4, :]), base, ak.KL(weight=2.0))
print(problem.explain())
aligned = problem.solve(seed=0)
images = aligned.sample(256, seed=1)
print(aligned.certificate)
"""

from alignkit import base, errors
from alignkit.aligned import Aligned
from alignkit.compiler.plan import Plan
from alignkit.expressions import (
    Constant,
    Expression,
    Variable,
    abs as abs,
    concatenate,
    cumsum,
    diff,
    huber,
    inner,
    linear_map,
    log_sum_exp,
    max as max,
    maximum,
    mean,
    min as min,
    minimum,
    multiply,
    norm1,
    norm2,
    norm_inf,
    pos,
    quad_form,
    reshape,
    square,
    stack,
    sum as sum,
    sum_squares,
    trace,
    vec,
)
from alignkit.problem import KL, Problem, Wasserstein
from alignkit.registry import installed_backends
from alignkit.transport import costs

__version__ = "0.1.0"

# What `from alignkit import *` brings in: names that shadow builtins are left out, and reached as ak.abs, ak.max …
__all__ = [
    "KL",
    "Aligned",
    "Constant",
    "Expression",
    "Plan",
    "Problem",
    "Variable",
    "Wasserstein",
    "base",
    "concatenate",
    "costs",
    "cumsum",
    "diff",
    "errors",
    "huber",
    "inner",
    "installed_backends",
    "linear_map",
    "log_sum_exp",
    "maximum",
    "mean",
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
    "sum_squares",
    "trace",
    "vec",
]
