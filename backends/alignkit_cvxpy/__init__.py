"""The cvxpy backend: any concave reward that disciplined convex programming can express, certified row by row."""

from alignkit.registry import Manifest

__all__ = ["manifest"]

manifest = Manifest(
    name="cvxpy",
    engines=("cvxpy",),
    install="pip install cvxpy",
    prox_solver="alignkit_cvxpy.prox:CvxpyProxSolver",
    lowering="alignkit_cvxpy.lowering:LOWERINGS",
    importer="alignkit_cvxpy.importer:from_cvxpy",
)
