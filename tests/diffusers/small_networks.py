"""Networks of diffusers' own classes, as small as they come and of random weights, the same ones at every call."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, UNet1DModel, UNet2DConditionModel, UNet2DModel
from torch import nn


def unet(**changes: Any) -> Any:
    """Of one channel, 8×8."""
    options = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
    }
    torch.manual_seed(0)
    return UNet2DModel(**options | changes).eval()


def sequence_unet() -> Any:
    """Of sequences of length 32, with two channels."""
    torch.manual_seed(0)
    return UNet1DModel(
        sample_size=32,
        in_channels=2,
        out_channels=2,
        extra_in_channels=64,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D"),
        up_block_types=("UpBlock1D", "UpBlock1DNoSkip"),
    ).eval()


def text_unet(channels: int) -> Any:
    """8×8, told of a text by embeddings of width 8."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()


def transformer(channels: int = 2, sample_size: int = 8, classes: int = 10) -> Any:
    """Told a class; the second half of its answer is a learned variance."""
    torch.manual_seed(0)
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=channels,
        out_channels=2 * channels,
        num_layers=1,
        sample_size=sample_size,
        patch_size=2,
        num_embeds_ada_norm=classes,
        norm_num_groups=2,
    ).eval()


def autoencoder(**options: Any) -> Any:
    """Pictures of three channels, and latents of four at half the size."""
    torch.manual_seed(0)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=4,
        layers_per_block=1,
        **options,
    ).eval()


class Rows:
    """How many rows a network has seen, call by call."""

    def __init__(self, network: nn.Module) -> None:
        self.seen: list[int] = []
        network.register_forward_pre_hook(lambda module, given: self.seen.append(len(given[0])))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
