"""The numba backend: compiled proximal solvers for the CPU, rows in lanes, and passes over rows."""

from alignkit.registry import Manifest

__all__ = ["manifest"]

manifest = Manifest(
    name="numba",
    engines=("numba",),
    install="pip install numba",
    prox_solver="alignkit_numba.prox:NumbaProxSolver",
    row_passes="alignkit_numba.rows:CompiledRowPasses",
)
