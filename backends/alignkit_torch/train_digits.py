"""Train the denoiser behind `alignkit.base.digits()`: `python -m alignkit_torch.train_digits`.

Two phases, one network. The first fits the 1,437 training digits and keeps the moving average of the weights with the
lowest denoising loss on 360 digits never trained on, which is where the network stops generalising and starts to
memorise. Its own draws, stretched to the data's mean and variances, then *define* the base law, and the second phase
trains on a large pool of them: with data without end the network becomes the posterior mean of one well-defined law, so
that drawing, renoising and drawing again leaves that law alone. The first phase on its own is a compromise between
regularisation and fit that agrees with itself only roughly.

The second phase also trains where tilted denoisers are evaluated. For q_θ ∝ p·exp⟨θ, x⟩, x₀ ~ q_θ and
v = x₀ + σz + σ²θ, the posterior of x₀ given v is that of the untilted p (the factor exp⟨θ, x₀⟩ cancels against the
shift), so such pairs move the inputs without moving the regression target.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from alignkit_torch.digits import SIGMA_MAX, SIGMA_MIN, DenoiseDigits
from alignkit_torch.digits_data import load_digits
from alignkit_torch.digits_figures import quality, self_consistency
from alignkit_torch.network import PIXELS, DigitsNetwork, PreconditionedDenoiser
from alignkit_torch.solvers import Denoise, solve_flow
from alignkit_torch.tilt_sampler import NFE_LEARNED

SHIPPED = Path(__file__).parent / "weights" / "digits.safetensors"
# Pixels come in steps of 1/8: below the variance of that rounding a component carries no shape.
VARIANCE_FLOOR = (1 / 8) ** 2 / 12
# Resampled by exp⟨θ, x⟩, the pool must still hold about this many digits, or the network would learn them by heart.
SMALLEST_EFFECTIVE_POOL = 300.0
# The tail of the pool is what strong tilts are learned from: of 49,152 digits too few were left at ‖θ‖ = 4.
POOL = 196_608


def gaussian_denoiser(train: Tensor, network: DigitsNetwork) -> PreconditionedDenoiser:
    """Put a network inside the preconditioning that belongs to the training data (n, 8, 8)."""
    pixels = train.reshape(len(train), PIXELS).double()
    variances, directions = torch.linalg.eigh(torch.cov(pixels.T))
    return PreconditionedDenoiser(
        network,
        pixels.mean(0).float(),
        # Contiguous, because safetensors stores memory as it lies.
        directions.float().contiguous(),
        (variances + VARIANCE_FLOOR).float(),
    )


def random_sigmas(n: int, generator: torch.Generator) -> Tensor:
    """Noise levels (n,): mostly ln-normal about σ = 1, a tenth ln-uniform over the whole range."""
    bulk = torch.randn(n, generator=generator) * 1.2
    low, high = np.log(SIGMA_MIN), np.log(SIGMA_MAX)
    anywhere = low + (high - low) * torch.rand(n, generator=generator)
    chosen = torch.where(torch.rand(n, generator=generator) < 0.1, anywhere, bulk)
    return chosen.clamp(low, high).exp()


def denoising_loss(denoised: Tensor, clean: Tensor, sigma: Tensor, pixel_variance: Tensor) -> Tensor:
    """The EDM loss, the mean over rows and pixels of (1/σ² + 1/σ_data²)·(D − x₀)², σ_data² a pixel's mean variance."""
    weight = sigma.square().reciprocal() + pixel_variance.reciprocal()
    return (weight * (denoised - clean).square().mean((1, 2))).mean()


