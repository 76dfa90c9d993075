"""The diffusers backend: base laws of pre-trained pipelines, and pipelines that sample tilted laws."""

from pathlib import Path

from alignkit.registry import Manifest

#: The shipped pipeline: 8×8 digits as a `DDPMPipeline`, for `DDPMPipeline.from_pretrained(DIGITS)`.
DIGITS = Path(__file__).parent / "digits"

manifest = Manifest(
    name="diffusers",
    engines=("diffusers", "torch"),
    install="pip install diffusers",
    model_importer="alignkit_diffusers.law:from_diffusers",
    pipeline_tilt="alignkit_diffusers.tilted_pipeline:tilted_pipeline",
)
