"""The table of what a saved result may hold: the only classes that reading one ever makes."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from alignkit.certificates import (
    Calibration,
    KLCertificate,
    Moment,
    RadiusCertificate,
    RadiusPath,
    TransportCertificate,
)
from alignkit.citations import Citation
from alignkit.compiler.closeness import KL, Wasserstein
from alignkit.contracts import Bid, Composition, Guarantee, Refusal
from alignkit.errors import Status
from alignkit.estimates import Estimate
from alignkit.expressions import Subspace
from alignkit.saving.laws import law_kinds
from alignkit.saving.nodes import expression_kinds
from alignkit.saving.records import Kind, kind_by_names, kind_of_dataclass
from alignkit.tilting.fitted import AnnealingStage, TiltMoments
from alignkit.tilting.measures import FiniteMeasure, GaussianMeasure, LabelsMeasure, PointMeasure, ProductMeasure
from alignkit.transport import costs

__all__ = ["kinds"]

_COSTS = (
    costs.SquaredEuclidean, costs.Weighted, costs.Mahalanobis, costs.Euclidean, costs.PNorm, costs.L1, costs.ElasticNet,
)  # fmt: skip
_FACTS = (
    Estimate, Calibration, Moment, RadiusPath, KLCertificate, RadiusCertificate, TransportCertificate, Citation, Bid,
    Refusal, Composition, TiltMoments, AnnealingStage,
)  # fmt: skip


@cache
def kinds() -> Mapping[type, Kind]:
    """From a class to its kind."""
    found = [
        *expression_kinds(),
        *law_kinds(),
        *_measures(),
        kind_of_dataclass("closeness.KL", KL),
        kind_of_dataclass("closeness.Wasserstein", Wasserstein),
        *(kind_of_dataclass(f"cost.{cost.__name__}", cost) for cost in _COSTS),
        *(kind_of_dataclass(fact.__name__, fact) for fact in _FACTS),
        Kind(
            "Subspace",
            Subspace,
            lambda one: {"dimension": one.dimension, "ambient": one.ambient, "maps": one._maps},
            lambda parts: Subspace(**parts),
        ),
        _by_name(Guarantee),
        _by_name(Status),
    ]
    return {kind.type: kind for kind in found}


def _by_name(made: type[enum.Enum]) -> Kind:
    return Kind(made.__name__, made, lambda one: {"name": one.name}, lambda parts: made[parts["name"]])


def _measures() -> list[Kind]:
    gaussian = kind_by_names(
        "measure.Gaussian", GaussianMeasure, "dimension", "root", "shift", "constant", "description"
    )
    return [
        kind_by_names("measure.Point", PointMeasure, "tilt", "constant"),
        replace(gaussian, make=_gaussian_measure),
        kind_by_names("measure.Finite", FiniteMeasure, "nodes", "log_weights", "tempered", "is_exact", "description"),
        kind_by_names("measure.Labels", LabelsMeasure, "matrix", "offset", "scale"),
        kind_by_names("measure.Product", ProductMeasure, "parts"),
    ]


def _gaussian_measure(parts: dict[str, object]) -> GaussianMeasure:
    measure = GaussianMeasure([[0.0]])
    # The root as it is: made anew from the covariance it would differ by rounding.
    vars(measure).update(parts)
    return measure
