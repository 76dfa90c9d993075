"""Train the shipped `diffusers` pipeline of 8×8 digits: a small `UNet2DModel` under a `DDPMScheduler`.

The teacher is `alignkit.base.digits()`, itself trained on scikit-learn's digits. Its draws are noised, and the U-net
learns the teacher's posterior mean at each, as a v-prediction (Salimans and Ho, 2022, "Progressive distillation for
fast sampling of diffusion models", arXiv 2202.00512, appendix D). Such targets vary far less than single images do. A
part of the rows is moved by σ²θ, as tilts will move them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm import tqdm

import alignkit as ak
from alignkit_diffusers import DIGITS

# Levels that the shape of a digit is decided at get most of the rows.
_SIGMA_SHAPE = (0.03, 30.0)
_SHARE_SHAPE = 0.85
_SHARE_TILTED = 0.25
_STRONGEST_TILT = 4.5


def digits_network() -> UNet2DModel:
    """The untrained U-net: 8×8 at 32 channels, 4×4 at 64, attention in the middle."""
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=8,
    )


def digits_scheduler() -> DDPMScheduler:
    """Ho, Jain and Abbeel's thousand linear variances (arXiv 2006.11239), v-prediction, pixels in [−1, 1]."""
    return DDPMScheduler(prediction_type="v_prediction", clip_sample=True, clip_sample_range=1.0)


class NoisyDigits:
    """Endless batches of noised digits at random levels.

    Arguments:
        images: x₀, (n, 1, 8, 8).
        scheduler: whose table gives the levels.
        generator: draws everything.
    """

    def __init__(self, images: Tensor, scheduler: DDPMScheduler, generator: torch.Generator) -> None:
        self.images, self.generator = images, generator
        self.log_sigmas = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).log() / 2

    def timesteps(self, count: int) -> Tensor:
        """Timesteps (count,), with fractions: most at levels that decide the shape, some over the whole table."""
        low, high = map(math.log, _SIGMA_SHAPE)
        wanted = low + (high - low) * torch.rand(count, generator=self.generator)
        above = torch.searchsorted(self.log_sigmas, wanted).clamp(1, len(self.log_sigmas) - 1)
        before, after = self.log_sigmas[above - 1], self.log_sigmas[above]
        shape = above - 1 + (wanted - before) / (after - before)
        whole = (len(self.log_sigmas) - 1) * torch.rand(count, generator=self.generator)
        return torch.where(torch.rand(count, generator=self.generator) < _SHARE_SHAPE, shape, whole)

    def sigmas(self, timesteps: Tensor) -> Tensor:
        """Noise levels σ (n,) of timesteps, log-linear between those of the table."""
        below = timesteps.long().clamp(max=len(self.log_sigmas) - 2)
        return torch.lerp(self.log_sigmas[below], self.log_sigmas[below + 1], timesteps - below).exp()

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy images x_σ (count, 1, 8, 8), their σ (count,) and timesteps (count,)."""
        chosen = torch.randint(0, len(self.images), (3, count), generator=self.generator)
        timesteps = self.timesteps(count)
        sigma = self.sigmas(timesteps)
        scale = sigma[:, None, None, None]
        noise = torch.randn(count, 1, 8, 8, generator=self.generator)
        # Directions in which digits differ are the ones that rewards ask for; white ones stand for all others.
        between = self.images[chosen[1]] - self.images[chosen[2]]
        is_white = torch.rand(count, 1, 1, 1, generator=self.generator) < 0.5
        directions = torch.where(is_white, torch.randn(count, 1, 8, 8, generator=self.generator), between)
        directions = directions / directions.flatten(1).norm(dim=1)[:, None, None, None].clamp(min=1e-6)
        strengths = _STRONGEST_TILT * torch.rand(count, 1, 1, 1, generator=self.generator)
        strengths *= torch.rand(count, 1, 1, 1, generator=self.generator) < _SHARE_TILTED
        return self.images[chosen[0]] + scale * (noise + scale * strengths * directions), sigma, timesteps


def denoised(network: UNet2DModel, noisy: Tensor, sigma: Tensor, timesteps: Tensor) -> Tensor:
    """E[x₀ | x_σ] as the network has it, (n, 1, 8, 8), from its v-prediction, not clipped."""
    scale = sigma[:, None, None, None]
    seen = noisy * (1 + scale**2).rsqrt()
    predicted: Tensor = network(seen, timesteps).sample
    return (seen - scale * predicted) * (1 + scale**2).rsqrt()


def distance_to_teacher(network: UNet2DModel, teacher: ak.base.BaseLaw, batches: NoisyDigits) -> dict[str, float]:
    """The root mean square of the difference between the clipped posterior means, an entry, by noise level."""
    noisy, sigma, timesteps = batches.draw(1 << 13)
    with torch.inference_mode():
        difference = denoised(network, noisy, sigma, timesteps).clamp(-1, 1) - wanted(teacher, noisy, sigma)
    squares = difference.square().flatten(1).mean(dim=1)
    edges = [0.0, 0.1, 0.3, 1.0, 3.0, 10.0, math.inf]
    found = {}
    for low, high in itertools.pairwise(edges):
        inside = (sigma >= low) & (sigma < high)
        found[f"sigma {low:g} to {high:g}"] = round(float(squares[inside].mean().sqrt()), 4)
    return found


def wanted(teacher: ak.base.BaseLaw, noisy: Tensor, sigma: Tensor) -> Tensor:
    """The teacher's posterior mean (n, 1, 8, 8), at the nearest level it knows."""
    found: Tensor = teacher.denoise(noisy[:, 0], sigma.clamp(teacher.sigma_min, teacher.sigma_max))[:, None]
    return found


