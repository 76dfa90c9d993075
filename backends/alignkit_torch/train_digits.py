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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from alignkit_torch.digits import SIGMA_MAX, SIGMA_MIN, DenoiseDigits
from alignkit_torch.network import PIXELS, DigitsNetwork, PreconditionedDenoiser
from alignkit_torch.solvers import solve_flow
from alignkit_torch.tilt_sampler import NFE_LEARNED

SHIPPED = Path(__file__).parent / "weights" / "digits.safetensors"
# Pixels come in steps of 1/8: below the variance of that rounding a component carries no shape.
VARIANCE_FLOOR = (1 / 8) ** 2 / 12
# Resampled by exp⟨θ, x⟩, the pool must still hold about this many digits, or the network would learn them by heart.
SMALLEST_EFFECTIVE_POOL = 300.0
# The tail of the pool is what strong tilts are learned from: of 49,152 digits too few were left at ‖θ‖ = 4.
POOL = 196_608

Denoise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Digits:
    """The data: images in [-1, 1], float32, (n, 8, 8), and their labels 0 … 9, (n,)."""

    train: Tensor
    train_labels: NDArray[np.int64]
    held_out: Tensor
    held_out_labels: NDArray[np.int64]


def load_digits(held_out: int = 360) -> Digits:
    """The UCI optical digits as scikit-learn ships them, split by class; the split never depends on a seed."""
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    images, labels = load(return_X_y=True)
    images = (images / 8 - 1).astype(np.float32).reshape(-1, 8, 8)
    train, test, train_labels, test_labels = train_test_split(
        images, labels, test_size=held_out, stratify=labels, random_state=0
    )
    return Digits(torch.from_numpy(train), train_labels, torch.from_numpy(test), test_labels)


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
        return chosen / chosen.norm(dim=1, keepdim=True).clamp(min=1e-6)

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


def tilted(denoise: Denoise, theta: Tensor) -> Denoise:
    """The denoiser of q_θ ∝ p·exp⟨θ, x⟩ for one θ (8, 8): D(x + σ²θ, σ)."""
    return lambda x, sigma: denoise(x + sigma.square()[:, None, None] * theta, sigma)


@torch.inference_mode()
def self_consistency(
    denoise: Denoise,
    draws: Tensor,
    strengths: Sequence[float] = (1.0, 2.0, 4.0),
    levels: Sequence[float] = (0.5, 1.0, 2.0),
    seed: int = 0,
) -> list[dict[str, float | str]]:
    """How far renoising to σ_r and denoising back moves the law of ⟨u, x⟩, with and without a tilt.

    Args:
        denoise: the model.
        draws: its own draws (n, 8, 8). For a tilt θ = s·u they are resampled with weights exp⟨θ, x⟩ first.
        strengths: the norms of the tilts, beside none.
        levels: the σ_r.
        seed: of the renoising.

    Returns:
        One row per (u, s, σ_r): the change of the mean in standard deviations of ⟨u, x⟩ under the draws, its standard
        error, the ratio of the standard deviations after and before, and the resampling's effective sample size.
    """
    top = torch.zeros(8, 8)
    top[:4] = 1
    units = {"brightness": torch.ones(8, 8) / 8, "top half": top / top.norm()}
    plan = [("none", 0.0), *((name, strength) for name in units for strength in strengths)]
    rows: list[dict[str, float | str]] = []
    n = len(draws)
    for tilt_name, strength in plan:
        theta = strength * units.get(tilt_name, top)
        weights = torch.softmax((draws * theta).sum((1, 2)), dim=0)
        # Systematic resampling: with no tilt it returns every draw once.
        generator = torch.Generator().manual_seed(seed)
        points = (torch.arange(n) + 0.5).double() / n
        before = draws[torch.searchsorted(weights.double().cumsum(0), points).clamp(max=n - 1)]
        for level in levels:
            noisy = before + level * torch.randn(before.shape, generator=generator)
            model = tilted(denoise, theta) if strength else denoise
            after = torch.cat([solve_flow(model, part, SIGMA_MIN, level, nfe=31) for part in noisy.split(2048)])
            for name, unit in units.items():
                if tilt_name not in ("none", name):
                    continue
                old, new, base = ((images * unit).sum((1, 2)) for images in (before, after, draws))
                rows.append(
                    {
                        "direction": name,
                        "strength": strength,
                        "sigma": level,
                        "mean_change_sd": ((new - old).mean() / base.std()).item(),
                        "standard_error": ((new - old).std() / base.std() / n**0.5).item(),
                        "sd_ratio": (new.std() / old.std()).item(),
                        "effective_sample_size": weights.square().sum().reciprocal().item(),
                    }
                )
    return rows


def sliced_distance(first: Tensor, second: Tensor, projections: int = 256) -> float:
    """The sliced 2-Wasserstein distance of two equally large sets of digits (n, 8, 8) over fixed random projections."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(PIXELS, projections, generator=generator)
    axes /= axes.norm(dim=0)
    one, other = ((images.reshape(-1, PIXELS) @ axes).sort(dim=0).values for images in (first, second))
    return (one - other).square().mean().sqrt().item()


def spread(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation of repeated measurements."""
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1))}


def quality(data: Digits, draws: Tensor, repeats: int = 20) -> dict[str, object]:
    """Draws (n, 8, 8) against held-out digits: sliced distances, a classifier's verdicts, nearest training digits."""
    from sklearn.linear_model import LogisticRegression

    size = len(data.held_out)
    generator = torch.Generator().manual_seed(0)
    real = torch.cat([data.train, data.held_out])
    drawn, halves, training = [], [], []
    for _ in range(repeats):
        drawn.append(sliced_distance(draws[torch.randperm(len(draws), generator=generator)[:size]], data.held_out))
        order = torch.randperm(len(real), generator=generator)
        halves.append(sliced_distance(real[order[:size]], real[order[size : 2 * size]]))
        order = torch.randperm(len(data.train), generator=generator)
        training.append(sliced_distance(data.train[order[:size]], data.held_out))

    def flat(images: Tensor) -> NDArray[np.float32]:
        return images.reshape(-1, PIXELS).numpy()

    classifier = LogisticRegression(C=0.1, max_iter=2000).fit(flat(data.train), data.train_labels)
    on_draws, on_held_out = (classifier.predict_proba(flat(images)) for images in (draws, data.held_out))

    def shares(labels: NDArray[np.int64]) -> list[float]:
        return (np.bincount(labels, minlength=10) / len(labels)).tolist()

    def nearest(images: Tensor) -> dict[str, float]:
        distances = torch.cdist(images.reshape(-1, PIXELS), data.train.reshape(-1, PIXELS)).amin(1)
        return {"median": distances.median().item(), "quantile_05": distances.quantile(0.05).item()}

    return {
        "sliced_w2": {
            "sample_size": size,
            "draws_vs_held_out": spread(drawn),
            "train_vs_held_out": spread(training),
            "real_vs_real": spread(halves),
        },
        "classifier": {
            "held_out_accuracy": float(classifier.score(flat(data.held_out), data.held_out_labels)),
            "shares_data": shares(np.concatenate([data.train_labels, data.held_out_labels])),
            "shares_draws": shares(on_draws.argmax(1)),
            "confidence_held_out": float(on_held_out.max(1).mean()),
            "confidence_draws": float(on_draws.max(1).mean()),
        },
        "nearest_training_digit": {"draws": nearest(draws), "held_out": nearest(data.held_out)},
    }


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
