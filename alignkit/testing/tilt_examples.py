"""Tilted laws whose moments are closed forms, as requests to a sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignkit.base import BaseLaw, Denoiser, Empirical, ExactLaw, Gaussian, GaussianMixture
from alignkit.contracts import Floats, TiltProgram

__all__ = ["TiltExample", "tilt_examples"]


@dataclass(frozen=True, eq=False)
class TiltExample:
    """A base law p, tilts of it, and the laws q_θ ∝ p·exp⟨θ, x⟩ in closed form.

    Arguments:
        name: what reports call it.
        base: p as the sampler is given it.
        law: p in closed form.
        directions: (m, d), in units of 1/x.
        coordinates: (j, m); tilt i is coordinates[i] @ directions.

    Example:
        >>> example = tilt_examples()[0]
        >>> example.tilted(0).shape == example.base.shape
        True
    """

    name: str
    base: BaseLaw
    law: ExactLaw
    directions: Floats
    coordinates: Floats

    def program(self, rows: int, *, device: str = "auto") -> TiltProgram:
        """What a backend is asked.

        Arguments:
            rows: how many draws it is told to expect.
            device: as the engine names it.

        Returns:
            the program of the tilts (j, m) over the directions (m, d).
        """
        return TiltProgram(self.base, self.directions, self.coordinates, rows, device)

    def tilted(self, index: int) -> ExactLaw:
        """The law of one of the tilts, in closed form.

        Arguments:
            index: which, from 0 to j − 1.

        Returns:
            a law of the shape of p.
        """
        return self.law.tilt(self.coordinates[index] @ self.directions)

    @property
    def scale(self) -> Floats:
        """The standard deviation of each entry of x under p, (d,)."""
        return np.sqrt(np.diag(self.law.covariance))


def tilt_examples(*, seed: int = 0) -> tuple[TiltExample, ...]:
    """All published tilts: of Gaussians, mixtures and data sets, given as such and by their denoisers alone.

    Arguments:
        seed: fixes the laws and the directions.

    Example:
        >>> [example.name for example in tilt_examples() if not example.base.exact]
        ['learned denoiser']
    """
    rng = np.random.default_rng(seed)
    root = np.tril(rng.standard_normal((3, 3))) + 2.0 * np.eye(3)
    gaussian = Gaussian(rng.standard_normal(3), root @ root.T / 4.0)
    image = Gaussian(rng.standard_normal((2, 3)), rng.uniform(0.5, 2.0, size=(2, 3)))
    # Components a few standard deviations apart, between which a tilt moves the weights.
    mixture = GaussianMixture([0.5, 0.3, 0.2], [[-2.0, 0.0], [2.0, 1.0], [0.0, 3.0]], [0.3, 0.5, 0.2])
    data = Empirical(rng.standard_normal((40, 2)) * [1.0, 3.0])
    plane = np.array([[1.0, 0.0], [0.3, 0.5]])
    along = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-0.5, 0.8]])
    ramp = np.array([[0.0], [1.0], [-1.5]])

    def given(name: str, law: ExactLaw, directions: Floats, coordinates: Floats) -> TiltExample:
        return TiltExample(name, law, law, directions, coordinates)

    return (
        given("Gaussian", gaussian, np.array([[0.6, -0.4, 0.5]]), ramp),
        given("Gaussian of shape (2, 3)", image, rng.standard_normal((2, 6)) / 2.0, along),
        given("mixture", mixture, plane, along),
        given("data set", data, plane / 2.0, along),
        TiltExample("denoiser of a mixture", by_denoiser(mixture, mixture.denoise), mixture, plane, along),
        TiltExample(
            "learned denoiser",
            by_denoiser(mixture, mixture.denoise, exact=False),
            mixture,
            np.array([[0.4, 0.3]]),
            ramp,
        ),
    )


def by_denoiser(
    law: ExactLaw, denoise: Callable[[Any, Any], Any], *, exact: bool = True, evaluations_per_denoise: int = 1
) -> Denoiser:
    """A law known by a denoiser alone, with the noise levels and the tail of a closed form.

    Arguments:
        law: the closed form.
        denoise: its denoiser.
        exact: whether the sampler may take the denoiser for the posterior mean.
        evaluations_per_denoise: of its network for a row.
    """
    return Denoiser(
        denoise,
        law.shape,
        sigma_min=law.sigma_min,
        sigma_max=law.sigma_max,
        exact=exact,
        tail=law.tail,
        dtype="float64",
        evaluations_per_denoise=evaluations_per_denoise,
    )
