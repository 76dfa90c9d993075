"""The torch backend: tilt sampler, closed-form proximal maps, and the shipped digits model."""

from alignkit.registry import Manifest

manifest = Manifest(
    name="torch",
    engines=("torch", "safetensors"),
    install="pip install torch safetensors",
    tilt_sampler="alignkit_torch.tilt_sampler:TorchTiltSampler",
    prox_solver="alignkit_torch.prox:TorchProxSolver",
    base_sampler="alignkit_torch.tilt_session:sample_base",
    base_laws={"digits": "alignkit_torch.digits:digits"},
)