@dataclass(frozen=True)
class Phase:
    """A number of optimizer steps, the rows of each, and the learning rate that they begin with."""

    steps: int
    rows: int
    learning_rate: float


#: The second takes away a tenth of what the first leaves (figures.json).
PHASES = (Phase(11_000, 128, 2e-3), Phase(6_000, 256, 1e-3))


def train_phase(network: UNet2DModel, teacher: ak.base.BaseLaw, batches: NoisyDigits, phase: Phase, name: str) -> None:
    """Train a network and leave it at the moving average of its parameters."""
    average = EMAModel(network.parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
    optimizer = torch.optim.AdamW(
        network.parameters(), phase.learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / phase.steps))),
    )
    progress = tqdm(range(1, phase.steps + 1), desc=name, mininterval=5.0)
    for step in progress:
        noisy, sigma, timesteps = batches.draw(phase.rows)
        scale = sigma[:, None, None, None]
        error = denoised(network, noisy, sigma, timesteps) - wanted(teacher, noisy, sigma)
        # The squared error of v, which is finite at either end of the levels; one outlier must not move the mean.
        error_of_v = error * (1 + scale**2).sqrt() / scale
        loss = torch.nn.functional.huber_loss(error_of_v, torch.zeros_like(error_of_v), delta=1.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.step(network.parameters())
        if step % 100 == 0:
            progress.set_postfix(loss=f"{loss.item():.5f}")
    average.copy_to(network.parameters())


def main(arguments: list[str] | None = None) -> None:
    """Train, measure and save the pipeline with its figures."""
    parser = argparse.ArgumentParser("python -m alignkit_diffusers.train_digits", description="Train the digits U-net.")
    parser.add_argument("--steps", type=int, default=PHASES[0].steps, help="of the first phase; others in proportion")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=DIGITS, help="folder of the pipeline, figures.json in it")
    options = parser.parse_args(arguments)
    # One thread: at this size more of them cost more than they save, and sums keep their order.
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    started = time.perf_counter()

    teacher = ak.base.digits()
    images = torch.as_tensor(teacher.sample(min(1 << 15, 64 * options.steps), seed=options.seed))[:, None]
    network, scheduler = digits_network(), digits_scheduler()
    distances = {}
    for number, phase in enumerate(PHASES):
        share = options.steps / PHASES[0].steps
        batches = NoisyDigits(images, scheduler, torch.Generator().manual_seed(options.seed + number))
        cut = replace(phase, steps=max(1, round(share * phase.steps)))
        train_phase(network, teacher, batches, cut, f"phase {number + 1} of {len(PHASES)}")
        distances[f"after phase {number + 1}"] = distance_to_teacher(network, teacher, batches)
    network.eval()

    DDPMPipeline(network, scheduler).save_pretrained(options.output, safe_serialization=True)
    figures = {
        "steps": options.steps,
        "seed": options.seed,
        "training_minutes": round((time.perf_counter() - started) / 60, 1),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "distance_to_teacher": distances,
    }
    text = json.dumps(figures, indent=2)
    (options.output / "figures.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
