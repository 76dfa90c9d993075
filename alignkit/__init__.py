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

from alignkit import base, errors, expressions
from alignkit.aligned import Aligned
from alignkit.compiler.plan import Plan
from alignkit.expressions import *  # noqa: F403
from alignkit.problem import KL, Problem, Wasserstein
from alignkit.registry import installed_backends
from alignkit.transport import costs

__version__ = "0.1.0"

#: Names that `from alignkit import *` brings in; those that shadow builtins are left out, and reached as `ak.max`.
__all__ = [
    "KL",
    "Aligned",
    "Plan",
    "Problem",
    "Wasserstein",
    "base",
    "costs",
    "errors",
    "expressions",
    "installed_backends",
]
