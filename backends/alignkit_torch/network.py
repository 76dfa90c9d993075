"""The network behind `alignkit.base.digits()`: a residual MLP with σ-FiLM inside EDM preconditioning.

The preconditioning is that of Karras, Aittala, Aila and Laine (2022), "Elucidating the Design Space of
Diffusion-Based Generative Models", Table 1 (arXiv 2206.00364), applied to each principal component of the data with
that component's own variance in the place of σ_data². The skip path is then the exact denoiser of the Gaussian with the
data's mean and covariance, which is what the posterior mean tends to as the noise grows: what the network must get
right shrinks with it, and the learned part is damped accordingly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

PIXELS = 64


class FilmBlock(nn.Module):
    """One pre-normalised residual block whose normalised input is scaled and shifted by the noise embedding.

    Args:
        width: features carried along the residual stream.
        embedding: features of the noise embedding.
        dropout: probability of dropping a hidden feature while training.
    """

    def __init__(self, width: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(embedding, 2 * width)
        self.expand = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.contract = nn.Linear(width, width)
        # A block that starts as the identity keeps early training close to the Gaussian denoiser of the skip path.
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        """Map features (n, width) and embedding (n, embedding) to features (n, width)."""
        scale, shift = self.film(embedding).chunk(2, dim=-1)
        hidden = torch.addcmul(shift, self.norm(features), 1 + scale)
        hidden = nn.functional.silu(self.expand(hidden))
        found: Tensor = features + self.contract(self.dropout(hidden))
        return found


class DigitsNetwork(nn.Module):
    """The raw network F of EDM: preconditioned pixels and c_noise = ln(σ)/4 to a preconditioned residual.

    Args:
        width: features of the residual stream.
        blocks: number of residual blocks.
        embedding: features of the noise embedding.
        dropout: probability of dropping a hidden feature while training.
    """

    frequencies: Tensor

    def __init__(self, width: int = 256, blocks: int = 3, embedding: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        # ln(σ)/4 spans about [-1.6, 1.1]: frequencies of 1/2 to 4 turns per unit resolve a factor of two in σ.
        self.register_buffer("frequencies", torch.logspace(-1, 2, embedding // 4, base=2.0) * 2 * math.pi)
        self.embed = nn.Sequential(
            nn.Linear(embedding // 2, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.enter = nn.Linear(PIXELS, width)
        self.blocks = nn.ModuleList(FilmBlock(width, embedding, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, PIXELS)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, inputs: Tensor, noise_level: Tensor) -> Tensor:
        """Map inputs (n, 64) of unit variance and noise_level (n,) = ln(σ)/4 to F (n, 64)."""
        angles = noise_level[:, None] * self.frequencies
        embedding = self.embed(torch.cat([angles.sin(), angles.cos()], dim=-1))
        features = self.enter(inputs)
        for block in self.blocks:
            features = block(features, embedding)
        found: Tensor = self.leave(nn.functional.silu(self.norm(features)))
        return found

    def multiply_adds(self) -> int:
        """Multiply-adds of one row's forward pass in the matrix products (the rest is a few per cent)."""
        return sum(layer.in_features * layer.out_features for layer in self.modules() if isinstance(layer, nn.Linear))


class PreconditionedDenoiser(nn.Module):
    """E[x₀ | x_σ = x] for 8×8 digits: EDM preconditioning along the principal components of the data around a network.

    Args:
        network: the raw network F.
        mean: the data's mean, (64,).
        directions: the data's principal directions, one per column, (64, 64).
        variances: the variances along them, (64,), all positive.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor

    def __init__(
        self,
        network: DigitsNetwork,
        mean: Tensor | None = None,
        directions: Tensor | None = None,
        variances: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.zeros(PIXELS) if mean is None else mean)
        self.register_buffer("directions", torch.eye(PIXELS) if directions is None else directions)
        self.register_buffer("variances", torch.ones(PIXELS) if variances is None else variances)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return E[x₀ | x₀ + σz = x], (n, 8, 8), in [-1, 1].

        Args:
            x: noisy images (n, 8, 8), of the parameters' dtype.
            sigma: noise levels (n,), or (1,) for one that all rows share, in the units of the pixels, in [0.002, 80].
        """
        noise = sigma[:, None].square()
        total = self.variances + noise
        offset = (x.reshape(-1, PIXELS) - self.mean) @ self.directions
        c_in = total.rsqrt()
        whitened = c_in * offset
        residual = self.network(whitened, 0.25 * sigma.log())
        # Beyond the Gaussian posterior mean there is at most its own spread, σ√(λ/(λ+σ²)), and that excess fades
        # like 1/σ once the noise drowns the widest component.
        fading = (1 + noise / self.variances.amax()).rsqrt()
        c_out = sigma[:, None] * self.variances.sqrt() * c_in * fading
        denoised = self.variances * c_in * whitened + c_out * residual
        denoised = (self.mean + denoised @ self.directions.T).reshape(x.shape)
        # A mean of images in [-1, 1] lies there too. Paper is exactly −1 in most pixels: a bound lets the network say
        # so without having to be exact itself, and holds under tilts that no training could have covered.
        bounded: Tensor = denoised.detach().clamp(-1, 1)
        if not torch.is_grad_enabled():
            return bounded
        # The gradient passes the bound: it vanishes by itself where the target is the bound, and must not elsewhere.
        found: Tensor = denoised + (bounded - denoised.detach())
        return found
