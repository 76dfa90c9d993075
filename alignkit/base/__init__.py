"""Base laws: analytic laws, data sets, and pre-trained diffusion models."""

from alignkit.base.denoiser import Denoiser
from alignkit.base.empirical import Empirical
from alignkit.base.law import BaseLaw, ExactLaw
from alignkit.base.mixture import Gaussian, GaussianMixture
from alignkit.registry import base_law

__all__ = ["BaseLaw", "Denoiser", "Empirical", "ExactLaw", "Gaussian", "GaussianMixture", "digits"]


def digits() -> BaseLaw:
    """The shipped diffusion model of 8×8 handwritten digits, pixels in [−1, 1].

    Returns:
        a base law of shape (8, 8), trained by `python -m alignkit_torch.train_digits` on scikit-learn's digits.

    Raises:
        BackendUnavailableError: no installed backend offers it (install torch).

    Example:
        >>> digits().shape
        (8, 8)
    """
    law: BaseLaw = base_law("digits")
    return law