class Tilts:
    """Random tilts of a pool of digits, each with indices of the pool resampled by exp⟨θ, x⟩.

    Args:
        pool: digits, (n, 8, 8).
        strength: the largest ‖θ‖; a tilt is weakened until its effective sample size is large enough.
        generator: source of randomness.
    """

    def __init__(self, pool: Tensor, strength: float, generator: torch.Generator) -> None:
        self.pixels = pool.reshape(len(pool), PIXELS)
        self.strength = strength
        self.generator = generator

    def directions(self, count: int) -> Tensor:
        """Unit directions (count, 64): smooth images, blocks of pixels, differences of digits and white noise."""
        g = self.generator
        grid = (torch.arange(8) + 0.5) * torch.pi / 8
        cosines = torch.cos(grid[:, None] * torch.arange(8))
        decay = 1.0 / (1.0 + torch.arange(8)).square()
        smooth = torch.randn(count, 8, 8, generator=g) * decay[:, None] * decay
        smooth = cosines @ smooth @ cosines.T
        edges = torch.randint(0, 8, (4, count), generator=g)
        top, bottom, left, right = (*edges[:2].aminmax(dim=0), *edges[2:].aminmax(dim=0))
        row, column = torch.arange(8)[None, :, None], torch.arange(8)[None, None, :]
        block = (
            (row >= top[:, None, None])
            & (row <= bottom[:, None, None])
            & (column >= left[:, None, None])
            & (column <= right[:, None, None])
        ).float()
        block *= torch.randint(0, 2, (count, 1, 1), generator=g) * 2.0 - 1.0
        pair = torch.randint(0, len(self.pixels), (2, count), generator=g)
        difference = (self.pixels[pair[0]] - self.pixels[pair[1]]).reshape(count, 8, 8)
        white = torch.randn(count, 8, 8, generator=g)
        kinds = torch.stack([smooth, block, difference, white])
        kind = torch.randint(0, len(kinds), (count,), generator=g)
        chosen = kinds[kind, torch.arange(count)].reshape(count, PIXELS)
        found: Tensor = chosen / chosen.norm(dim=1, keepdim=True).clamp(min=1e-6)
        return found

    def draw(self, count: int, each: int) -> tuple[Tensor, Tensor]:
        """Tilts θ (count, 64) and resampled pool indices (count, each)."""
        theta = self.directions(count) * self.strength * torch.rand(count, 1, generator=self.generator)
        log_weights = theta @ self.pixels.T
        for _ in range(6):
            weights = torch.softmax(log_weights, dim=1)
            weak = weights.square().sum(1, keepdim=True).reciprocal() < SMALLEST_EFFECTIVE_POOL
            if not weak.any():
                break
            shrink = torch.where(weak, 0.7, 1.0)
            theta, log_weights = theta * shrink, log_weights * shrink
        chosen = torch.multinomial(torch.softmax(log_weights, dim=1), each, replacement=True, generator=self.generator)
        return theta, chosen


class MovingAverage:
    """An exponential moving average of a denoiser's parameters whose memory grows to a fraction of the steps so far.

    Args:
        denoiser: the trained module.
        memory: the average's length in steps, at most a tenth of the steps taken.
    """

    def __init__(self, denoiser: PreconditionedDenoiser, memory: int) -> None:
        self.source = dict(denoiser.named_parameters())
        self.values = {name: value.detach().clone() for name, value in self.source.items()}
        self.memory = memory
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters' present values in."""
        self.steps += 1
        rate = 1 / min(self.memory, 1 + self.steps / 10)
        torch._foreach_lerp_(list(self.values.values()), [value.detach() for value in self.source.values()], rate)

    def state(self) -> dict[str, Tensor]:
        """A copy of the averaged parameters."""
        return {name: value.clone() for name, value in self.values.items()}


@dataclass(frozen=True)
class Phase:
    """How long and how one phase trains."""

    name: str
    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    dropout: float
    tilt: float
    """The largest ‖θ‖ of the tilted pairs; half of each batch is tilted where this is positive."""


