"""The diffusers backend: base laws of pre-trained pipelines, and pipelines that sample tilted laws."""

from alignkit.registry import Manifest

manifest = Manifest(
    name="diffusers",
    engines=("diffusers", "torch"),
    install="pip install 'alignkit[diffusers]'",
    model_importer="alignkit_diffusers.law:from_diffusers",
    pipeline_tilt="alignkit_diffusers.tilted_pipeline:tilted_pipeline",
)
