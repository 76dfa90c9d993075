"""Tilts of the shipped diffusers pipeline of digits against reweighted draws of itself; bar and columns of `digits`.

Its network is a U-net, thirty times as dear as that of `digits`: about an hour on one core for tilts up to ‖θ‖ = 2.
"""

from __future__ import annotations

import alignkit as ak
from alignkit_diffusers import DIGITS
from tests.benchmarks.digits import run_tilts, weights_key

STRENGTHS = (1.0, 2.0)
# As many as draws of an exact denoiser get; the model's own error is the larger one.
NFE = 31


def run() -> bool:
    base = ak.base.from_diffusers(DIGITS, nfe=NFE)
    key = weights_key("alignkit_diffusers", "digits", "unet", "diffusion_pytorch_model.safetensors")
    return run_tilts(base, STRENGTHS, f"{key}-{NFE}")
