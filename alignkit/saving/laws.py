"""Base laws in files: analytic laws and data by numbers, shipped models by name, networks by what they draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit import registry
from alignkit.base import BaseLaw, Empirical, Gaussian, GaussianMixture
from alignkit.errors import BackendUnavailableError, ParameterError, ShapeError
from alignkit.saving.records import Kind

__all__ = ["draws_to_tell", "law_kinds", "looks_of", "shipped_name", "tell_apart"]

#: Draws that tell whether a network is the one that was saved: so many, of this seed.
_ROWS, _SEED = 2, 20261129
#: They may differ by this share of their own size, as devices round differently.
_SAME = 0.05
#: What a fit depends on beside the network itself.
_LOOKS = ("shape", "dtype", "exact", "sigma_min", "sigma_max", "data_range")


def law_kinds() -> list[Kind]:
    """A kind for each law that is numbers alone."""
    return [
        Kind("law.Empirical", Empirical, _of_data, _data),
        Kind("law.GaussianMixture", GaussianMixture, _of_mixture, lambda parts: _mixture(GaussianMixture, parts)),
        Kind("law.Gaussian", Gaussian, _of_mixture, lambda parts: _mixture(Gaussian, parts)),
    ]


def _of_data(law: Empirical) -> dict[str, Any]:
    return {"data": law.data.reshape(-1, *law.shape), "log_weights": law._log_weights, "name": law.name}


def _data(parts: dict[str, Any]) -> Empirical:
    law = Empirical(parts["data"], name=parts["name"])
    # Those of a law that was tilted are not all alike.
    law._log_weights = parts["log_weights"]
    return law


def _of_mixture(law: GaussianMixture) -> dict[str, Any]:
    levels = {name: getattr(law, name) for name in ("tail", "sigma_min", "sigma_max", "name")}
    return {
        "weights": law.weights,
        "means": law.means.reshape(-1, *law.shape),
        "variances": law._variances,
        "axes": law._axes,
    } | levels


def _mixture(made: type[GaussianMixture], parts: dict[str, Any]) -> GaussianMixture:
    law = object.__new__(made)
    GaussianMixture.__init__(law, parts["weights"], parts["means"], 1.0, name=parts["name"])
    # As they are: made anew from matrices they would differ by rounding.
    law.weights, law._variances, law._axes = parts["weights"], parts["variances"], parts["axes"]
    law.tail, law.sigma_min, law.sigma_max = parts["tail"], parts["sigma_min"], parts["sigma_max"]
    return law


def draws_to_tell(law: BaseLaw) -> NDArray[Any]:
    """A few draws that tell a law from others, (2, *shape)."""
    return np.asarray(law.sample(_ROWS, seed=_SEED))


def shipped_name(law: BaseLaw, draws: NDArray[Any]) -> str | None:
    """The name by which some backend offers this very law; None where none does."""
    try:
        shipped = registry.base_law(law.name)
    except BackendUnavailableError:
        return None
    is_same = shipped.shape == law.shape and np.array_equal(draws_to_tell(shipped), draws)
    return law.name if is_same else None


def looks_of(law: BaseLaw) -> dict[str, Any]:
    """What is known of a law that a file cannot hold."""
    return {"name": law.name, "class": type(law).__name__} | {name: getattr(law, name) for name in _LOOKS}


def tell_apart(law: Any, looks: Mapping[str, Any], draws: NDArray[Any]) -> None:
    """Raise unless a law is the one of which these looks and draws were saved.

    Raises:
        ParameterError, ShapeError: it is another.
    """
    if not isinstance(law, BaseLaw):
        raise ParameterError(f"base= is a base law of ak.base, not {type(law).__name__}.")
    if law.shape != looks["shape"]:
        raise ShapeError(
            f"The result was saved for a base law of shape {looks['shape']}, and {law.name!r} has {law.shape}.",
            ways_out=[f"Pass the law that it was solved with, {looks['name']!r}."],
        )
    for name in _LOOKS:
        if getattr(law, name) != looks[name]:
            raise ParameterError(
                f"The result was saved for a base law with {name} = {looks[name]!r}, and {law.name!r} has "
                f"{getattr(law, name)!r}.",
                ways_out=[f"Pass the law that it was solved with, {looks['name']!r}, declared in the same way."],
            )
    found = draws_to_tell(law).astype(np.float64)
    off = float(np.linalg.norm(found - draws) / max(float(np.linalg.norm(draws)), np.finfo(float).tiny))
    if not off <= _SAME:
        raise ParameterError(
            f"The base law {law.name!r} draws something else than the one that the result was saved with: with the "
            f"same seed its draws differ by {off:.0%} of their size.",
            ways_out=["Load the same weights of the network.", "Solve the problem again with this base law."],
        )
