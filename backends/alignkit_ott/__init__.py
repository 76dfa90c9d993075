"""The OTT backend: translation-invariant costs of OTT-JAX, proximal maps in jax, and distances between samples.

Transport maps as functions that jax differentiates are here too; they take any backend's solver.
"""

from alignkit.registry import Manifest

__all__ = ["manifest"]

manifest = Manifest(
    name="ott",
    engines=("jax", "ott"),
    install="pip install ott-jax jax",
    prox_solver="alignkit_ott.prox:OttProxSolver",
    transport_layer="alignkit_ott.layer:JaxLayers",
    cost_importer="alignkit_ott.importer:from_ott",
    sample_distance="alignkit_ott.distances:wasserstein_distance",
)
