"""The Pyomo backend: algebraic expressions for solvers of global and integer programs, and proximal maps by them."""

from alignkit.registry import Manifest

__all__ = ["manifest"]

manifest = Manifest(
    name="pyomo",
    engines=("pyomo",),
    install="pip install pyomo highspy pyscipopt",
    prox_solver="alignkit_pyomo.prox:PyomoProxSolver",
    lowering="alignkit_pyomo.lowering:LOWERINGS",
)
