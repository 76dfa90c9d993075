"""The torch backend: tilt sampler, closed-form proximal maps, their derivatives, and the shipped digits model."""

from alignkit.registry import Manifest

manifest = Manifest(
    name="torch",
    engines=("torch", "safetensors"),
    install="pip install torch safetensors",
    tilt_sampler="alignkit_torch.tilt_sampler:TorchTiltSampler",
    prox_solver="alignkit_torch.prox:TorchProxSolver",
    transport_layer="alignkit_torch.layer:TorchLayers",
    base_sampler="alignkit_torch.tilt_session:sample_base",
    base_laws={"digits": "alignkit_torch.digits:digits"},
)
