"""The grid backend: certified global maximisation in few dimensions, by tables and by branch and bound."""

from alignkit.registry import Manifest

__all__ = ["manifest"]

manifest = Manifest(
    name="grid",
    engines=(),
    install="pip install alignkit",
    prox_solver="alignkit_grid.prox:GridProxSolver",
)
