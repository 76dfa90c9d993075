"""The Pyomo backend: algebraic expressions for solvers of global and integer programs."""

from alignkit.registry import Manifest

__all__ = ["manifest"]

manifest = Manifest(
    name="pyomo",
    engines=("pyomo",),
    install="pip install 'alignkit[pyomo]'",
    lowering="alignkit_pyomo.lowering:LOWERINGS",
)
