"""Proximal maps of concave rewards of one feature, as a backend of alignkit."""

from alignkit.registry import Manifest

__all__ = ["manifest"]

manifest = Manifest(
    name="bisect",
    engines=("numpy",),
    install="pip install alignkit-bisect",
    prox_solver="alignkit_bisect.prox:BisectProxSolver",
)
