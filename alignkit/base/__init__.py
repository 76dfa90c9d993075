"""Base laws: analytic laws, data sets, and pre-trained diffusion models."""

from typing import Any

from alignkit.base.denoiser import Denoiser
from alignkit.base.empirical import Empirical
from alignkit.base.law import BaseLaw, ExactLaw
from alignkit.base.mixture import Gaussian, GaussianMixture
from alignkit.registry import base_law, offered

__all__ = ["BaseLaw", "Denoiser", "Empirical", "ExactLaw", "Gaussian", "GaussianMixture", "digits", "from_diffusers"]


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


def from_diffusers(model: Any, scheduler: Any = None, **options: Any) -> Denoiser:
    """The base law of a pre-trained model of Hugging Face's diffusers.

    The network is called with its own timesteps and coordinates, where it lies and in its own precision; neither it nor
    the scheduler is changed. Of the scheduler only the table counts, t ↔ σ, and not the method. A learned variance is
    ignored. `clip_sample` and `thresholding` make the law bounded, with a data range that what is denoised is clipped
    to. Draws start at the table's end, or at σ = 160 where it goes on (cosine tables, flow matching, zero terminal
    signal): what they would do above costs the steps below.

    Arguments:
        model: a pipeline with a `unet` or a `transformer`; a network by itself, that is any callable `(sample (n,
            *shape), timestep (n,))`; or a folder that `save_pretrained` wrote of either, with weights in safetensors.
        scheduler: in the place of the pipeline's own; needed with a network by itself. A flow-matching network that is
            told t, and not t·1000, belongs to `FlowMatchEulerDiscreteScheduler(num_train_timesteps=1)`.
        **options: any of these, by name:

            - shape: that of one sample, such as (3, 32, 32), where the network does not say it, or says another.
            - prompt, class_labels, conditioning, unconditional, guidance_scale: what a conditional model is told. A
              prompt goes through the pipeline's text encoders; `conditioning` and `unconditional` are mappings from the
              network's arguments to tensors of one row. With a guidance_scale g other than 1 the law is that of u + g(c
              − u), at two evaluations each.
            - exact: promises the true posterior mean, as for `Denoiser`; wrong for trained networks.
            - tail: as for `Denoiser`.
            - sigma_min, sigma_max: where draws end and start, within the scheduler's own levels, in units of x.
            - solver, nfe: the method that draws and its evaluations in a draw, as for `Denoiser`.
            - dtype: the floating type of draws, "float32" or "float64"; the network keeps its own.
            - device: where the network is called; None is where it lies.
            - row_bytes: what a row takes in memory; None measures it.
            - name: what `explain()` calls the law.

    Returns:
        the law, over latents where the pipeline has an autoencoder; then `.decode(latents)` makes pictures.

    Raises:
        ParameterError: a scheduler that cannot be mapped to noise levels, a model without a network or a scheduler,
            pickled weights, a condition that does not fit.
        ShapeError: the network does not take samples of the shape, or answers with another.
        NonFiniteError: it answers noise with NaN or infinity.
        BackendUnavailableError: diffusers is not installed.

    Example:
        `ak.base.from_diffusers(DDPMPipeline.from_pretrained("google/ddpm-cifar10-32"))` is a law of shape (3, 32, 32).
    """
    law: Denoiser = offered("model_importer")(model, scheduler, **options)
    return law