class HeldOutLoss:
    """The denoising loss on the held-out digits, at the same noise every time it is asked.

    Args:
        held_out: digits (n, 8, 8).
        repeats: noise levels per digit.
    """

    def __init__(self, held_out: Tensor, repeats: int = 16) -> None:
        generator = torch.Generator().manual_seed(0)
        self.clean = held_out.repeat(repeats, 1, 1)
        # One level per stratum instead of independent ones: the comparison between snapshots is then all that varies.
        levels = (torch.arange(len(self.clean)) + 0.5) / len(self.clean)
        levels = levels[torch.randperm(len(levels), generator=generator)]
        self.sigma = (np.log(0.05) + (np.log(20.0) - np.log(0.05)) * levels).exp()
        self.noisy = self.clean + self.sigma[:, None, None] * torch.randn(self.clean.shape, generator=generator)

    @torch.inference_mode()
    def __call__(self, denoiser: PreconditionedDenoiser, parameters: dict[str, Tensor]) -> float:
        """The loss with these parameters in the place of the denoiser's own."""
        training = denoiser.training
        denoiser.eval()
        denoised = torch.func.functional_call(denoiser, parameters, (self.noisy, self.sigma))
        loss = denoising_loss(denoised, self.clean, self.sigma, denoiser.variances.mean())
        denoiser.train(training)
        return loss.item()


