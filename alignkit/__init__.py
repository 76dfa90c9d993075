"""alignkit: declare a reward, and turn a pre-trained diffusion model into a sampler that favours it.

```python
import alignkit as ak

base = ak.base.digits()
x = ak.Variable(base.shape)
problem = ak.Problem(8 * ak.mean(x[:4, :]), base, ak.KL(weight=2.0))
print(problem.explain())
aligned = problem.solve(seed=0)
images = aligned.sample(256, seed=1)
print(aligned.certificate)
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alignkit import base, errors
from alignkit.expressions import (
    Constant,
    Constraint,
    E,
    Expression,
    Parameter,
    Variable,
    abs as abs,
    arctan,
    clip,
    concatenate,
    cos,
    cumsum,
    diff,
    distance_to_points,
    entr,
    exp,
    from_cvxpy,
    geo_mean,
    huber,
    inner,
    inv_pos,
    linear_map,
    lipschitz,
    log,
    log1p,
    log_sum_exp,
    logistic,
    max as max,
    maximum,
    mean,
    min as min,
    minimum,
    multiply,
    neg,
    norm,
    norm1,
    norm2,
    norm_inf,
    piecewise_linear,
    pnorm,
    pos,
    power,
    quad_form,
    quad_over_lin,
    reshape,
    sigma_max,
    sigmoid,
    sin,
    sqrt,
    square,
    stack,
    sum as sum,
    sum_largest,
    sum_smallest,
    sum_squares,
    tanh,
    total_variation,
    trace,
    vec,
)
from alignkit.registry import installed_backends
from alignkit.transport import costs
from alignkit.transport.distance import wasserstein_distance

if TYPE_CHECKING:
    from alignkit.aligned import Aligned
    from alignkit.compiler.plan import Plan
    from alignkit.loading import load
    from alignkit.problem import KL, Problem, Wasserstein
    from alignkit.tilting.tilted_law import TiltedLaw, tilt, tilted_pipeline

__version__ = "0.1.0"

# What `from alignkit import *` brings in: names that shadow builtins are left out, and reached as ak.abs, ak.max …
__all__ = [
    "KL",
    "Aligned",
    "Constant",
    "Constraint",
    "E",
    "Expression",
    "Parameter",
    "Plan",
    "Problem",
    "TiltedLaw",
    "Variable",
    "Wasserstein",
    "arctan",
    "base",
    "clip",
    "concatenate",
    "cos",
    "costs",
    "cumsum",
    "diff",
    "distance_to_points",
    "entr",
    "errors",
    "exp",
    "from_cvxpy",
    "geo_mean",
    "huber",
    "inner",
    "installed_backends",
    "inv_pos",
    "linear_map",
    "lipschitz",
    "load",
    "log",
    "log1p",
    "log_sum_exp",
    "logistic",
    "maximum",
    "mean",
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
    "sum_largest",
    "sum_smallest",
    "sum_squares",
    "tanh",
    "tilt",
    "tilted_pipeline",
    "total_variation",
    "trace",
    "vec",
    "wasserstein_distance",
]

#: Where the names are defined that need the compiler, which takes longer to import than the language.
_DEFERRED = {
    "Aligned": "alignkit.aligned",
    "KL": "alignkit.problem",
    "Plan": "alignkit.compiler.plan",
    "Problem": "alignkit.problem",
    "TiltedLaw": "alignkit.tilting.tilted_law",
    "Wasserstein": "alignkit.problem",
    "load": "alignkit.loading",
    "tilt": "alignkit.tilting.tilted_law",
    "tilted_pipeline": "alignkit.tilting.tilted_law",
}


def __getattr__(name: str) -> Any:
    """The compiler's names, imported when they are first asked for."""
    if name not in _DEFERRED:
        raise AttributeError(f"module 'alignkit' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_DEFERRED[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_DEFERRED})