def train_phase(
    denoiser: PreconditionedDenoiser, pool: Tensor, phase: Phase, held_out_loss: HeldOutLoss, *, select: bool, seed: int
) -> list[tuple[int, float]]:
    """Train on a pool of digits (n, 8, 8) and leave the averaged weights in the denoiser.

    Args:
        denoiser: changed in place.
        pool: digits to train on.
        phase: how.
        held_out_loss: watched at forty snapshots of the average.
        select: leave the snapshot with the lowest held-out loss, otherwise the last.
        seed: of batches, noise levels and noise.

    Returns:
        (step, held-out loss) of the snapshots.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # dropout draws from the global generator
    for layer in denoiser.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = phase.dropout
    optimizer = torch.optim.AdamW(
        denoiser.parameters(), phase.learning_rate, betas=(0.9, 0.99), weight_decay=phase.weight_decay, fused=True
    )
    warm_up = max(1, phase.steps // 50)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warm_up) * 0.5 * (1 + np.cos(np.pi * min(1.0, step / phase.steps))),
    )
    average = MovingAverage(denoiser, memory=max(10, phase.steps // 20))
    tilts = Tilts(pool, phase.tilt, generator)
    tilted_rows = phase.batch // 2 if phase.tilt > 0 else 0
    thetas, candidates = torch.zeros(0, PIXELS), torch.zeros(0, 0, dtype=torch.long)
    history: list[tuple[int, float]] = []
    best, best_loss = average.state(), float("inf")
    every = max(25, phase.steps // 40)
    progress = tqdm(range(1, phase.steps + 1), desc=phase.name, mininterval=1.0)
    pixel_variance = denoiser.variances.mean()
    denoiser.train()
    for step in progress:
        index = torch.randint(0, len(pool), (phase.batch,), generator=generator)
        sigma = random_sigmas(phase.batch, generator)
        shift = torch.zeros(phase.batch, PIXELS)
        if tilted_rows:
            if step % 100 == 1 or not len(thetas):
                thetas, candidates = tilts.draw(64, 512)
            which = torch.randint(0, len(thetas), (tilted_rows,), generator=generator)
            member = torch.randint(0, candidates.shape[1], (tilted_rows,), generator=generator)
            index[:tilted_rows] = candidates[which, member]
            shift[:tilted_rows] = thetas[which]
        clean = pool[index]
        noise = torch.randn(clean.shape, generator=generator)
        noisy = clean + sigma[:, None, None] * (noise + (sigma[:, None] * shift).reshape(clean.shape))
        optimizer.zero_grad(set_to_none=True)
        loss = denoising_loss(denoiser(noisy, sigma), clean, sigma, pixel_variance)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update()
        if step % every == 0 or step == phase.steps:
            snapshot = average.state()
            watched = held_out_loss(denoiser, snapshot)
            history.append((step, watched))
            if not select or watched < best_loss:
                best, best_loss = snapshot, watched
            progress.set_postfix(loss=f"{loss.item():.4f}", held_out=f"{watched:.4f}")
    denoiser.load_state_dict(best, strict=False)
    denoiser.eval()
    return history


@torch.inference_mode()
def draw(denoise: Denoise, mean: Tensor, n: int, seed: int, chunk: int = 2048) -> Tensor:
    """Draws (n, 8, 8) of the model from N(mean, 80²), by the solver and the evaluations that samples are drawn with."""
    generator = torch.Generator().manual_seed(seed)
    starts = mean.reshape(8, 8) + SIGMA_MAX * torch.randn(n, 8, 8, generator=generator)
    chunks = tqdm(starts.split(chunk), desc="draw", mininterval=1.0)
    return torch.cat([solve_flow(denoise, rows, SIGMA_MIN, SIGMA_MAX, nfe=NFE_LEARNED) for rows in chunks])


def match_spread(pool: Tensor, denoiser: PreconditionedDenoiser, passes: int = 2) -> Tensor:
    """Stretch a pool of draws (n, 8, 8) along the data's principal directions until its variances are the data's.

    A network fitted to few data is smoother than they are, and its draws some per cent narrower. Cutting back to
    [-1, 1] takes away a part of the stretch, hence the second pass.
    """
    for _ in range(passes):
        offset = (pool.reshape(-1, PIXELS) - denoiser.mean) @ denoiser.directions
        stretch = (denoiser.variances / (offset.var(0) + VARIANCE_FLOOR)).sqrt()
        pixels = denoiser.mean + ((offset - offset.mean(0)) * stretch) @ denoiser.directions.T
        pool = pixels.reshape(pool.shape).clamp(-1, 1)
    return pool


def main(arguments: list[str] | None = None) -> None:
    """Train, measure and write the weights and their figures."""
    parser = argparse.ArgumentParser("python -m alignkit_torch.train_digits", description="Train the digits model.")
    parser.add_argument("--steps", type=int, default=16_000, help="optimizer steps of both phases together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=SHIPPED, help="weights (.safetensors); figures beside (.json)")
    parser.add_argument("--consistency", action="store_true", help="also measure self-consistency (some minutes more)")
    options = parser.parse_args(arguments)
    # One thread: at this size more of them cost more than they save, and sums keep their order.
    torch.set_num_threads(1)
    started = time.perf_counter()

    data = load_digits()
    held_out_loss = HeldOutLoss(data.held_out)
    torch.manual_seed(options.seed)
    denoiser = gaussian_denoiser(data.train, DigitsNetwork())
    fit_steps = max(1, options.steps // 4)
    fit = Phase("fit the digits", fit_steps, 256, 2e-3, weight_decay=0.05, dropout=0.3, tilt=0.0)
    settle = Phase("settle on own draws", options.steps - fit_steps, 768, 1e-3, weight_decay=0.0, dropout=0.0, tilt=4.5)
    first = train_phase(denoiser, data.train, fit, held_out_loss, select=True, seed=options.seed)
    pool = draw(DenoiseDigits(denoiser), denoiser.mean, min(POOL, 16 * options.steps), seed=options.seed)
    pool = match_spread(pool, denoiser)
    second = train_phase(denoiser, pool, settle, held_out_loss, select=False, seed=options.seed + 1)

    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_bytes(save(denoiser.state_dict()))
    minutes = (time.perf_counter() - started) / 60
    draws = draw(
        DenoiseDigits(denoiser), denoiser.mean, min(20_000, max(1000, 16 * options.steps)), seed=options.seed + 2
    )
    figures: dict[str, object] = {
        "steps": options.steps,
        "seed": options.seed,
        "training_minutes": round(minutes, 1),
        "multiply_adds_per_row": denoiser.network.multiply_adds(),
        "parameters": sum(parameter.numel() for parameter in denoiser.parameters()),
        "held_out_loss": {
            "gaussian": held_out_loss(gaussian_denoiser(data.train, DigitsNetwork()), {}),
            "fit": min(loss for _, loss in first),
            "settled": second[-1][1],
        },
        **quality(data, draws),
    }
    if options.consistency:
        figures["self_consistency"] = self_consistency(DenoiseDigits(denoiser), draws)
    text = json.dumps(figures, indent=2)
    options.output.with_suffix(".json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
